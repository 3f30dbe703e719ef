"""Go's text/template, as far as `--format` of docker's commands and the scripts around them use it.

Fields, variables, pipelines, if/else if/else, range, with, trim markers, comments, Go's comparison functions, and
docker's own: json, split, join, title, lower, upper, pad, truncate. No templates inside of templates.
Source: Go's text/template; docker/cli, templates/templates.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from registry.cli.template_reading import Node, read
from registry.cli.template_values import FUNCTIONS, MISSING, TemplateInvalid, shown, truth
from registry.cli.template_values import NilList as NilList
from registry.cli.template_values import NilMap as NilMap
from registry.cli.template_values import Strict as Strict

_AT = 'Template parsing error: template: :1: executing "" at'


def parse(text: str) -> Template:
    """Read a format. Raises TemplateInvalid."""
    return Template(read(text))


class Template:
    """A format that was read."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes

    def render(self, data: Any) -> str:
        """The text for *data*: maps, lists and plain values. Raises TemplateInvalid."""
        out: list[str] = []
        _run(self._nodes, data, {"$": data}, out)
        return "".join(out)


def _run(nodes: Sequence[Node], dot: Any, names: dict[str, Any], out: list[str]) -> None:
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


def _range(node: Node, value: Any, dot: Any, names: dict[str, Any], out: list[str]) -> None:
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
