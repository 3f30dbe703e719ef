"""A container in several networks: connected and disconnected while it runs and while it does not."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.client.conftest import needs_root
from tests.client.runtime.conftest import assert_nothing_is_left, soon, status_of
from tests.support import peers
from tests.support.hythe import Hythe

pytestmark = needs_root
SERVE = ("busybox", "httpd", "-f", "-p", "80", "-h", "/etc")


@pytest.fixture(autouse=True)
def _needs(hythe: Hythe) -> None:
    if not any(os.access(f"{place}/netavark", os.X_OK) for place in ("/usr/lib/podman", "/usr/libexec/podman")):
        peers.unavailable("netavark is not installed (Debian has it in netavark)")
    peers.program("iptables")


def reaches(hythe: Hythe, one: str, name: str) -> bool:
    """Whether one container reads another's page."""
    status, out, _ = status_of(hythe, "exec", one, "wget", "-qO-", f"http://{name}/passwd")
    return status == 0 and "root:x" in out


def addresses(hythe: Hythe, name: str) -> dict[str, str]:
    found = json.loads(hythe("inspect", "-f", "{{json .NetworkSettings.Networks}}", name))
    return {network: each["IPAddress"] for network, each in found.items()}


def default_routes(hythe: Hythe, name: str) -> list[str]:
    """The gateways by which a container reaches all else."""
    rows = [line.split() for line in hythe("exec", name, "cat", "/proc/net/route").splitlines()[1:]]
    found = [bytes.fromhex(row[2])[::-1] for row in rows if row[1] == "00000000"]
    return [".".join(map(str, each)) for each in found]


def test_a_running_container_finds_others_in_a_network_as_soon_as_it_is_connected(hythe: Hythe) -> None:
    hythe("network", "create", "back")
    hythe("run", "-d", "--name", "server", "--network", "back", *SERVE)
    hythe("run", "-d", "--name", "one", "busybox", "sleep", "600")
    assert not reaches(hythe, "one", "server")
    before = default_routes(hythe, "one")
    hythe("network", "connect", "--alias", "client", "back", "one")
    assert default_routes(hythe, "one") == before
    assert soon(lambda: reaches(hythe, "one", "server"))
    assert sorted(addresses(hythe, "one")) == ["back", "bridge"]
    assert hythe("ps", "-f", "name=one", "--format", "{{.Networks}}") == "bridge,back\n"
    assert hythe("ps", "-f", "network=back", "--format", "{{.Names}}").split() == ["one", "server"]
    assert "already exists in network back" in hythe.refused("network", "connect", "back", "one")
    assert addresses(hythe, "one")["back"] in hythe("exec", "one", "cat", "/etc/hosts")
    hythe("network", "disconnect", "back", "one")
    assert not reaches(hythe, "one", "server")
    assert sorted(addresses(hythe, "one")) == ["bridge"]
    assert "is not connected to network back" in hythe.refused("network", "disconnect", "back", "one")
    told = hythe(
        "events", "--since", "1h", "--until", "0s", "-f", "network=back", "--format", "{{.Action}}"
    ).split()
    assert told == ["create", "connect", "connect", "disconnect"]
    hythe("rm", "-f", "one", "server")
    hythe("network", "rm", "back")
    assert_nothing_is_left(hythe)


def test_a_stopped_container_starts_in_all_its_networks_with_its_addresses(hythe: Hythe) -> None:
    hythe("network", "create", "front")
    hythe("network", "create", "back")
    subnet = json.loads(hythe("network", "inspect", "-f", "{{json .IPAM.Config}}", "back"))[0]["Subnet"]
    wanted = subnet.replace(".0/24", ".77")
    hythe("create", "--name", "one", "--network", "front", *SERVE)
    hythe("network", "connect", "--ip", wanted, "--alias", "page", "back", "one")
    hythe("start", "one")
    assert addresses(hythe, "one")["back"] == wanted
    for network in ("front", "back"):
        hythe("run", "-d", "--name", f"in-{network}", "--network", network, "busybox", "sleep", "600")
    assert soon(lambda: reaches(hythe, "in-front", "one"))
    assert soon(lambda: reaches(hythe, "in-back", "page"))
    assert not reaches(hythe, "in-back", "in-front")
    gateway = json.loads(hythe("network", "inspect", "-f", "{{json .IPAM.Config}}", "front"))[0]["Gateway"]
    assert default_routes(hythe, "one") == [gateway]
    hythe("network", "disconnect", "front", "one")
    assert default_routes(hythe, "one") == [subnet.replace(".0/24", ".1")]
    hythe("restart", "-t", "0", "one")
    assert addresses(hythe, "one") == {"back": wanted}
    assert soon(lambda: reaches(hythe, "in-back", "page"))
    hythe("rm", "-f", "one", "in-front", "in-back")
    assert_nothing_is_left(hythe)


def test_a_container_in_two_networks_leaves_nothing_when_all_of_it_is_killed(hythe: Hythe) -> None:
    hythe("network", "create", "back")
    hythe("run", "-d", "--name", "one", "busybox", "sleep", "600")
    hythe("network", "connect", "back", "one")
    pid = int(hythe("inspect", "-f", "{{.State.Pid}}", "one"))
    parent = next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("PPid")
    ).split()[1]
    subprocess.run(["kill", "-9", parent, str(pid)], check=True)
    assert soon(lambda: hythe("ps", "-q") == "")
    assert_nothing_is_left(hythe)


def test_what_has_no_network_of_its_own_cannot_be_connected(hythe: Hythe) -> None:
    hythe("network", "create", "back")
    hythe("run", "-d", "--name", "one", "--network", "host", "busybox", "sleep", "600")
    assert "cannot be connected to any other network" in hythe.refused("network", "connect", "back", "one")
    assert "network nowhere not found" in hythe.refused("network", "connect", "nowhere", "one")
    hythe("create", "--name", "two", "busybox", "true")
    assert "supported only for" in hythe.refused("network", "connect", "--alias", "x", "bridge", "two")
