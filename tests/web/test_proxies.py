"""Who a client is behind proxies: the word of a trusted one counts, and nobody else's."""

from __future__ import annotations

import pytest

from registry.oci.errors import ConfigurationError
from registry.server.web.proxies import Proxies

CLIENT, PROXY, EDGE, STRANGER = "203.0.113.9", "10.0.0.1", "10.0.0.2", "198.51.100.7"


def scope(peer: str | None, *forwarded: str, scheme: str = "http", **headers: str) -> dict[str, object]:
    """A request from *peer*; each of *forwarded* is one X-Forwarded-For line."""
    lines = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    lines += [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"client": None if peer is None else (peer, 4711), "headers": lines, "scheme": scheme}


class TestClient:
    @pytest.mark.parametrize(
        ("trusted", "peer", "forwarded", "client"),
        [
            # nobody is trusted
            ([], CLIENT, [], CLIENT),
            ([], PROXY, [CLIENT], PROXY),
            ([], None, [CLIENT], "local"),
            # one trusted proxy
            ([PROXY], CLIENT, [], CLIENT),
            ([PROXY], PROXY, [CLIENT], CLIENT),
            ([PROXY], PROXY, [], PROXY),
            ([PROXY], PROXY, [""], PROXY),
            ([PROXY], PROXY, [" , ,"], PROXY),
            # a client that writes the header itself
            ([PROXY], STRANGER, [CLIENT], STRANGER),
            ([PROXY], PROXY, [f"1.1.1.1, {STRANGER}"], STRANGER),
            ([PROXY], PROXY, [f"{PROXY}, {STRANGER}"], STRANGER),
            ([PROXY], PROXY, ["1.1.1.1", STRANGER], STRANGER),
            # a chain of trusted ones, in one line or in a line each
            ([PROXY, EDGE], PROXY, [f"{CLIENT}, {EDGE}"], CLIENT),
            (["10.0.0.0/8"], PROXY, [f"{CLIENT}, {EDGE}"], CLIENT),
            (["10.0.0.0/8"], PROXY, [CLIENT, EDGE], CLIENT),
            (["10.0.0.0/8"], PROXY, [f"1.1.1.1, {CLIENT}, {EDGE}"], CLIENT),
            (["10.0.0.0/8"], PROXY, ["1.1.1.1", f"{CLIENT}, {EDGE}"], CLIENT),
            (["10.0.0.0/8"], PROXY, [f"{CLIENT},{EDGE},{PROXY}"], CLIENT),
            # all of the chain is trusted: the farthest
            (["10.0.0.0/8"], PROXY, [f"10.0.0.3, {EDGE}"], "10.0.0.3"),
            # a hop that is no address is nobody trusted
            (["10.0.0.0/8"], PROXY, [f"unknown, {EDGE}"], "unknown"),
            (["10.0.0.0/8"], PROXY, ["10.0.0.x"], "10.0.0.x"),
            (["10.0.0.0/8"], PROXY, ["x" * 500], "x" * 64),
            # with ports
            ([PROXY], PROXY, [f"{CLIENT}:4711"], CLIENT),
            ([PROXY, EDGE], PROXY, [f"{CLIENT}:1, {EDGE}:2"], CLIENT),
            ([PROXY], PROXY, ["[2001:db8::9]:4711"], "2001:db8::9"),
            ([PROXY], PROXY, ["[2001:db8::9]"], "2001:db8::9"),
            # IPv6
            ([PROXY], PROXY, ["2001:db8::9"], "2001:db8::9"),
            (["2001:db8::/32"], "2001:db8::1", [CLIENT], CLIENT),
            (["2001:db8::1"], "2001:DB8:0::1", [CLIENT], CLIENT),
            (["2001:db8::1"], "2001:db8::2", [CLIENT], "2001:db8::2"),
            (["10.0.0.0/8"], f"::ffff:{PROXY}", [CLIENT], CLIENT),
            (["10.0.0.0/8"], f"::ffff:{PROXY}", [f"{CLIENT}, ::ffff:{EDGE}"], CLIENT),
            (["10.0.0.0/8"], f"::ffff:{STRANGER}", [CLIENT], f"::ffff:{STRANGER}"),
            # a host's bits in a network
            (["10.0.0.77/8"], PROXY, [CLIENT], CLIENT),
            # everybody is trusted: the nearest hop that was named
            (["*"], STRANGER, [f"1.1.1.1, {CLIENT}"], CLIENT),
            (["*"], None, [CLIENT], CLIENT),
            (["*"], STRANGER, [], STRANGER),
        ],
    )
    def test_it_is_the_first_from_here_that_is_no_trusted_proxy(
        self, trusted: list[str], peer: str | None, forwarded: list[str], client: str
    ) -> None:
        assert Proxies(trusted).client(scope(peer, *forwarded)) == client

    def test_bytes_that_are_no_text_are_no_fault(self) -> None:
        request = scope(PROXY)
        request["headers"] = [(b"x-forwarded-for", bytes(range(128, 256)))]
        assert Proxies([PROXY]).client(request)

    def test_a_header_of_any_length_is_read(self) -> None:
        assert Proxies(["10.0.0.0/8"]).client(scope(PROXY, CLIENT, ", ".join([EDGE] * 5000))) == CLIENT


class TestBase:
    @pytest.mark.parametrize(
        ("trusted", "peer", "headers", "base"),
        [
            ([], CLIENT, {"host": "r.example:5000"}, ("http", "r.example:5000")),
            ([], CLIENT, {}, ("http", "")),
            (
                [],
                PROXY,
                {"host": "r", "x_forwarded_proto": "https", "x_forwarded_host": "evil.example"},
                ("http", "r"),
            ),
            (
                [PROXY],
                STRANGER,
                {"host": "r", "x_forwarded_proto": "https", "x_forwarded_host": "evil.example"},
                ("http", "r"),
            ),
            (
                [PROXY],
                PROXY,
                {"host": "inner", "x_forwarded_proto": "https", "x_forwarded_host": "r.example"},
                ("https", "r.example"),
            ),
            (
                [PROXY],
                PROXY,
                {"host": "r", "x_forwarded_proto": "ftp, https", "x_forwarded_host": "evil.example, r.example"},
                ("https", "r.example"),
            ),
            ([PROXY], PROXY, {"host": "r", "x_forwarded_proto": "javascript"}, ("http", "r")),
            ([PROXY], PROXY, {"host": "r"}, ("http", "r")),
            (["*"], None, {"host": "r", "x_forwarded_proto": "https"}, ("https", "r")),
        ],
    )
    def test_it_is_what_the_client_wrote_if_somebody_trusted_says_so(
        self, trusted: list[str], peer: str | None, headers: dict[str, str], base: tuple[str, str]
    ) -> None:
        assert Proxies(trusted).base(scope(peer, **headers)) == base

    def test_tls_without_a_proxy_is_https(self) -> None:
        assert Proxies([]).base(scope(CLIENT, scheme="https", host="r")) == ("https", "r")


@pytest.mark.parametrize("text", ["nonsense", "10.0.0.0/33", "proxy.example", "", "10.0.0", "::1/129"])
def test_what_is_no_address_cannot_be_trusted(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"server\.trusted_proxies"):
        Proxies([PROXY, text])
