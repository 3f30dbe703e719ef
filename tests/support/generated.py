"""Requests that no client should send, made from a seed so that a failure can be had again."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.support.oci import DOCKER_IMAGE, OCI_IMAGE, OCI_INDEX

FIELDS = ["urls", "data", "platform", "Config", "LAYERS", "blobs", "manifests", "layers"]
UNICODE = ["ä", "名前", "\u2028", "\U0001f600", "\u202e", "\ufeff", "İ"]
ODD_BYTES = [
    b"\0",
    b"\x01",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"%",
    b"%zz",
    b"%00",
    b"%2e%2e",
]


_NO_WHITE_SPACE = bytes(byte if byte > 32 else 95 for byte in range(256))
_NO_CONTROLS = dict.fromkeys((*range(32), 127), "_")


_Parts = tuple[str, bytes, list[tuple[str, str]], bytes | None]


class Maker:
    """Makes requests; the same seed makes the same ones."""

    def __init__(self, seed: int, digests: list[str]) -> None:
        self.choose = random.Random(seed)
        self._digests = digests
        self.sessions: list[str] = []

    # --- parts

    def rarely(self, chance: float) -> bool:
        return self.choose.random() < chance

    def text(self, most: int = 40) -> str:
        """Any text at all."""
        choose = self.choose
        kinds: list[Callable[[], str]] = [
            lambda: "".join(choose.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=choose.randint(0, most))),
            lambda: "".join(chr(choose.randint(1, 0x2FF)) for _ in range(choose.randint(0, most))),
            lambda: choose.choice(UNICODE) * choose.randint(1, 3),
            lambda: choose.choice(
                ["", " ", "0", "-1", "null", "true", "../..", "\0", "a\nb", "'\"<>&;--", "${x}", "*"]
            ),
            lambda: "a" * choose.choice([127, 128, 129, 255, 256, 257, 1000, 5000]),
        ]
        return choose.choice(kinds)()

    def number(self) -> str:
        choose = self.choose
        edges = [0, 1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**18, 10**19, 10**40]
        odd = [
            "-1",
            "-0",
            "+1",
            "1.5",
            "1e3",
            "0x10",
            " 1",
            "1 ",
            "",
            "٣",
            "²",
            "NaN",
            "1_000",
            "0" * 30 + "1",
            "9" * 5000,
        ]
        return str(choose.choice(edges)) if self.rarely(0.6) else choose.choice(odd)

    def repository(self) -> str:
        choose = self.choose
        if self.rarely(0.8):
            return choose.choice(["fuzz/a", "fuzz/a", "fuzz/b", "fuzz"])
        kinds = [
            "/".join(["a"] * 128),
            "a" * 255,
            "a" * 256,
            "a/" * 2000 + "a",
            "UPPER/case",
            "a..b",
            "a__b",
            "a___b",
            "-a",
            "a-",
            "a//b",
            "/a",
            ".",
            "..",
            "../../etc/passwd",
            "a/../b",
            "a/manifests/b",
            "a/blobs/uploads",
            "a/tags/list",
            "v2",
            "_catalog",
            "",
            "a-" * 5000 + "!",
            self.text(),
        ]
        return choose.choice(kinds)

    def digest(self) -> str:
        choose = self.choose
        if self.rarely(0.75):
            return choose.choice(self._digests)
        known = choose.choice(self._digests)
        kinds = [
            known.upper(),
            known[:-1],
            known + "0",
            known.replace("sha256", "sha512"),
            known.replace("sha256", "md5"),
            known.replace(":", "%3A"),
            known.replace(":", ""),
            "sha256:",
            ":",
            "sha256:" + "g" * 64,
            "sha256:" + "0" * 64,
            "sha512:" + "0" * 128,
            "sha256:../../../../index.sqlite3",
            "sha256+b64u:" + "A" * 43,
            "a" * 2000 + ":b",
            self.text(),
        ]
        return choose.choice(kinds)

    def reference(self) -> str:
        tags = ["latest", "v1", "_", ".", "-", "a" * 128, "a" * 129, "latest/", "a b", "a:b"]
        return self.digest() if self.rarely(0.4) else self.choose.choice([*tags, self.text()])

    def session(self) -> str:
        if self.sessions and self.rarely(0.6):
            return self.choose.choice(self.sessions)
        kinds = ["", "00000000-0000-0000-0000-000000000000", "..", "../../index.sqlite3", "x" * 36, self.text()]
        return self.choose.choice(kinds)

    # --- the target

    def quoted(self, text: str) -> bytes:
        """*text* in a target: mostly as it should be, sometimes with needless or broken escapes, or raw."""
        style = self.choose.random()
        if style < 0.85:
            return quote(text, safe="/:@~+=,", errors="replace").encode()
        data = text.encode("utf-8", "surrogatepass")
        if style < 0.92:
            return b"".join(b"%%%02x" % byte if self.rarely(0.3) else bytes([byte]) for byte in data)
        if style < 0.97:
            return data.translate(_NO_WHITE_SPACE) + self.choose.choice(ODD_BYTES)
        return data

    def path(self) -> bytes:
        choose = self.choose
        quoted = self.quoted
        name = self.repository()
        kinds: list[Callable[[], bytes]] = [
            lambda: b"/v2/" + quoted(f"{name}/manifests/{self.reference()}"),
            lambda: b"/v2/" + quoted(f"{name}/blobs/{self.digest()}"),
            lambda: b"/v2/" + quoted(f"{name}/blobs/uploads/"),
            lambda: b"/v2/" + quoted(f"{name}/blobs/uploads/{self.session()}"),
            lambda: b"/v2/" + quoted(f"{name}/tags/list"),
            lambda: b"/v2/" + quoted(f"{name}/referrers/{self.digest()}"),
            lambda: b"/v2/_catalog",
            lambda: b"/v2/" + quoted(self.text()),
            lambda: choose.choice(
                [b"/v2", b"/v2/", b"/v2//", b"//v2/", b"/v2/.", b"/V2/", b"/v2/%2e%2e/", b"/v1/search", b"/"]
            ),
            lambda: choose.choice(
                [b"/healthz", b"/readyz", b"/token", b"*", b"http://other.test/v2/", b"/v2/?", b"/v2/#a"]
            ),
        ]
        made = choose.choices(kinds, weights=[6, 6, 4, 6, 3, 3, 2, 2, 1, 1])[0]()
        if self.rarely(0.01):
            made += b"/" + b"x" * choose.choice([1000, 10_000, 50_000])
        return made

    def query(self) -> bytes:
        choose = self.choose
        if self.rarely(0.4):
            return b""
        makers: dict[str, Callable[[], str]] = {
            "n": self.number,
            "last": self.text,
            "digest": self.digest,
            "mount": self.digest,
            "from": self.repository,
            "tag": self.reference,
            "artifactType": self.text,
            "digest-algorithm": lambda: choose.choice(["sha256", "sha512", "md5", self.text()]),
            "ns": self.text,
            "q": self.text,
            "scope": self.text,
            "": self.text,
        }
        count = choose.choice([1, 1, 1, 2, 3]) if not self.rarely(0.01) else choose.choice([101, 600])
        fields = []
        for _ in range(count):
            key = choose.choice(list(makers))
            fields.append(
                key.encode() + choose.choice([b"=", b"=", b"=", b"", b"=="]) + self.quoted(makers[key]())
            )
        return b"?" + choose.choice([b"&", b"&", b";", b"&&"]).join(fields)

    # --- headers

    def ranges(self) -> str:
        choose = self.choose

        def one() -> str:
            first, last = (self.number() if self.rarely(0.75) else "" for _ in range(2))
            return f"{first}-{last}"

        count = 1 if self.rarely(0.7) else choose.choice([2, 10, 500])
        unit = choose.choice(["bytes=", "bytes=", "bytes=", "bytes ", "items=", ""])
        return unit + ",".join(one() for _ in range(count))[:20_000]

    def content_range(self) -> str:
        choose = self.choose
        start, end = self.number(), self.number()
        kinds = [
            f"{start}-{end}",
            f"bytes {start}-{end}/*",
            f"bytes {start}-{end}/{self.number()}",
            "0-0",
            f"{start}",
            self.text(20),
        ]
        return choose.choice(kinds)

    def headers(self) -> list[tuple[str, str]]:
        choose = self.choose
        makers: list[tuple[str, Callable[[], str]]] = [
            ("Range", self.ranges),
            ("If-Range", lambda: f'"{self.digest()}"'),
            ("Content-Range", self.content_range),
            (
                "Accept",
                lambda: choose.choice(["*/*", OCI_IMAGE, DOCKER_IMAGE, ",".join([OCI_INDEX] * 300), self.text()]),
            ),
            (
                "If-None-Match",
                lambda: choose.choice(
                    ["*", f'"{self.digest()}"', f'W/"{self.digest()}"', "," * 2000, self.text()]
                ),
            ),
            ("If-Match", self.text),
            (
                "Content-Type",
                lambda: choose.choice([OCI_IMAGE, OCI_INDEX, "text/plain", f"{OCI_IMAGE}; a=b", "/", self.text()]),
            ),
            (
                "Authorization",
                lambda: choose.choice(
                    ["Basic !!!", "Bearer x.y.z", "Basic " + "QQ" * 3000, "Digest", self.text()]
                ),
            ),
            ("X-Forwarded-For", lambda: choose.choice(["1.2.3.4", "::1, " * 500, self.text()])),
            ("X-Forwarded-Proto", self.text),
            ("X-Forwarded-Host", self.text),
            ("Accept-Encoding", self.text),
            ("Cookie", lambda: "a=b; " * choose.choice([1, 500])),
            ("Origin", self.text),
            ("Expect", lambda: choose.choice(["100-continue", "200-ok", self.text()])),
            (
                "Connection",
                lambda: choose.choice(["keep-alive", "Upgrade", "close, keep-alive", "TE", self.text()]),
            ),
            ("Upgrade", lambda: choose.choice(["websocket", "h2c", self.text()])),
            ("TE", lambda: "trailers, deflate;q=0.5"),
            ("Docker-Content-Digest", self.digest),
            (f"X-{choose.randint(0, 9)}", self.text),
        ]
        count = choose.choices([0, 1, 2, 4, 60], weights=[20, 40, 30, 9, 1])[0]
        made = [(name, make()) for name, make in choose.choices(makers, k=count)]
        if self.rarely(0.05):
            return made
        return [(name, value.translate(_NO_CONTROLS)) for name, value in made]

    # --- bodies

    def document(self) -> bytes:
        """A manifest that was sound once."""
        choose = self.choose
        descriptor = {"mediaType": OCI_IMAGE, "digest": choose.choice(self._digests), "size": 2}
        base: dict[str, Any] = choose.choice(
            [
                {
                    "schemaVersion": 2,
                    "mediaType": OCI_IMAGE,
                    "config": dict(descriptor),
                    "layers": [dict(descriptor)],
                },
                {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [dict(descriptor)]},
                {"schemaVersion": 2, "mediaType": DOCKER_IMAGE, "config": dict(descriptor), "layers": []},
            ]
        )
        if self.rarely(0.5):
            base["subject"] = dict(descriptor)
            base["annotations"] = {"a": "b"}
            base["artifactType"] = "application/x"
        for _ in range(choose.randint(0, 3)):
            self._mutate(base)
        try:
            data = json.dumps(base, ensure_ascii=self.rarely(0.5)).encode("utf-8", "surrogatepass")
        except RecursionError:
            data = b"{}"
        return self._broken(data) if self.rarely(0.3) else data

    def value(self) -> Any:
        choose = self.choose
        kinds: list[Any] = [
            None,
            True,
            0,
            -1,
            2**63,
            2**64,
            10**400,
            1.5,
            1e308,
            float("nan"),
            float("inf"),
            "",
            [],
            {},
            [[]],
            "\ud800",
            "\0",
        ]
        if self.rarely(0.1):
            nested: Any = 1
            for _ in range(choose.choice([10, 200])):
                nested = [nested] if self.rarely(0.5) else {"a": nested}
            return nested
        return choose.choice([*kinds, self.text(), self.digest(), {"digest": self.digest(), "size": 1}])

    def _mutate(self, document: dict[str, Any]) -> None:
        choose = self.choose
        place: Any = document
        while isinstance(place, dict | list) and place and self.rarely(0.5):
            key = choose.choice(list(place)) if isinstance(place, dict) else choose.randrange(len(place))
            if not isinstance(place[key], dict | list):
                break
            place = place[key]
        if isinstance(place, list):
            place.extend([self.value()] * choose.choice([1, 1, 50]))
            return
        key = choose.choice([*place, *FIELDS, self.text()])
        if self.rarely(0.3):
            place.pop(key, None)
        else:
            place[key] = self.value()

    def _broken(self, data: bytes) -> bytes:
        choose = self.choose
        at = choose.randrange(len(data) + 1)
        kinds = [
            data[:at],
            data[at:],
            data[:at] + choose.choice(ODD_BYTES) + data[at:],
            data[:at] + choose.randbytes(4) + data[at + 4 :],
            b"\xef\xbb\xbf" + data,
            data.decode("utf-8", "replace").encode("utf-16"),
            data + data,
            data.replace(b'"', b"'"),
            data.replace(b'{"', b'{"schemaVersion":1,"', 1),
            b"[" * choose.choice([1000, 100_000]),
            b"",
        ]
        return choose.choice(kinds)

    def body(self) -> bytes | None:
        choose = self.choose
        kind = choose.random()
        if kind < 0.45:
            return None
        if kind < 0.8:
            return self.document()
        return choose.randbytes(choose.choice([0, 1, 100, 5000, 70_000]))

    # --- the whole

    def request(self) -> tuple[str, bytes, bool]:
        """Method, bytes, and whether the message has an end that all agree on, so that an answer must come."""
        method, target, headers, body = self._nearly_right() if self.rarely(0.4) else self._anything()
        framing, data, agreed = self._framing(body)
        head = b"\r\n".join(
            [
                method.encode() + b" " + target + b" HTTP/1.1",
                b"Host: registry.test",
                *(
                    f"{name}: {value}".encode("utf-8", "surrogatepass").replace(b"\r", b"")
                    for name, value in headers
                ),
                *framing,
            ]
        )
        return method, head + b"\r\n\r\n" + data, agreed

    def _anything(self) -> _Parts:
        usual = ["GET", "GET", "GET", "HEAD", "PUT", "PUT", "POST", "PATCH", "DELETE"]
        odd = ["OPTIONS", "TRACE", "PROPFIND", "M-SEARCH", "CONNECT", "QUERY", "get", "GETT", "", "G\0T", "PRI"]
        method = self.choose.choice(usual if self.rarely(0.97) else odd)
        return method, self.path() + self.query(), self.headers(), self.body()

    def _nearly_right(self) -> _Parts:
        """What a client sends, but for one thing or two."""
        choose = self.choose
        known = choose.choice(self._digests)
        data = choose.randbytes(choose.choice([0, 1, 300, 70_000]))
        right = f"sha256:{hashlib.sha256(data).hexdigest()}"
        digest = right if self.rarely(0.7) else self.digest()
        session = self.quoted(f"/v2/fuzz/a/blobs/uploads/{self.session()}")
        whole = b"/v2/fuzz/a/blobs/uploads/?digest=" + self.quoted(digest)
        blob = self.quoted(f"/v2/fuzz/a/blobs/{known}")
        manifest = self.quoted(f"/v2/fuzz/a/manifests/{self.reference()}")
        kind = ("Content-Type", choose.choice([OCI_IMAGE, OCI_INDEX, DOCKER_IMAGE]))
        kinds: list[_Parts] = [
            ("GET", blob, [("Range", self.ranges())], None),
            ("GET", blob, [("Range", f"bytes={choose.randint(0, 4000)}-{choose.randint(0, 4000)}")], None),
            ("GET", blob, [("If-None-Match", f'"{choose.choice([known, self.digest()])}"')], None),
            ("POST", whole, self.headers(), data),
            ("PATCH", session, [("Content-Range", self.content_range())], data),
            ("PATCH", session, [], data),
            ("PUT", session + b"?digest=" + self.quoted(digest), [], data),
            ("GET", session, [], None),
            ("PUT", manifest, [kind], self.document()),
            ("PUT", manifest + self.query(), [kind], self.document()),
            ("PUT", manifest, [], self.document()),
            ("GET", manifest, self.headers(), None),
            ("POST", b"/v2/fuzz/b/blobs/uploads/" + self.query(), [], None),
        ]
        return choose.choice(kinds)

    def _framing(self, body: bytes | None) -> tuple[list[bytes], bytes, bool]:
        """The lines that say how long the body is, and the body as it is sent."""
        choose = self.choose
        if body is None:
            return [], b"", True
        length = b"%d" % len(body)
        if self.rarely(0.9):
            if self.rarely(0.7):
                return [b"Content-Length: " + length], body, True
            half = len(body) // 2
            pieces = b"".join(
                b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:half], body[half:]) if piece
            )
            return [b"Transfer-Encoding: chunked"], pieces + b"0\r\n\r\n", True
        kinds = [
            [b"Content-Length: " + length, b"Content-Length: 3"],
            [b"Content-Length: -1"],
            [b"Content-Length: " + self.number().encode("utf-8")],
            [b"Content-Length: " + length, b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding: gzip, chunked"],
            [b"Transfer-Encoding: chunked, chunked"],
            [b"Transfer-Encoding: identity", b"Content-Length: " + length],
            [b"Transfer-Encoding : chunked"],
            [b"Transfer-Encoding:\x0bchunked"],
            [],
        ]
        return choose.choice(kinds), body, False
