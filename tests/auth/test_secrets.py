"""Tokens that Hythe makes: how they look, what is kept of them, what they are compared with."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.server.auth import secrets


@pytest.mark.parametrize("prefix", ["hyt", "hyr"])
def test_a_secret_is_read_back_from_its_text(prefix: secrets.Prefix) -> None:
    made = secrets.new(prefix)

    assert re.fullmatch(rf"{prefix}_[0-9a-f]{{16}}_[A-Za-z0-9_-]{{32}}", str(made))
    assert secrets.parse(str(made)) == made


def test_no_two_secrets_share_an_id_or_a_secret() -> None:
    made = [secrets.new("hyt") for _ in range(1000)]

    assert len({one.id for one in made}) == len({one.secret for one in made}) == 1000


def test_what_is_kept_is_a_hash_of_this_secret_alone() -> None:
    made, other = secrets.new("hyt"), secrets.new("hyt")

    assert made.secret not in made.hash()
    assert made.is_hashed_as(made.hash())
    assert not made.is_hashed_as(other.hash())
    assert not made.is_hashed_as("")


def test_a_secret_does_not_stand_in_a_representation_by_chance() -> None:
    made = secrets.new("hyt")

    assert made.id in str(made)
    for shorter in (made.id, made.secret, f"hyt_{made.id}", f"{made}x", f" {made}", str(made).upper()):
        assert secrets.parse(shorter) is None


@given(st.text(max_size=80))
def test_any_other_text_is_no_secret_of_ours(text: str) -> None:
    found = secrets.parse(text)

    assert found is None or str(found) == text


def test_a_new_password_is_long_and_never_the_same() -> None:
    made = {secrets.new_password() for _ in range(1000)}

    assert len(made) == 1000
    assert all(re.fullmatch(r"(?:[a-z2-9]{6}-){3}[a-z2-9]{6}", password) for password in made)
