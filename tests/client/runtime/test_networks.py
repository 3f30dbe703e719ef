"""Bridges, published ports, names; and what is left of them when all that used them is gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.client.conftest import needs_root
from tests.client.runtime.conftest import assert_nothing_is_left, busybox, put, status_of
from tests.support import peers
from tests.support.hythe import Hythe
from tests.support.processes import wait_until

SERVE = ("busybox", "httpd", "-f", "-h", "/etc")


@pytest.fixture(autouse=True)
def _needs(hythe: Hythe) -> None:
    if not any(os.access(f"{place}/netavark", os.X_OK) for place in ("/usr/lib/podman", "/usr/libexec/podman")):
        peers.unavailable("netavark is not installed (Debian has it in netavark)")
    peers.program("iptables")


pytestmark = needs_root


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("", 0))
        return int(trial.getsockname()[1])


def fetched(port: int, address: str = "127.0.0.1") -> str:
    deadline = time.monotonic() + 10
    while True:
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://{address}:{port}/passwd", timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def rules() -> str:
    return "".join(
        subprocess.run(["iptables", *words, "-S"], capture_output=True, text=True, check=False).stdout
        for words in ([], ["-t", "nat"])
    )


def test_a_published_port_is_reached_from_outside_until_the_container_ends(hythe: Hythe) -> None:
    port = free_port()
    hythe("run", "-d", "--name", "one", "-p", f"{port}:80", *SERVE)
    assert "root:x" in fetched(port)
    assert f"0.0.0.0:{port}->80/tcp" in hythe("ps")
    assert hythe("port", "one") == f"80/tcp -> 0.0.0.0:{port}\n"
    assert hythe("port", "one", "80") == f"0.0.0.0:{port}\n"
    status, _, said = status_of(hythe, "run", "--rm", "-p", f"{port}:80", "busybox", "true")
    assert status == 125
    assert f"Bind for 0.0.0.0:{port} failed: port is already allocated" in said
    hythe("stop", "-t", "0", "one")
    assert f"--dport {port} " not in rules()
    hythe("start", "one")
    assert "root:x" in fetched(port)
    hythe("rm", "-f", "one")
    assert_nothing_is_left(hythe)
    assert f"--dport {port} " not in rules()


def test_free_ports_and_addresses_are_chosen(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", "-P", "--expose", "80", *SERVE)
    hythe("run", "-d", "--name", "two", "-p", "127.0.0.1::80", *SERVE)
    first, second = (int(hythe("port", name, "80").rpartition(":")[2]) for name in ("one", "two"))
    assert "root:x" in fetched(first)
    assert "root:x" in fetched(second)
    one, two = (hythe("inspect", "-f", "{{.NetworkSettings.IPAddress}}", name).strip() for name in ("one", "two"))
    assert one != two
    assert "root:x" in hythe("exec", "two", "wget", "-qO-", f"http://{one}/passwd")


def test_containers_of_a_network_find_one_another_by_name(hythe: Hythe) -> None:
    identity = hythe("network", "create", "--label", "a=b", "inner").strip()
    hythe("run", "-d", "--name", "server", "--network", "inner", "--network-alias", "db", *SERVE)
    for name in ("server", "db"):
        assert wait_until(
            lambda name=name: (
                status_of(
                    hythe, "run", "--rm", "--network", "inner", "busybox", "wget", "-qO-", f"http://{name}/passwd"
                )[0]
                == 0
            )
        )
    [document] = json.loads(hythe("network", "inspect", "inner"))
    assert document["Id"] == identity
    assert [each["Name"] for each in document["Containers"].values()] == ["server"]
    assert "has active endpoints" in hythe.refused("network", "rm", "inner")
    hythe("rm", "-f", "server")
    assert hythe("network", "rm", "inner") == "inner\n"
    assert "not found" in hythe.refused("network", "inspect", "inner")


def test_rules_and_addresses_of_a_killed_container_are_taken_away(hythe: Hythe) -> None:
    port = free_port()
    hythe("run", "-d", "--name", "one", "-p", f"{port}:80", *SERVE)
    [found] = json.loads(hythe("inspect", "one"))
    run = Path(hythe.environment["HYTHE_RUN_ROOT"])
    subnet = json.loads(hythe("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]["Subnet"]
    for pid in (int((run / found["Id"] / "conmon.pid").read_text()), found["State"]["Pid"]):
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: "Exited (255)" in hythe("ps", "-a"))
    assert f"--dport {port} " not in rules()
    assert subnet not in rules()
    assert_nothing_is_left(hythe)


@pytest.mark.parametrize("point", ["start.begun", "start.launched", "start.made"])
def test_a_start_that_was_killed_gives_port_and_address_back(hythe: Hythe, point: str) -> None:
    port = free_port()
    hythe.environment["HYTHE_FAILPOINT"] = point
    assert status_of(hythe, "run", "-d", "--name", "one", "-p", f"{port}:80", *SERVE)[0] == -signal.SIGKILL
    del hythe.environment["HYTHE_FAILPOINT"]
    assert "Created" in hythe("ps", "-a")
    assert_nothing_is_left(hythe)
    hythe("run", "--rm", "-p", f"{port}:80", "busybox", "true")
    assert f"--dport {port} " not in rules()


def test_one_network_is_not_reached_from_another(hythe: Hythe) -> None:
    def reaches(network: str, address: str) -> bool:
        words = f"busybox timeout -s KILL 3 wget -qO- http://{address}/passwd".split()
        return status_of(hythe, "exec", f"in-{network}", *words)[0] == 0

    for name in ("inner", "outer"):
        hythe("network", "create", name)
    for name in ("inner", "outer", "bridge"):
        hythe("run", "-d", "--name", f"in-{name}", "--network", name, *SERVE)
    shown = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    for name in ("inner", "bridge"):
        address = hythe("inspect", "-f", shown, f"in-{name}").strip()
        assert wait_until(lambda name=name, address=address: reaches(name, address))
        assert not reaches("outer", address)
        hythe("network", "create", f"beside-{name}")  # a network that goes takes nothing of the others' away
        hythe("run", "--rm", "--network", f"beside-{name}", "busybox", "true")
        assert not reaches("outer", address)
    hythe("rm", "-f", "in-inner", "in-outer", "in-bridge")
    [network] = json.loads(hythe("network", "inspect", "inner"))
    assert f"hy-{network['Id'][:10]}" not in rules()


def test_the_machines_network_and_anothers_can_be_shared(hythe: Hythe) -> None:
    said = hythe("run", "--rm", "--network", "host", "busybox", "ls", "-l", "/proc/self/ns/net")
    assert os.readlink("/proc/self/ns/net") in said
    hythe("run", "-d", "--name", "one", *SERVE)
    assert "root:x" in hythe(
        "run", "--rm", "--network", "container:one", "busybox", "wget", "-qO-", "http://127.0.0.1/passwd"
    )
    assert "non running" in hythe.refused(
        "run", "--rm", "--network", "container:" + hythe("create", "busybox").strip(), "busybox"
    )
    assert "network nowhere not found" in hythe.refused("run", "--rm", "--network", "nowhere", "busybox")


def test_stores_beside_one_another_share_the_machines_rules(hythe: Hythe, tmp_path: Path) -> None:
    other = Hythe(tmp_path / "other", HYTHE_RUN_ROOT=str(tmp_path / "other-run"))
    put(other, busybox(), "busybox")
    names = [f"c{number}" for number in range(3)]

    def live(each: Hythe) -> None:
        for name in names:
            port = free_port()
            each("run", "-d", "--name", name, "-p", f"{port}:80", *SERVE)
            assert "root:x" in fetched(port)
            each("rm", "-f", name)
            assert f"--dport {port} " not in rules()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(live, (hythe, other)))
    assert_nothing_is_left(other)
    for each in (hythe, other):
        [network] = json.loads(each("network", "inspect", "bridge"))
        assert network["IPAM"]["Config"][0]["Subnet"] not in rules()


def test_the_default_network_moves_away_from_a_subnet_that_is_taken_by_now(hythe: Hythe) -> None:
    def subnet() -> str:
        return str(json.loads(hythe("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]["Subnet"])

    hythe("run", "--rm", "busybox", "true")
    before = subnet()
    name = f"t{os.getpid()}"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", before.replace(".0/", ".7/"), "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        hythe("run", "-d", "--name", "one", *SERVE)
        assert subnet() != before
        address = hythe("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "one").strip()
        assert "root:x" in fetched(80, address)
    finally:
        subprocess.run(["ip", "link", "delete", name], check=False)
