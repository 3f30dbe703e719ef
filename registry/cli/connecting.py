"""`hythe network connect` and `disconnect`."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from types import SimpleNamespace

from registry.cli import containers
from registry.cli.flags import BOOL, LIST, TEXT, Flag, Words
from registry.client.runtime import joining, networks
from registry.client.runtime.errors import ContainerConflict, Missing, OptionInvalid
from registry.client.runtime.machine import Machine
from registry.client.runtime.spec import Joined

_CONNECT = Words(
    "network connect",
    "[OPTIONS] NETWORK CONTAINER",
    "Connect a container to a network",
    (
        Flag("alias", "", LIST, "Add network-scoped alias for the container"),
        Flag("ip", "", TEXT, "IPv4 address (e.g., 172.30.100.104)", ""),
    ),
    2,
    2,
)
_DISCONNECT = Words(
    "network disconnect",
    "[OPTIONS] NETWORK CONTAINER",
    "Disconnect a container from a network",
    (Flag("force", "f", BOOL, "Force the container to disconnect from a network"),),
    2,
    2,
)


def connect(words: Sequence[str]) -> int:
    """Run `network connect` and return its exit status."""
    return containers.execute(_CONNECT, words, _connect)


def _connect(machine: Machine, options: SimpleNamespace) -> int:
    name, container = options.words
    if name in ("host", "none"):
        raise ContainerConflict(f"container cannot be connected to {name} network")
    if machine.is_rootless:
        raise Missing("networks of one's own are bridges, which only root can make")
    network = networks.find(machine, name)
    if network.name == networks.DEFAULT and (options.alias or options.ip):
        what = "network-scoped alias is" if options.alias else "user specified IP address is"
        raise ContainerConflict(f"{what} supported only for containers in user defined networks")
    if options.ip:
        try:
            ipaddress.ip_address(options.ip)
        except ValueError:
            raise OptionInvalid(f"invalid IPv4 address: {options.ip}") from None
    joined = Joined(network.name, tuple(options.alias), options.ip)
    joining.connect(machine, machine.find(container), network, joined)
    return 0


def disconnect(words: Sequence[str]) -> int:
    """Run `network disconnect` and return its exit status."""
    return containers.execute(_DISCONNECT, words, _disconnect)


def _disconnect(machine: Machine, options: SimpleNamespace) -> int:
    name, container = options.words
    joining.disconnect(machine, machine.find(container), networks.find(machine, name).name)
    return 0
