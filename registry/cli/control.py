"""Verbs that change containers: stop, restart, kill, pause, unpause, wait, rename, rm."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from registry.cli import containers, local
from registry.cli.flags import BOOL, INT, TEXT, Flag, Words
from registry.client.images.records import writing
from registry.client.runtime import ending, lifecycle, parse, processes, records, telling
from registry.client.runtime.errors import ContainerConflict, ContainerUnknown
from registry.client.runtime.machine import Machine
from registry.client.runtime.records import RUNNING, Container

_MANY = "[OPTIONS] CONTAINER [CONTAINER...]"
_TIME = Flag("time", "t", INT, "Seconds to wait before killing the container")
_SIGNAL = Flag("signal", "s", TEXT, "Signal to send to the container", "")
_STOP = Words(
    "stop",
    _MANY,
    "Stop one or more running containers",
    (
        _TIME,
        _SIGNAL,
        Flag("all-restarting", "", BOOL, "Stop those with a restart policy, until the machine starts again"),
    ),
)
_RESTART = Words("restart", _MANY, "Restart one or more containers", (_TIME, _SIGNAL), least=1)
_KILL = Words(
    "kill",
    _MANY,
    "Kill one or more running containers",
    (Flag("signal", "s", TEXT, "Signal to send to the container", "KILL"),),
    least=1,
)
_PAUSE = Words(
    "pause", "CONTAINER [CONTAINER...]", "Pause all processes within one or more containers", (), least=1
)
_UNPAUSE = Words(
    "unpause", "CONTAINER [CONTAINER...]", "Unpause all processes within one or more containers", (), least=1
)
_WAIT = Words(
    "wait",
    "CONTAINER [CONTAINER...]",
    "Block until one or more containers stop, then print their exit codes",
    (),
    least=1,
)
_RENAME = Words("rename", "CONTAINER NEW_NAME", "Rename a container", (), 2, 2)
_RM = Words(
    "rm",
    _MANY,
    "Remove one or more containers",
    (
        Flag("force", "f", BOOL, "Force the removal of a running container (uses SIGKILL)"),
        Flag("volumes", "v", BOOL, "Remove anonymous volumes associated with the container"),
        Flag("link", "l", BOOL),
    ),
    least=1,
)


def stop(words: Sequence[str]) -> int:
    """Run `stop` and return its exit status."""
    return containers.execute(_STOP, words, _stop_all)


def _stop_all(machine: Machine, options: SimpleNamespace) -> int:
    names = options.words
    if options.all_restarting:
        names = [each.name for each in machine.every() if each.state == RUNNING and each.spec.restart != "no"]
    elif not names:
        _STOP.refuse('"hythe stop" requires at least 1 argument.', True)
    wanted = 2 if options.all_restarting else 1
    return containers.each(machine, names, lambda each: _stop(machine, each, options, wanted))


def _stop(machine: Machine, container: Container, options: SimpleNamespace, stopped: int = 1) -> None:
    seconds = container.spec.stop_timeout if options.time is None else options.time
    number = parse.signal_number(options.signal or container.spec.stop_signal)
    ending.stop(machine, container, seconds, number, stopped)


def restart(words: Sequence[str]) -> int:
    """Run `restart` and return its exit status."""
    return containers.execute(
        _RESTART,
        words,
        lambda machine, options: containers.each(
            machine, options.words, lambda each: _again(machine, each, options)
        ),
    )


def _again(machine: Machine, container: Container, options: SimpleNamespace) -> None:
    if container.spec.auto_remove and container.state == RUNNING:
        raise ContainerConflict("a container that removes itself cannot be restarted; run it again")
    _stop(machine, container, options)
    lifecycle.start(machine, container.id, lambda _: None)
    telling.tell(machine.db, container, "restart")


def kill(words: Sequence[str]) -> int:
    """Run `kill` and return its exit status."""
    return containers.execute(_KILL, words, _kill)


def _kill(machine: Machine, options: SimpleNamespace) -> int:
    number = parse.signal_number(options.signal)

    def send(container: Container) -> None:
        if container.state != RUNNING:
            raise ContainerConflict(
                f"Cannot kill container: {options.words[0]}: Container {container.id} is not running"
            )
        if number == 9:
            with writing(machine.db):
                records.change(machine.db, container.id, stopped=1)
        ending.signal_to(machine, container, number)
        if number == 9 and container.process is not None and processes.wait(container.process, 10):
            ending.settle(machine, container)

    return containers.each(machine, options.words, send)


def pause(words: Sequence[str]) -> int:
    """Run `pause` and return its exit status."""
    return containers.execute(
        _PAUSE,
        words,
        lambda machine, options: containers.each(machine, options.words, lambda each: ending.pause(machine, each)),
    )


def unpause(words: Sequence[str]) -> int:
    """Run `unpause` and return its exit status."""
    return containers.execute(
        _UNPAUSE,
        words,
        lambda machine, options: containers.each(
            machine, options.words, lambda each: ending.unpause(machine, each)
        ),
    )


def wait(words: Sequence[str]) -> int:
    """Run `wait` and return its exit status; the codes are printed."""
    return containers.execute(_WAIT, words, _wait)


def _wait(machine: Machine, options: SimpleNamespace) -> int:
    failed = local.each(options.words, lambda name: print(_code(machine, machine.find(name)), flush=True))
    return 1 if failed else 0


def _code(machine: Machine, container: Container) -> int:
    if container.state != RUNNING or container.process is None:
        return container.exit_code
    processes.wait(container.process)
    found = ending.settle(machine, container)
    if found is not None and found.round == container.round:
        return found.exit_code
    code = ending.exit_code(machine, container.id)
    return 255 if code is None else code


def rename(words: Sequence[str]) -> int:
    """Run `rename` and return its exit status."""
    return containers.execute(_RENAME, words, _rename)


def _rename(machine: Machine, options: SimpleNamespace) -> int:
    container = machine.find(options.words[0])
    name = parse.name(options.words[1])
    lifecycle.rename(machine, container, name)
    return 0


def remove(words: Sequence[str]) -> int:
    """Run `rm` and return its exit status."""
    return containers.execute(_RM, words, _remove)


def _remove(machine: Machine, options: SimpleNamespace) -> int:
    def remove(name: str) -> None:
        lifecycle.remove(machine, machine.find(name), options.force, options.volumes)
        print(name, flush=True)

    return 1 if local.each(options.words, remove, (ContainerUnknown,) if options.force else ()) else 0
