"""Fixtures of the tests that run containers: a command line of its own, and a look at what was left behind."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.client.images.store import Store
from tests.client.places import Memory, pull
from tests.support import images, peers
from tests.support.hythe import Hythe
from tests.support.images import Image
from tests.support.processes import wait_until


@functools.cache
def busybox() -> Image:
    """An image with all of busybox's programs that the tests use."""
    entries = images.busybox_entries()
    program = next(entry for entry in entries if entry.name == "bin/busybox")
    names = "id env ps stty tty ls mkdir rm ln touch kill httpd wget dd head wc hostname pwd tail mount"
    links = [images.hardlink(f"bin/{name}", program) for name in names.split()]
    return images.make_image([images.layer([*entries, *links])], command=("echo", "hello from the image"))


def put(hythe: Hythe, image: Image, name: str) -> None:
    """Make an image known to a command line's store, without a registry."""
    store = Store(hythe.root)
    pull(store, Memory(image), tag="latest", name=f"docker.io/library/{name}")
    store.close()


@pytest.fixture
def hythe(tmp_path: Path) -> Iterator[Hythe]:
    """`hythe` with busybox in its store. Afterwards nothing of it may be left on the machine."""
    peers.require_root("runc")
    peers.require_busybox()
    for program in ("runc", "conmon"):
        peers.program(program)
    made = Hythe(tmp_path / "h", HYTHE_RUN_ROOT=str(tmp_path / "run"))
    put(made, busybox(), "busybox")
    yield made
    made.environment.pop("HYTHE_FAILPOINT", None)
    left = made("ps", "-aq", "--no-trunc").split()
    if left:
        made("rm", "-fv", *left)
    assert_nothing_is_left(made)


def remains(hythe: Hythe) -> list[str]:
    """What containers have left behind: mounts, processes, cgroups, addresses, bridges, rules, directories."""
    run = Path(hythe.environment["HYTHE_RUN_ROOT"])
    found = [
        line
        for line in Path("/proc/mounts").read_text().splitlines()
        if str(hythe.root) in line or str(run) in line
    ]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words.split(b"\0")[0].endswith(b"conmon") and os.fsencode(run) in words:
            found.append(words.replace(b"\0", b" ").decode())
    store = Store(hythe.root)
    ids = [row[0] for row in store.db.execute("SELECT id FROM containers")] if run.exists() else []
    if run.exists():
        found += [f"address {row}" for row in store.db.execute("SELECT * FROM endpoints")]
        found += [
            f"use {row}"
            for row in store.db.execute("SELECT * FROM uses WHERE holder NOT IN (SELECT id FROM containers)")
        ]
        for row in store.db.execute("SELECT document FROM networks"):
            interface = json.loads(row[0])["interface"]
            found += [interface] if Path("/sys/class/net", interface).exists() else []
    store.close()
    kept = {"engine", "exits", "network", "namespace"}
    found += [str(path) for path in run.glob("*") if path.name not in kept]
    found += [str(path) for path in (run / "engine").glob("*")]
    found += [str(path) for path in (hythe.root / "containers").glob("*") if path.name not in ids]
    found += [str(path) for path in (hythe.root / "trash").glob("*")]
    return found


def soon(condition: Callable[[], object]) -> bool:
    """Wait until something is so; a machine that has much else to do may take its time."""
    return wait_until(condition, timeout=60)


def assert_nothing_is_left(hythe: Hythe) -> None:
    """Wait for the monitors, which end a moment after their containers, and see that all is gone."""
    wait_until(lambda: remains(hythe) == [])
    assert remains(hythe) == []


def status_of(hythe: Hythe, *words: str, data: bytes | None = None) -> tuple[int, str, str]:
    """Run it: exit status, output, and complaints."""
    done = subprocess.run(
        [*hythe.command, *words],
        input=data,
        capture_output=True,
        env=hythe.environment,
        cwd=hythe.directory,
        check=False,
        timeout=60,
        **({} if data is not None else {"stdin": subprocess.DEVNULL}),  # type: ignore[arg-type]
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()
