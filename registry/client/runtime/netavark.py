"""netavark: what it is told, and how it is called."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.client.runtime import engine as engines
from registry.client.runtime import kernel
from registry.client.runtime.errors import ContainerError, Missing
from registry.client.runtime.spec import Port

# Of the whole machine: chains that all networks share are changed by each call.
_LOCK = Path("/run/hythe-network.lock")
_ISOLATION = "NETAVARK_ISOLATION_1"
_APART = ("FORWARD", "-m", "comment", "--comment", "hythe: networks apart", "-j", _ISOLATION)
_PLACES = ("/usr/lib/podman", "/usr/libexec/podman", "/usr/local/libexec/podman")


@dataclass(frozen=True, slots=True)
class Network:
    """A bridge of this machine."""

    name: str
    id: str
    created_ns: int
    interface: str
    subnet: str
    gateway: str
    internal: bool = False
    dns: bool = True
    labels: tuple[tuple[str, str], ...] = ()


def plan(
    identity: str,
    names: Sequence[str],
    network: Network,
    address: str,
    mac: str,
    ports: Sequence[Port],
    interface: str = "eth0",
) -> dict[str, Any]:
    """netavark's document. Source: netavark, src/network/types.rs.

    A network goes by its bridge's name there: netavark names chains by it, and another store has a "bridge" too.
    """
    named = network.interface
    return {
        "container_id": identity,
        "container_name": names[0],
        "networks": {
            named: {
                "interface_name": interface,
                "static_ips": [address],
                "static_mac": mac or None,
                "aliases": list(names),
            }
        },
        "network_info": {
            named: {
                "name": named,
                "id": network.id,
                "driver": "bridge",
                "network_interface": network.interface,
                "subnets": [{"subnet": network.subnet, "gateway": network.gateway}],
                "ipv6_enabled": ":" in network.subnet,
                "internal": network.internal,
                # As docker: what is in one network is not reached from another.
                "options": {"isolate": "true"},
                "dns_enabled": network.dns and aardvark() is not None,
                "ipam_options": {"driver": "host-local"},
            }
        },
        "port_mappings": [
            {
                "host_ip": each.host_address,
                "container_port": each.container,
                "host_port": each.host,
                "range": 1,
                "protocol": each.protocol,
            }
            for each in ports
        ],
    }


# --- carrying it out


def program() -> str:
    """netavark. Raises Missing."""
    found = next((f"{place}/netavark" for place in _PLACES if os.access(f"{place}/netavark", os.X_OK)), None)
    found = found or engines.program("netavark")
    if found is None:
        raise Missing("a bridge network needs netavark: apt-get install netavark; or use --network host or none")
    return found


def aardvark() -> str | None:
    """The name server for networks of one's own; without it names do not resolve."""
    found = next(
        (f"{place}/aardvark-dns" for place in _PLACES if os.access(f"{place}/aardvark-dns", os.X_OK)), None
    )
    return found or engines.program("aardvark-dns")


def make_namespace(file: Path) -> None:
    """A network namespace, bound to *file* in this process's own mounts; this process stays in the one it has."""
    file.touch(mode=0o600)
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.unshare(kernel.CLONE_NEWNET)
        kernel.mount("/proc/self/ns/net", str(file), None, kernel.MS_BIND)
        kernel.enter(own, kernel.CLONE_NEWNET)
    finally:
        os.close(own)


def call(verb: str, document: dict[str, Any], namespace: str, state: Path) -> None:
    """Have netavark set a container's network up or take it down. Raises ContainerError."""
    with one_at_a_time():
        _call(verb, document, namespace, state)


def _call(verb: str, document: dict[str, Any], namespace: str, state: Path) -> None:
    state.mkdir(mode=0o700, exist_ok=True)
    words = [program(), "--config", str(state)]
    words += ["--aardvark-binary", aardvark() or "/nonexistent"]
    done = subprocess.run(
        [*words, verb, namespace],
        input=json.dumps(document).encode(),
        capture_output=True,
        check=False,
        env={"PATH": engines.SEARCH},
    )
    if done.returncode != 0:
        raise ContainerError(f"netavark {verb}: {_complaint(done.stdout, done.stderr)}")
    _keep_apart(verb)


def choose_gateway(plans: Sequence[dict[str, Any]], namespace: str) -> None:
    """Of several networks let the first one's gateway lead to all else; netavark 1.4 makes each the default.

    Else what a published port is asked would be answered by another way than it came.
    """
    found = [
        (info["subnets"][0]["gateway"], mine["interface_name"])
        for plan in plans
        for mine, info in zip(plan["networks"].values(), plan["network_info"].values(), strict=True)
        if not info["internal"]
    ]
    calls = ["route flush default"]
    calls += [f"route add default via {found[0][0]} dev {found[0][1]} metric 100"] if found else []
    for words in calls:
        command = ["nsenter", f"--net={namespace}", "ip", *words.split()]
        subprocess.run(command, capture_output=True, check=False, env={"PATH": engines.SEARCH})


def _keep_apart(verb: str) -> None:
    """Have a way of our own to the rules that keep networks apart, as long as there are some.

    When one network goes, netavark 1.4 takes the way that it made away from all the others.
    """
    if verb == "setup":
        if _iptables("-C", *_APART).returncode != 0:
            _iptables("-I", *_APART)
    elif "-A " not in _iptables("-S", _ISOLATION).stdout:
        _iptables("-D", *_APART)


def _iptables(*words: str) -> subprocess.CompletedProcess[str]:
    path = engines.program("iptables") or "/usr/sbin/iptables"
    return subprocess.run([path, "-w", *words], capture_output=True, text=True, check=False)


def _complaint(*outputs: bytes) -> str:
    for output in outputs:
        with suppress(ValueError, AttributeError, TypeError):
            return str(json.loads(output)["error"])
    return b" ".join(outputs).decode("utf-8", "replace").strip()[-500:]


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """What netavark does to the machine's rules must not overlap, whichever store it is done for."""
    fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def is_namespace(path: str) -> bool:
    """Whether a file is a network namespace."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def teardown_without(document: dict[str, Any], state: Path) -> None:
    """The container's namespace is gone with its processes: an empty one stands in; the rules are outside.

    The caller holds one_at_a_time().
    """
    with _stand_in() as namespace:
        # Joined first: of a namespace that has no part in the network, netavark takes nothing away.
        for verb in ("setup", "teardown"):
            _call(verb, document, namespace, state)


@contextmanager
def _stand_in() -> Iterator[str]:
    """An empty network namespace that a child holds open; its path."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(write)
            kernel.unshare(kernel.CLONE_NEWNET)
            os.read(read, 1)
        finally:
            os._exit(0)
    os.close(read)
    try:
        _wait_for_namespace(child)
        yield f"/proc/{child}/ns/net"
    finally:
        os.close(write)
        os.waitpid(child, 0)


def _wait_for_namespace(pid: int) -> None:
    own = os.readlink("/proc/self/ns/net")
    try:
        while os.readlink(f"/proc/{pid}/ns/net") == own:
            time.sleep(0.001)
    except OSError:
        raise ContainerError("this machine gives no network namespace") from None
