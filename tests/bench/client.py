"""The client's figures: pull with unpacking, load, push and run, in turn with docker and podman, all on one tmpfs.

    python -m tests.bench --client [--rounds 3] [--megabytes 1100] [--only hythe docker podman]

The image has five layers of this machine's own files, 57,000 in 1.1 GB; the largest has 49,000 of them. Every
client starts from an empty store in every round, and the registry is ours, on the same machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePath

from tests.bench.load import LoadError
from tests.support import images, peers
from tests.support.hythe import Hythe
from tests.support.peers import Client
from tests.support.server import Server

ROUNDS = 3
MEGABYTES = 1100
NAME = "bench/python"
RUNS = 10  # of each container in each round: they are short
NETWORKS = {"run --rm, no network": "none", "run --rm, bridge": "bridge"}
ROWS = ("pull and unpack", "load", "push")
FILES_PER_GB = 50_000
# Of files and of bytes, by layer.
_SHARES = ((0.86, 0.70), (0.06, 0.12), (0.04, 0.09), (0.025, 0.06), (0.015, 0.03))
_ROOTS = ("/usr/lib", "/usr/share", "/usr/local/lib", "/opt")


# Seconds of every round by client, by row.
Times = dict[str, dict[str, list[float]]]


@dataclass(frozen=True, slots=True)
class Rival:
    """One client: what it is called, and how it begins anew."""

    name: str
    client: Client
    forget: Callable[[], object]

    def pull(self, name: str) -> float:
        """Seconds for a pull from nothing."""
        self.forget()
        seconds = self._timed("pull", *self._insecure, "-q", name)
        self._require_image("pull")
        return seconds

    def load(self, archive: Path) -> float:
        """Seconds to load an archive of `docker save` into an empty store."""
        self.forget()
        seconds = self._timed("load", "-q", "-i", str(archive))
        self._require_image("load")
        return seconds

    def push(self, name: str) -> float:
        """Seconds to push what was loaded to a registry that has nothing of it; layers get compressed."""
        [identity] = set(self.client("images", "-q").split())
        self.client("tag", identity, name)
        return self._timed("push", *self._insecure, "-q", name)

    def run(self, network: str) -> list[float]:
        """Seconds of containers that do nothing, one after another; none where this client has no such network."""
        if self.name == "podman" and network == "bridge":
            return []  # not without changing this machine's networks
        [identity] = set(self.client("images", "-q").split())
        return [self._timed("run", "--rm", "--network", network, identity, "true") for _ in range(RUNS)]

    @property
    def _insecure(self) -> list[str]:
        return ["--tls-verify=false"] if self.name == "podman" else []

    def _timed(self, *words: str) -> float:
        begun = time.perf_counter()
        self.client(*words, timeout=600)
        return time.perf_counter() - begun

    def _require_image(self, verb: str) -> None:
        if not self.client("images", "-q").strip():
            raise LoadError(f"{self.name} has no image after its {verb}")


def make_image(directory: Path, megabytes: int) -> images.Image:
    """The image: real files in five layers, compressed as `gzip -6` does."""
    tars = []
    for number, chosen in enumerate(_layers(megabytes << 20)):
        listed = directory / f"list{number}"
        parents = {str(parent) for name in chosen for parent in PurePath(name).parents} - {"."}
        listed.write_bytes(b"\0".join(map(os.fsencode, sorted({*chosen, *parents}))))
        tar = ["tar", "-c", "--null", "--no-recursion", "-C", "/", "-T", str(listed)]
        tars.append(subprocess.run(tar, check=True, capture_output=True).stdout)
    return images.make_image(tars, level=6)


def _layers(size_bytes: int) -> Iterator[list[str]]:
    """The names in each layer: as many and as large files as `_SHARES` say; one that is too large comes later."""
    found = _files()
    for files_share, bytes_share in _SHARES:
        count, room = int(FILES_PER_GB * size_bytes / 1e9 * files_share), size_bytes * bytes_share
        chosen: list[str] = []
        late: list[tuple[str, int]] = []
        used = 0
        while found and len(chosen) < count:
            name, size = found.popleft()
            if used + size > room * (len(chosen) + 1) / count + room / 20:
                late.append((name, size))
                continue
            chosen.append(name)
            used += size
        found.extendleft(reversed(late))
        yield chosen


def _files() -> deque[tuple[str, int]]:
    paths = (path for root in _ROOTS for path in sorted(Path(root).rglob("*")))
    return deque(
        (str(each)[1:], each.lstat().st_size) for each in paths if each.is_file() and not each.is_symlink()
    )


@contextlib.contextmanager
def rivals(directory: Path, only: list[str]) -> Iterator[list[Rival]]:
    """The clients, each with an empty store on the file system of *directory*."""
    with ExitStack() as stack:
        found: list[Rival] = []
        if "hythe" in only:
            hythe = Hythe(directory / "hythe")
            found.append(Rival("hythe", hythe, lambda: hythe("image", "prune", "-af")))
        if "docker" in only:
            docker = stack.enter_context(peers.running_docker(stack.enter_context(peers.running_containerd())))
            found.append(Rival("docker", docker, lambda: docker("system", "prune", "-af")))
        if "podman" in only:
            podman = stack.enter_context(peers.container_tools())("podman")
            found.append(Rival("podman", podman, lambda: podman("rmi", "-af")))
        yield found


def measure(rounds: int, megabytes: int, only: list[str], storage: Path) -> Times:
    """Seconds of every round, by row and client, the clients in turn."""
    tempfile.tempdir = str(storage)  # the peers' stores as well
    with tempfile.TemporaryDirectory(prefix="hythe-bench-") as name:
        directory = Path(name)
        made = make_image(directory, megabytes)
        archive = images.write_docker_archive(directory / "saved.tar", {"bench:1": made})
        packed = sum(len(layer.data) for layer in made.layers)
        print(f"{len(made.layers)} layers, {packed >> 20} MiB compressed", file=sys.stderr)
        small = images.write_docker_archive(directory / "small.tar", {"small:1": images.busybox_image()})
        with rivals(directory, only) as found:
            return _rounds(found, made, archive, directory, rounds) | _runs(found, small, rounds)


def _rounds(found: list[Rival], made: images.Image, archive: Path, directory: Path, rounds: int) -> Times:
    """Each row of each round has a registry of its own, which has nothing that a push could leave out."""
    times: Times = {row: {each.name: [] for each in found} for row in ROWS}
    with _registry(directory / "server") as server:
        with peers.http_client(server) as http:
            peers.upload(http, NAME, made, "v1")
        for _ in range(rounds):
            for each in found:
                times["pull and unpack"][each.name].append(each.pull(f"{server.host}/{NAME}:v1"))
    for number in range(rounds):
        for each in found:
            times["load"][each.name].append(each.load(archive))
            with _registry(directory / f"{each.name}{number}") as server:
                times["push"][each.name].append(each.push(f"{server.host}/{NAME}:v1"))
            shutil.rmtree(directory / f"{each.name}{number}")
    return times


def _runs(found: list[Rival], archive: Path, rounds: int) -> Times:
    """Containers of a small image: what is left is the engine's own time."""
    times: Times = {row: {each.name: [] for each in found} for row in NETWORKS}
    for each in found:
        each.load(archive)
        for network in NETWORKS.values():
            each.run(network)  # what is made once, as a bridge is
    for _ in range(rounds):
        for row, network in NETWORKS.items():
            for each in found:
                times[row][each.name] += each.run(network)
    return times


@contextlib.contextmanager
def _registry(directory: Path) -> Iterator[Server]:
    server = Server(directory).start()
    try:
        yield server
    finally:
        server.kill()


def table(times: Times) -> str:
    """The medians in Markdown; the last column compares us with the fastest of the others."""
    clients = list(next(iter(times.values())))
    lines = [f"| | {' | '.join(clients)} | share of the fastest peer's time |", "|---" * (len(clients) + 2) + "|"]
    for row, by_client in times.items():
        medians = {client: statistics.median(values) for client, values in by_client.items() if values}
        peers_best = min((value for client, value in medians.items() if client != "hythe"), default=None)
        share = f"{medians['hythe'] / peers_best:.2f}" if peers_best and "hythe" in medians else ""
        shown = [f"{medians[client]:.2f} s" if client in medians else "–" for client in clients]
        lines.append(f"| {row} | {' | '.join(shown)} | {share} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench --client", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--megabytes", type=int, default=MEGABYTES, help="unpacked")
    parser.add_argument("--only", nargs="+", default=["hythe", "docker", "podman"])
    parser.add_argument("--storage", type=Path, default=Path("/dev/shm"), help="a tmpfs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there too")
    options = parser.parse_args(arguments)
    times = measure(options.rounds, options.megabytes, options.only, options.storage)
    print(table(times))
    if options.json:
        options.json.write_text(json.dumps(times, indent=2) + "\n")


if __name__ == "__main__":
    main()
