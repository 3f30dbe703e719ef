"""Servers that cut, lie, dawdle, refuse or send one elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import Denied, DigestInvalid, HytheError, ManifestTooLarge, SizeInvalid
from registry.oci.reference import ImageName, Tag
from registry.transfer.copy import copy
from registry.transfer.download import Ranging
from registry.transfer.errors import AnswerInvalid, Cut, Unreachable
from registry.transfer.host import Patience
from registry.transfer.hosts import Endpoint, HostFile, Mirror, Registries, Rule
from registry.transfer.http import Http
from registry.transfer.reach import Reach
from registry.transfer.target import Source, from_bytes, read_all
from tests.support.faulty import Answer, Asked, Faulty, Script, faulty
from tests.support.proxy import Proxy
from tests.support.server import Server
from tests.transfer.conftest import MakeWay
from tests.transfer.memory import Memory
from tests.transfer.test_remote import in_pieces

DATA = os.urandom(300_000)
BLOB = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))
MANIFEST = b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % media.OCI_INDEX.encode()
OK_PING = Answer(200, {"Docker-Distribution-Api-Version": "registry/2.0"})


def serving(get: Script) -> Script:
    """A script for blobs alone; the first question, whether this is a registry, is answered."""
    return lambda asked: OK_PING if asked.path == "/v2/" else get(asked)


def part(asked: Asked, data: bytes = DATA, **more: object) -> Answer:
    """What a server that honours ranges answers."""
    wanted = asked.range()
    if wanted is None:
        return Answer(200, {}, data, **more)  # type: ignore[arg-type]
    first, last = wanted[0], min(wanted[1], len(data) - 1)
    headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
    return Answer(206, headers, data[first : last + 1], **more)  # type: ignore[arg-type]


def fetch(way: Reach, host: str, blob: Descriptor = BLOB, start: int = 0) -> bytes:
    async def main() -> bytes:
        async with way:
            source: Source = way.source(ImageName.parse(f"{host}/team/web"))
            return b"".join([piece async for piece in source.fetch(blob, start)])

    return asyncio.run(main())


def ask(way: Reach, host: str, question: Callable[[Source], Awaitable[object]]) -> object:
    async def main() -> object:
        async with way:
            return await question(way.source(ImageName.parse(f"{host}/team/web")))

    return asyncio.run(main())


# --- downloads


def test_a_download_that_is_cut_goes_on_where_it_was(make_way: MakeWay) -> None:
    with faulty(serving(lambda asked: part(asked, cut_at=100_000))) as server:
        assert fetch(make_way(), server.host) == DATA
        asked = server.requests(part="/blobs/")
        assert asked[0].range() is None
        starts = [found[0] for one in asked[1:] if (found := one.range())]
        assert starts == sorted(starts)
        assert all(start > 0 for start in starts)


def test_a_server_that_ignores_ranges_is_read_from_the_start_and_what_is_known_dropped(make_way: MakeWay) -> None:
    cuts = iter([100_000, None])
    with faulty(serving(lambda asked: Answer(200, {}, DATA, cut_at=next(cuts)))) as server:
        assert fetch(make_way(), server.host) == DATA
    with faulty(serving(lambda asked: Answer(200, {}, DATA))) as server:
        assert fetch(make_way(), server.host, start=250_000) == DATA[250_000:]


def test_a_download_that_never_gets_on_is_given_up(make_way: MakeWay) -> None:
    with faulty(serving(lambda asked: Answer(200, {}, DATA, cut_at=0))) as server:
        with pytest.raises(Cut):
            fetch(make_way(), server.host)
        assert 2 <= len(server.requests(part="/blobs/")) <= 20


def test_content_of_another_length_is_refused_before_it_is_read(make_way: MakeWay) -> None:
    with faulty(serving(lambda asked: Answer(200, {}, DATA + b"more"))) as server, pytest.raises(SizeInvalid):
        fetch(make_way(), server.host)


def test_a_part_about_other_bytes_is_refused(make_way: MakeWay) -> None:
    def wrong(asked: Asked) -> Answer:
        return Answer(206, {"Content-Range": f"bytes 0-9/{len(DATA)}"}, DATA[:10])

    with faulty(serving(wrong)) as server, pytest.raises(AnswerInvalid):
        fetch(make_way(), server.host, start=50_000)


def test_wrong_bytes_are_noticed_by_who_reads_them_all(make_way: MakeWay) -> None:
    with faulty(serving(lambda asked: Answer(200, {}, bytes(len(DATA))))) as server, pytest.raises(DigestInvalid):
        ask(make_way(), server.host, lambda source: read_all(source, BLOB))


def test_a_slow_stream_becomes_several_ranges(make_way: MakeWay) -> None:
    quick = Ranging(least_bytes=100_000, part_bytes=50_000, at_once=3, patience_seconds=0.0)
    script = serving(lambda asked: part(asked, pause_seconds=0.02))
    with faulty(script) as server:
        assert fetch(make_way(ranging=quick), server.host) == DATA
        ranges = [one.range() for one in server.requests(part="/blobs/")]
        assert len([each for each in ranges if each and each[1] - each[0] == 49_999]) >= 3


def test_a_slow_stream_of_a_server_that_ignores_ranges_stays_one(make_way: MakeWay) -> None:
    quick = Ranging(least_bytes=100_000, part_bytes=50_000, at_once=3, patience_seconds=0.0)
    with faulty(serving(lambda asked: Answer(200, {}, DATA, pause_seconds=0.01))) as server:
        assert fetch(make_way(ranging=quick), server.host) == DATA
        assert len(server.requests(part="/blobs/")) == 2  # the download, and the question


def test_ranges_that_are_cut_are_gone_on_with_one_by_one(make_way: MakeWay) -> None:
    quick = Ranging(least_bytes=100_000, part_bytes=50_000, at_once=3, patience_seconds=0.0)
    with faulty(serving(lambda asked: part(asked, cut_at=20_000 if asked.range() else 70_000))) as server:
        assert fetch(make_way(ranging=quick), server.host) == DATA


def test_a_server_that_falls_silent_is_asked_again(make_way: MakeWay) -> None:
    pauses = iter([5.0])
    script = serving(lambda asked: part(asked, pause_seconds=next(pauses, 0.0)))
    with faulty(script) as server:
        assert fetch(make_way(idle_seconds=0.3), server.host) == DATA


# --- answers


def test_a_busy_server_is_asked_again_when_it_said(make_way: MakeWay) -> None:
    answers = iter([Answer(503), Answer(429, {"Retry-After": "1"}), Answer(500)])
    began = time.monotonic()
    with faulty(serving(lambda asked: next(answers, part(asked)))) as server:
        assert fetch(make_way(), server.host) == DATA
        assert len(server.requests(part="/blobs/")) == 4
    assert time.monotonic() - began >= 1.0


def test_a_server_that_stays_busy_is_given_up_with_its_words(make_way: MakeWay) -> None:
    busy = Answer(503, {}, b'{"errors":[{"code":"UNAVAILABLE","message":"back\\u001bsoon"}]}')
    with faulty(serving(lambda asked: busy)) as server:
        with pytest.raises(HytheError, match="team/web: the registry answered 503: back soon"):
            fetch(make_way(), server.host)
        assert len(server.requests(part="/blobs/")) == 4


def test_a_header_does_not_outrank_a_digest_that_was_asked_for(make_way: MakeWay) -> None:
    other = Digest.of(b"other")
    headers = {"Content-Type": media.OCI_INDEX, "Docker-Content-Digest": other}
    with faulty(serving(lambda asked: Answer(200, headers, MANIFEST))) as server:
        wanted = Digest.of(b"what is wanted")
        found = ask(make_way(), server.host, lambda source: source.resolve(wanted))
        assert isinstance(found, Descriptor)
        assert found.digest == wanted
        with pytest.raises(DigestInvalid):
            ask(make_way(), server.host, lambda source: read_all(source, found))
        described = Descriptor(media.OCI_INDEX, other, len(MANIFEST))
        with pytest.raises(DigestInvalid):
            ask(make_way(), server.host, lambda source: read_all(source, described))


def test_a_registry_without_digests_in_its_headers_is_believed_by_its_bytes(make_way: MakeWay) -> None:
    with faulty(serving(lambda asked: Answer(200, {"Content-Type": media.OCI_INDEX}, MANIFEST))) as server:
        found = ask(make_way(), server.host, lambda source: source.resolve(Tag("v1")))
        assert found == Descriptor(media.OCI_INDEX, Digest.of(MANIFEST), len(MANIFEST))


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_manifest_above_4_mib_is_refused(make_way: MakeWay, method: str) -> None:
    def script(asked: Asked) -> Answer:
        headers = {"Content-Type": media.OCI_INDEX}
        if method == "HEAD":
            headers["Docker-Content-Digest"] = Digest.of(b"")
        return Answer(200, headers, b" " * ((4 << 20) + 1))

    with faulty(serving(script)) as server, pytest.raises(ManifestTooLarge):
        ask(make_way(), server.host, lambda source: source.resolve(Tag("v1")))


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"a":1}', b"\xff", b'{"schemaVersion":2,"schemaVersion":2}'])
def test_what_is_no_manifest_is_refused_in_one_line(make_way: MakeWay, body: bytes) -> None:
    with faulty(serving(lambda asked: Answer(200, {"Content-Type": "text/html"}, body))) as server:
        with pytest.raises(AnswerInvalid) as failed:
            ask(make_way(), server.host, lambda source: source.resolve(Tag("v1")))
        assert "\n" not in str(failed.value)


# --- elsewhere


def test_credentials_never_follow_a_redirect_to_another_host(make_way: MakeWay) -> None:
    with faulty(lambda asked: Answer(200, {}, DATA)) as store:

        def script(asked: Asked) -> Answer:
            if "authorization" not in asked.headers:
                return Answer(401, {"WWW-Authenticate": "Basic realm=x"})
            return Answer(307, {"Location": f"{store.url}/bucket?signature=1"})

        with faulty(script) as server:
            way = make_way({server.host: ("ann", "secret")})
            assert fetch(way, server.host) == DATA
        assert [each.path for each in store.asked] == ["/bucket"]
        assert not any("authorization" in each.headers for each in store.asked)


def test_another_host_that_asks_for_credentials_gets_none(make_way: MakeWay) -> None:
    with faulty(lambda asked: Answer(401, {"WWW-Authenticate": "Basic realm=x"})) as thief:
        script = serving(lambda asked: Answer(302, {"Location": f"{thief.url}/x"}))
        with faulty(script) as server, pytest.raises(HytheError):
            fetch(make_way({server.host: ("ann", "secret"), thief.host: ("ann", "other")}), server.host)
        assert len(thief.asked) == 1
        assert "authorization" not in thief.asked[0].headers


@pytest.mark.parametrize("location", ["", "ftp://127.0.0.1/x", "http://ann:b@127.0.0.1:1/x", "//"])
def test_a_redirect_to_no_address_is_refused(make_way: MakeWay, location: str) -> None:
    script = serving(lambda asked: Answer(302, {"Location": location}))
    with faulty(script) as server, pytest.raises(HytheError):
        fetch(make_way(), server.host)


def test_redirects_in_a_circle_end(make_way: MakeWay) -> None:
    with faulty(serving(lambda asked: Answer(302, {"Location": asked.path}))) as server:
        with pytest.raises(AnswerInvalid, match="redirects"):
            fetch(make_way(), server.host)
        assert len(server.requests(part="/blobs/")) == 5


def test_the_next_page_of_a_list_is_on_the_same_host(make_way: MakeWay) -> None:
    with faulty(lambda asked: Answer(200, {}, b'{"tags":["stolen"]}')) as other:
        link = {"Link": f'<{other.url}/v2/team/web/tags/list?last=a>; rel="next"'}

        async def listed(source: Source) -> list[str]:
            return [tag async for tag in source.tags()]

        script = serving(lambda asked: Answer(200, link, b'{"tags":["a"]}'))
        with faulty(script) as server, pytest.raises(AnswerInvalid):
            ask(make_way(), server.host, listed)
        assert not other.asked


def test_pages_in_a_circle_end(make_way: MakeWay) -> None:
    async def listed(source: Source) -> list[str]:
        return [tag async for tag in source.tags()]

    def script(asked: Asked) -> Answer:
        return Answer(200, {"Link": f'<{asked.path}?last=a>; rel="next"'}, b'{"tags":["a"]}')

    with faulty(serving(script)) as server:
        assert ask(make_way(), server.host, listed) == ["a", "a"]


# --- uploads


def test_an_upload_that_is_cut_goes_on_where_it_was(server: Server, make_way: MakeWay, repository: str) -> None:
    data = os.urandom(8 << 20)
    blob = Descriptor("application/octet-stream", Digest.of(data), len(data))
    proxy = Proxy(server.port)
    seen = 0

    def cuts(piece: bytes) -> bool:
        nonlocal seen
        before, seen = seen, seen + len(piece)
        return before < 3_000_000 <= seen

    proxy.cuts_after = cuts
    starts: list[int] = []

    async def main() -> None:
        async with make_way() as way:
            place = way.target(ImageName.parse(f"127.0.0.1:{proxy.port}/{repository}"))
            inner = in_pieces(data)

            def read(start: int):  # type: ignore[no-untyped-def]
                starts.append(start)
                return inner(start)

            await place.push(blob, read)
            assert await read_all(place, blob, 1 << 30) == data

    try:
        asyncio.run(main())
    finally:
        proxy.close()
    assert starts[0] == 0
    assert len(starts) > 1
    assert starts[-1] > 0, "what had arrived was sent again"


def test_a_registry_that_is_started_again_meanwhile_is_waited_for(
    server: Server, make_way: MakeWay, repository: str
) -> None:
    data = os.urandom(16 << 20)
    blob = Descriptor("application/octet-stream", Digest.of(data), len(data))
    proxy = Proxy(server.port)
    patient = Patience(attempts=10, first_seconds=0.05, most_seconds=0.1)

    async def main() -> None:
        async with make_way(patience=patient) as way:
            place = way.target(ImageName.parse(f"127.0.0.1:{proxy.port}/{repository}"))
            await place.push(blob, in_pieces(data))
            got = bytearray()
            async for piece in place.fetch(blob):
                if not got:
                    proxy.refuse()
                    asyncio.get_running_loop().call_later(0.2, proxy.accept)
                got += piece
            assert got == data

    try:
        asyncio.run(main())
    finally:
        proxy.close()


def test_a_registry_that_takes_no_large_request_gets_chunks(
    make_way: MakeWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.transfer.upload.CHUNK_BYTES", 100_000)
    got = bytearray()

    def script(asked: Asked) -> Answer:
        if asked.method == "POST":
            return Answer(202, {"Location": "/v2/team/web/blobs/uploads/1?state=x"})
        if asked.method == "PATCH":
            if len(asked.body) > 100_000:
                return Answer(413)
            assert asked.headers["content-range"].startswith(f"{len(got)}-")
            got.extend(asked.body)
            return Answer(202, {"Location": "/v2/team/web/blobs/uploads/1?state=y", "Range": f"0-{len(got) - 1}"})
        assert asked.method == "PUT"
        assert asked.query["digest"] == [BLOB.digest]
        return Answer(201, {"Docker-Content-Digest": BLOB.digest})

    with faulty(serving(script)) as server:

        async def main() -> None:
            async with make_way() as way:
                await way.target(ImageName.parse(f"{server.host}/team/web")).push(BLOB, in_pieces(DATA))

        asyncio.run(main())
    assert bytes(got) == DATA


def test_an_upload_elsewhere_gets_no_credentials(make_way: MakeWay) -> None:
    with faulty(lambda asked: Answer(202 if asked.method == "PATCH" else 201)) as other:

        def script(asked: Asked) -> Answer:
            if "authorization" not in asked.headers:
                return Answer(401, {"WWW-Authenticate": "Basic realm=x"})
            return Answer(202, {"Location": f"{other.url}/upload"})

        with faulty(script) as server:

            async def main() -> None:
                async with make_way({server.host: ("ann", "secret")}) as way:
                    await way.target(ImageName.parse(f"{server.host}/team/web")).push(BLOB, from_bytes(DATA))

            asyncio.run(main())
        assert {each.method for each in other.asked} == {"PATCH", "PUT"}
        assert not any("authorization" in each.headers for each in other.asked)


def test_a_full_registry_says_so(make_way: MakeWay) -> None:
    full = Answer(507, {}, b'{"errors":[{"code":"STORAGE_FULL","message":"full"}]}')

    async def main() -> None:
        async with make_way() as way:
            await way.target(ImageName.parse(f"{server.host}/team/web")).push(BLOB, from_bytes(DATA))

    with faulty(serving(lambda asked: full)) as server, pytest.raises(HytheError, match="disk is full"):
        asyncio.run(main())


# --- no connection, and mirrors


def test_nobody_there_is_said_in_words(make_way: MakeWay) -> None:
    with pytest.raises(Unreachable, match="connection refused; does the registry run"):
        fetch(make_way(), "127.0.0.1:9")
    with pytest.raises(Unreachable, match="no such host"):
        fetch(make_way(), "registry.invalid")


def test_plain_http_where_tls_was_expected_is_said_in_words(make_way: MakeWay) -> None:
    with faulty(serving(lambda asked: part(asked))) as server:
        only_tls = Registries(host_file=lambda host: HostFile(server=Endpoint(server.host)))
        with pytest.raises(Unreachable, match=r"server gave HTTP response to HTTPS client.*insecure_registries"):
            fetch(make_way(registries=only_tls), server.host)


def mirrored(origin: str, *mirrors: str) -> Registries:
    return Registries(rules=((Rule(origin, mirrors=tuple(Mirror(each) for each in mirrors)),),))


def test_mirrors_are_asked_in_order_and_the_registry_last(make_way: MakeWay) -> None:
    with (
        faulty(serving(lambda asked: Answer(404))) as empty,
        faulty(serving(lambda asked: part(asked))) as full,
        faulty(serving(lambda asked: part(asked))) as origin,
    ):
        way = make_way(registries=mirrored(origin.host, "127.0.0.1:9", empty.host, full.host))
        assert fetch(way, origin.host) == DATA
        assert empty.requests(part="/blobs/")
        assert full.requests(part="/blobs/")
        assert not origin.asked
        assert fetch(make_way(registries=mirrored(origin.host, empty.host)), origin.host) == DATA


def test_where_a_mirror_breaks_off_the_registry_goes_on(make_way: MakeWay) -> None:
    served = iter([Answer(200, {}, DATA, cut_at=200_000)])
    with (
        faulty(serving(lambda asked: next(served, Answer(500)))) as mirror,
        faulty(serving(lambda asked: part(asked))) as origin,
    ):
        assert fetch(make_way(registries=mirrored(origin.host, mirror.host)), origin.host) == DATA
        [asked] = origin.requests(part="/blobs/")
        first = asked.range()
        assert first is not None
        assert first[0] > 0


def test_wrong_bytes_of_a_mirror_are_had_from_the_registry(make_way: MakeWay) -> None:
    config = b"{}"
    described = {"mediaType": "application/octet-stream", "digest": Digest.of(config), "size": len(config)}
    layer = {"mediaType": "application/octet-stream", "digest": BLOB.digest, "size": BLOB.size_bytes}
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": described, "layers": [layer]}
    ).encode()

    def script(asked: Asked, data: bytes) -> Answer:
        if "/manifests/" in asked.path:
            return Answer(200, {"Content-Type": media.OCI_MANIFEST}, manifest)
        return Answer(200, {}, config) if asked.path.endswith(described["digest"]) else Answer(200, {}, data)

    target = Memory()
    with (
        faulty(serving(lambda asked: script(asked, bytes(len(DATA))))) as mirror,
        faulty(serving(lambda asked: script(asked, DATA))) as origin,
    ):

        async def main() -> None:
            async with make_way(registries=mirrored(origin.host, mirror.host)) as way:
                source = way.source(ImageName.parse(f"{origin.host}/team/web"))
                await copy(source, Tag("v1"), target, Tag("v1"))

        asyncio.run(main())
        assert target.contents[BLOB.digest] == DATA
        assert mirror.requests(part=BLOB.digest)
        origin.script = mirror.script
        target.contents.clear()
        with pytest.raises(DigestInvalid):
            asyncio.run(main())


def test_a_proxy_of_the_environment_is_asked_in_the_registrys_place(make_way: MakeWay) -> None:
    with faulty(lambda asked: part(asked) if asked.method == "GET" else Answer(403)) as proxy:
        http = Http(environment={"http_proxy": proxy.url, "https_proxy": proxy.url})
        way = make_way(registries=Registries(insecure=("registry.invalid",)), http=http)
        assert fetch(way, "registry.invalid") == DATA
        assert {each.headers["host"] for each in proxy.requests()} == {"registry.invalid"}
        only_tls = make_way(http=Http(environment={"https_proxy": proxy.url}))
        with pytest.raises(Unreachable, match="the proxy refused to connect"):
            fetch(only_tls, "registry.invalid")


def test_a_mirror_gets_its_own_credentials_and_never_the_registrys(make_way: MakeWay) -> None:
    def guarded(asked: Asked) -> Answer:
        if "authorization" in asked.headers:
            return part(asked)
        return Answer(401, {"WWW-Authenticate": "Basic realm=x"})

    with faulty(guarded) as mirror, faulty(guarded) as origin:
        way = make_way({origin.host: ("ann", "secret")}, mirrored(origin.host, mirror.host))
        assert fetch(way, origin.host) == DATA
        assert not any("authorization" in each.headers for each in mirror.asked)


def test_who_may_not_is_told_how_to_log_in(make_way: MakeWay) -> None:
    refusing = Answer(401, {"WWW-Authenticate": "Basic realm=x"})
    with faulty(lambda asked: refusing) as server:
        with pytest.raises(HytheError, match=re.escape(f"try: hythe login {server.host}")):
            fetch(make_way(), server.host)
        with pytest.raises(Denied, match="ann may not do this, or it does not exist"):
            fetch(make_way({server.host: ("ann", "wrong")}), server.host)


def test_many_requests_at_once_ask_for_one_token(make_way: MakeWay) -> None:
    server: Faulty

    def script(asked: Asked) -> Answer:
        if asked.path == "/token":
            return Answer(200, {}, b'{"token":"t"}')
        if asked.headers.get("authorization") != "Bearer t":
            return Answer(401, {"WWW-Authenticate": f'Bearer realm="{server.url}/token",service="s"'})
        return replace(part(asked), pause_seconds=0.0)

    with faulty(script) as server:

        async def main() -> None:
            async with make_way() as way:
                source = way.source(ImageName.parse(f"{server.host}/team/web"))
                await asyncio.gather(*(read_all(source, BLOB) for _ in range(8)))

        asyncio.run(main())
        assert len(server.requests(part="/token")) == 1
