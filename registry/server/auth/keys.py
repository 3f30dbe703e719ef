"""Signing keys: made by the registry, ES256, kept in the index; published as a key set (RFC 7517)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

ALGORITHM = "ES256"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair under its id; `private_pem` is PKCS #8, unencrypted."""

    id: str
    private_pem: str

    @property
    def private(self) -> ec.EllipticCurvePrivateKey:
        """The key that signs."""
        return _load(self.private_pem)

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        """The key that verifies."""
        return _load(self.private_pem).public_key()

    def jwk(self) -> dict[str, Any]:
        """Its public half as the key set lists it."""
        found: dict[str, Any] = ECAlgorithm.to_jwk(self.public, as_dict=True)
        return {**found, "kid": self.id, "use": "sig", "alg": ALGORITHM}


@lru_cache(maxsize=16)
def _load(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise jwt.InvalidKeyError("a signing key is not of an elliptic curve")
    return key


def new_key() -> SigningKey:
    """A new key pair on P-256; its id is the thumbprint of RFC 7638."""
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    jwk: dict[str, Any] = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    required = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
    canonical = json.dumps(required, separators=(",", ":"), sort_keys=True)
    return SigningKey(hashlib.sha256(canonical.encode()).hexdigest()[:32], pem)
