"""What nothing needs goes: `image`, `container`, `volume`, `network` and `system prune`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from registry.cli import listing, local
from registry.cli.filters import Filters
from registry.cli.flags import BOOL, LIST, Flag, Stop, Words
from registry.cli.names import delete
from registry.client.images import garbage, records
from registry.client.images.garbage import Removed
from registry.client.images.store import Store
from registry.oci.errors import HytheError

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine

_FORCE = Flag("force", "f", BOOL, "Do not prompt for confirmation")
_FILTER = Flag("filter", "", LIST, "Provide filter values (e.g. 'label=<key>=<value>')")
_ALL = Flag("all", "a", BOOL, "Remove all unused images not just dangling ones")
_IMAGES = Words("image prune", "[OPTIONS]", "Remove unused images", (_ALL, _FILTER, _FORCE), 0, 0)
_CONTAINERS = Words("container prune", "[OPTIONS]", "Remove all stopped containers", (_FILTER, _FORCE), 0, 0)
_NETWORKS = Words("network prune", "[OPTIONS]", "Remove all unused networks", (_FILTER, _FORCE), 0, 0)
_VOLUMES = Words(
    "volume prune",
    "[OPTIONS]",
    "Remove unused local volumes",
    (Flag("all", "a", BOOL, "Remove all unused volumes, not just anonymous ones"), _FILTER, _FORCE),
    0,
    0,
)
_SYSTEM = Words(
    "system prune",
    "[OPTIONS]",
    "Remove unused data",
    (_ALL, _FILTER, _FORCE, Flag("volumes", "", BOOL, "Prune anonymous volumes")),
    0,
    0,
)
_UNUSED = "all images without at least one container associated to them"
_NO_NETWORK = "all networks not used by at least one container"


def images(words: Sequence[str]) -> int:
    """Run `image prune` and return its exit status."""
    try:
        options = _IMAGES.read(words)
    except Stop as stop:
        return stop.status
    what = _UNUSED if options.all else "all dangling images"
    if not _agreed(options, f"WARNING! This will remove {what}."):
        return 0
    with local.opened() as store:
        said, removed = _prune_images(store, options, ("dangling", "until", "label", "label!"))
    _show_images(said)
    _show_freed(removed.freed_bytes)
    return 0


def containers(words: Sequence[str]) -> int:
    """Run `container prune` and return its exit status."""
    return _of_machine(_CONTAINERS, words, "all stopped containers", _prune_containers, "Containers")


def volumes(words: Sequence[str]) -> int:
    """Run `volume prune` and return its exit status."""
    what = "anonymous local volumes not used by at least one container"
    return _of_machine(_VOLUMES, words, what, _prune_volumes, "Volumes")


def networks(words: Sequence[str]) -> int:
    """Run `network prune` and return its exit status."""
    what = "all custom networks not used by at least one container"
    return _of_machine(_NETWORKS, words, what, _prune_networks, "Networks")


def system(words: Sequence[str]) -> int:
    """Run `system prune` and return its exit status."""
    try:
        options = _SYSTEM.read(words)
    except Stop as stop:
        return stop.status
    what = ["all stopped containers", _NO_NETWORK]
    what += ["all anonymous volumes not used by at least one container"] if options.volumes else []
    what += [_UNUSED if options.all else "all dangling images"]
    question = "".join(f"  - {each}\n" for each in what)
    if not _agreed(options, f"WARNING! This will remove:\n{question}"):
        return 0
    freed = 0
    with local.opened() as store:
        machine = local.machine(store)
        if machine is not None:
            steps = [("Containers", _prune_containers), ("Networks", _prune_networks)]
            everything = SimpleNamespace(filter=options.filter, all=False)
            for title, prune in steps + ([("Volumes", _prune_volumes)] if options.volumes else []):
                names, size_bytes = prune(machine, everything)
                _show(title, names)
                freed += size_bytes
        said, removed = _prune_images(store, options, ("until", "label", "label!"))
    _show_images(said)
    _show_freed(freed + removed.freed_bytes)
    return 0


def _of_machine(line: Words, words: Sequence[str], what: str, prune: object, title: str) -> int:
    from registry.cli import containers as opening

    def run(machine: Machine, options: SimpleNamespace) -> int:
        shown = what.replace("anonymous", "all") if getattr(options, "all", False) else what
        if not _agreed(options, f"WARNING! This will remove {shown}."):
            return 0
        names, freed = prune(machine, options)  # type: ignore[operator]
        _show(title, names)
        if title != "Networks":
            _show_freed(freed)
        return 0

    return opening.execute(line, words, run)


def _agreed(options: SimpleNamespace, question: str) -> bool:
    return options.force or local.confirmed(question)


def _show(title: str, names: Iterable[str]) -> None:
    if names:
        print(f"Deleted {title}:", *names, "", sep="\n")


def _show_images(said: Sequence[str]) -> None:
    _show("Images", [line[0].lower() + line[1:] for line in said])


def _show_freed(freed_bytes: int) -> None:
    print(f"Total reclaimed space: {listing.size(freed_bytes)}")


# --- one kind of things after the other


def _prune_images(store: Store, options: SimpleNamespace, known: Sequence[str]) -> tuple[list[str], Removed]:
    wanted = Filters(store, options.filter, known)
    freed_bytes = garbage.discard_downloads(store) if not options.filter else 0
    said = _remove(store, wanted, options.all or wanted.flag("dangling") is False)
    removed = garbage.collect(store, everything=not options.filter)
    return said, Removed(removed.layers, removed.freed_bytes + freed_bytes)


def _remove(store: Store, wanted: Filters, named_too: bool) -> list[str]:
    said: list[str] = []
    with records.writing(store.db):
        for image in wanted.images(records.images(store.db)):
            if not records.users(store.db, image.id) and (named_too or not records.tags(store.db, image.id)):
                said += delete(store, image)
    return said


def _prune_containers(machine: Machine, options: SimpleNamespace) -> tuple[list[str], int]:
    from registry.cli.container_filters import Filters as ContainerFilters
    from registry.client.runtime import lifecycle, usage
    from registry.client.runtime.errors import ContainerConflict, ContainerUnknown
    from registry.client.runtime.records import CREATED, EXITED

    wanted = ContainerFilters(machine, options.filter, ("until", "label", "label!"))
    removed, freed = [], 0
    for container in machine.every():
        if container.state in (CREATED, EXITED) and wanted.matches(container):
            size_bytes = usage.written_bytes(machine, container)
            with contextlib.suppress(ContainerConflict, ContainerUnknown):  # another command is at it
                lifecycle.remove(machine, container)
                removed.append(container.id)
                freed += size_bytes
    return removed, freed


def _prune_volumes(machine: Machine, options: SimpleNamespace) -> tuple[list[str], int]:
    import json

    from registry.client.runtime import volumes as places
    from registry.client.runtime.records import volumes as recorded

    labels = _Labels(options.filter, ("all",))
    everything = options.all or labels.said("all")
    found = [
        each.name
        for each in recorded(machine.db)
        if (everything or each.anonymous) and labels.match(json.loads(each.labels), each.created_ns)
    ]
    sizes = {name: places.size(machine, name) for name in found}
    removed = places.remove_unused(machine, found)
    return removed, sum(sizes[name] for name in removed)


def _prune_networks(machine: Machine, options: SimpleNamespace) -> tuple[list[str], int]:
    from registry.client.runtime import networks as bridges
    from registry.client.runtime.errors import ContainerConflict

    labels = _Labels(options.filter)
    wanted = {name for each in machine.every() for name in bridges.wanted_by(each.spec)}
    removed = []
    for network in bridges.every(machine.db):
        kept = network.name in (*wanted, bridges.DEFAULT)
        if not kept and labels.match(dict(network.labels), network.created_ns):
            with contextlib.suppress(ContainerConflict):  # a container has just come
                bridges.remove(machine, network)
                removed.append(network.name)
    return removed, 0


class _Labels:
    """`--filter` of what has nothing but labels and an age."""

    def __init__(self, texts: Sequence[str], more: Sequence[str] = ()) -> None:
        from registry.cli import filters

        self._wanted: list[tuple[str, str]] = []
        for text in texts:
            key, equals, value = text.partition("=")
            if not equals:
                raise HytheError(f"bad format of filter (expected name=value): {text}")
            if key not in ("until", "label", "label!", *more):
                raise HytheError(f"invalid filter '{key}'")
            self._wanted.append((key, value))
        self._until = [filters.moment(value) for key, value in self._wanted if key == "until"]

    def said(self, key: str) -> bool:
        """Whether a filter that is yes or no is yes."""
        return any(name == key and value.lower() in ("true", "1") for name, value in self._wanted)

    def match(self, labels: dict[str, str], created_ns: int) -> bool:
        """Whether something with these labels is meant."""
        for key, value in self._wanted:
            name, equals, wanted = value.partition("=")
            has = name in labels and (not equals or labels[name] == wanted)
            if key in ("label", "label!") and has != (key == "label"):
                return False
        return all(created_ns / 1e9 < moment for moment in self._until)
