"""Networks: a bridge, addresses and published ports, by netavark.

Addresses are rows; what netavark does is a plan.

A container's network namespace is bound to a file that only its own mount namespace sees, so it goes with it. What
is outside of it, port maps and the bridge's other end, is taken away by the plan that was kept beside the bundle.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import secrets
import socket
import sqlite3
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.client.images import events
from registry.client.images.records import writing
from registry.client.runtime import netavark, processes
from registry.client.runtime.errors import ContainerConflict, ContainerError
from registry.client.runtime.netavark import Network
from registry.client.runtime.records import Container
from registry.client.runtime.spec import Port, Spec
from registry.oci.errors import HytheError

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine

DEFAULT = "bridge"
BUILT_IN = (DEFAULT, "host", "none")
_POOL = ipaddress.ip_network("10.90.0.0/16")
_PREFIX = 24


class NetworkUnknown(HytheError):
    """No network of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"network {name} not found")


# --- networks


def every(db: sqlite3.Connection) -> list[Network]:
    """All bridges by name."""
    rows = db.execute("SELECT name, id, created_ns, document FROM networks ORDER BY name")
    return [_network(row) for row in rows]


def _network(row: Sequence[Any]) -> Network:
    document = json.loads(row[3])
    document["labels"] = tuple((key, value) for key, value in document.get("labels", ()))
    return Network(row[0], row[1], row[2], **document)


def _document(network: Network) -> str:
    values = asdict(network).items()
    return json.dumps({key: value for key, value in values if key not in ("name", "id", "created_ns")})


def find(machine: Machine, text: str) -> Network:
    """A network by name or the beginning of its id; the default one is made when it is first needed."""
    found = [each for each in every(machine.db) if each.name == text] or [
        each for each in every(machine.db) if text and each.id.startswith(text)
    ]
    if len(found) == 1:
        return found[0]
    if text == DEFAULT:
        with suppress(ContainerConflict):  # another made it at the same time
            return create(machine, DEFAULT, dns=False)
        return find(machine, text)
    raise NetworkUnknown(text)


def create(
    machine: Machine,
    name: str,
    subnet: str = "",
    gateway: str = "",
    internal: bool = False,
    dns: bool = True,
    labels: Iterable[tuple[str, str]] = (),
) -> Network:
    """Make a network. Raises ContainerConflict for a name that is taken, ContainerError for no such subnet."""
    identity = secrets.token_hex(32)
    with writing(machine.db):
        try:
            taken: list[Any] = [_subnet(each) for each in every(machine.db)]
            chosen = ipaddress.ip_network(subnet) if subnet else _own_subnet(machine, taken)
            first = ipaddress.ip_address(gateway) if gateway else next(chosen.hosts())
        except ValueError as error:
            raise ContainerError(f"invalid subnet or gateway: {error}") from None
        if any(chosen.overlaps(each) for each in taken if each.version == chosen.version):
            raise ContainerConflict("Pool overlaps with other one on this address space")
        made = Network(
            name,
            identity,
            processes.now_ns(),
            f"hy-{identity[:10]}",
            str(chosen),
            str(first),
            internal,
            dns,
            tuple(labels),
        )
        try:
            row = (name, identity, made.created_ns, _document(made))
            machine.db.execute("INSERT INTO networks VALUES (?, ?, ?, ?)", row)
            _note(machine, "create", made)
        except sqlite3.IntegrityError:
            raise ContainerConflict(f"network with name {name} already exists") from None
    return made


def _own_subnet(machine: Machine, taken: Sequence[Any]) -> Any:
    """A free subnet; stores begin their search at different ones, because none sees what others will route."""
    path = os.fsencode(machine.place.root)
    return free_subnet([*taken, *_routes()], hashlib.sha256(path).digest()[0])


def free_subnet(taken: Sequence[Any], start: int = 0) -> Any:
    """The first subnet of our pool, from the *start*-th on, that none of these overlaps."""
    pool: list[Any] = list(_POOL.subnets(new_prefix=_PREFIX))
    for each in pool[start:] + pool[:start]:
        if not any(each.overlaps(other) for other in taken if other.version == 4):
            return each
    raise ContainerError(f"all subnets of {_POOL} are taken; name one with --subnet")


def _routes(besides: str = "") -> list[ipaddress.IPv4Network]:
    """The networks that this machine reaches already, but by one interface. Source: proc(5), /proc/net/route."""
    found = []
    with open("/proc/net/route") as file:
        for line in list(file)[1:]:
            words = line.split()
            address, mask = (socket.inet_ntoa(int(words[at], 16).to_bytes(4, "little")) for at in (1, 7))
            if words[0] != besides and mask != "0.0.0.0":  # noqa: S104 -- the default route, which is everywhere
                found.append(ipaddress.IPv4Network(f"{address}/{mask}", strict=False))
    return found


def remove(machine: Machine, network: Network) -> None:
    """Remove a network and its bridge. Raises ContainerConflict while a container has an address of it."""
    if network.name == DEFAULT:
        raise ContainerConflict(f"{DEFAULT} is a pre-defined network and cannot be removed")
    try:
        with writing(machine.db):
            machine.db.execute("DELETE FROM networks WHERE name = ?", (network.name,))
            _note(machine, "destroy", network)
    except sqlite3.IntegrityError:
        raise ContainerConflict(
            f"error while removing network: network {network.name} id {network.id} has active endpoints"
        ) from None
    remove_bridge(network)


def remove_bridge(network: Network) -> None:
    """Take the bridge away; one that is not there is fine."""
    if os.path.exists(f"/sys/class/net/{network.interface}"):
        subprocess.run(["ip", "link", "delete", network.interface], capture_output=True, check=False)


def _note(machine: Machine, action: str, network: Network, **more: str) -> None:
    about = {**more, "name": network.name, "type": "bridge"}
    events.note(machine.db, "network", action, network.id, about)


def endpoints(machine: Machine, network: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Container, address and the rest of everybody in a network."""
    rows = machine.db.execute("SELECT container, address, document FROM endpoints WHERE network = ?", (network,))
    return [(row[0], row[1], json.loads(row[2])) for row in rows]


# --- a container's part


def is_bridge(spec: Spec) -> bool:
    """Whether a container has a network of ours."""
    return spec.network not in ("host", "none") and not spec.network.startswith("container:")


def wanted_by(spec: Spec) -> list[str]:
    """The networks that a container is to be in when it runs."""
    return [spec.network, *(each.network for each in spec.others)] if is_bridge(spec) else []


def provide(machine: Machine, container: Container) -> dict[str, Any] | None:
    """Reserve an address and ports for a start; the document for netavark, or None."""
    spec = container.spec
    if not is_bridge(spec):
        return None
    return enter(machine, container, find(machine, spec.network), spec.address, spec.aliases, None, "eth0")


def enter(
    machine: Machine,
    container: Container,
    network: Network,
    wanted: str,
    names: Sequence[str],
    ports: Sequence[Port] | None,
    interface: str,
) -> dict[str, Any]:
    """Reserve an address for a container, and its ports where *ports* is None; the document for netavark."""
    netavark.program()
    names = list(dict.fromkeys([container.name, container.id[:12], *names]))
    with writing(machine.db):
        rows = machine.db.execute("SELECT address FROM endpoints WHERE network = ?", (network.name,)).fetchall()
        if not rows:
            network = _settled(machine, network)
        address = free_address(network, {row[0] for row in rows}, wanted)
        ports = reserve(machine, container) if ports is None else ports
        mac = "02:42:" + ":".join(f"{byte:02x}" for byte in ipaddress.ip_address(address).packed[-4:])
        document = {"ports": [asdict(each) for each in ports], "mac": mac, "aliases": names}
        machine.db.execute(
            "INSERT OR REPLACE INTO endpoints VALUES (?, ?, ?, ?)",
            (network.name, container.id, address, json.dumps(document)),
        )
        _note(machine, "connect", network, container=container.id)
    return netavark.plan(container.id, names, network, address, mac, ports, interface)


def _settled(machine: Machine, network: Network) -> Network:
    """The network, before its first container: the default one moves when its subnet is somebody else's by now."""
    if ":" in network.subnet or not any(each.overlaps(_subnet(network)) for each in _routes(network.interface)):
        return network
    if network.name != DEFAULT:
        raise ContainerError(f"subnet {network.subnet} of network {network.name} is used by another interface")
    others = [_subnet(each) for each in every(machine.db) if each.name != DEFAULT]
    chosen = _own_subnet(machine, others)
    moved = replace(network, subnet=str(chosen), gateway=str(next(chosen.hosts())))
    machine.db.execute("UPDATE networks SET document = ? WHERE name = ?", (_document(moved), DEFAULT))
    return moved


def _subnet(network: Network) -> Any:
    return ipaddress.ip_network(network.subnet)


def free_address(network: Network, taken: set[str], wanted: str) -> str:
    """The address asked for, or the first that is free. Raises ContainerError."""
    subnet = _subnet(network)
    if wanted:
        if ipaddress.ip_address(wanted) not in subnet:
            raise ContainerError(f"no configured subnet contains IP address {wanted}")
        if wanted in taken or wanted == network.gateway:
            raise ContainerError("Address already in use")
        return wanted
    for each in subnet.hosts():
        if str(each) != network.gateway and str(each) not in taken:
            return str(each)
    raise ContainerError(f"no address of {network.subnet} is left in network {network.name}")


def reserve(machine: Machine, container: Container) -> list[Port]:
    """The ports of this machine for those that a container publishes; nobody else has them. In a transaction."""
    spec = container.spec
    wanted = list(spec.ports)
    if spec.publish_all:
        covered = {(each.container, each.protocol) for each in wanted}
        for text in spec.exposed:
            number, _, protocol = text.partition("/")
            if (int(number), protocol) not in covered:
                wanted.append(Port(int(number), protocol))
    rows = machine.db.execute("SELECT document FROM endpoints WHERE container != ?", (container.id,)).fetchall()
    taken = [Port(**each) for row in rows for each in json.loads(row[0]).get("ports", ())]
    found: list[Port] = []
    for port in wanted:
        found.append(_bindable(port, [*taken, *found]))
    return found


def _bindable(port: Port, taken: Sequence[Port]) -> Port:
    """The port with a host port that nobody has; netavark itself would map a taken one without a word."""
    for _ in range(64):
        number = port.host
        clash = number and any(_clash(replace(port, host=number), each) for each in taken)
        if not clash and (found := _bind(port, number)):
            if any(_clash(replace(port, host=found), each) for each in taken):
                continue
            return replace(port, host=found)
        if port.host:
            break
    where = f"{port.host_address or '0.0.0.0'}:{port.host}"  # noqa: S104 -- that is what is shown
    raise ContainerError(f"Bind for {where} failed: port is already allocated")


def _clash(one: Port, other: Port) -> bool:
    same = (one.host, one.protocol) == (other.host, other.protocol)
    return same and (one.host_address == other.host_address or not (one.host_address and other.host_address))


def _bind(port: Port, number: int) -> int:
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    family = socket.AF_INET6 if ":" in port.host_address else socket.AF_INET
    with closing(socket.socket(family, kind)) as trial:
        if kind == socket.SOCK_STREAM:  # what only lingers does not count
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((port.host_address, number))
        except OSError:
            return 0
        return int(trial.getsockname()[1])


def keep(bundle: Path, name: str, document: dict[str, Any]) -> None:
    """Write a plan beside the bundle before it is carried out: whole, or not at all."""
    part = bundle / f"{name}.part"
    part.write_text(json.dumps(document))
    part.rename(bundle / f"{name}.json")


def release(machine: Machine, container: Container, bundle: Path) -> None:
    """Take a container's port maps away and give its address back; safe to repeat."""
    monitor = container.monitor
    inside = f"/proc/{monitor.pid}/root{bundle}/netns" if processes.is_alive(monitor) and monitor else ""
    for kept in sorted(bundle.glob("network*.json")):
        leave(machine, json.loads(kept.read_text()), inside)
        kept.unlink(missing_ok=True)
    rows = machine.db.execute("SELECT network FROM endpoints WHERE container = ?", (container.id,))
    names = {row[0] for row in rows}
    if (machine.place.run / "network").exists():
        names |= set(wanted_by(container.spec))
    if names:
        give_back(machine, container, [each for each in every(machine.db) if each.name in names])


def give_back(machine: Machine, container: Container, used: Sequence[Network]) -> None:
    """Let go of a container's addresses in these networks, and of the bridges that nobody uses any more."""
    with writing(machine.db):
        for each in used:
            address = (container.id, each.name)
            if machine.db.execute("DELETE FROM endpoints WHERE container = ? AND network = ?", address).rowcount:
                _note(machine, "disconnect", each, container=container.id)
    if not (machine.place.run / "network").exists():  # no bridge was ever made for this store
        return
    for each in used:
        with netavark.one_at_a_time():
            # Who starts meanwhile has reserved an address before it comes to the bridge.
            if not endpoints(machine, each.name):
                _clear(machine, each)


def leave(machine: Machine, document: dict[str, Any], inside: str) -> None:
    """Undo what a plan did; *inside* is the namespace, which may be gone."""
    state = machine.place.run / "network"
    if inside and netavark.is_namespace(inside):
        with suppress(ContainerError):  # a monitor that is killed meanwhile takes the namespace with it
            netavark.call("teardown", document, inside, state)
            return
    with suppress(ContainerError), netavark.one_at_a_time():
        netavark.teardown_without(document, state)


def _clear(machine: Machine, network: Network) -> None:
    """Take away the bridge of a network that nobody uses, and its rules. The caller holds one_at_a_time().

    netavark does so itself when the last container leaves; but the links of one that was killed are on the bridge
    until the kernel has taken its namespace apart, and are counted. Without the bridge nothing is.
    """
    if os.path.exists(f"/sys/class/net/{network.interface}"):
        remove_bridge(network)
        nobody = netavark.plan(network.id, ["nobody"], replace(network, dns=False), _last(network), "", ())
        with suppress(ContainerError):
            netavark.teardown_without(nobody, machine.place.run / "network")
        remove_bridge(network)


def _last(network: Network) -> str:
    return str(next(each for each in _subnet(network).hosts() if str(each) != network.gateway))
