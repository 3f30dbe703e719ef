"""`hythe start` and `hythe attach`: a container that is there, in the background or joined to our terminal."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from registry.cli import attached, containers
from registry.cli.flags import BOOL, TEXT, Flag, Words
from registry.client.runtime import lifecycle, records, restarting
from registry.client.runtime.errors import ContainerConflict
from registry.client.runtime.machine import Machine
from registry.client.runtime.records import RUNNING, Container
from registry.oci.errors import HytheError

_KEYS = Flag("detach-keys", "", TEXT, "Override the key sequence for detaching a container")
_START = Words(
    "start",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Start one or more stopped containers",
    (
        Flag("attach", "a", BOOL, "Attach STDOUT/STDERR and forward signals"),
        Flag("interactive", "i", BOOL, "Attach container's STDIN"),
        Flag("all-restarting", "", BOOL, "Start those whose restart policy wants it; for the machine's own start"),
        _KEYS,
    ),
)
_ATTACH = Words(
    "attach",
    "[OPTIONS] CONTAINER",
    "Attach local standard input, output, and error streams to a running container",
    (
        _KEYS,
        Flag("no-stdin", "", BOOL, "Do not attach STDIN"),
        Flag("sig-proxy", "", BOOL, "Proxy all received signals to the process", True),
    ),
    1,
    1,
)


def start(words: Sequence[str]) -> int:
    """Run `start` and return its exit status; with -a the container's own."""
    return containers.execute(_START, words, _start)


def _start(machine: Machine, options: SimpleNamespace) -> int:
    if options.all_restarting:
        return containers.each(
            machine, [each.name for each in restarting.due(machine)], lambda each: _begin(machine, each)
        )
    if not options.words:
        _START.refuse('"hythe start" requires at least 1 argument.', True)
    if not (options.attach or options.interactive):
        return containers.each(
            machine, options.words, lambda each: _begin(machine, each), "failed to start containers"
        )
    if len(options.words) > 1:
        raise HytheError("you cannot start and attach multiple containers at once")
    container = machine.find(options.words[0])
    if options.interactive:
        attached.check_terminal(container.spec)
    streams = attached.streams_for(container.spec, options.interactive, options.detach_keys)
    if container.state == RUNNING:
        raise ContainerConflict("container is already running; `hythe attach` joins it")
    connection = lifecycle.start(machine, container.id, attached.join)
    started = records.get(machine.db, container.id) or container
    return attached.end(machine, started) if attached.carry(machine, started, connection, streams, True) else 0


def _begin(machine: Machine, container: Container) -> None:
    if container.state == RUNNING:
        if container.paused:
            raise ContainerConflict("cannot start a paused container, try unpause instead")
        return
    lifecycle.start(machine, container.id, lambda _: None)


def attach(words: Sequence[str]) -> int:
    """Run `attach` and return its exit status: the container's, or 0 when the person detached."""
    return containers.execute(_ATTACH, words, _attach)


def _attach(machine: Machine, options: SimpleNamespace) -> int:
    container = machine.find(options.words[0])
    if container.state != RUNNING:
        raise ContainerConflict("You cannot attach to a stopped container, start it first")
    if container.paused:
        raise ContainerConflict("You cannot attach to a paused container, unpause it first")
    if not options.no_stdin:
        attached.check_terminal(container.spec)
    streams = attached.streams_for(container.spec, not options.no_stdin, options.detach_keys)
    connection = attached.join(machine.place.bundle(container.id))
    if not attached.carry(machine, container, connection, streams, options.sig_proxy):
        return 0
    return attached.end(machine, container)
