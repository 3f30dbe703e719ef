"""`hythe network`: create, ls, inspect, rm, prune."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from registry.cli import containers, listing, local
from registry.cli.flags import BOOL, LIST, TEXT, Flag, Words
from registry.client.runtime import networks, parse, records
from registry.client.runtime.errors import ContainerConflict, Missing
from registry.client.runtime.machine import Machine
from registry.client.runtime.netavark import Network
from registry.oci.errors import HytheError

_CREATE = Words(
    "network create",
    "[OPTIONS] NETWORK",
    "Create a network",
    (
        Flag("driver", "d", TEXT, "Driver to manage the Network", "bridge"),
        Flag("gateway", "", TEXT, "IPv4 Gateway for the subnet", ""),
        Flag("internal", "", BOOL, "Restrict external access to the network"),
        Flag("label", "", LIST, "Set metadata on a network"),
        Flag("subnet", "", TEXT, "Subnet in CIDR format that represents a network segment", ""),
    ),
    1,
    1,
)
_LS = Words(
    "network ls",
    "[OPTIONS]",
    "List networks",
    (
        Flag("filter", "f", LIST, 'Provide filter values (e.g. "driver=bridge")'),
        Flag("format", "", TEXT, "Format output: table, json, or a Go template", ""),
        Flag("no-trunc", "", BOOL, "Do not truncate the output"),
        Flag("quiet", "q", BOOL, "Only display network IDs"),
    ),
    0,
    0,
)
_INSPECT = Words(
    "network inspect",
    "[OPTIONS] NETWORK [NETWORK...]",
    "Display detailed information on one or more networks",
    (Flag("format", "f", TEXT, "A Go template", ""),),
    least=1,
)
_RM = Words(
    "network rm", "NETWORK [NETWORK...]", "Remove one or more networks", (Flag("force", "f", BOOL, ""),), least=1
)
_HEADINGS = {"Driver": "DRIVER", "ID": "NETWORK ID", "Name": "NAME", "Scope": "SCOPE"}
_TABLE = "table {{.ID}}\\t{{.Name}}\\t{{.Driver}}\\t{{.Scope}}"


def create(words: Sequence[str]) -> int:
    """Run `network create` and return its exit status."""
    return containers.execute(_CREATE, words, _create)


def _create(machine: Machine, options: SimpleNamespace) -> int:
    name = options.words[0]
    if name in networks.BUILT_IN:
        raise ContainerConflict(f"operation is not permitted on predefined {name} network")
    if options.driver != "bridge":
        raise HytheError(f"could not find plugin {options.driver}: there is the driver bridge")
    if machine.is_rootless:
        raise Missing("networks of one's own are bridges, which only root can make")
    labels = parse.labels(options.label)
    made = networks.create(
        machine, parse.name(name), options.subnet, options.gateway, options.internal, labels=labels.items()
    )
    print(made.id)
    return 0


def ls(words: Sequence[str]) -> int:
    """Run `network ls` and return its exit status."""
    return containers.execute(_LS, words, _ls)


def _ls(machine: Machine, options: SimpleNamespace) -> int:
    networks.find(machine, networks.DEFAULT)
    rows = [
        {
            "ID": each.id if options.no_trunc else each.id[:12],
            "Name": each.name,
            "Driver": "bridge",
            "Scope": "local",
        }
        for each in networks.every(machine.db)
    ]
    rows += [
        {"ID": "", "Name": name, "Driver": name.replace("none", "null"), "Scope": "local"}
        for name in ("host", "none")
    ]
    rows = [row for row in rows if all(_matches(row, text) for text in options.filter)]
    format = "{{.ID}}" if options.quiet else options.format
    listing.show(
        sorted(rows, key=lambda row: row["Name"]), format if format not in ("", "table") else _TABLE, _HEADINGS
    )
    return 0


def _matches(row: dict[str, str], text: str) -> bool:
    key, _, value = text.partition("=")
    if key not in ("name", "driver", "id"):
        raise HytheError(f"invalid filter '{key}'")
    return value in row[{"name": "Name", "driver": "Driver", "id": "ID"}[key]]


def describe(machine: Machine, network: Network) -> dict[str, Any]:
    """A network as `docker network inspect` prints it."""
    length = network.subnet.partition("/")[2]
    members = {}
    for identity, address, document in networks.endpoints(machine, network.name):
        container = records.get(machine.db, identity)
        members[identity] = {
            "Name": container.name if container else "",
            "EndpointID": "",
            "MacAddress": document.get("mac", ""),
            "IPv4Address": f"{address}/{length}",
            "IPv6Address": "",
        }
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": listing.utc(network.created_ns),
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": ":" in network.subnet,
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": [{"Subnet": network.subnet, "Gateway": network.gateway}],
        },
        "Internal": network.internal,
        "Attachable": False,
        "Ingress": False,
        "Containers": members,
        "Options": {"com.docker.network.bridge.name": network.interface},
        "Labels": dict(network.labels),
    }


def inspect(words: Sequence[str]) -> int:
    """Run `network inspect` and return its exit status."""
    from registry.cli import inspect as showing

    return containers.execute(
        _INSPECT,
        words,
        lambda machine, options: showing.show(
            options.words, options.format, lambda name: describe(machine, networks.find(machine, name))
        ),
    )


def rm(words: Sequence[str]) -> int:
    """Run `network rm` and return its exit status."""
    return containers.execute(_RM, words, _rm)


def _rm(machine: Machine, options: SimpleNamespace) -> int:
    def remove(name: str) -> None:
        networks.remove(machine, networks.find(machine, name))
        print(name)

    return 1 if local.each(options.words, remove) else 0
