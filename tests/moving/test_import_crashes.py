"""An import, or a copy of a store, that is killed: what is there is whole, and the next run finishes the work."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import httpx
import pytest
import yaml

from registry import failpoints
from tests.gc.keeper import Keeper
from tests.moving import holdings
from tests.moving.conftest import grow_old
from tests.support.peers import DockerRegistry
from tests.support.warm import Forker, WarmServer

pytestmark = pytest.mark.peer


def admin(warm: Forker, registry: WarmServer, *words: str | Path, failpoint: str = "") -> int:
    """Run `hythe admin` in a process that can be killed."""
    config = registry.directory / "admin.yaml"
    config.write_text(yaml.safe_dump(registry.settings))
    arguments = ["admin", "--config", str(config), *map(str, words)]
    log, reached = registry.directory / "admin.log", registry.directory / "admin.reached"
    return warm.start(arguments, {"HYTHE_FAILPOINT": failpoint}, log, reached).wait(60)


@pytest.mark.parametrize("nth", [2])
@pytest.mark.parametrize("point", [each for each in failpoints.MOVING if each.startswith("import.")])
def test_an_import_that_is_killed_is_finished_by_the_next_one(
    point: str,
    nth: int,
    peer: DockerRegistry,
    there: httpx.Client,
    registry: WarmServer,
    here: httpx.Client,
    warm: Forker,
    keeper: Keeper,
) -> None:
    grow_old(peer.data)
    assert admin(warm, registry, "import", peer.data, failpoint=f"{point}:{nth}") == -signal.SIGKILL
    keeper.check()
    expected = holdings.of(there)
    assert holdings.of(here).items() <= expected.items()
    assert admin(warm, registry, "import", peer.data) == 0
    assert holdings.of(here) == expected
    keeper.check()


def test_a_copy_that_is_killed_goes_on_where_it_was(
    peer: DockerRegistry, registry: WarmServer, warm: Forker, keeper: Keeper, tmp_path: Path
) -> None:
    assert admin(warm, registry, "import", peer.data) == 0
    target = tmp_path / "copy"
    copy = ("copy-store", registry.data, target)
    assert admin(warm, registry, *copy, failpoint="copy.stored:5") == -signal.SIGKILL
    there = Keeper(target)
    before = there.stored()
    assert 1 <= len(before) < len(keeper.stored())
    assert admin(warm, registry, *copy) == 0
    assert there.stored() == keeper.stored()
    for path in (target / "blobs").rglob("*/*/*"):
        assert path.read_bytes() == (registry.data / path.relative_to(target)).read_bytes()
    shutil.rmtree(target)
