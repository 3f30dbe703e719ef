"""Go's text/template, as far as `--format` of docker's commands and the scripts around them use it.

Fields, variables, pipelines, if/else if/else, range, with, trim markers, comments, Go's comparison functions, and
docker's own: json, split, join, title, lower, upper, pad, truncate. No templates inside of templates.
Source: Go's text/template; docker/cli, templates/templates.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry.oci.errors import HytheError


class TemplateInvalid(HytheError):
    """A format that cannot be read, or that asks for what is not there."""


class _Missing:
    """What a map answers for a key that it has not."""

    def __repr__(self) -> str:
        return "<no value>"


MISSING = _Missing()
_AT = 'Template parsing error: template: :1: executing "" at'
_ACTION = re.compile(r"\{\{(- )?(.*?)( -)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<char>'(?:[^'\\]|\\.)')|(?P<number>-?\d+(?:\.\d+)?)"""
    r"""|(?P<field>(?:\.\w+)+|\.)|(?P<variable>\$\w*)(?P<after>(?:\.\w+)*)|(?P<op>:=|=|\||\(|\)|,)|(?P<word>\w+))"""
)


# --- reading


@dataclass(slots=True)
class _Node:
    kind: str  # text, show, if, range, with
    text: str = ""
    pipe: list[Any] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    body: list[_Node] = field(default_factory=list)
    other: list[_Node] = field(default_factory=list)


def parse(text: str) -> Template:
    """Read a format. Raises TemplateInvalid."""
    text = text.replace("\\t", "\t").replace("\\n", "\n")
    return Template(_Parser(text).run())


class _Parser:
    def __init__(self, text: str) -> None:
        self._pieces = list(_split(text))
        self._at = 0

    def run(self) -> list[_Node]:
        nodes, end = self._block()
        if end:
            raise TemplateInvalid(f"Template parsing error: unexpected {{{{{end}}}}}")
        return nodes

    def _block(self) -> tuple[list[_Node], str]:
        """Nodes up to an `end` or `else`, which is returned."""
        nodes: list[_Node] = []
        while self._at < len(self._pieces):
            is_action, text = self._pieces[self._at]
            self._at += 1
            if not is_action:
                nodes.append(_Node("text", text))
                continue
            word = text.split(maxsplit=1)[0] if text.strip() else ""
            if word in ("end", "else"):
                return nodes, text
            if text.startswith("/*"):
                continue
            nodes.append(self._control(word, text) if word in ("if", "range", "with") else _show(text))
        return nodes, ""

    def _control(self, word: str, text: str) -> _Node:
        names, pipe = _declaration(_tokens(text[len(word) :]))
        node = _Node(word, pipe=pipe, names=names)
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


def _show(text: str) -> _Node:
    names, pipe = _declaration(_tokens(text))
    return _Node("show", pipe=pipe, names=names)


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


# --- running


class Template:
    """A format that was read."""

    def __init__(self, nodes: list[_Node]) -> None:
        self._nodes = nodes

    def render(self, data: Any) -> str:
        """The text for *data*: maps, lists and plain values. Raises TemplateInvalid."""
        out: list[str] = []
        _run(self._nodes, data, {"$": data}, out)
        return "".join(out)


def _run(nodes: Sequence[_Node], dot: Any, names: dict[str, Any], out: list[str]) -> None:
    for node in nodes:
        if node.kind == "text":
            out.append(node.text)
            continue
        value = _evaluate(node.pipe, dot, names)
        if node.kind == "range":
            _range(node, value, dot, names, out)
            continue
        if node.names:
            names[node.names[0]] = value
        if node.kind == "show":
            if not node.names:
                out.append(shown(value))
        elif truth(value):
            _run(node.body, value if node.kind == "with" else dot, dict(names), out)
        else:
            _run(node.other, dot, dict(names), out)


def _range(node: _Node, value: Any, dot: Any, names: dict[str, Any], out: list[str]) -> None:
    pairs: list[tuple[Any, Any]]
    if isinstance(value, Mapping):
        pairs = sorted(value.items())
    elif isinstance(value, int) and not isinstance(value, bool):
        pairs = [(each, each) for each in range(value)]
    elif value is None or value is MISSING:
        pairs = []
    elif isinstance(value, list | tuple):
        pairs = list(enumerate(value))
    else:
        raise TemplateInvalid(f"template: :1: range can't iterate over {shown(value)}")
    for key, each in pairs:
        inner = dict(names)
        if len(node.names) == 1:
            inner[node.names[0]] = each
        elif len(node.names) == 2:
            inner[node.names[0]], inner[node.names[1]] = key, each
        _run(node.body, each, inner, out)
    if not pairs:
        _run(node.other, dot, dict(names), out)


def _evaluate(expression: list[Any], dot: Any, names: dict[str, Any]) -> Any:
    kind = expression[0]
    if kind == "pipe":
        value: list[Any] = []
        for command in expression[1]:
            value = [_command(command, dot, names, value)]
        return value[0]
    if kind == "value":
        return expression[1]
    if kind == "field":
        return _fields(dot, expression[1])
    if kind == "of":
        return _fields(_evaluate(expression[1], dot, names), expression[2])
    if kind == "variable":
        if expression[1] not in names:
            raise TemplateInvalid(f'Template parsing error: template: :1: undefined variable "{expression[1]}"')
        return _fields(names[expression[1]], expression[2])
    return FUNCTIONS[expression[1]]()


def _command(command: list[Any], dot: Any, names: dict[str, Any], piped: list[Any]) -> Any:
    first, *rest = command
    arguments = [_evaluate(each, dot, names) for each in rest] + piped
    if first[0] == "function":
        try:
            return FUNCTIONS[first[1]](*arguments)
        except TemplateInvalid:
            raise
        except Exception as error:  # wrong number or kind of arguments: whatever it is, it is the format's fault
            raise TemplateInvalid(f'template: :1: executing "" at <{first[1]}>: {error}') from None
    if arguments:
        raise TemplateInvalid('template: :1: executing "": can\'t give argument to non-function')
    return _evaluate(first, dot, names)


def _fields(value: Any, path: str) -> Any:
    for name in path.split("."):
        if not name:
            continue
        if isinstance(value, Strict) and name not in value:
            raise TemplateInvalid(f'{_AT} <.{name}>: map has no entry for key "{name}"')
        if value is None or value is MISSING:
            raise TemplateInvalid(f"{_AT} <.{name}>: nil pointer evaluating interface {{}}.{name}")
        if not isinstance(value, Mapping):
            raise TemplateInvalid(f"{_AT} <.{name}>: can't evaluate field {name}")
        value = value.get(name, MISSING)
    return value


class Strict(dict[str, Any]):
    """A map whose keys are fields: asking for another is an error, not `<no value>`."""


class NilList(list[Any]):
    """A list that is not there: Go prints it as an empty one, and its JSON is null."""


class NilMap(dict[str, Any]):
    """A map that is not there, likewise."""


def truth(value: Any) -> bool:
    """Go's: empty and zero are false."""
    return value is not MISSING and bool(value)


def shown(value: Any) -> str:
    """A value as Go prints it."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{shown(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(shown, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- functions


def to_json(value: Any) -> str:
    """Compact, and with Go's escapes, so that it may stand in a page."""
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    if value is MISSING or isinstance(value, NilList | NilMap):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key, MISSING)
        elif value is None or value is MISSING:
            raise TemplateInvalid('template: :1: executing "" at <index>: index of nil pointer')
        elif not 0 <= key < len(value):
            raise TemplateInvalid(f'template: :1: executing "" at <index>: index out of range: {key}')
        else:
            value = ord(value[key]) if isinstance(value, str) else value[key]
    return value


def _printf(format: str, *values: Any) -> str:
    waiting = list(values)

    def one(match: re.Match[str]) -> str:
        flags, verb = match[1], match[2]
        if verb == "%":
            return "%"
        if not waiting:
            return f"%!{verb}(MISSING)"
        value = waiting.pop(0)
        if verb == "q":
            return f"%{flags}s" % json.dumps(shown(value), ensure_ascii=False)
        if verb in "dxXocbefgEG" and isinstance(value, int | float):
            return format_number(flags, verb, value)
        return f"%{flags}s" % shown(value)

    return re.sub(r"%([-+# 0]*\d*(?:\.\d+)?)([a-zA-Z%])", one, format)


def format_number(flags: str, verb: str, value: float) -> str:
    """One number by printf's rules."""
    return f"%{flags}s" % f"{value:b}" if verb == "b" else f"%{flags}{verb}" % value


def _truncate(text: str, length: int) -> str:
    return text[:length]


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _and(*values: Any) -> Any:
    return next((value for value in values if not truth(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if truth(value)), values[-1])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "split": lambda text, separator: text.split(separator),
    "join": lambda values, separator: separator.join(map(shown, values or ())),
    "title": lambda text: re.sub(r"(^|\s)(\S)", lambda match: match[1] + match[2].upper(), text),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "pad": _pad,
    "truncate": _truncate,
    "println": lambda *values: " ".join(map(shown, values)) + "\n",
    "print": lambda *values: "".join(map(shown, values)),
    "printf": _printf,
    "len": len,
    "index": _index,
    "slice": lambda value, *ends: value[slice(ends[0] if ends else None, ends[1] if len(ends) > 1 else None)],
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, second: first != second,
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
    "not": lambda value: not truth(value),
    "and": _and,
    "or": _or,
}
