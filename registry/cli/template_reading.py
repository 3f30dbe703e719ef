"""Reading Go's text/template: text into a tree of nodes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from registry.cli.template_values import FUNCTIONS, TemplateInvalid

_ACTION = re.compile(r"\{\{(- )?(.*?)( -)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<char>'(?:[^'\\]|\\.)')|(?P<number>-?\d+(?:\.\d+)?)"""
    r"""|(?P<field>(?:\.\w+)+|\.)|(?P<variable>\$\w*)(?P<after>(?:\.\w+)*)|(?P<op>:=|=|\||\(|\)|,)|(?P<word>\w+))"""
)


@dataclass(slots=True)
class Node:
    """A piece of text, or an action with what is inside of it."""

    kind: str  # text, show, if, range, with
    text: str = ""
    pipe: list[Any] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    body: list[Node] = field(default_factory=list)
    other: list[Node] = field(default_factory=list)


def read(text: str) -> list[Node]:
    """The nodes of a format. Raises TemplateInvalid."""
    return _Parser(text.replace("\\t", "\t").replace("\\n", "\n")).run()


class _Parser:
    def __init__(self, text: str) -> None:
        self._pieces = list(_split(text))
        self._at = 0

    def run(self) -> list[Node]:
        nodes, end = self._block()
        if end:
            raise TemplateInvalid(f"Template parsing error: unexpected {{{{{end}}}}}")
        return nodes

    def _block(self) -> tuple[list[Node], str]:
        """Nodes up to an `end` or `else`, which is returned."""
        nodes: list[Node] = []
        while self._at < len(self._pieces):
            is_action, text = self._pieces[self._at]
            self._at += 1
            if not is_action:
                nodes.append(Node("text", text))
                continue
            word = text.split(maxsplit=1)[0] if text.strip() else ""
            if word in ("end", "else"):
                return nodes, text
            if text.startswith("/*"):
                continue
            nodes.append(self._control(word, text) if word in ("if", "range", "with") else _show(text))
        return nodes, ""

    def _control(self, word: str, text: str) -> Node:
        names, pipe = _declaration(_tokens(text[len(word) :]))
        node = Node(word, pipe=pipe, names=names)
        node.body, end = self._block()
        if end.startswith("else"):
            rest = end[4:].strip()
            if rest:
                node.other = [self._control(rest.split()[0], rest)]
                return node
            node.other, end = self._block()
        if end != "end":
            raise TemplateInvalid(f"Template parsing error: unexpected EOF: {{{{{word}}}}} has no {{{{end}}}}")
        return node


def _split(text: str) -> list[tuple[bool, str]]:
    pieces: list[tuple[bool, str]] = []
    at, trim = 0, False
    for match in _ACTION.finditer(text):
        before = text[at : match.start()]
        before = before.lstrip() if trim else before
        pieces.append((False, before.rstrip() if match[1] else before))
        pieces.append((True, match[2].strip()))
        at, trim = match.end(), bool(match[3])
    rest = text[at:]
    if "{{" in rest:
        raise TemplateInvalid("Template parsing error: template: :1: unclosed action")
    pieces.append((False, rest.lstrip() if trim else rest))
    return [piece for piece in pieces if piece[0] or piece[1]]


def _show(text: str) -> Node:
    names, pipe = _declaration(_tokens(text))
    return Node("show", pipe=pipe, names=names)


def _tokens(text: str) -> list[tuple[str, str, str]]:
    """Kind, text, and what follows: the fields of a variable, or a space after a closing parenthesis."""
    found: list[tuple[str, str, str]] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise TemplateInvalid(
                f"Template parsing error: template: :1: unexpected {text[at:][:20]!r} in command"
            )
        kind = next(name for name, value in match.groupdict().items() if value is not None)
        at = match.end()
        loose = " " if match[kind] == ")" and text[at : at + 1].isspace() else ""
        found.append((kind, match[kind], match["after"] or loose))
    return found


def _declaration(tokens: list[tuple[str, str, str]]) -> tuple[list[str], list[Any]]:
    """`$i, $x := PIPE` or a pipe alone."""
    names: list[str] = []
    for place, (_, text, _) in enumerate(tokens):
        if text in (":=", "="):
            names = [name for kind, name, _ in tokens[:place] if kind == "variable"]
            tokens = tokens[place + 1 :]
            break
    pipe, at = _pipe(tokens, 0)
    if at != len(tokens) or not pipe[1]:
        raise TemplateInvalid("Template parsing error: template: :1: missing value for command")
    return names, pipe


def _pipe(tokens: list[tuple[str, str, str]], at: int) -> tuple[list[Any], int]:
    """["pipe", [command, …]], each command a list of operands, up to a closing parenthesis."""
    commands: list[list[Any]] = [[]]
    while at < len(tokens) and tokens[at][1] != ")":
        kind, text, after = tokens[at]
        at += 1
        if text == "|" and kind == "op":
            commands.append([])
        elif text == "(" and kind == "op":
            inner, at = _pipe(tokens, at)
            if at >= len(tokens):
                raise TemplateInvalid("Template parsing error: template: :1: unclosed left paren")
            is_glued = not tokens[at][2]
            at += 1
            if is_glued and at < len(tokens) and tokens[at][0] == "field":
                inner = ["of", inner, tokens[at][1]]
                at += 1
            commands[-1].append(inner)
        else:
            commands[-1].append(_operand(kind, text, after))
    if not all(commands):
        raise TemplateInvalid("Template parsing error: template: :1: missing value for command")
    return ["pipe", commands], at


def _operand(kind: str, text: str, after: str) -> list[Any]:
    if kind == "string":
        return ["value", text[1:-1] if text[0] == "`" else json.loads(text)]
    if kind == "char":
        return ["value", ord(text[1:-1][-1])]
    if kind == "number":
        return ["value", float(text) if "." in text else int(text)]
    if kind == "variable":
        return ["variable", text, after]
    if kind == "field":
        return ["field", text]
    words = {"true": True, "false": False, "nil": None}
    if text in words:
        return ["value", words[text]]
    if kind != "word" or text not in FUNCTIONS:
        raise TemplateInvalid(f'Template parsing error: template: :1: function "{text}" not defined')
    return ["function", text]
