"""The network of an ordinary user's container: a process in front of it, pasta or slirp4netns, speaks for it.

Only root can make bridges. So each container has a network of its own, with the addresses of our default bridge,
and what it sends comes from this machine as if the user had sent it. Published ports are that process's.
It lives as long as the container's bundle (`companions`).
"""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.client.images.records import writing
from registry.client.runtime import engine as engines
from registry.client.runtime import kernel, networks, slirp
from registry.client.runtime.errors import ContainerError, Missing
from registry.client.runtime.records import Container
from registry.client.runtime.spec import Port

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine

TOOLS = ("pasta", "slirp4netns")
_TUN = "/dev/net/tun"
_FIRST_PORT = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the process in front of a container is told."""

    tool: str
    address: str
    prefix: int
    gateway: str
    ports: tuple[Port, ...]


def find(wanted: str = "") -> str:
    """The program that is there, pasta before slirp4netns; HYTHE_USER_NETWORK chooses. Raises Missing."""
    for name in (wanted,) if wanted else TOOLS:
        if path := engines.program(name):
            if not os.access(_TUN, os.R_OK | os.W_OK):
                raise Missing(
                    f"{name} needs {_TUN}: sudo sh -c 'modprobe tun; chmod 666 {_TUN}'; or --network host"
                )
            return path
    raise Missing(
        f"the network of a user's containers needs {wanted or 'pasta'}: sudo apt-get install "
        f"{'passt' if wanted in ('', 'pasta') else wanted}; or use --network host or none"
    )


def provide(machine: Machine, container: Container) -> Plan | None:
    """Reserve an address and ports for a start; None for a container that has no network of its own."""
    spec = container.spec
    if not networks.is_bridge(spec):
        return None
    if spec.network != networks.DEFAULT:
        raise Missing(
            f"the network {spec.network} is a bridge, which only root can make: "
            "use bridge, host, none or container:NAME"
        )
    tool = find(machine.environment.get("HYTHE_USER_NETWORK", ""))
    _check_ports(spec.ports)
    network = networks.find(machine, networks.DEFAULT)
    with writing(machine.db):
        rows = machine.db.execute("SELECT address FROM endpoints WHERE network = ?", (network.name,)).fetchall()
        own = slirp.own_addresses(network.subnet) if _is_slirp(tool) else ()
        address = networks.free_address(network, {*own, *(row[0] for row in rows)}, spec.address)
        ports = networks.reserve(machine, container)
        document = {"ports": [asdict(each) for each in ports], "mac": "", "aliases": []}
        row = (network.name, container.id, address, json.dumps(document))
        machine.db.execute("INSERT OR REPLACE INTO endpoints VALUES (?, ?, ?, ?)", row)
    prefix = ipaddress.ip_network(network.subnet).prefixlen
    return Plan(tool, address, prefix, own[0] if own else network.gateway, tuple(ports))


def _is_slirp(tool: str) -> bool:
    return os.path.basename(tool) == "slirp4netns"


def _check_ports(ports: Sequence[Port]) -> None:
    first = int(Path(_FIRST_PORT).read_text())
    for port in ports:
        if 0 < port.host < first:
            raise ContainerError(
                f"port {port.host} is root's: publish one from {first} on, or "
                f"sudo sysctl -w net.ipv4.ip_unprivileged_port_start={port.host}"
            )


def connect(plan: Plan, bundle: Path) -> None:
    """Make a network namespace, bound to the bundle's `netns` in our own mounts, and start what speaks for it."""
    _make_namespace(bundle / "netns")
    if _is_slirp(plan.tool):
        slirp.connect(plan.tool, plan.address, plan.prefix, plan.ports, bundle)
        return
    words = pasta_words(plan, str(bundle / "netns"), str(bundle / "pasta.pid"))
    log = bundle / "pasta.log"
    with log.open("wb") as file:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False)
    if done.returncode != 0:
        said = log.read_text(errors="replace").strip().splitlines()
        if said and "Failed to bind" in said[-1]:  # somebody took it since it was found free
            raise ContainerError(f"port is already allocated: {said[-1].removesuffix(', exiting')}")
        raise ContainerError(f"pasta ended with {done.returncode}: {said[-1] if said else 'no word'}")


def _make_namespace(file: Path) -> None:
    """By a child: who went into it could not come back, as the machine's own network is not the user's."""
    file.touch(mode=0o600)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            kernel.unshare(kernel.CLONE_NEWNET)
            kernel.mount("/proc/self/ns/net", str(file), None, kernel.MS_BIND)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise ContainerError("a network namespace cannot be made; `hythe doctor` says more")


def pasta_words(plan: Plan, namespace: str, pid_file: str) -> list[str]:
    """pasta's command line: only what is published is forwarded, and this machine's loopback is not reached.

    Source: passt(1).
    """
    words = [plan.tool, "--config-net", "--quiet", "--stderr", "--ipv4-only", "--no-map-gw", "--ns-ifname", "eth0"]
    words += ["--address", plan.address, "--netmask", str(plan.prefix), "--gateway", plan.gateway]
    words += ["--dns-forward", plan.gateway, "-T", "none", "-U", "none"]
    for protocol, flag in (("tcp", "-t"), ("udp", "-u")):
        texts = [_forward(each) for each in plan.ports if each.protocol == protocol]
        for text in texts or ["none"]:
            words += [flag, text]
    return [*words, "--pid", pid_file, "--netns", namespace]


def _forward(port: Port) -> str:
    address = f"{port.host_address}/" if port.host_address else ""
    return f"{address}{port.host}:{port.container}"


def name_server(plan: Plan) -> str:
    """The address at which a container asks the name server of this machine's loopback."""
    if _is_slirp(plan.tool):
        return slirp.own_addresses(f"{plan.address}/{plan.prefix}")[1]
    return plan.gateway
