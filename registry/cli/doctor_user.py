"""What `hythe doctor` and `hythe info` look at for an ordinary user, beside what everybody needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from registry.cli import local
from registry.client.images.unpack import rights
from registry.client.runtime import place, rootless, storage, usernet, userns
from registry.client.runtime.errors import ContainerError, Missing

Values = tuple[str, bool, str, str, bool]  # name, good, what was found, the command that mends it, whether needed


def every(environment: Mapping[str, str]) -> Iterator[Values]:
    """All checks; the namespace is entered, so that what follows is what containers would meet."""
    person = userns.find_person()
    try:
        userns.enter(place.run_root(local.store_root(environment), environment))
    except Missing:
        why, command = userns.why_not()
        yield "user namespace", False, f"refused: {why or 'by this kernel'}", command, True
        return
    except ContainerError as error:
        yield "user namespace", False, str(error), "", True
        return
    single, _, command = userns.why_single(person).partition(": ")
    found = "all files of images belong to you" if single else f"{rights.mapped_ids()} (/etc/subuid, /etc/subgid)"
    yield "ids", not single, single or found, command, False
    yield from inside(environment)


def inside(environment: Mapping[str, str]) -> Iterator[Values]:
    """Those that can be made once this process is root of its user's namespace."""
    works = storage.can_mount()
    why, command = userns.why_not()
    yield (
        "user namespace",
        works,
        "works" if works else f"no mounts in it: {why or 'by this kernel'}",
        command,
        True,
    )
    try:
        yield "network", True, usernet.find(environment.get("HYTHE_USER_NETWORK", "")), "", False
    except Missing as error:
        text, _, command = str(error).partition(": ")
        yield "network", False, text, command.partition(";")[0], False
    given = ", ".join(sorted(rootless.delegated() & {"cpu", "memory", "pids"}))
    yield "limits", bool(given), given or "none: -m, --cpus, pause need cgroups", rootless.how_to_delegate(), False
