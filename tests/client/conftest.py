"""Fixtures of the client's tests."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.client.images.unpack.layer import Unpacked, unpack, unpack_apart
from registry.client.images.unpack.limits import Limits
from tests.support.hythe import Hythe
from tests.support.trees import snapshot

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and trusted attributes need root")

Unpack = Callable[..., Unpacked]


@pytest.fixture
def hythe(tmp_path: Path) -> Hythe:
    """`hythe` with a store and a home of its own."""
    return Hythe(tmp_path / "client")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The empty directory that a layer is unpacked into."""
    made = tmp_path / "staging" / "root"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def canary(tmp_path: Path, root: Path) -> Iterator[Path]:
    """A tree beside the root, which must be the same afterwards, to the last attribute."""
    tree = tmp_path / "staging" / "canary"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "secret").write_text("do not touch")
    (tree / "secret").chmod(0o600)
    (tree / "deep" / "file").write_text("nor this")
    (tree / "link").symlink_to("secret")
    os.link(tree / "secret", tree / "second")
    before = snapshot(tree), sorted(os.listdir(tree.parent)), sorted(os.listdir(tmp_path))
    yield tree
    assert (snapshot(tree), sorted(os.listdir(tree.parent)), sorted(os.listdir(tmp_path))) == before


@pytest.fixture(params=[unpack, unpack_apart], ids=["beside", "apart"])
def unpacked(request: pytest.FixtureRequest, root: Path) -> Unpack:
    """Unpack an archive's bytes into the root, as small layers are and as large ones are."""

    def run(data: bytes, limits: Limits | None = None) -> Unpacked:
        found: Unpacked = request.param(io.BytesIO(data), root, limits)
        return found

    return run
