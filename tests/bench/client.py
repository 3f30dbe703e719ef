"""The client's figures: pull with unpacking, load and push, in turn with docker and podman, all on one tmpfs.

    python -m tests.bench.client [--rounds 3] [--megabytes 1100] [--only hythe docker podman]

The image has five layers of the files of this machine's Python and /usr; the largest is two thirds of it. Every
client starts from an empty store in every round, and the registry is ours, on the same machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import LoadError
from tests.support import images, peers
from tests.support.hythe import Hythe
from tests.support.peers import Client
from tests.support.server import Server

ROUNDS = 3
MEGABYTES = 1100
NAME = "bench/python"
_SHARES = (0.66, 0.14, 0.1, 0.07, 0.03)
_ROOTS = ("/usr/lib", "/usr/share", "/usr/local/lib", "/opt")


@dataclass(frozen=True, slots=True)
class Puller:
    """One client: what it is called, and how it begins anew."""

    name: str
    client: Client
    forget: Callable[[], object]

    def pull(self, name: str) -> float:
        """Seconds for a pull from nothing."""
        self.forget()
        begun = time.perf_counter()
        self.client("pull", *(["--tls-verify=false"] if self.name == "podman" else []), "-q", name, timeout=600)
        seconds = time.perf_counter() - begun
        if not self.client("images", "-q").strip():
            raise LoadError(f"{self.name} has no image after its pull")
        return seconds


def make_image(directory: Path, megabytes: int) -> images.Image:
    """The image: real files in five layers, compressed as `gzip -6` does."""
    files = _files(megabytes << 20)
    tars, at = [], 0
    total = sum(size for _, size in files)
    for share in _SHARES:
        listed, room = directory / f"list{len(tars)}", total * share
        begin = at
        while at < len(files) and room > 0:
            room -= files[at][1]
            at += 1
        listed.write_bytes(b"\0".join(os.fsencode(name) for name, _ in files[begin:at]))
        tar = ["tar", "-c", "--null", "--no-recursion", "-C", "/", "-T", str(listed)]
        tars.append(subprocess.run(tar, check=True, capture_output=True).stdout)
    return images.make_image(tars)


def _files(size_bytes: int) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    total = 0
    for root in _ROOTS:
        for path in sorted(Path(root).rglob("*")):
            if path.is_file() and not path.is_symlink():
                size = path.stat().st_size
                found.append((str(path.relative_to("/")), size))
                total += size
                if total >= size_bytes:
                    return found
    return found


@contextlib.contextmanager
def pullers(directory: Path, only: list[str]) -> Iterator[list[Puller]]:
    """The clients, each with an empty store on the file system of *directory*."""
    with ExitStack() as stack:
        found: list[Puller] = []
        if "hythe" in only:
            hythe = Hythe(directory / "hythe")
            found.append(Puller("hythe", hythe, lambda: hythe("image", "prune", "-af")))
        if "docker" in only:
            docker = stack.enter_context(peers.running_docker(stack.enter_context(peers.running_containerd())))
            found.append(Puller("docker", docker, lambda: docker("system", "prune", "-af")))
        if "podman" in only:
            podman = stack.enter_context(peers.container_tools())("podman")
            found.append(Puller("podman", podman, lambda: podman("rmi", "-af")))
        yield found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.client", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--megabytes", type=int, default=MEGABYTES, help="unpacked")
    parser.add_argument("--only", nargs="+", default=["hythe", "docker", "podman"])
    parser.add_argument("--storage", type=Path, default=Path("/dev/shm"), help="a tmpfs")
    options = parser.parse_args()
    tempfile.tempdir = str(options.storage)  # the peers' stores as well
    with tempfile.TemporaryDirectory(prefix="hythe-bench-") as name:
        directory = Path(name)
        server = Server(directory / "server").start()
        try:
            made = make_image(directory, options.megabytes)
            with peers.http_client(server) as http:
                peers.upload(http, NAME, made, "v1")
            packed = sum(len(layer.data) for layer in made.layers)
            print(f"{len(made.layers)} layers, {packed >> 20} MiB compressed")
            with pullers(directory, options.only) as found:
                _measure(found, f"{server.host}/{NAME}:v1", options.rounds)
        finally:
            server.kill()


def _measure(found: list[Puller], name: str, rounds: int) -> None:
    seconds: dict[str, list[float]] = {each.name: [] for each in found}
    for _ in range(rounds):
        for each in found:
            seconds[each.name].append(each.pull(name))
    for client, each_round in seconds.items():
        rows = " ".join(f"{value:.2f}" for value in each_round)
        print(f"pull and unpack  {client:<8} median {statistics.median(each_round):6.2f} s   ({rows})")


if __name__ == "__main__":
    main()
