"""Options as docker's commands take them: `--flag=value`, `--flag value`, `-itd`, `-p80:80`, `--rm=false`.

Written for the verbs on containers, whose options end where the container's own words begin, and whose users know
docker's complaints. Reading costs less than a library's import.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NoReturn

BOOL, TEXT, LIST, INT = "", "string", "list", "int"
_TRUE, _FALSE = ("true", "1", "t", "T", "TRUE", "True"), ("false", "0", "f", "F", "FALSE", "False")
USAGE = 125


@dataclass(frozen=True, slots=True)
class Flag:
    """An option: its name and letter, what it takes, and its line in the help; without that it is not shown."""

    name: str
    letter: str = ""
    kind: str = BOOL
    help: str = ""
    default: Any = None
    bare: str = ""  # what the option means when it stands without its value: `--cap=x` may, `--cap x` may not

    @property
    def attribute(self) -> str:
        """Its name in what `read` returns."""
        return self.name.replace("-", "_")

    def initial(self) -> Any:
        """Its value where it is not given."""
        if self.default is not None:
            return self.default
        return {BOOL: False, LIST: [], INT: None}.get(self.kind)


class Stop(Exception):
    """The command line was answered, or could not be understood; `status` is the exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class Words:
    """A verb's command line: how it is used, how many words it needs, and its options.

    With *opaque* the first word ends the options: the rest belongs to the container.
    """

    verb: str
    usage: str
    about: str
    flags: tuple[Flag, ...]
    least: int = 0
    most: int | None = None
    opaque: bool = False

    def read(self, words: Sequence[str]) -> SimpleNamespace:
        """The options as attributes, and the other words as `words`. Raises Stop when it has answered itself."""
        found = SimpleNamespace(**{flag.attribute: flag.initial() for flag in self.flags})
        found.given = set()
        found.words = _Reader(self, found).run(list(words))
        self._check(found.words)
        return found

    def _check(self, words: list[str]) -> None:
        count = len(words)
        exact = self.most == self.least
        needs = f"exactly {self.least}" if exact else f"at least {self.least}"
        if count < self.least or (exact and count != self.least):
            self.refuse(f'"hythe {self.verb}" requires {needs} argument{"" if self.least == 1 else "s"}.', True)
        if self.most is not None and count > self.most:
            self.refuse(
                f'"hythe {self.verb}" accepts {"no arguments" if not self.most else f"at most {self.most}"}.', True
            )

    def refuse(self, text: str, wrong_count: bool = False) -> NoReturn:
        """Say what is wrong with the command line, and end."""
        print(text, file=sys.stderr)
        print(f"See 'hythe {self.verb} --help'.", file=sys.stderr)
        if wrong_count:
            print(f"\nUsage:  hythe {self.verb} {self.usage}\n\n{self.about}", file=sys.stderr)
        raise Stop(1 if wrong_count else USAGE)

    def help(self) -> NoReturn:
        """Print the help, and end."""
        print(f"\nUsage:  hythe {self.verb} {self.usage}\n\n{self.about}")
        shown = [flag for flag in self.flags if flag.help]
        if shown:
            print("\nOptions:")
        shown.sort(key=lambda flag: flag.name)
        names = [
            f"{f'-{flag.letter}, ' if flag.letter else '    '}--{flag.name}{f' {flag.kind}' if flag.kind else ''}"
            for flag in shown
        ]
        width = max(map(len, names), default=0)
        for name, flag in zip(names, shown, strict=True):
            print(f"  {name.ljust(width)}   {flag.help}")
        raise Stop(0)


class _Reader:
    def __init__(self, line: Words, found: SimpleNamespace) -> None:
        self._line = line
        self._found = found
        self._long = {flag.name: flag for flag in line.flags}
        self._short = {flag.letter: flag for flag in line.flags if flag.letter}

    def run(self, words: list[str]) -> list[str]:
        others: list[str] = []
        while words:
            word = words.pop(0)
            if word == "--":
                return others + words
            if word.startswith("--"):
                self._read_long(word, words)
            elif word.startswith("-") and word != "-":
                self._read_short(word, words)
            else:
                others.append(word)
                if self._line.opaque:
                    return others + words
        return others

    def _read_long(self, word: str, rest: list[str]) -> None:
        name, equals, value = word[2:].partition("=")
        if name == "help":
            self._line.help()
        flag = self._long.get(name)
        if flag is None:
            self._line.refuse(f"unknown flag: --{name}")
        if flag.kind == BOOL:
            self._set(flag, value if equals else "true", f"--{name}")
        elif not equals and flag.bare:
            self._set(flag, flag.bare, f"--{name}")
        elif not equals and not rest:
            self._line.refuse(f"flag needs an argument: --{name}")
        else:
            self._set(flag, value if equals else rest.pop(0), f"--{name}")

    def _read_short(self, word: str, rest: list[str]) -> None:
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            flag = self._short.get(letter)
            if flag is None:
                if letter == "h":
                    self._line.help()
                self._line.refuse(f"unknown shorthand flag: '{letter}' in {word}")
            if flag.kind == BOOL:
                value, letters = (letters[1:], "") if letters.startswith("=") else ("true", letters)
                self._set(flag, value, f"-{letter}")
                continue
            if not letters and not rest:
                self._line.refuse(f"flag needs an argument: '{letter}' in {word}")
            self._set(flag, letters.removeprefix("=") if letters else rest.pop(0), f"-{letter}, --{flag.name}")
            return

    def _set(self, flag: Flag, text: str, shown: str) -> None:
        value: Any = text
        if flag.kind == BOOL:
            if text not in (*_TRUE, *_FALSE):
                self._invalid(text, shown, "invalid syntax")
            value = text in _TRUE
        elif flag.kind == INT:
            try:
                value = int(text)
            except ValueError:
                self._invalid(text, shown, "invalid syntax")
        elif flag.kind == LIST:
            value = [*getattr(self._found, flag.attribute), text]
        setattr(self._found, flag.attribute, value)
        self._found.given.add(flag.name)

    def _invalid(self, text: str, shown: str, why: str) -> NoReturn:
        self._line.refuse(f'invalid argument "{text}" for "{shown}" flag: {why}')


def flags(*groups: Iterable[Flag] | Flag) -> tuple[Flag, ...]:
    """One tuple of single flags and of groups that verbs share."""
    found: list[Flag] = []
    for group in groups:
        found += [group] if isinstance(group, Flag) else list(group)
    return tuple(found)
