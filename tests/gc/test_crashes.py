"""A collection that is killed at any of its steps: nothing needed is lost, and the next one finishes its work."""

from __future__ import annotations

import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from registry import failpoints
from tests.gc.keeper import Keeper
from tests.support.ledger import ABSENT, Ledger
from tests.support.oci import Content, blob, config, image, index
from tests.support.warm import Forker, Process, WarmServer

REPOSITORY, OTHER = "team/app", "team/other"
SETTINGS = {
    "gc": {"enabled": False, "grace_seconds": 0, "deletions_per_second": 0, "untagged": "delete"},
    "policy": {"history_days": 0},
    "retention": [{"repositories": "team/*", "keep_matching": ["keep*", "multi"]}],
}


@dataclass(frozen=True)
class World:
    """A registry with all kinds of garbage, and what it promised of the rest."""

    data: Path
    ledger: Ledger
    garbage: list[Content]


@pytest.fixture(scope="module")
def world(warm: Forker, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once; each crash happens to a copy."""
    server = WarmServer(warm, tmp_path_factory.mktemp("world"), SETTINGS).start()
    made, shared, own = config(), blob(1000), blob(100_000)
    kept, child, gone = (image(made, [shared], annotations={"which": which}) for which in ("1", "2", "3"))
    old = image(made, [own])
    loose, large = blob(500), blob(2_000_000)
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
        ledger = Ledger(http)
        for content in (made, shared, own, loose, large):
            ledger.push(REPOSITORY, content)
        for content in (made, shared, loose):
            ledger.push(OTHER, content)
        ledger.put_manifest(REPOSITORY, kept, "keep")
        ledger.put_manifest(OTHER, kept, "keep")
        ledger.put_manifest(REPOSITORY, child)
        ledger.put_manifest(REPOSITORY, index([child.descriptor()]), "multi")
        ledger.put_manifest(REPOSITORY, old, "old")
        ledger.put_manifest(REPOSITORY, gone)
        ledger.put_manifest(OTHER, gone, "old")
        ledger.delete_tag(REPOSITORY, "old")
        for name in ((REPOSITORY, gone.digest), (OTHER, gone.digest), (REPOSITORY, old.digest)):
            ledger._manifests[name].allowed.add(ABSENT)
        for name in ((REPOSITORY, own.digest), (REPOSITORY, loose.digest), (REPOSITORY, large.digest)):
            ledger._blobs[name].allowed.add(ABSENT)
        ledger._blobs[OTHER, loose.digest].allowed.add(ABSENT)
        ledger._tags[OTHER, "old"].allowed.add(ABSENT)
    assert server.stop() == 0
    return World(server.data, ledger, [own, loose, large])


class Operator:
    """Runs `hythe admin` on a copy of the world."""

    def __init__(self, warm: Forker, world: World, directory: Path) -> None:
        self._warm = warm
        self.directory = directory
        self.data = directory / "data"
        shutil.copytree(world.data, self.data)
        self._config = directory / "config.yaml"
        self._config.write_text(yaml.safe_dump({**SETTINGS, "storage": {"directory": str(self.data)}}))
        self._reached = directory / "reached"

    def start(self, family: str, failpoint: str = "") -> Process:
        """Start a verb."""
        arguments = ["admin", "--config", str(self._config), family]
        environment = {"HYTHE_FAILPOINT": failpoint}
        return self._warm.start(arguments, environment, self.directory / "log", self._reached)

    def run(self, family: str, failpoint: str = "") -> int:
        """Run a verb and return its exit status."""
        return self.start(family, failpoint).wait(60)

    def reached(self) -> Counter[str]:
        """How often each of our failpoints was come to."""
        words = self._reached.read_text().split() if self._reached.exists() else []
        return Counter(word for word in words if word.startswith("gc."))

    def log(self) -> str:
        return (self.directory / "log").read_text()


@pytest.fixture
def operator(warm: Forker, world: World, tmp_path: Path) -> Callable[[], Operator]:
    made: list[Operator] = []

    def make() -> Operator:
        for past in made:
            shutil.rmtree(past.directory, ignore_errors=True)
        directory = tmp_path / f"operator{len(made)}"
        directory.mkdir()
        made.append(Operator(warm, world, directory))
        return made[-1]

    return make


def undisturbed(operator: Operator, family: str) -> Counter[str]:
    """What a run comes to that nothing stops. The second one has what the first one made garbage of."""
    assert operator.run(family) == 0, operator.log()
    return operator.reached()


def check(world: World, operator: Operator, warm: Forker) -> None:
    """What was promised is there, and what is pushed again comes back, also of what was just being deleted."""
    Keeper(operator.data).check()
    server = WarmServer(warm, operator.directory / "server", SETTINGS)
    server.settings["storage"] = {"directory": str(operator.data)}
    server.start()
    try:
        with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
            ledger = world.ledger.copy(http)
            ledger.check()
            for content in world.garbage:
                ledger.push(REPOSITORY, content)
            ledger.check()
        assert '"traceback"' not in server.log()
    finally:
        server.remove()


FAMILY_OF = {point: "retention" if point == "gc.untagged" else "gc" for point in failpoints.COLLECTION}


@pytest.mark.parametrize("point", [point for point in failpoints.COLLECTION if point != "gc.condemned"])
def test_one_that_is_killed_loses_nothing_and_the_next_one_finishes(
    point: str, world: World, warm: Forker, operator: Callable[[], Operator], subtests: pytest.Subtests
) -> None:
    times = undisturbed(operator(), FAMILY_OF[point])[point]
    assert times
    for nth in sorted({1, times}):
        with subtests.test(nth=nth):
            killed = operator()
            assert killed.run(FAMILY_OF[point], f"{point}:{nth}") == -signal.SIGKILL
            check(world, killed, warm)
            keeper = Keeper(killed.data)
            forget_lease(keeper)
            assert killed.run(FAMILY_OF[point]) == 0, killed.log()
            keeper.collect(delete_untagged=True)
            keeper.check_clean()
            clean_up(keeper)


def forget_lease(keeper: Keeper) -> None:
    """Instead of waiting for a minute until the dead one's lease is over."""
    keeper.execute("UPDATE lease SET expires_ms = 0")


def clean_up(keeper: Keeper) -> None:
    """What was moved out of the way and not freed is freed with other leftovers of killed processes."""

    async def sweep(index: object, store: object) -> None:
        await store.remove_stale_temporaries(time.time() + 1)  # type: ignore[attr-defined]

    keeper.run(sweep)  # type: ignore[arg-type]
    assert keeper.leftovers() == []


def test_a_lease_of_a_dead_collector_is_over_after_a_minute(
    world: World, operator: Callable[[], Operator]
) -> None:
    killed = operator()
    assert killed.run("gc", "gc.deleting") == -signal.SIGKILL
    [lease] = Keeper(killed.data).run(
        lambda index, store: index.read(
            lambda tx: tx.exec_driver_sql("SELECT expires_ms FROM lease WHERE name = 'gc'").scalars().all()
        )
    )
    assert 0 < lease - time.time() * 1000 <= 60_000


def test_two_collectors_at_once_do_no_harm(world: World, warm: Forker, operator: Callable[[], Operator]) -> None:
    """As when one was asleep for longer than its lease."""
    twice = operator()
    keeper = Keeper(twice.data)
    running = []
    for _ in range(2):
        forget_lease(keeper)
        running.append(twice.start("gc"))
    assert [each.wait(90) for each in running] == [0, 0], twice.log()
    check(world, twice, warm)
    forget_lease(keeper)
    keeper.collect(delete_untagged=True)
    keeper.check_clean()
