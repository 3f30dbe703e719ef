"""Password hashes, htpasswd files, and the bounds on verifying."""

from __future__ import annotations

import asyncio
import time

import argon2
import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.oci.errors import ConfigurationError, TooManyRequests
from registry.server.auth.passwords import (
    PASSWORD_MAX_BYTES,
    PasswordRefused,
    Verifier,
    hash_password,
    is_weaker_than_ours,
    read_htpasswd,
    verify,
)

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
RIGHT = "correct horse"
STORED = CHEAP.hash(RIGHT)
HTPASSWD = bcrypt.hashpw(RIGHT.encode(), bcrypt.gensalt(4)).decode()


def test_what_is_kept_is_argon2id_with_a_salt_of_its_own() -> None:
    first, second = hash_password(RIGHT), hash_password(RIGHT)

    assert first.startswith("$argon2id$")
    assert first != second
    assert verify(first, RIGHT)
    assert verify(second, RIGHT)
    assert not is_weaker_than_ours(first)


@pytest.mark.parametrize(
    "password",
    [
        "correct horse",
        "pässwörd",
        "密码密码密码密码",
        "🐎🔋📎✅✅✅✅✅",
        "a\0bcdefgh",
        " leading",
        "x" * PASSWORD_MAX_BYTES,
    ],
)
def test_any_characters_make_a_password(password: str) -> None:
    stored = CHEAP.hash(password)

    assert verify(stored, password)
    for other in (password[:-1], password + "x", password.upper() + "Y", password.strip() + "!", ""):
        assert not verify(stored, other)


@pytest.mark.parametrize(
    ("password", "sentence"),
    [
        ("short", "at least 8 characters"),
        ("", "at least 8 characters"),
        ("x" * (PASSWORD_MAX_BYTES + 1), "at most 1024 bytes"),
        ("é" * PASSWORD_MAX_BYTES, "at most 1024 bytes"),
        ("half a pair: \ud83d", "whole characters"),
    ],
)
def test_a_password_that_cannot_be_kept_is_refused_with_the_reason(password: str, sentence: str) -> None:
    with pytest.raises(PasswordRefused, match=sentence):
        hash_password(password)


def test_a_password_that_is_too_long_costs_no_hashing() -> None:
    began = time.perf_counter()

    for _ in range(100):
        assert not verify(hash_of_nobody, "x" * (PASSWORD_MAX_BYTES + 1))

    assert time.perf_counter() - began < 0.5


hash_of_nobody = argon2.PasswordHasher().hash("nobody")


@given(st.text(max_size=40))
def test_whatever_is_presented_is_right_or_wrong(password: str) -> None:
    assert verify(STORED, password) == (password == RIGHT)


@pytest.mark.parametrize("stored", ["", "x", "$2y$05$short", "$argon2id$v=19$m=8,t=1,p=1$x$y", "{SHA}abc", RIGHT])
def test_a_hash_that_is_none_verifies_nothing(stored: str) -> None:
    assert not verify(stored, RIGHT)
    assert not verify(stored, "")


def test_a_bcrypt_hash_verifies_and_is_to_be_replaced() -> None:
    assert verify(HTPASSWD, RIGHT)
    assert not verify(HTPASSWD, "wrong horse")
    assert not verify(HTPASSWD, "a\0b")
    assert is_weaker_than_ours(HTPASSWD)
    assert is_weaker_than_ours(STORED)


def test_bcrypt_reads_72_bytes_as_htpasswd_does() -> None:
    stored = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()

    assert verify(stored, "x" * 72)
    assert verify(stored, "x" * 80)
    assert not verify(stored, "x" * 71)


# --- htpasswd files


def test_an_htpasswd_file_is_read_with_its_comments_and_empty_lines() -> None:
    text = f"# people\n\nbob:{HTPASSWD}\n  anna:{HTPASSWD}  \r\n"

    assert read_htpasswd(text) == {"bob": HTPASSWD, "anna": HTPASSWD}


@pytest.mark.parametrize(
    "line",
    [
        "bob",
        "bob:",
        "bob:$apr1$x$y",
        "bob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "bob:plain",
        f"bob:{HTPASSWD}x",
        f"bob:{HTPASSWD}:more",
        f"bob:{HTPASSWD.replace('$04$', '$31$')}",
    ],
    ids=range(8),  # the hash is another one in each process
)
def test_an_entry_that_is_not_bcrypt_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^line 2: .*htpasswd -B"):
        read_htpasswd(f"anna:{HTPASSWD}\n{line}\n")


# --- the verifier


def test_a_verified_password_is_remembered_and_a_wrong_one_is_not() -> None:
    slow = argon2.PasswordHasher(time_cost=8).hash(RIGHT)

    async def times() -> list[float]:
        verifier = Verifier()
        found = []
        for password, right in ((RIGHT, True), (RIGHT, True), ("wrong", False), ("wrong", False)):
            began = time.perf_counter()
            assert await verifier.verify(slow, password) is right
            found.append(time.perf_counter() - began)
        return found

    first, again, wrong, wrong_again = asyncio.run(times())

    assert again < min(first, wrong, wrong_again) / 5


def test_what_is_remembered_belongs_to_one_hash_and_not_to_the_name() -> None:
    other = CHEAP.hash("another one")

    async def ask() -> list[bool]:
        verifier = Verifier()
        return [await verifier.verify(*question) for question in ((STORED, RIGHT), (other, RIGHT), (None, RIGHT))]

    assert asyncio.run(ask()) == [True, False, False]


def test_a_remembered_password_is_verified_anew_after_its_time() -> None:
    async def ask() -> tuple[bool, int]:
        verifier = Verifier(remember_seconds=0.0)
        await verifier.verify(STORED, RIGHT)
        return await verifier.verify(STORED, RIGHT), len(verifier._known)

    assert asyncio.run(ask()) == (True, 1)


def test_nobody_verifies_as_an_account_without_a_password() -> None:
    async def ask() -> list[bool]:
        verifier = Verifier()
        return [await verifier.verify(None, password) for password in ("", RIGHT, "None")]

    assert asyncio.run(ask()) == [False, False, False]


def test_nobody_takes_as_long_as_somebody() -> None:
    of_ours = argon2.PasswordHasher().hash(RIGHT)

    async def times(stored: str | None) -> float:
        verifier = Verifier()
        found = []
        for number in range(3):
            began = time.perf_counter()
            assert not await verifier.verify(stored, f"wrong {number}")
            found.append(time.perf_counter() - began)
        return min(found)

    ours, nobody, filed = (asyncio.run(times(stored)) for stored in (of_ours, None, HTPASSWD))

    assert 0.4 < nobody / ours < 2.5
    assert 0.4 < filed / ours < 2.5


def test_no_more_than_the_bound_wait_and_the_others_are_told_to_come_back() -> None:
    slow = argon2.PasswordHasher().hash(RIGHT)

    async def ask() -> list[object]:
        verifier = Verifier(at_once=1, waiting_max=3)
        asked = [verifier.verify(slow, f"wrong {number}") for number in range(10)]
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(ask())

    assert answers.count(False) == 3
    refused = [answer for answer in answers if isinstance(answer, TooManyRequests)]
    assert len(refused) == 7
    assert all(answer.retry_after_seconds >= 1 for answer in refused)


def test_one_whose_client_went_away_makes_room_for_the_next() -> None:
    async def ask() -> bool:
        verifier = Verifier(at_once=1, waiting_max=1)
        gone = asyncio.create_task(verifier.verify(hash_of_nobody, "wrong"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        return await verifier.verify(STORED, RIGHT)

    assert asyncio.run(ask())
