"""The bound on requests of one address, by a clock that tests turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.oci.errors import TooManyRequests
from registry.server.web import throttle as module
from registry.server.web.throttle import Throttle


class Clock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def turn(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(throttle: Throttle, count: int, address: str = "a") -> int:
    """How many of *count* requests are let in now."""
    done = 0
    for _ in range(count):
        try:
            throttle.take(address)
        except TooManyRequests:
            continue
        done += 1
    return done


def wait_of(throttle: Throttle, address: str = "a") -> int:
    with pytest.raises(TooManyRequests) as raised:
        throttle.take(address)
    return raised.value.retry_after_seconds


def test_without_a_rate_everybody_comes_in(clock: Clock) -> None:
    assert taken(Throttle(0, clock), 10_000) == 10_000


def test_two_seconds_worth_may_come_at_once_and_then_the_rate(clock: Clock) -> None:
    throttle = Throttle(10, clock)
    assert taken(throttle, 100) == 20
    clock.turn(1)
    assert taken(throttle, 100) == 10
    clock.turn(0.25)
    assert taken(throttle, 100) == 2
    clock.turn(3600)
    assert taken(throttle, 100) == 20


def test_each_address_has_a_bucket_of_its_own(clock: Clock) -> None:
    throttle = Throttle(1, clock)
    assert taken(throttle, 5, "a") == 2
    assert taken(throttle, 5, "b") == 2
    assert taken(throttle, 5, "a") == 0


@pytest.mark.parametrize(("rate", "seconds"), [(10, 1), (1, 1), (0.5, 2), (0.1, 10), (1 / 60, 60), (1000, 1)])
def test_a_refusal_says_when_to_come_back_in_whole_seconds(clock: Clock, rate: float, seconds: int) -> None:
    throttle = Throttle(rate, clock)
    taken(throttle, 5000)
    assert wait_of(throttle) == seconds
    clock.turn(seconds)
    throttle.take("a")


def test_refused_requests_cost_nothing(clock: Clock) -> None:
    throttle = Throttle(1, clock)
    taken(throttle, 2)
    for _ in range(10):
        clock.turn(0.0999)
        assert taken(throttle, 100) == 0
    clock.turn(0.002)
    assert taken(throttle, 100) == 1


def test_a_rate_below_one_lets_one_in_and_then_one_now_and_then(clock: Clock) -> None:
    throttle = Throttle(0.1, clock)
    assert taken(throttle, 5) == 1
    clock.turn(9)
    assert wait_of(throttle) == 1
    clock.turn(1)
    assert taken(throttle, 5) == 1


def test_a_flood_of_addresses_is_forgotten_oldest_first(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ADDRESSES_MAX", 10)
    throttle = Throttle(1, clock)
    assert taken(throttle, 5, "busy") == 2
    for number in range(9):
        taken(throttle, 1, f"a{number}")
    assert taken(throttle, 5, "busy") == 0
    for number in range(9):
        taken(throttle, 1, f"b{number}")
    assert taken(throttle, 5, "busy") == 0, "who asks again and again is not forgotten"
    for number in range(10):
        taken(throttle, 1, f"c{number}")
    assert taken(throttle, 5, "busy") == 2


@given(st.floats(0.01, 5000), st.lists(st.floats(0, 3), max_size=30))
def test_nobody_gets_more_than_the_burst_and_the_rate_and_who_waits_as_told_comes_in(
    rate: float, pauses: list[float]
) -> None:
    clock = Clock()
    throttle = Throttle(rate, clock)
    began, done = clock.seconds, 0
    for pause in pauses:
        done += taken(throttle, 3)
        clock.turn(pause)
    assert done <= max(1.0, 2 * rate) + rate * (clock.seconds - began) + 1e-6
    taken(throttle, 20)
    try:
        throttle.take("a")
    except TooManyRequests as refused:
        clock.turn(refused.retry_after_seconds)
        throttle.take("a")
