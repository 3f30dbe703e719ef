"""More networks for a container than the one it was made with: `network connect` and `disconnect`.

Each has an interface of its own, a row, and a plan in the bundle, by which it is taken away with the container.
The container's /etc/hosts and /etc/resolv.conf are written in place: they are what its own are bound to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.client.images.records import writing
from registry.client.runtime import bundle as bundles
from registry.client.runtime import ending, netavark, networks, records
from registry.client.runtime.errors import ContainerConflict, ContainerError
from registry.client.runtime.netavark import Network
from registry.client.runtime.records import CREATED, EXITED, RUNNING, Container
from registry.client.runtime.spec import Joined, Spec

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine


def begin(machine: Machine, container: Container, bundle: Path) -> list[dict[str, Any]]:
    """Reserve an address in each further network for a start; netavark's plans, which lie in the bundle too."""
    found = []
    for number, joined in enumerate(container.spec.others, 1):
        found.append(_reserve(machine, container, joined, bundle, f"eth{number}"))
    for document in found:
        write(machine, container, document)
    return found


def _reserve(
    machine: Machine, container: Container, joined: Joined, bundle: Path, interface: str
) -> dict[str, Any]:
    network = networks.find(machine, joined.network)
    document = networks.enter(machine, container, network, joined.address, joined.aliases, (), interface)
    networks.keep(bundle, f"network-{interface}", document)
    return document


def connect(machine: Machine, container: Container, network: Network, joined: Joined) -> None:
    """Put a container into one more network, at once when it runs. Raises ContainerConflict, ContainerError."""
    with ending.holding(machine, container.id):
        current = _there(machine, container)
        spec = current.spec
        if spec.network == "host" or spec.network.startswith("container:"):
            raise ContainerConflict(
                "container sharing network namespace with another container or host cannot be connected to any "
                "other network"
            )
        if network.name in networks.wanted_by(spec):
            raise ContainerConflict(f"endpoint with name {current.name} already exists in network {network.name}")
        if spec.network == "none":
            changed = replace(spec, network=network.name, aliases=joined.aliases, address=joined.address)
        else:
            changed = replace(spec, others=(*spec.others, joined))
        if current.state == RUNNING and current.process is not None:
            _enter(machine, current, joined, f"/proc/{current.process.pid}/ns/net")
        with writing(machine.db):
            records.change(machine.db, current.id, spec=changed)


def _enter(machine: Machine, container: Container, joined: Joined, namespace: str) -> None:
    bundle = machine.place.bundle(container.id)
    taken = {_interface(each) for _, each in _plans(bundle)}
    interface = next(f"eth{number}" for number in range(256) if f"eth{number}" not in taken)
    document = _reserve(machine, container, joined, bundle, interface)
    try:
        netavark.call("setup", document, namespace, machine.place.run / "network")
    except BaseException:
        _leave(machine, container, joined.network)
        raise
    netavark.choose_gateway([each for _, each in _plans(bundle)], namespace)
    write(machine, container, document)


def disconnect(machine: Machine, container: Container, name: str) -> None:
    """Take a container out of a network. The next one it is in takes the place of the one it was made with."""
    with ending.holding(machine, container.id):
        current = _there(machine, container)
        spec = current.spec
        if name not in networks.wanted_by(spec):
            raise ContainerConflict(f"container {current.id} is not connected to network {name}")
        if current.state == RUNNING:
            _leave(machine, current, name)
        with writing(machine.db):
            records.change(machine.db, current.id, spec=_without(spec, name))


def _without(spec: Spec, name: str) -> Spec:
    kept = tuple(each for each in spec.others if each.network != name)
    if spec.network != name:
        return replace(spec, others=kept)
    first, rest = (kept[0], kept[1:]) if kept else (Joined("none"), ())
    return replace(spec, network=first.network, aliases=first.aliases, address=first.address, others=rest)


def _leave(machine: Machine, container: Container, name: str) -> None:
    network = networks.find(machine, name)
    for path, document in _plans(machine.place.bundle(container.id)):
        if network.interface in document["networks"]:
            namespace = f"/proc/{container.process.pid}/ns/net" if container.process else ""
            networks.leave(machine, document, namespace)
            write(machine, container, document, gone=True)
            path.unlink()
            netavark.choose_gateway([each for _, each in _plans(path.parent)], namespace)
    networks.give_back(machine, container, [network])


def _there(machine: Machine, container: Container) -> Container:
    ending.finish(machine, container.id)
    current = ending.there(machine, container.id)
    if current.state not in (CREATED, EXITED, RUNNING):
        raise ContainerConflict(f"container {container.id[:12]} is {current.state}")
    return current


def _plans(bundle: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = [(path, json.loads(path.read_text())) for path in bundle.glob("network*.json")]
    return sorted(found, key=lambda each: int(_interface(each[1]).removeprefix("eth")))


def _interface(document: dict[str, Any]) -> str:
    [mine] = document["networks"].values()
    return str(mine["interface_name"])


# --- the container's files


def write(machine: Machine, container: Container, document: dict[str, Any], gone: bool = False) -> None:
    """Let a container know its address and the name server of a network; *gone*, forget them."""
    [mine] = document["networks"].values()
    [info] = document["network_info"].values()
    address, gateway = mine["static_ips"][0], info["subnets"][0]["gateway"]
    directory = machine.place.container(container.id)
    line = f"{address}\t{bundles.hostname(container.spec, container.id)}"
    _edit(directory / "hosts", lambda lines: _changed(lines, line, gone, first=False))
    if info["dns_enabled"] and not container.spec.dns:
        server = f"nameserver {gateway}"
        _edit(directory / "resolv.conf", lambda lines: _changed(lines, server, gone, first=True))


def _changed(lines: Sequence[str], line: str, gone: bool, first: bool) -> list[str]:
    others = [each for each in lines if each != line]
    return others if gone else [line, *others] if first else [*others, line]


def _edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ContainerError(f"{path} is gone; start the container again") from None
    path.write_text("".join(f"{line}\n" for line in change(text.splitlines())))
