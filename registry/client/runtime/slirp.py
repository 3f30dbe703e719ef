"""slirp4netns in front of a container, where pasta is not installed.

Source: slirp4netns(1), "API SOCKET".
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from registry.client.runtime import engine as engines
from registry.client.runtime import kernel
from registry.client.runtime.errors import ContainerError, Missing
from registry.client.runtime.spec import Port

_MTU = 65520
_CONTROL = "slirp.sock"


def own_addresses(subnet: str) -> tuple[str, str]:
    """Its addresses as gateway and as name server in a network: the second and the third, whatever is wanted."""
    first = ipaddress.ip_network(subnet, strict=False).network_address
    return str(first + 2), str(first + 3)


def connect(program: str, address: str, prefix: int, ports: Sequence[Port], bundle: Path) -> None:
    """Start it for the network namespace that is bound to the bundle's `netns`, and have it open the ports."""
    network = ipaddress.ip_network(f"{address}/{prefix}", strict=False)
    ip = engines.program("ip")
    if ip is None:
        raise Missing("slirp4netns needs ip: sudo apt-get install iproute2")
    ready_read, ready_write = os.pipe()
    words = [program, f"--mtu={_MTU}", "--disable-host-loopback", "--netns-type=path", f"--cidr={network}"]
    words += [f"--ready-fd={ready_write}", f"--api-socket={_CONTROL}", str(bundle / "netns"), "eth0"]
    with (bundle / "slirp.log").open("wb") as log:
        started = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(ready_write,),
            start_new_session=True,
            cwd=bundle,
        )
    os.close(ready_write)
    (bundle / "slirp4netns.pid").write_text(str(started.pid))
    with os.fdopen(ready_read, "rb") as file:
        if not file.read(1):
            said = (bundle / "slirp.log").read_text(errors="replace").strip().splitlines()
            raise ContainerError(f"slirp4netns: {said[-1] if said else 'ended without a word'}")
    # Its own --configure would give every container the same address.
    gateway, _ = own_addresses(str(network))
    lines = ["link set lo up", f"addr add {address}/{prefix} dev eth0", f"link set eth0 up mtu {_MTU}"]
    _in_namespace(bundle / "netns", [ip, "-batch", "-"], "\n".join([*lines, f"route add default via {gateway}"]))
    for port in ports:
        _forward(bundle, port, address)


def _in_namespace(namespace: Path, words: Sequence[str], text: str) -> None:
    """Run a program there; a child alone goes in, as nobody comes back to the machine's own network."""
    there = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        done = subprocess.run(
            words,
            input=text.encode(),
            capture_output=True,
            check=False,
            preexec_fn=lambda: kernel.enter(there, kernel.CLONE_NEWNET),
        )
    finally:
        os.close(there)
    if done.returncode != 0:
        raise ContainerError(f"ip: {done.stderr.decode('utf-8', 'replace').strip()}")


def _forward(bundle: Path, port: Port, address: str) -> None:
    arguments = {
        "proto": port.protocol, "host_addr": port.host_address or "0.0.0.0", "host_port": port.host,  # noqa: S104
        "guest_addr": address, "guest_port": port.container,
    }  # fmt: skip
    # A socket's path may have 107 bytes, and a bundle's is nearly that long.
    fd = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"/proc/self/fd/{fd}/{_CONTROL}")
        os.close(fd)
        connection.sendall(json.dumps({"execute": "add_hostfwd", "arguments": arguments}).encode())
        connection.shutdown(socket.SHUT_WR)
        said = json.loads(connection.recv(65536) or b"{}")
    if "error" in said:
        raise ContainerError(f"Bind for {arguments['host_addr']}:{port.host} failed: {said['error'].get('desc')}")
