"""What becomes of a step in a thread when the one who asked for it is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from registry.content import threads

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Step:
    """A step that waits until it is told to go on, and then returns itself."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.has_ended = False

    def __call__(self) -> Step:
        self.begun.set()
        assert self.may_end.wait(30)
        self.has_ended = True
        return self


@pytest.fixture
def step() -> Step:
    return Step()


@pytest.fixture
def pool(step: Step) -> Iterator[ThreadPoolExecutor]:
    """One thread."""
    with ThreadPoolExecutor(1) as made:
        yield made
        step.may_end.set()


async def cancelled_twice(waiting: asyncio.Task[object]) -> None:
    for _ in range(2):
        waiting.cancel()
        for _ in range(5):
            await asyncio.sleep(0)


async def test_who_is_cancelled_goes_on_when_the_thread_is_done(pool: ThreadPoolExecutor, step: Step) -> None:
    waiting: asyncio.Task[object] = asyncio.create_task(threads.run(pool, step))
    await asyncio.to_thread(step.begun.wait, 30)
    await cancelled_twice(waiting)
    assert not waiting.done()
    step.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert step.has_ended


async def test_a_step_that_was_not_begun_is_left_out_unless_it_cleans_up(
    pool: ThreadPoolExecutor, step: Step
) -> None:
    ran: list[str] = []
    before = asyncio.create_task(threads.run(pool, step))
    await asyncio.to_thread(step.begun.wait, 30)
    work: asyncio.Task[object] = asyncio.create_task(threads.run(pool, ran.append, "work"))
    cleaning: asyncio.Task[object] = asyncio.create_task(threads.clean_up(pool, ran.append, "cleaning"))
    await asyncio.sleep(0)
    await cancelled_twice(work)
    await cancelled_twice(cleaning)
    assert (work.cancelled(), cleaning.done()) == (True, False)
    step.may_end.set()
    await asyncio.wait([before, cleaning])
    assert (cleaning.cancelled(), ran) == (True, ["cleaning"])


async def test_what_a_cancelled_caller_never_learns_of_is_released(pool: ThreadPoolExecutor, step: Step) -> None:
    released: list[Step] = []
    waiting: asyncio.Task[object] = asyncio.create_task(threads.acquire(pool, step, released.append))
    await asyncio.to_thread(step.begun.wait, 30)
    await cancelled_twice(waiting)
    step.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert released == [step]
    assert await threads.acquire(pool, step, released.append) is step
    assert released == [step]


async def test_what_a_thread_made_for_one_who_was_cancelled_meanwhile_is_let_go_of(step: Step) -> None:
    released: list[Step] = []

    async def hold() -> None:
        async with threads.holding(step, released.append):
            raise AssertionError("it was cancelled before")

    holding: asyncio.Task[object] = asyncio.create_task(hold())
    await asyncio.to_thread(step.begun.wait, 30)
    await cancelled_twice(holding)
    assert not holding.done()
    step.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert released == [step]


async def test_what_could_not_be_made_is_not_let_go_of() -> None:
    released: list[float] = []
    with pytest.raises(ZeroDivisionError):
        async with threads.holding(lambda: 1 / 0, released.append):
            raise AssertionError
    assert not released
