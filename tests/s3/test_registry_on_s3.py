"""A registry whose bytes lie in a bucket: ways in and out, several servers, crashes, a store that is gone."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from registry.content.s3 import S3Store
from registry.content.s3_client import S3Options
from tests.conftest import MakeServer
from tests.s3.conftest import PART_BYTES, MakeRegistry
from tests.support import processes, s3
from tests.support.oci import (
    Content,
    append,
    blob,
    blob_path,
    digest_of,
    finish,
    patch,
    push_blob,
    push_image,
    start_upload,
    uploads_path,
    with_query,
)
from tests.support.server import Server
from tests.support.wire import Wire, request

REPOSITORY = "team/app"
LARGE = 2 * PART_BYTES + 1234  # two parts and a rest


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, ceph: s3.Ceph) -> Iterator[Server]:
    """One that several tests share."""
    settings = {"storage": ceph.settings(part_size_bytes=PART_BYTES)}
    running = Server(tmp_path_factory.mktemp("registry"), settings).start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def http(registry: Server) -> Iterator[httpx.Client]:
    with client(registry) as made:
        yield made


def client(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60, trust_env=False)


def pulled(http: httpx.Client, content: Content) -> bool:
    """Whether a blob comes as it was pushed."""
    response = http.get(blob_path(REPOSITORY, content.digest))
    return response.status_code == 200 and response.content == content.data


def sweep(store: s3.Store, prefix: str, directory: Path) -> None:
    """What is done now and then, as if all that is there was old."""
    options = S3Options(store.bucket, prefix, store.endpoint, access_key=s3.ACCESS_KEY, secret_key=s3.SECRET_KEY)
    running = S3Store(options, directory)
    try:
        running._sweep(time.time() + 10)
    finally:
        running.close()


# ---------------------------------------------------------------- in and out


@pytest.mark.parametrize("size_bytes", [0, 1, 100_000, 3 << 20, PART_BYTES, PART_BYTES + 1, LARGE])
class TestEverySize:
    def test_comes_back_when_it_was_streamed(self, http: httpx.Client, size_bytes: int) -> None:
        content = blob(size_bytes)
        session = append(http, start_upload(http, REPOSITORY), content.data)
        assert finish(http, session, content.digest).status_code == 201
        assert pulled(http, content)

    def test_comes_back_when_it_came_with_its_closing_request(self, http: httpx.Client, size_bytes: int) -> None:
        assert pulled(http, push_blob(http, REPOSITORY, blob(size_bytes)))

    def test_comes_back_when_it_came_in_one_request(self, http: httpx.Client, size_bytes: int) -> None:
        content = blob(size_bytes)
        response = http.post(with_query(uploads_path(REPOSITORY), digest=content.digest), content=content.data)
        assert response.status_code == 201, response.text
        assert pulled(http, content)

    def test_comes_back_when_it_came_in_chunks(self, http: httpx.Client, size_bytes: int) -> None:
        content = blob(size_bytes)
        session = start_upload(http, REPOSITORY)
        step = max(1, size_bytes // 3)
        for start in range(0, size_bytes, step):
            session = append(http, session, content.data[start : start + step], start)
        assert finish(http, session, content.digest).status_code == 201
        assert pulled(http, content)


def test_an_image_is_pushed_and_pulled(http: httpx.Client) -> None:
    manifest = push_image(http, REPOSITORY, "latest", layers=3)
    assert http.get(f"/v2/{REPOSITORY}/manifests/latest").content == manifest.data
    for layer in manifest.document["layers"]:
        assert digest_of(http.get(blob_path(REPOSITORY, layer["digest"])).content) == layer["digest"]


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        (f"bytes={PART_BYTES - 5}-{PART_BYTES + 5}", PART_BYTES - 5, PART_BYTES + 6),
        (f"bytes={LARGE - 7}-", LARGE - 7, LARGE),
        ("bytes=-100000", LARGE - 100_000, LARGE),
        ("bytes=0-", 0, LARGE),
    ],
)
def test_a_range_gives_exactly_its_bytes(
    http: httpx.Client, large: list[Content], segments: int, wanted: str, start: int, end: int
) -> None:
    content = large[segments - 1]
    response = http.get(blob_path(REPOSITORY, content.digest), headers={"Range": wanted})
    assert response.status_code == 206
    assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{LARGE}"
    assert response.content == content.data[start:end]


@pytest.fixture(scope="module")
def large(http: httpx.Client) -> list[Content]:
    """A blob that is one object, and one that is two."""
    whole, halves = blob(LARGE), blob(LARGE)
    push_blob(http, REPOSITORY, whole)
    session = append(http, start_upload(http, REPOSITORY), halves.data[: PART_BYTES + 77], 0)
    session = append(http, session, halves.data[PART_BYTES + 77 :], PART_BYTES + 77)
    assert finish(http, session, halves.digest).status_code == 201
    return [whole, halves]


def test_several_ranges_come_in_one_answer(http: httpx.Client, large: list[Content]) -> None:
    content = large[1]
    response = http.get(
        blob_path(REPOSITORY, content.digest), headers={"Range": f"bytes=5-9,{PART_BYTES}-{PART_BYTES + 99}"}
    )
    assert response.status_code == 206
    for start, end in ((5, 10), (PART_BYTES, PART_BYTES + 100)):
        assert content.data[start:end] in response.content


def test_a_wrong_digest_is_refused_and_the_upload_goes_on(http: httpx.Client) -> None:
    content = blob(LARGE)
    session = append(http, start_upload(http, REPOSITORY), content.data)
    for algorithm in ("sha256", "sha512"):
        refused = finish(http, session, digest_of(b"something else", algorithm))
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, "DIGEST_INVALID")
    assert finish(http, session, content.digest).status_code == 201
    assert pulled(http, content)


def test_the_algorithm_may_be_named_in_the_closing_request(http: httpx.Client) -> None:
    content = blob(LARGE, algorithm="sha512")
    session = append(http, start_upload(http, REPOSITORY), content.data)
    assert finish(http, session, content.digest).status_code == 201
    assert pulled(http, content)


def test_nothing_but_blobs_is_left_of_pushes(make_registry: MakeRegistry, ceph: s3.Ceph, prefix: str) -> None:
    with client(make_registry()) as http:
        small, one, several, again = blob(1000), blob(LARGE), blob(LARGE), blob(3 << 20)
        push_blob(http, REPOSITORY, small)
        for _ in range(2):  # the second time there is nothing to keep of it
            push_blob(http, REPOSITORY, one)
        for content in (several, again):
            session = append(http, start_upload(http, REPOSITORY), content.data[: 2 << 20], 0)
            session = append(http, session, content.data[2 << 20 :], 2 << 20)
            assert finish(http, session, content.digest).status_code == 201
        cancelled = append(http, start_upload(http, REPOSITORY), os.urandom(LARGE))
        assert http.delete(cancelled).status_code == 204
    assert ceph.multiparts(prefix) == []
    keys = sorted(ceph.keys(prefix))
    names = {c.digest.partition(":")[2] for c in (small, one, several, again)}
    blobs = [key for key in keys if key.startswith("blobs/")]
    assert {Path(key).name.removesuffix(".link") for key in blobs} == names
    assert sorted(Path(key).suffix for key in blobs) == ["", "", ".link", ".link"]
    data = [key for key in keys if key.startswith("data/")]
    assert len(data) == 4, "for each of the large ones, bytes and a note"
    assert set(keys) - {*blobs, *data} <= {"ready"}


def test_parts_are_freed_when_the_blob_is_there_already_and_when_its_upload_is_cancelled(
    make_registry: MakeRegistry, ceph: s3.Ceph, prefix: str
) -> None:
    with client(make_registry()) as http:
        content = push_blob(http, REPOSITORY, blob(LARGE))
        again = append(http, start_upload(http, REPOSITORY), content.data)
        refused = append(http, start_upload(http, REPOSITORY), content.data)
        assert len(ceph.multiparts(prefix)) == 2
        assert finish(http, again, content.digest).status_code == 201
        assert finish(http, refused, digest_of(b"other")).status_code == 400
        assert len(ceph.multiparts(prefix)) == 1
        assert http.delete(refused).status_code == 204
        assert pulled(http, content)
    assert ceph.multiparts(prefix) == []
    assert not [key for key in ceph.keys(prefix) if key.startswith("uploads/")]


# ---------------------------------------------------------------- any server, any worker


def test_an_upload_goes_on_after_restarts(make_registry: MakeRegistry, ceph: s3.Ceph, prefix: str) -> None:
    content, registry = blob(3 * PART_BYTES), make_registry()
    cuts = [0, 2 << 20, PART_BYTES + 1, 3 * PART_BYTES]
    with client(registry) as http:
        session = start_upload(http, REPOSITORY)
    for start, end in itertools.pairwise(cuts):
        with client(registry.restart()) as http:
            said = http.get(session).headers["Range"]
            assert said == f"0-{max(0, start - 1)}"
            session = append(http, session, content.data[start:end], start)
    with client(registry.restart()) as http:
        assert finish(http, session, content.digest).status_code == 201
        assert pulled(http, content)
    assert ceph.multiparts(prefix) == []
    assert not [key for key in ceph.keys(prefix) if key.startswith("uploads/")]


def test_an_upload_goes_from_worker_to_worker(make_registry: MakeRegistry) -> None:
    registry = make_registry(server={"workers": 2})

    def push(place: int) -> Content:
        content = blob(LARGE)
        with client(registry) as http:
            session = start_upload(http, REPOSITORY)
        for start in range(0, LARGE, 3 << 20):
            with client(registry) as http:  # a connection of its own, which any worker may take
                session = append(http, session, content.data[start : start + (3 << 20)], start)
        with client(registry) as http:
            assert finish(http, session, content.digest).status_code == 201
        return content

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        pushed = list(pool.map(push, range(4)))
    with client(registry) as http:
        assert all(pulled(http, content) for content in pushed)


@pytest.fixture
def replicas(make_registry: MakeRegistry, tmp_path: Path) -> list[Server]:
    """Two servers with one index and one bucket, and nothing else in common, as on two machines."""
    index = {"url": f"sqlite:///{tmp_path}/index.sqlite3"}
    return [make_registry(index=index) for _ in range(2)]


def test_an_upload_goes_from_replica_to_replica(replicas: list[Server]) -> None:
    content = blob(3 * PART_BYTES)
    with client(replicas[0]) as one, client(replicas[1]) as other:
        session = start_upload(one, REPOSITORY)
        for number, start in enumerate(range(0, len(content.data), 4 << 20)):
            at = (other, one)[number % 2]
            path = httpx.URL(session).path
            session = append(at, path, content.data[start : start + (4 << 20)], start)
        assert finish(other, httpx.URL(session).path, content.digest).status_code == 201
        assert pulled(one, content)


def test_of_two_replicas_that_write_to_one_upload_one_wins_and_bytes_are_never_mixed(
    replicas: list[Server], ceph: s3.Ceph, prefix: str, tmp_path: Path
) -> None:
    """No lock keeps the other out, and parts of the same number are on their way from both."""
    first, contents = os.urandom(PART_BYTES + 10), [os.urandom(LARGE), os.urandom(LARGE + 3 * PART_BYTES)]
    with client(replicas[0]) as http:
        session = httpx.URL(append(http, start_upload(http, REPOSITORY), first, 0)).path
    together = threading.Barrier(2)

    def slowly(data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), 1 << 20):
            yield data[start : start + (1 << 20)]
            if start == 0:
                together.wait(30)

    def write(place: int) -> int:
        data = contents[place]
        headers = {"Content-Range": f"{len(first)}-{len(first) + len(data) - 1}"}
        with client(replicas[place]) as http:
            return http.patch(session, content=slowly(data), headers=headers).status_code

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        statuses = list(pool.map(write, range(2)))
    assert sorted(statuses) == [202, 416]
    won = contents[statuses.index(202)]
    content, other = Content(first + won), Content(first + contents[statuses.index(416)])
    with client(replicas[0]) as http:
        assert finish(http, session, other.digest).status_code == 400
        assert finish(http, session, content.digest).status_code == 201
        assert pulled(http, content)
        sweep(ceph, prefix, tmp_path / "sweep")
        assert pulled(http, content)
    assert ceph.multiparts(prefix) == []


# ---------------------------------------------------------------- redirects


@pytest.fixture
def redirecting(make_registry: MakeRegistry) -> Iterator[httpx.Client]:
    with client(make_registry(s3={"redirect": "always", "redirect_ttl_seconds": 60})) as http:
        yield http


@pytest.mark.parametrize("size_bytes", [10, 3 << 20, LARGE])
def test_clients_are_sent_to_the_store_with_nothing_of_the_registrys(
    redirecting: httpx.Client, ceph: s3.Ceph, size_bytes: int
) -> None:
    content = push_blob(redirecting, REPOSITORY, blob(size_bytes))
    path = blob_path(REPOSITORY, content.digest)
    head = redirecting.head(path)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(size_bytes))
    response = redirecting.get(path, headers={"Authorization": "Bearer of-the-registry"})
    assert response.status_code == 307
    assert response.headers["Docker-Content-Digest"] == content.digest
    assert response.headers["Cache-Control"] == "no-store"
    address = response.headers["Location"]
    assert address.startswith(ceph.endpoint)
    assert "of-the-registry" not in address
    assert s3.SECRET_KEY not in address
    assert httpx.get(address, trust_env=False).content == content.data
    part = httpx.get(address, headers={"Range": "bytes=2-5"}, trust_env=False)
    assert (part.status_code, part.content) == (206, content.data[2:6])
    assert httpx.get(address.replace("X-Amz-Expires=60", "X-Amz-Expires=999"), trust_env=False).status_code == 403


def test_a_blob_of_several_objects_is_served_here(redirecting: httpx.Client) -> None:
    content = blob(LARGE)
    session = append(redirecting, start_upload(redirecting, REPOSITORY), content.data[: PART_BYTES + 1], 0)
    session = append(redirecting, session, content.data[PART_BYTES + 1 :], PART_BYTES + 1)
    assert finish(redirecting, session, content.digest).status_code == 201
    assert pulled(redirecting, content)


def test_who_may_not_have_a_blob_is_not_sent_to_it(redirecting: httpx.Client) -> None:
    content = push_blob(redirecting, REPOSITORY, blob(10))
    assert redirecting.get(blob_path("another/place", content.digest)).status_code == 404


def test_an_address_for_clients_may_differ(make_registry: MakeRegistry) -> None:
    registry = make_registry(s3={"redirect": "always", "redirect_endpoint": "https://blobs.example.com"})
    with client(registry) as http:
        content = push_blob(http, REPOSITORY, blob(10))
        address = http.get(blob_path(REPOSITORY, content.digest)).headers["Location"]
    assert address.startswith("https://blobs.example.com/hythe-tests/")


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize(
    "point",
    [
        "upload.written:3",
        "upload.flushed",
        "upload.parked",
        "blob.flushed",
        "blob.renamed",
        "blob.published",
        "blob.linked",
    ],
)
def test_a_server_killed_in_the_middle_of_a_push_leaves_no_half_blob_and_no_litter(
    make_registry: MakeRegistry, ceph: s3.Ceph, prefix: str, tmp_path: Path, point: str
) -> None:
    content, registry = blob(LARGE), make_registry(start=False)
    registry.environment["HYTHE_FAILPOINT"] = point
    registry.start()
    with client(registry) as http:
        session = start_upload(http, REPOSITORY)
        with contextlib.suppress(httpx.TransportError):
            finish(http, append(http, session, content.data), content.digest)
    assert registry.wait_dead() != 0, f"{point} was not reached"
    del registry.environment["HYTHE_FAILPOINT"]
    with client(registry.start()) as http:
        there = http.get(blob_path(REPOSITORY, content.digest))
        assert there.status_code == 404 or there.content == content.data
        go_on(http, session, content)
        assert pulled(http, content)
        sweep(ceph, prefix, tmp_path / "sweep")
        assert pulled(http, content)
    assert ceph.multiparts(prefix) == []
    assert len([key for key in ceph.keys(prefix) if key.startswith("data/")]) == 2, "the bytes and their note"
    assert not [key for key in ceph.keys(prefix) if key.startswith("uploads/")]


def go_on(http: httpx.Client, session: str, content: Content) -> None:
    """What a client does whose push broke off: see where it stands, send the rest, and finish."""
    standing = http.get(session)
    if standing.status_code == 204:
        came = int(standing.headers["Range"].partition("-")[2]) + 1
        came = 0 if came == 1 else came
        if came < len(content.data):
            session = append(http, session, content.data[came:], came)
    response = finish(http, session, content.digest)
    assert response.status_code == 201, response.text


# ---------------------------------------------------------------- memory


@pytest.mark.slow
def test_a_gigabyte_goes_in_and_out_under_300_megabytes(make_registry: MakeRegistry) -> None:
    registry = make_registry(s3={"part_size_bytes": 16 << 20})
    piece = os.urandom(1 << 20)
    count = 1024
    expected = hashlib.sha256()
    for number in range(count):
        expected.update(number.to_bytes(4, "big") + piece[4:])
    digest = f"sha256:{expected.hexdigest()}"

    def pieces() -> Iterator[bytes]:
        for number in range(count):
            yield number.to_bytes(4, "big") + piece[4:]

    with client(registry) as http, processes.peak_memory(registry.pid) as samples:
        session = start_upload(http, REPOSITORY)
        sent = http.patch(session, content=pieces())
        assert sent.status_code == 202
        assert finish(http, session, digest).status_code == 201
        received = hashlib.sha256()
        with http.stream("GET", blob_path(REPOSITORY, digest)) as response:
            for chunk in response.iter_raw():
                received.update(chunk)
    assert f"sha256:{received.hexdigest()}" == digest
    assert max(samples) < 300 << 20, f"{max(samples) >> 20} MiB"


def test_readers_and_writers_who_leave_in_the_middle_leave_nothing_open_and_hold_little_memory(
    make_registry: MakeRegistry,
) -> None:
    registry = make_registry(s3={"max_pool_connections": 4})
    content = blob(40 << 20)
    with client(registry) as http, contextlib.ExitStack() as stack:
        push_blob(http, REPOSITORY, content)
        assert pulled(http, content)
        before = processes.open_files(registry.pid)
        with processes.peak_memory(registry.pid) as samples:
            for number in range(30):
                wire = stack.enter_context(Wire(registry.port, receive_bytes=65536))
                if number % 2:
                    wire.send(request("GET", blob_path(REPOSITORY, content.digest)))
                    assert wire.head()[0] == 200
                else:
                    path = httpx.URL(start_upload(http, REPOSITORY)).path
                    wire.send(request("PATCH", path, {"Content-Length": str(1 << 30)}))
                    wire.send(content.data[: 2 * PART_BYTES + 1])
            assert processes.open_files(registry.pid) >= before + 30
        stack.close()
        assert processes.wait_until(lambda: processes.open_files(registry.pid) <= before + 8, 60)
        assert pulled(http, content)
    assert max(samples) - samples[0] < 100 << 20, f"{(max(samples) - samples[0]) >> 20} MiB"


# ---------------------------------------------------------------- a store that is gone


@pytest.fixture
def gateway(ceph: s3.Ceph) -> Iterator[s3.Ceph]:
    """The store, whose gateway a test may kill; it runs again afterwards."""
    yield ceph
    if not s3.is_listening(ceph.port):
        ceph.start_gateway()


def unavailable(response: httpx.Response) -> bool:
    said = response.json()["errors"][0]["code"]
    return (response.status_code, said) == (503, "UNAVAILABLE") and int(response.headers["Retry-After"]) > 0


def test_without_the_store_clients_are_told_to_come_again_and_it_goes_on_without_a_restart(
    make_registry: MakeRegistry, gateway: s3.Ceph
) -> None:
    with client(make_registry()) as http:
        content, before = blob(LARGE), push_blob(http, REPOSITORY, blob(200_000))
        small = push_blob(http, REPOSITORY, blob(1000))
        assert pulled(http, small)
        session = append(http, start_upload(http, REPOSITORY), content.data[: PART_BYTES + 1], 0)
        gateway.kill_gateway()
        assert unavailable(http.get(blob_path(REPOSITORY, before.digest)))
        assert http.head(blob_path(REPOSITORY, before.digest)).status_code == 200
        assert pulled(http, small), "what is in memory needs no store"
        assert unavailable(patch(http, session, content.data[PART_BYTES + 1 :], PART_BYTES + 1))
        assert unavailable(finish(http, start_upload(http, REPOSITORY), digest_of(b"x"), b"x"))
        assert http.get("/readyz").json()["storage"] == "unavailable"
        assert http.get("/healthz").status_code == 200
        gateway.start_gateway()
        assert http.get("/readyz").status_code == 200
        assert pulled(http, before)
        session = append(http, session, content.data[PART_BYTES + 1 :], PART_BYTES + 1)
        assert finish(http, session, content.digest).status_code == 201
        assert pulled(http, content)


def test_a_server_starts_while_the_store_is_gone(make_registry: MakeRegistry, gateway: s3.Ceph) -> None:
    gateway.kill_gateway()
    with client(make_registry()) as http:
        assert http.get("/readyz").status_code == 503
        gateway.start_gateway()
        assert pulled(http, push_blob(http, REPOSITORY, blob(100_000)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"bucket": "no-such-bucket"}, "NoSuchBucket"),
        ({"secret_key": "not-the-secret"}, "SignatureDoesNotMatch"),
        ({"access_key": "nobody"}, "InvalidAccessKeyId"),
    ],
)
def test_a_server_does_not_start_on_a_bucket_that_it_cannot_use(
    make_server: MakeServer, ceph: s3.Ceph, wrong: dict[str, str], said: str
) -> None:
    registry = make_server(storage=ceph.settings(**wrong), start=False)
    with pytest.raises(AssertionError, match="the server ended with"):
        registry.start()
    assert "storage.s3" in registry.log()
    assert said in registry.log()
    assert "Traceback" not in registry.log()
