"""The cache of hot answers: right while the epoch stands still, and bounded."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from registry.server.service.hot import Hot

pytestmark = pytest.mark.anyio

BOUND = 1600
LARGEST = BOUND // 16


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Epoch:
    """A number that tests move; while `gate` is there, those who ask wait for it."""

    def __init__(self) -> None:
        self.now = 5
        self.gate: asyncio.Event | None = None

    async def __call__(self) -> int:
        seen = self.now
        if self.gate is not None:
            await self.gate.wait()
        return seen


@pytest.fixture
def epoch() -> Epoch:
    return Epoch()


@pytest.fixture
def hot(epoch: Epoch) -> Hot[str]:
    return Hot(BOUND, epoch)


async def look(hot: Hot[str], key: str, found: str, size_bytes: int = 10) -> str:
    """What a service does: ask the cache, then the database, and keep what that says."""
    kept = await hot.get(key)
    if kept is None:
        moment = hot.moment
        hot.put(key, found, size_bytes, moment)
        return found
    return kept


async def test_an_answer_is_kept_while_nothing_changes(hot: Hot[str]) -> None:
    assert await hot.get("key") is None
    assert await look(hot, "key", "first") == "first"
    assert await look(hot, "key", "not asked for") == "first"
    assert await hot.get("other") is None


async def test_no_answer_outlives_a_change(hot: Hot[str], epoch: Epoch) -> None:
    for key in "abc":
        await look(hot, key, "old")
    epoch.now += 1
    for key in "abc":
        assert await hot.get(key) is None
        assert await look(hot, key, "new") == "new"
        assert await hot.get(key) == "new"


async def test_not_even_when_the_epoch_comes_back(hot: Hot[str], epoch: Epoch) -> None:
    await look(hot, "key", "old")
    epoch.now = 6
    await hot.get("another key")
    epoch.now = 5
    assert await hot.get("key") is None


async def test_what_was_read_before_a_change_that_others_saw_is_not_kept(hot: Hot[str], epoch: Epoch) -> None:
    assert await hot.get("key") is None
    moment = hot.moment
    # Here the database is read, slowly; meanwhile it changes, and another request sees that.
    epoch.now += 1
    await hot.get("other")
    hot.put("key", "old", 10, moment)
    assert await hot.get("key") is None


async def test_what_was_read_before_a_change_that_nobody_saw_is_kept_for_nobody(
    hot: Hot[str], epoch: Epoch
) -> None:
    assert await hot.get("key") is None
    moment = hot.moment
    epoch.now += 1
    hot.put("key", "old", 10, moment)
    assert await hot.get("key") is None


async def test_nothing_is_kept_before_the_epoch_was_ever_asked_for(hot: Hot[str]) -> None:
    hot.put("key", "value", 10, hot.moment)
    assert await hot.get("key") is None


async def test_one_who_learns_the_epoch_late_gives_and_keeps_nothing_old(hot: Hot[str], epoch: Epoch) -> None:
    """With a database over the network, answers about the epoch overtake each other."""
    epoch.gate = asyncio.Event()
    late = asyncio.create_task(look(hot, "key", "old"))
    await asyncio.sleep(0)
    gate, epoch.gate = epoch.gate, None
    epoch.now += 1
    assert await look(hot, "key", "new") == "new"
    gate.set()
    assert await late == "old"  # it asked before the change was made
    assert await look(hot, "key", "new") == "new"
    assert await look(hot, "key", "newer") == "new"


async def test_many_who_ask_at_once_agree(hot: Hot[str], epoch: Epoch) -> None:
    epoch.gate = asyncio.Event()
    tasks = [asyncio.create_task(look(hot, "key", f"found by {number}")) for number in range(5)]
    await asyncio.sleep(0)
    epoch.gate.set()
    assert set(await asyncio.gather(*tasks)) == {"found by 0"}


async def test_without_an_epoch_answers_are_right_for_ever() -> None:
    hot: Hot[str] = Hot(BOUND)
    assert await hot.get("key") is None
    hot.put("key", "value", 10, hot.moment)
    assert await hot.get("key") == "value"


async def test_the_first_answer_of_an_epoch_stays(hot: Hot[str]) -> None:
    await look(hot, "key", "first")
    hot.put("key", "second", 10, hot.moment)
    assert await hot.get("key") == "first"


async def test_an_answer_of_no_bytes_and_one_that_is_false_are_answers() -> None:
    hot: Hot[int] = Hot(BOUND)
    hot.put("key", 0, 0, hot.moment)
    assert await hot.get("key") == 0


async def test_one_that_is_too_large_to_be_worth_it_is_not_kept(hot: Hot[str]) -> None:
    await look(hot, "large", "value", LARGEST + 1)
    await look(hot, "not so large", "value", LARGEST)
    assert await hot.get("large") is None
    assert await hot.get("not so large") == "value"


async def test_those_not_asked_for_lately_make_room(hot: Hot[str]) -> None:
    for number in range(16):
        await look(hot, f"key{number}", "value", LARGEST)
    assert await hot.get("key0") == "value"
    await look(hot, "one more", "value", LARGEST)
    assert await hot.get("key1") is None
    for key in ("key0", "key2", "key15", "one more"):
        assert await hot.get(key) == "value"


async def test_a_change_frees_all_the_room(hot: Hot[str], epoch: Epoch) -> None:
    for round_ in range(5):
        epoch.now += 1
        for number in range(16):
            await look(hot, f"key{number}", str(round_), LARGEST)
        for number in range(16):
            assert await hot.get(f"key{number}") == str(round_)


class HotMachine(RuleBasedStateMachine):
    """A cache before a database that changes, some of the reads being slow."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = Epoch()
        self.hot: Hot[int] = Hot(BOUND, self.epoch)
        self.database = dict.fromkeys("abcd", 0)
        self.slow: list[tuple[str, int, int]] = []
        self.runner = asyncio.Runner()

    def get(self, key: str) -> int | None:
        return self.runner.run(self.hot.get(key))

    @rule(key=st.sampled_from("abcd"))
    def change(self, key: str) -> None:
        self.database[key] += 1
        self.epoch.now += 1

    @rule(key=st.sampled_from("abcd"), size_bytes=st.integers(0, 2 * LARGEST))
    def ask(self, key: str, size_bytes: int) -> None:
        if self.get(key) is None:
            self.hot.put(key, self.database[key], size_bytes, self.hot.moment)

    @rule(key=st.sampled_from("abcd"))
    def begin_to_ask(self, key: str) -> None:
        if self.get(key) is None:
            self.slow.append((key, self.database[key], self.hot.moment))

    @rule()
    def end_to_ask(self) -> None:
        for key, value, moment in self.slow:
            self.hot.put(key, value, 10, moment)
        self.slow.clear()

    @invariant()
    def no_answer_is_old(self) -> None:
        for key, value in self.database.items():
            assert self.get(key) in (None, value)

    def teardown(self) -> None:
        self.runner.close()


TestHotMachine = HotMachine.TestCase
