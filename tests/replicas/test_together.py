"""What several workers of one server must hold, held by three servers; and nginx in front of them."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import MakeServer
from tests.model import test_races
from tests.model.test_model import RegistryMachine
from tests.model.test_races import Crowd
from tests.replicas.conftest import PART_BYTES, REPLICAS, doors_of
from tests.support import s3
from tests.support.ledger import fetch
from tests.support.oci import append, blob, blob_path, finish, start_upload
from tests.support.postgres import Postgres
from tests.support.proxy import Proxy
from tests.support.replicas import Replicas

CHUNKS = 12
PAIRS = 10_000


@pytest.fixture
def crowd(replicas: Replicas) -> Iterator[Crowd]:
    """Many clients at once, each connected to one of the replicas."""
    each = -(-test_races.THREADS // REPLICAS) + 1
    with doors_of(replicas, each) as found:
        yield Crowd(found[: test_races.THREADS], found[-REPLICAS:], itertools.count(random.getrandbits(40)))


class TestRaces:
    """Those of tests/model/test_races.py in which the replicas have more to agree on than workers have."""

    blobs, tags = test_races.TestBlobs(), test_races.TestTags()

    @pytest.mark.parametrize("size_bytes", [70_000, 2 * PART_BYTES + 7])
    def test_all_who_push_the_same_blob_at_once_succeed(self, crowd: Crowd, size_bytes: int) -> None:
        self.blobs.test_all_who_push_the_same_blob_at_once_succeed(crowd, size_bytes)

    def test_pushing_what_others_delete_gives_a_whole_blob_or_none(self, crowd: Crowd) -> None:
        self.blobs.test_pushing_what_others_delete_gives_a_whole_blob_or_none(crowd, 70_000)

    @pytest.mark.parametrize("size_bytes", [300, 200_000, 2 * PART_BYTES + 7])
    def test_one_upload_in_many_hands_ends_whole_or_not_at_all(self, crowd: Crowd, size_bytes: int) -> None:
        self.blobs.test_one_upload_in_many_hands_ends_whole_or_not_at_all(crowd, size_bytes)

    def test_a_tag_that_all_push_at_once_is_what_one_of_them_pushed(self, crowd: Crowd) -> None:
        self.tags.test_a_tag_that_all_push_at_once_is_what_one_of_them_pushed(crowd)

    def test_whatever_others_delete_every_tag_resolves_and_all_that_is_visible_is_whole(
        self, crowd: Crowd
    ) -> None:
        self.tags.test_whatever_others_delete_every_tag_resolves_and_all_that_is_visible_is_whole(crowd)

    def test_no_manifest_is_let_in_whose_children_were_deleted_before(self, crowd: Crowd) -> None:
        self.tags.test_no_manifest_is_let_in_whose_children_were_deleted_before(crowd)


@pytest.mark.slow
def test_every_replica_always_says_what_the_dictionary_says(replicas: Replicas) -> None:
    with doors_of(replicas, each=1) as found:
        RegistryMachine.doors = found
        run_state_machine_as_test(
            RegistryMachine,
            settings=settings(
                max_examples=3, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )


@pytest.mark.slow
@pytest.mark.parametrize("replicas", ["directory"], indirect=True)  # nothing of this is in the store
def test_what_one_replica_answered_every_other_knows_at_once(crowd: Crowd) -> None:
    """Each write is looked at on both others."""
    test_races.search_for_stale_answers(crowd, PAIRS // (REPLICAS - 1))


class TestBehindNginx:
    def test_every_request_of_a_client_lands_on_another_replica(self, replicas: Replicas, repository: str) -> None:
        content = blob(2 * PART_BYTES + 1234)
        step = -(-len(content.data) // CHUNKS)
        before = len(replicas.nginx.went())
        with httpx.Client(base_url=replicas.url, timeout=30, trust_env=False) as http:
            session = start_upload(http, repository)
            for start in range(0, len(content.data), step):
                session = append(http, session, content.data[start : start + step], start)
                assert http.get(session).headers["Range"] == f"0-{min(start + step, len(content.data)) - 1}"
            assert finish(http, session, content.digest).status_code == 201
            found = [fetch(http, blob_path(repository, content.digest)) for _ in range(REPLICAS)]
        assert found == [(content.digest, content.data)] * REPLICAS
        went = replicas.nginx.went()[before:]
        assert len(went) > 2 * CHUNKS
        assert all(one != other for one, other in itertools.pairwise(went))
        assert set(Counter(went)) == {replica.host for replica in replicas.each}

    @pytest.mark.parametrize("replicas", ["directory"], indirect=True)
    def test_a_stopped_replica_is_not_noticed_by_those_who_ask(self, replicas: Replicas, repository: str) -> None:
        content = blob(100_000)
        with httpx.Client(base_url=replicas.url, timeout=30, trust_env=False) as http:
            session = append(http, start_upload(http, repository), content.data)
            assert finish(http, session, content.digest).status_code == 201

            def pull() -> None:
                found = http.get(blob_path(repository, content.digest))
                assert found.content == content.data, replicas.nginx.log()

            for replica in replicas.each:
                assert replica.stop() == 0
                for _ in range(2 * REPLICAS):
                    pull()
                replica.start()
                while replicas.nginx.went()[-1] != replica.host:
                    pull()

    @pytest.mark.parametrize("replicas", ["directory"], indirect=True)
    def test_with_no_replica_clients_are_told_to_come_again(self, replicas: Replicas) -> None:
        for replica in replicas.each:
            replica.kill()
        with httpx.Client(base_url=replicas.url, timeout=30, trust_env=False) as http:
            answer = http.get("/v2/")
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
            assert answer.json()["errors"][0]["code"] == "UNAVAILABLE"
            for replica in replicas.each:
                replica.start()
            deadline = 200
            while http.get("/v2/").status_code != 200:
                deadline -= 1
                assert deadline


def test_a_cancellation_leaves_parts_alone_that_are_being_joined(
    ceph: s3.Ceph, postgres: Postgres, make_server: MakeServer, repository: str
) -> None:
    """Ceph confirms a Complete and an Abort that meet, and deletes the bytes hours later: here at once."""
    proxy, prefix = Proxy(ceph.port), s3.new_prefix()
    url = postgres.url(postgres.database())
    behind, beside = (
        make_server(
            index={"url": url},
            storage=ceph.settings(prefix, endpoint=f"http://127.0.0.1:{port}", part_size_bytes=PART_BYTES),
        )
        for port in (proxy.port, ceph.port)
    )
    content = blob(2 * PART_BYTES)
    joining = threading.Event()

    def hold_up_the_join(piece: bytes) -> None:
        if piece.startswith(b"POST ") and b"uploadId=" in piece.split(b"\r\n", 1)[0]:
            proxy.freeze()
            joining.set()

    with (
        httpx.Client(base_url=behind.url, timeout=30, trust_env=False) as one,
        httpx.Client(base_url=beside.url, timeout=30, trust_env=False) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        session = httpx.URL(append(one, start_upload(one, repository), content.data)).path
        proxy.sees = hold_up_the_join
        finishing = pool.submit(finish, one, session, content.digest)
        assert joining.wait(30)
        assert other.delete(session).status_code == 204
        assert len(ceph.multiparts(prefix)) == 1
        proxy.thaw()
        assert finishing.result(30).status_code == 201
        ceph.collect_garbage()
        for http in (one, other):
            assert fetch(http, blob_path(repository, content.digest)) == (content.digest, content.data)
    proxy.close()


def test_the_bound_of_open_uploads_is_exact_for_all_replicas_together(
    make_server: MakeServer, postgres: Postgres
) -> None:
    url, bound = postgres.url(postgres.database()), 20
    storage = {"kind": "directory"}
    servers = [make_server(index={"url": url}, limits={"uploads_open": bound}, storage=storage) for _ in range(2)]
    addresses = [server.url for server in servers] * 30

    def begin(address: str) -> int:
        return httpx.post(f"{address}/v2/a/blobs/uploads/", trust_env=False, timeout=30).status_code

    with ThreadPoolExecutor(16) as pool:
        assert Counter(pool.map(begin, addresses)) == {202: bound, 429: len(addresses) - bound}
