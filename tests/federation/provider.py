"""A real OpenID Connect provider on loopback, which signs real tokens, and misbehaves when it is told to.

`python -m tests.federation.provider PORT` serves until it is ended. Tests drive it over `/_control`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

import httpx
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.support.server import free_port

CLIENT_ID, CLIENT_SECRET = "hythe at corp", "s3cret+/& of the client"
Claims = dict[str, Any]


class Key:
    """A key pair under an id."""

    def __init__(self, kid: str | None, algorithm: str = "RS256") -> None:
        self.kid = kid
        self.algorithm = algorithm
        made: Any = {
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }[algorithm]()
        self.private = made

    def sign(self, claims: Claims, **header: Any) -> str:
        """A token; *header* is added to what has to be in it."""
        named = {} if self.kid is None else {"kid": self.kid}
        return jwt.encode(claims, self.private, self.algorithm, {**named, **header})

    def jwk(self) -> dict[str, Any]:
        """Its public half."""
        kind: Any = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[self.algorithm]
        named = {} if self.kid is None else {"kid": self.kid}
        return {
            **kind.to_jwk(self.private.public_key(), as_dict=True),
            **named,
            "use": "sig",
            "alg": self.algorithm,
        }

    def public_pem(self) -> bytes:
        """Its public half as PEM."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def by_hand(claims: Claims, header: Claims, sign: Callable[[bytes], bytes]) -> str:
    """A token that no library would make."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    signature = base64.urlsafe_b64encode(sign(b".".join(parts))).rstrip(b"=")
    return b".".join([*parts, signature]).decode()


def forge(how: str, key: Key, claims: Claims, jku: str = "http://127.0.0.1:9/keys") -> str:
    """*claims* in a token that is wrong in one way; `FORGERIES` lists the ways."""
    now = int(time.time())
    stranger = Key(key.kid, key.algorithm)
    changed = {
        "wrong_aud": {"aud": "somebody-else"},
        "wrong_iss": {"iss": "https://evil.example"},
        "issuer_with_slash": {"iss": f"{claims.get('iss')}/"},
        "expired": {"exp": now - 120},
        "not_yet": {"nbf": now + 300},
        "of_the_future": {"iat": now + 300},
        "expires_as_text": {"exp": "tomorrow"},
        "aud_as_object": {"aud": {claims.get("aud", ""): 1} if isinstance(claims.get("aud"), str) else {}},
    }
    if how in changed:
        return key.sign({**claims, **changed[how]})
    if how.startswith("without_"):
        return key.sign({name: value for name, value in claims.items() if name != how.removeprefix("without_")})
    header = {"typ": "JWT", "kid": key.kid}

    def with_public_key(data: bytes) -> bytes:
        return hmac.digest(key.public_pem(), data, hashlib.sha256)

    made: dict[str, Callable[[], str]] = {
        "alg_none": lambda: by_hand(claims, {**header, "alg": "none"}, lambda _: b""),
        "alg_None": lambda: by_hand(claims, {**header, "alg": "None"}, lambda _: b""),
        "hs256_with_public_key": lambda: by_hand(claims, {**header, "alg": "HS256"}, with_public_key),
        "other_key": lambda: stranger.sign(claims),
        "unknown_kid": lambda: Key("unknown", key.algorithm).sign(claims),
        "kid_path": lambda: Key("../../../../../../dev/null", key.algorithm).sign(claims),
        "kid_sql": lambda: Key("' OR 1=1 --", key.algorithm).sign(claims),
        "kid_number": lambda: by_hand(claims, {"alg": key.algorithm, "kid": 7}, lambda _: b"x"),
        "jku": lambda: Key("evil", key.algorithm).sign(claims, jku=jku, x5u=jku),
        "jku_and_known_kid": lambda: stranger.sign(claims, jku=jku, x5u=jku),
        "embedded_jwk": lambda: stranger.sign(claims, jwk=stranger.jwk()),
        "critical": lambda: key.sign(claims, crit=["exp"]),
        "cut_signature": lambda: key.sign(claims)[:-8],
        "no_signature": lambda: key.sign(claims).rpartition(".")[0] + ".",
        "other_payload": lambda: _with_other_payload(key.sign(claims)),
        "nested_header": lambda: (
            base64.urlsafe_b64encode(b'{"alg":' + b"[" * 9000).rstrip(b"=").decode() + ".e30.AA"
        ),
        "too_long": lambda: key.sign({**claims, "more": "x" * 40_000}),
        "no_token": lambda: "no-token-at-all",
    }
    return made[how]()


def _with_other_payload(token: str) -> str:
    head, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["sub"] = "admin"
    return ".".join((head, base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode(), signature))


FORGERIES = [
    *("wrong_aud", "wrong_iss", "issuer_with_slash", "expired", "not_yet", "of_the_future", "expires_as_text"),
    *("aud_as_object", "without_aud", "without_iss", "without_exp", "without_iat", "alg_none", "alg_None"),
    *("hs256_with_public_key", "other_key", "unknown_kid", "kid_path", "kid_sql", "kid_number", "jku"),
    *("jku_and_known_kid", "embedded_jwk", "critical", "cut_signature", "no_signature", "other_payload"),
    *("nested_header", "too_long", "no_token"),
]


class State:
    """What the provider knows and how it is told to behave."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = threading.Lock()
        self.keys = [Key("k1")]
        self.reset()

    def reset(self) -> None:
        """Behave well again, with the keys of now."""
        self.user: Claims = {"sub": "0001", "preferred_username": "alice", "groups": []}
        self.id_token = "right"  # or a forgery, or one of the ways below
        self.keys_answer = "right"
        self.description: Claims = {}
        self.in_userinfo: list[str] = []
        self.userinfo_subject: str | None = None
        self.redirects = ["*"]
        self.error = ""
        self.hits: dict[str, int] = {}
        self.codes: dict[str, dict[str, str]] = {}
        self.access_tokens: set[str] = set()
        self.auth = "client_secret_basic"

    def control(self, change: Claims) -> Claims:
        """Obey a test."""
        if change.pop("reset", False):
            self.reset()
        rotated = change.pop("rotate", None)
        if rotated:
            self.keys = [Key(f"k{secrets.token_hex(4)}", rotated)]
        minted = change.pop("mint", None)
        for name, value in change.items():
            assert hasattr(self, name), name
            setattr(self, name, value)
        token = None
        if minted is not None:
            how = minted.get("how")
            token = forge(how, self.keys[0], minted["claims"]) if how else self.keys[0].sign(minted["claims"])
        return {"hits": self.hits, "token": token}

    def describe(self) -> Claims:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "userinfo_endpoint": f"{self.url}/userinfo",
            "token_endpoint_auth_methods_supported": [self.auth],
            **self.description,
        }

    def identity_token(self, code: dict[str, str]) -> str:
        now = int(time.time())
        claims: Claims = {
            "iss": self.url,
            "aud": CLIENT_ID,
            "exp": now + 300,
            "iat": now,
            "nonce": code["nonce"],
            **{name: value for name, value in self.user.items() if name not in self.in_userinfo},
        }
        ways: dict[str, Claims] = {
            "right": {},
            "wrong_nonce": {"nonce": "x" * 43},
            "no_nonce": {"nonce": None},
            "aud_list": {"aud": [CLIENT_ID]},
            "aud_and_others": {"aud": [CLIENT_ID, "somebody-else"]},
            "aud_and_others_given_to_us": {"aud": [CLIENT_ID, "somebody-else"], "azp": CLIENT_ID},
            "given_to_another": {"azp": "somebody-else"},
            "empty_sub": {"sub": ""},
            "sub_as_number": {"sub": 7},
            "sub_with_control": {"sub": "a\x00b"},
            "sub_surrogate": {"sub": "\ud800"},
            "long_sub": {"sub": "x" * 256},
        }
        if self.id_token in ways:
            return self.keys[0].sign({**claims, **ways[self.id_token]})
        return forge(self.id_token, self.keys[0], claims)


class Handler(BaseHTTPRequestHandler):
    """The HTTP side; `serve` gives it the self.state."""

    state: State
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode())

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        with self.state.lock:
            self.state.hits[parts.path] = self.state.hits.get(parts.path, 0) + 1
        if parts.path == "/.well-known/openid-configuration":
            self._json(self.state.describe())
        elif parts.path == "/keys":
            self._keys()
        elif parts.path == "/authorize":
            self._authorize({name: values[0] for name, values in parse_qs(parts.query).items()})
        elif parts.path == "/userinfo":
            self._userinfo()
        else:
            self._json({"error": "not_found"}, 404)

    def _keys(self) -> None:
        right = json.dumps({"keys": [key.jwk() for key in self.state.keys]}).encode()
        secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "k1", "alg": "HS256"}
        answers: dict[str, tuple[int, bytes, dict[str, str]]] = {
            "right": (200, right, {}),
            "redirect": (302, b"", {"Location": f"{self.state.url}/elsewhere"}),
            "huge": (200, right[:-1] + b" " * (2 << 20) + b"}", {}),
            "compressed": (200, right, {"Content-Encoding": "gzip"}),
            "nested": (200, b"[" * 100_000, {}),
            "symmetric": (200, json.dumps({"keys": [secret]}).encode(), {}),
            "gone": (503, b'{"error": "server_error"}', {}),
        }
        if self.state.keys_answer == "slow":
            self._drip(right)
        else:
            self._send(*answers[self.state.keys_answer])

    def _drip(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            for letter in body:
                self.wfile.write(bytes([letter]))
                time.sleep(0.5)

    def _authorize(self, query: dict[str, str]) -> None:
        right = (
            query.get("client_id") == CLIENT_ID
            and query.get("response_type") == "code"
            and "openid" in query.get("scope", "").split()
            and query.get("code_challenge_method") == "S256"
            and ("*" in self.state.redirects or query.get("redirect_uri") in self.state.redirects)
        )
        if not right:
            self._json({"error": "invalid_request"}, 400)
            return
        answer = {"state": query["state"], "iss": self.state.url}
        if self.state.error:
            answer["error"] = self.state.error
        else:
            answer["code"] = secrets.token_urlsafe(16)
            self.state.codes[answer["code"]] = query
        self._send(302, b"", {"Location": f"{query['redirect_uri']}?{urlencode(answer)}"})

    def _userinfo(self) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in self.state.access_tokens:
            self._json({"error": "invalid_token"}, 401)
            return
        more = {name: self.state.user[name] for name in self.state.in_userinfo if name in self.state.user}
        self._json({"sub": self.state.userinfo_subject or self.state.user["sub"], **more})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/_control":
            with self.state.lock:
                self._json(self.state.control(json.loads(body)))
                return
        with self.state.lock:
            self.state.hits[self.path] = self.state.hits.get(self.path, 0) + 1
        if self.path == "/token":
            self._token({name: values[0] for name, values in parse_qs(body.decode()).items()})
        else:
            self._json({"error": "not_found"}, 404)

    def _client(self, form: dict[str, str]) -> tuple[str, str]:
        header = self.headers.get("Authorization") or ""
        if self.state.auth == "client_secret_post" or not header:
            return form.get("client_id", ""), form.get("client_secret", "")
        name, _, secret = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
        return unquote_plus(name), unquote_plus(secret)

    def _token(self, form: dict[str, str]) -> None:
        if self._client(form) != (CLIENT_ID, CLIENT_SECRET):
            self._json({"error": "invalid_client"}, 401)
            return
        code = self.state.codes.pop(form.get("code", ""), None)  # good for one time
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        right = (
            code is not None
            and form.get("grant_type") == "authorization_code"
            and form.get("redirect_uri") == code["redirect_uri"]
            and challenge.rstrip(b"=").decode() == code["code_challenge"]
        )
        if not right or code is None:
            self._json({"error": "invalid_grant"}, 400)
            return
        access_token = secrets.token_urlsafe(16)
        self.state.access_tokens.add(access_token)
        token = self.state.identity_token(code)
        self._json({"access_token": access_token, "token_type": "Bearer", "expires_in": 300, "id_token": token})


class Provider:
    """The provider's process, as tests hold it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        self.process = subprocess.Popen([sys.executable, "-m", "tests.federation.provider", str(self.port)])
        deadline = time.monotonic() + 30
        while True:
            try:
                self.control()
                return
            except httpx.TransportError:
                assert self.process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def control(self, **change: Any) -> Claims:
        """Change how it behaves; returns how often each path was asked for."""
        answer = self.http.post("/_control", content=json.dumps(change).encode())
        answer.raise_for_status()
        return dict(answer.json())

    def hits(self, path: str) -> int:
        """How often a path was asked for."""
        return int(self.control()["hits"].get(path, 0))

    def mint(self, claims: Claims, how: str | None = None) -> str:
        """A token of its present key, or a forgery."""
        return str(self.control(mint={"claims": claims, "how": how})["token"])

    def stop(self) -> None:
        """End the process."""
        self.http.close()
        self.process.kill()
        self.process.wait(30)


def main() -> None:
    port = int(sys.argv[1])
    Handler.state = State(f"http://127.0.0.1:{port}")
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
