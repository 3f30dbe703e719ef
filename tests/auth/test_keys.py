"""Signing keys, and what is published of them."""

from __future__ import annotations

import jwt
import pytest

from registry.server.auth.keys import SigningKey, new_key


def test_each_key_is_its_own() -> None:
    keys = [new_key() for _ in range(5)]

    assert len({key.id for key in keys}) == len({key.private_pem for key in keys}) == 5


def test_what_is_published_verifies_and_has_nothing_private() -> None:
    key = new_key()
    published = key.jwk()

    assert set(published) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    assert (published["kty"], published["crv"], published["alg"], published["use"]) == (
        "EC",
        "P-256",
        "ES256",
        "sig",
    )
    assert published["kid"] == key.id
    token = jwt.encode({"a": 1}, key.private, "ES256")
    assert jwt.decode(token, jwt.PyJWK(published).key, algorithms=["ES256"]) == {"a": 1}


def test_a_key_is_read_back_from_what_is_kept() -> None:
    key = new_key()
    again = SigningKey(key.id, key.private_pem)

    assert again.jwk() == key.jwk()


def test_a_key_of_another_kind_is_refused() -> None:
    with pytest.raises((ValueError, jwt.InvalidKeyError)):
        _ = SigningKey("x", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n").private


def test_its_id_is_the_thumbprint_that_others_compute() -> None:
    import base64
    import hashlib
    import json

    key = new_key()
    required = {name: key.jwk()[name] for name in ("crv", "kty", "x", "y")}
    text = json.dumps(required, separators=(",", ":"), sort_keys=True)

    assert key.id == hashlib.sha256(text.encode()).hexdigest()[:32]
    assert len(base64.urlsafe_b64decode(key.jwk()["x"] + "==")) == 32
