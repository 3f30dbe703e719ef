"""Verbs that no person types: what a container's monitor calls at its end, and who asks for its health."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from types import SimpleNamespace

from registry.cli import containers
from registry.cli.flags import Words
from registry.client.runtime import ending, lifecycle, records, restarting
from registry.client.runtime.errors import ContainerConflict, ContainerUnknown
from registry.client.runtime.machine import Machine

_TIDY = Words("container tidy", "ID ROUND", "What a monitor calls when its container has ended", (), 2, 2)
_WATCH = Words("container watch", "ID ROUND", "Ask for a running container's health until it ends", (), 2, 2)


def tidy(words: Sequence[str]) -> int:
    """What the monitor calls when a container has ended."""
    return containers.execute(_TIDY, words, _tidy)


def _tidy(machine: Machine, options: SimpleNamespace) -> int:
    identity, turn = options.words[0], int(options.words[1])
    found = records.get(machine.db, identity)
    if found is None or found.round != turn:
        return 0
    if found.state == records.STARTING:  # it ended before its start was written down
        with ending.holding(machine, identity):
            found = records.get(machine.db, identity)
    if found is not None:
        found = ending.settle(machine, found)
    if found is None or found.round != turn or found.state != records.EXITED:
        return 0
    if found.spec.auto_remove:
        with contextlib.suppress(ContainerConflict, ContainerUnknown):
            lifecycle.remove(machine, found, with_volumes=True)
    elif restarting.wants(found):
        time.sleep(restarting.delay(found))
        restarting.again(machine, found)
    return 0


def watch(words: Sequence[str]) -> int:
    """What is begun with a container that has a health check."""
    return containers.execute(_WATCH, words, _watch)


def _watch(machine: Machine, options: SimpleNamespace) -> int:
    from registry.client.runtime import health

    health.ask(machine, options.words[0], int(options.words[1]))
    return 0
