"""Tokens that others sign: an external token service, an identity provider, a CI system.

The keys come from the operator's setting alone, and each key has one algorithm: nothing that a token says of
itself (`alg`, `kid`, `jku`, `jwk`, `x5u`) does more than choose among them. Source: RFC 7515, 7517, 8725.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from registry.server.auth.tokens import LEEWAY_SECONDS, TOKEN_MAX_CHARACTERS, TokenInvalid

# Signatures by key pairs only: with a shared secret, whoever can verify can also sign.
_RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_READERS: dict[str, type[RSAAlgorithm] | type[ECAlgorithm] | type[OKPAlgorithm]] = {
    "RSA": RSAAlgorithm,
    "EC": ECAlgorithm,
    "OKP": OKPAlgorithm,
}
_OF_CURVE = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA_MIN_BITS = 2048
_KEYS_MAX = 100
_TRIED_MAX = 20
_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class KeysRefused(ValueError):
    """Something that holds no key to verify with; the sentence says why."""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A public key with the one algorithm that it is used with; `id` is None where it has none (a PEM file)."""

    id: str | None
    algorithm: str
    public: PublicKey


def read_pem(data: bytes) -> tuple[ForeignKey, ...]:
    """The public keys and certificates of a PEM file. Raises KeysRefused."""
    blocks = [(match[1], match[0]) for match in _PEM.finditer(data)]
    if any(b"PRIVATE" in label for label, _ in blocks):
        raise KeysRefused("it has a private key in it; only the public half belongs here")
    try:
        found = [_public(label, block) for label, block in blocks[:_KEYS_MAX]]
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeysRefused(str(error)) from None
    keys = tuple(ForeignKey(None, algorithm_of(key), key) for key in found)
    if not keys:
        raise KeysRefused("there is no public key and no certificate in it")
    return keys


def _public(label: bytes, block: bytes) -> PublicKey:
    if label == b"CERTIFICATE":
        key: object = x509.load_pem_x509_certificate(block).public_key()
    else:
        key = serialization.load_pem_public_key(block)
    if not isinstance(key, PublicKey):
        raise KeysRefused("only RSA, elliptic curve and Ed25519 keys are understood")
    return key


def algorithm_of(key: PublicKey) -> str:
    """The algorithm that a key without a word about it is used with. Raises KeysRefused."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < _RSA_MIN_BITS:
            raise KeysRefused(f"an RSA key of {key.key_size} bits is too short; {_RSA_MIN_BITS} are the least")
        return "RS256"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "EdDSA"
    if key.curve.name not in _OF_CURVE:
        raise KeysRefused(f"the curve {key.curve.name} is not used for tokens")
    return _OF_CURVE[key.curve.name]


def read_key_set(document: Any) -> tuple[ForeignKey, ...]:
    """The keys of a key set (RFC 7517) that can verify; others are passed over. Raises KeysRefused."""
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise KeysRefused('it is no key set: {"keys": [...]} is expected')
    keys = tuple(key for entry in entries[:_KEYS_MAX] if (key := _read_jwk(entry)) is not None)
    if not keys:
        raise KeysRefused("no key of it can verify a signature here")
    return keys


def read_key_set_text(data: bytes) -> tuple[ForeignKey, ...]:
    """The same from a file's bytes. Raises KeysRefused."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise KeysRefused(f"it is not JSON: {error}") from None
    return read_key_set(document)


def _read_jwk(entry: Any) -> ForeignKey | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or "d" in entry:
        return None
    reader, stated = _READERS.get(str(entry.get("kty"))), entry.get("alg")
    try:
        key: object = None if reader is None else reader.from_jwk(entry)
        if not isinstance(key, PublicKey):
            return None
        algorithm = algorithm_of(key)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if stated is not None and stated != algorithm:  # an RSA key says which of its family; others have one
        if not isinstance(key, rsa.RSAPublicKey) or str(stated) not in _RSA_ALGORITHMS:
            return None
        algorithm = str(stated)
    kid = entry.get("kid")
    return ForeignKey(kid if isinstance(kid, str) else None, algorithm, key)


def key_id(token: str) -> str | None:
    """The key that a token names, to look for it among ours; nothing else of its header is read.

    Raises TokenInvalid for what is no token.
    """
    try:
        if len(token) > TOKEN_MAX_CHARACTERS:
            raise jwt.InvalidTokenError("too long")
        kid = jwt.get_unverified_header(token).get("kid")
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError):
        raise _invalid() from None
    return kid if isinstance(kid, str) else None


def issuer_of(token: str) -> str:
    """What an unverified token says of its issuer: good for nothing but to choose whose keys to verify it with."""
    try:
        if len(token) > TOKEN_MAX_CHARACTERS:
            raise jwt.InvalidTokenError("too long")
        body = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError):
        raise _invalid() from None
    return str(body.get("iss", ""))


def candidates(keys: Iterable[ForeignKey], kid: str | None) -> list[ForeignKey]:
    """The keys that may have signed a token that names *kid*: that one, or all where either has no name."""
    return [key for key in keys if kid is None or key.id is None or key.id == kid][:_TRIED_MAX]


def verify(
    token: str,
    keys: Sequence[ForeignKey],
    issuer: str,
    audience: str,
    required: Collection[str],
    is_sole_audience: bool = False,
) -> dict[str, Any]:
    """What a token says, if one of *keys* signed it, *issuer* for *audience*, and it is good now.

    *required* claims must be there besides `iss`, `aud` and `exp`. With *is_sole_audience* it may be for nobody
    else. Raises TokenInvalid, always with the same words.
    """
    for key in keys:
        body = _verified(token, key, issuer, audience, required)
        if body is not None:
            if is_sole_audience and body["aud"] not in (audience, [audience]):
                break
            return body
    raise _invalid()


def _verified(
    token: str, key: ForeignKey, issuer: str, audience: str, required: Collection[str]
) -> dict[str, Any] | None:
    try:
        if len(token) > TOKEN_MAX_CHARACTERS:
            return None
        return jwt.decode(
            token,
            key.public,
            algorithms=[key.algorithm],
            issuer=issuer,
            audience=audience,
            leeway=LEEWAY_SECONDS,
            options={"require": ["iss", "aud", "exp", *required]},
        )
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def printable(value: object, limit: int) -> str:
    """A claim as text for a log or a name: whatever it says, it is one line, and every database takes it."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value)[:limit])


def _invalid() -> TokenInvalid:
    return TokenInvalid("the token is not valid here, or no longer")
