"""`hythe ps`: the list of containers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace

from registry.cli import containers, listing
from registry.cli.container_filters import Filters, health_of, state_of
from registry.cli.flags import BOOL, INT, LIST, TEXT, Flag, Words
from registry.client.images import records as images
from registry.client.runtime import networks, ports, records, usage
from registry.client.runtime.machine import Machine
from registry.client.runtime.records import Container

_TABLE = "table {{.ID}}\\t{{.Image}}\\t{{.Command}}\\t{{.RunningFor}}\\t{{.Status}}\\t{{.Ports}}\\t{{.Names}}"
_HEADINGS = {
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Labels": "LABELS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Mounts": "MOUNTS",
    "Names": "NAMES",
    "Networks": "NETWORKS",
    "Ports": "PORTS",
    "RunningFor": "CREATED",
    "Size": "SIZE",
    "State": "STATE",
    "Status": "STATUS",
}
_PS = Words(
    "ps",
    "[OPTIONS]",
    "List containers",
    (
        Flag("all", "a", BOOL, "Show all containers (default shows just running)"),
        Flag("filter", "f", LIST, "Filter output based on conditions provided"),
        Flag("format", "", TEXT, "Format output: table, json, or a Go template", ""),
        Flag("last", "n", INT, "Show n last created containers (includes all states)", -1),
        Flag("latest", "l", BOOL, "Show the latest created container (includes all states)"),
        Flag("no-trunc", "", BOOL, "Don't truncate output"),
        Flag("quiet", "q", BOOL, "Only display container IDs"),
        Flag("size", "s", BOOL, "Display total file sizes"),
    ),
    0,
    0,
)


def run(words: Sequence[str]) -> int:
    """Run `ps` and return its exit status."""
    return containers.execute(_PS, words, _run)


def _run(machine: Machine, options: SimpleNamespace) -> int:
    wanted = Filters(machine, options.filter)
    count = 1 if options.latest else options.last
    everything = options.all or count >= 0 or wanted.of_state
    found = [
        each
        for each in machine.every()
        if (everything or each.state == records.RUNNING)
        and each.state != records.CREATING
        and wanted.matches(each)
    ]
    found = found[:count] if count >= 0 else found
    names = image_names(machine)
    format = options.format if options.format not in ("", "table") else _TABLE
    if options.quiet and not options.format:
        format = "{{.ID}}"
    elif options.size and format == _TABLE:
        format += "\\t{{.Size}}"
    sized = options.size or ".Size" in format
    listing.show([row(machine, each, names, options.no_trunc, sized) for each in found], format, _HEADINGS)
    return 0


def image_names(machine: Machine) -> dict[tuple[str, str], str]:
    """The image that each repository and tag means now."""
    return {(name.repository, name.reference): name.image_id for name in images.tags(machine.db)}


def row(
    machine: Machine,
    container: Container,
    names: dict[tuple[str, str], str],
    whole: bool = False,
    sized: bool = False,
) -> dict[str, str]:
    """A container's line: a text for each heading; the size, which takes a walk, only when it is *sized*."""
    spec = container.spec
    created = container.created_ns / 1e9
    volumes = [mount for mount in spec.mounts if mount.kind == "volume"]
    mounts = [
        mount.source if whole or len(mount.source) < 16 else mount.source[:14] + "…" for mount in spec.mounts
    ]
    return {
        "Command": _command(spec.arguments, whole),
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(created)),
        "ID": container.id if whole else container.id[:12],
        "Image": image_name(machine, container, names, whole),
        "Labels": ",".join(f"{key}={value}" for key, value in spec.labels.items()),
        "LocalVolumes": str(len(volumes)),
        "Mounts": ",".join(mount for mount in mounts if mount),
        "Names": container.name,
        "Networks": ",".join(networks.wanted_by(spec) or [spec.network]),
        "Ports": ports.shown(spec, ports.published(machine, container))
        if container.state == records.RUNNING
        else "",
        "RunningFor": f"{listing.ago(time.time() - created)} ago",
        "Size": _size(machine, container) if sized else "",
        "State": state_of(container),
        "Status": status(machine, container),
    }


def image_name(machine: Machine, container: Container, names: dict[tuple[str, str], str], whole: bool) -> str:
    """The image as it was asked for, or its id when that name means another one by now."""
    from registry.oci.errors import NameInvalid
    from registry.oci.reference import ImageName

    try:
        name = ImageName.parse(container.spec.image, machine.store.default_host)
        if name.digest is None and names.get((name.name, name.tag or "latest")) == container.image_id:
            return container.spec.image
    except NameInvalid:
        pass
    if container.spec.image.removeprefix("sha256:") in container.image_id or "@" in container.spec.image:
        return container.spec.image
    return container.image_id if whole else container.image_id[7:19]


def _command(words: Sequence[str], whole: bool) -> str:
    text = " ".join(f"'{word}'" if " " in word and place else word for place, word in enumerate(words))
    return _quote(text if whole or len(text) <= 20 else text[:19] + "…")


def _quote(text: str) -> str:
    from json import dumps

    return dumps(text, ensure_ascii=False)


def status(machine: Machine, container: Container) -> str:
    """`Up 5 minutes (healthy)`, `Exited (0) 3 days ago`, `Created`."""
    now = time.time()
    if container.state == records.RUNNING:
        up = f"Up {listing.ago(now - container.started_ns / 1e9)}"
        if container.paused:
            return f"{up} (Paused)"
        health = health_of(machine, container)
        return up if health == "none" else f"{up} ({'health: ' if health == 'starting' else ''}{health})"
    if container.state == records.EXITED:
        return f"Exited ({container.exit_code}) {listing.ago(now - container.finished_ns / 1e9)} ago"
    return "Removal In Progress" if container.state == records.REMOVING else "Created"


def _size(machine: Machine, container: Container) -> str:
    own = usage.written_bytes(machine, container)
    image = images.image(machine.db, container.image_id)
    return f"{listing.size(own)} (virtual {listing.size(own + (image.size_bytes if image else 0))})"
