"""The part of a container's JSON that changes by itself: its state, its health, its networks."""

from __future__ import annotations

from typing import Any

from registry.cli import listing
from registry.cli.container_filters import state_of
from registry.client.runtime import netavark, networks
from registry.client.runtime.machine import Machine
from registry.client.runtime.records import RUNNING, Container


def state(machine: Machine, container: Container) -> dict[str, Any]:
    """`State`, as docker has it."""
    running = container.state == RUNNING
    return {
        "Status": state_of(container),
        "Running": running,
        "Paused": container.paused,
        "Restarting": False,
        "OOMKilled": container.oom,
        "Dead": False,
        "Pid": container.process.pid if running and container.process else 0,
        "ExitCode": container.exit_code,
        "Error": container.error,
        "StartedAt": listing.utc(container.started_ns),
        "FinishedAt": listing.utc(container.finished_ns),
        **_health(machine, container),
    }


def _health(machine: Machine, container: Container) -> dict[str, Any]:
    if container.spec.health is None:
        return {}
    from registry.client.runtime import health

    found = health.read(machine, container)
    if found is None:
        return {}
    log = [
        {
            "Start": listing.utc(each.start_ns),
            "End": listing.utc(each.end_ns),
            "ExitCode": each.exit_code,
            "Output": each.output,
        }
        for each in found.log
    ]
    return {"Health": {"Status": found.status, "FailingStreak": found.streak, "Log": log}}


def network(machine: Machine, container: Container) -> dict[str, Any]:
    """`NetworkSettings`, as docker has them."""
    name = container.spec.network
    joined: dict[str, Any] = {}
    bound: dict[str, Any] = dict.fromkeys(container.spec.exposed)
    for bridge in networks.every(machine.db):
        for identity, address, document in networks.endpoints(machine, bridge.name):
            if identity != container.id:
                continue
            for port in document.get("ports", ()):
                entry = {"HostIp": port["host_address"] or "0.0.0.0", "HostPort": str(port["host"])}  # noqa: S104
                key = f"{port['container']}/{port['protocol']}"
                bound[key] = [*(bound.get(key) or []), entry]
            joined[bridge.name] = _endpoint(bridge, address, document)
    first: dict[str, Any] = next(iter(joined.values()), {})
    wanted = networks.wanted_by(container.spec) or ([] if name.startswith("container:") else [name])
    for each in wanted:
        joined.setdefault(
            each,
            {
                "NetworkID": "",
                "Gateway": "",
                "IPAddress": "",
                "IPPrefixLen": 0,
                "MacAddress": "",
                "Aliases": None,
            },
        )
    return {
        "Bridge": "",
        "SandboxKey": f"/proc/{container.process.pid}/ns/net" if container.process else "",
        "Ports": bound if container.state == RUNNING else {},
        **{
            key: first.get(key, 0 if key == "IPPrefixLen" else "")
            for key in ("Gateway", "IPAddress", "IPPrefixLen", "MacAddress")
        },
        "Networks": joined,
    }


def _endpoint(network: netavark.Network, address: str, document: dict[str, Any]) -> dict[str, Any]:
    return {
        "NetworkID": network.id,
        "Gateway": network.gateway,
        "IPAddress": address,
        "IPPrefixLen": int(network.subnet.partition("/")[2]),
        "MacAddress": document.get("mac", ""),
        "Aliases": document.get("aliases"),
    }
