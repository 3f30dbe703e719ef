"""What the verbs for containers share: opening, going through several, and saying errors as docker does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

from registry.cli import local
from registry.cli.flags import Stop, Words
from registry.client.runtime.machine import Machine
from registry.client.runtime.records import Container
from registry.oci.errors import HytheError

Verb = Callable[[Machine, SimpleNamespace], int]


@contextmanager
def opened(telling: bool = False) -> Iterator[Machine]:
    """This user's containers; *telling* as with `local.opened`."""
    with local.opened(containers=True, telling=telling) as store:
        yield Machine(store, os.environ)


def execute(line: Words, words: Sequence[str], verb: Verb) -> int:
    """Read a verb's words and run it; the exit status."""
    try:
        options = line.read(words)
        with opened() as machine:
            return verb(machine, options)
    except Stop as stop:
        return stop.status
    except HytheError as error:
        local.complain(error)
        return getattr(error, "status", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def each(machine: Machine, names: Sequence[str], action: Callable[[Container], object], failure: str = "") -> int:
    """Do something to several containers, and print the names of those that it was done to; 1 when one failed.

    *failure* is said of those that it could not be done to, at the end.
    """

    def do(name: str) -> None:
        action(machine.find(name))
        print(name, flush=True)

    failed = local.each(names, do)
    if failed and failure:
        local.complain(f"{failure}: {', '.join(failed)}")
    return 1 if failed else 0
