"""Two servers on one database and one directory: a client cannot tell them from one."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from registry.server.index.migrate import migrate_postgres
from tests.support.ledger import Ledger, fetch, walk
from tests.support.oci import (
    EMPTY,
    Content,
    blob,
    blob_path,
    config,
    image,
    index,
    location,
    manifest_path,
    octets,
    tags_path,
    uploads_path,
    with_query,
)
from tests.support.postgres import Postgres
from tests.support.server import Server

WRITES = 1000
WRITERS = 2


def anywhere(url: str) -> str:
    """An address without its host, to ask another server for."""
    return httpx.URL(url).raw_path.decode()


def client(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=30, trust_env=False, verify=False)


@dataclass(frozen=True)
class Pair:
    """Two servers, and a client of each."""

    servers: tuple[Server, Server]
    one: httpx.Client
    other: httpx.Client


MakeReplica = Callable[..., Server]


@pytest.fixture(scope="module")
def make_replica(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeReplica]:
    """Starts servers that share a database and a directory."""
    url = postgres.url(postgres.database())
    shared = tmp_path_factory.mktemp("shared")
    made: list[Server] = []

    def make(environment: dict[str, str] | None = None) -> Server:
        directory = tmp_path_factory.mktemp("replica")
        settings = {
            "index": {"url": url, "pool_size": 5},
            "storage": {"directory": str(shared)},
            "logging": {"level": "warning"},
        }
        made.append(Server(directory, settings, environment))
        return made[-1].start()

    yield make
    for server in made:
        server.kill()


@pytest.fixture(scope="module")
def pair(make_replica: MakeReplica) -> Iterator[Pair]:
    servers = make_replica(), make_replica()
    with client(servers[0]) as one, client(servers[1]) as other:
        yield Pair(servers, one, other)


class TestTogether:
    def test_what_one_takes_the_other_has(self, pair: Pair, repository: str) -> None:
        ledger = Ledger(pair.one)
        made, layer = config(), blob(200_000)
        child = image(made, [layer])
        parent = index([child.descriptor()])
        for content in (made, layer):
            ledger.push(repository, content)
        ledger.put_manifest(repository, child)
        ledger.put_manifest(repository, parent, None, "latest", "v1")
        ledger.http = pair.other
        ledger.check()
        assert pair.other.get(tags_path(repository)).json()["tags"] == ["latest", "v1"]
        assert repository in pair.other.get("/v2/_catalog?n=1000").json()["repositories"]
        ledger.mount(f"{repository}/mounted", repository, layer)
        ledger.http = pair.one
        ledger.check()

    def test_what_one_deletes_is_gone_for_the_other(self, pair: Pair, repository: str) -> None:
        ledger = Ledger(pair.one)
        made, layer = config(), blob()
        content = image(made, [layer])
        for each in (made, layer):
            ledger.push(repository, each)
        ledger.put_manifest(repository, content, None, "latest", "v1")
        paths = [
            manifest_path(repository, "v1"),
            manifest_path(repository, content.digest),
            blob_path(repository, layer.digest),
        ]
        for path in [*paths, manifest_path(repository, "latest")]:
            for reading in (pair.one, pair.other):
                assert reading.get(path).status_code == 200
        for number, path in enumerate(paths):
            deleting, reading = [(pair.one, pair.other), (pair.other, pair.one)][number % 2]
            assert deleting.delete(path).status_code == 202
            assert reading.get(path).status_code == 404
            assert deleting.get(path).status_code == 404
        assert pair.other.get(manifest_path(repository, "latest")).status_code == 404

    def test_an_upload_may_go_from_one_to_the_other_and_back(self, pair: Pair, repository: str) -> None:
        content = blob(3_000_000)
        hops = [pair.one, pair.other, pair.one, pair.other]
        session = anywhere(location(hops[0].post(uploads_path(repository))))
        # The first chunks stay in the index, the others go to a file.
        start = 0
        for hop, size in zip(hops * 3, [10, 20_000, 500, 300_000, 7, 1_000_000, 65_536], strict=False):
            answer = hop.patch(session, content=content.data[start : start + size], headers=octets(start, size))
            assert answer.status_code == 202, answer.text
            session, start = anywhere(location(answer)), start + size
            standing = hops[start % 2].get(session)
            assert standing.headers["Range"] == f"0-{start - 1}"
        rest = content.data[start:]
        for last in (pair.one, pair.other, pair.one):  # which may be repeated, wherever it goes
            url = with_query(session, digest=content.digest)
            answer = last.put(url, content=rest, headers=octets(start, len(rest)))
            assert answer.status_code == 201, answer.text
        for reading in (pair.one, pair.other):
            assert fetch(reading, blob_path(repository, content.digest)) == (content.digest, content.data)

    def test_a_chunk_that_was_taken_by_the_other_is_not_taken_twice(self, pair: Pair, repository: str) -> None:
        content = blob(100_000)
        session = anywhere(location(pair.one.post(uploads_path(repository))))
        chunk = content.data[:70_000]
        answers: list[httpx.Response] = []
        both = threading.Barrier(2)

        def send(chosen: httpx.Client) -> None:
            both.wait()
            answers.append(chosen.patch(session, content=chunk, headers=octets(0, len(chunk))))

        threads = [threading.Thread(target=send, args=(each,)) for each in (pair.one, pair.other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answer.status_code for answer in answers) in ([202, 416], [202, 409])
        rest = content.data[70_000:]
        url = with_query(session, digest=content.digest)
        assert pair.other.put(url, content=rest, headers=octets(70_000, len(rest))).status_code == 201


class _Line:
    """A connection that asks fast: the search for stale answers is only as good as it is quick."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, content: Content | None = None) -> tuple[int, bytes]:
        headers = {} if content is None else {"Content-Type": content.media_type}
        self._connection.request(method, path, None if content is None else content.data, headers)
        response = self._connection.getresponse()
        return response.status, response.read()


class _Search:
    """Tags whose versions only grow: an answer must not be below what was acknowledged before it was asked for."""

    def __init__(self, servers: tuple[Server, Server], repository: str) -> None:
        self._servers = servers
        self._repository = repository
        self.acknowledged = dict.fromkeys(range(WRITERS), -1)
        self._present = dict.fromkeys(range(WRITERS), False)
        self._stopping = threading.Event()
        self.faults: list[str] = []
        self.reads = 0

    def run(self) -> None:
        """Write and read until all is written."""
        writers = [threading.Thread(target=self._write, args=(tag,)) for tag in range(WRITERS)]
        readers = [threading.Thread(target=self._read, args=(server,)) for server in self._servers]
        for thread in [*writers, *readers]:
            thread.start()
        for thread in writers:
            thread.join()
        self._stopping.set()
        for thread in readers:
            thread.join()

    def _path(self, tag: int) -> str:
        return manifest_path(self._repository, f"t{tag}")

    def _expect(self, holds: bool, tag: int, answer: tuple[int, bytes], told: str) -> None:
        if not holds:
            self.faults.append(f"t{tag}: {answer[0]} {answer[1][:300]!r} {told}")

    def _write(self, tag: int) -> None:
        with closing(_Line(self._servers[0])) as one, closing(_Line(self._servers[1])) as other:
            for version in range(WRITES // WRITERS):
                writing, reading = (one, other) if (version // 3 + tag) % 2 else (other, one)
                self._overwrite(tag, version, writing, reading)
                if version % 10 == 9:
                    self._delete(tag, writing, reading)

    def _overwrite(self, tag: int, version: int, writing: _Line, reading: _Line) -> None:
        content = image(EMPTY, [], annotations={"version": str(version), "tag": str(tag)})
        status, answer = writing.ask("PUT", self._path(tag), content)
        assert status == 201, answer
        self.acknowledged[tag] = version
        self._present[tag] = True
        found = reading.ask("GET", self._path(tag))
        self._expect(found[0] == 200 and _version(found[1]) == version, tag, found, f"after version {version}")

    def _delete(self, tag: int, writing: _Line, reading: _Line) -> None:
        self._present[tag] = False
        assert writing.ask("DELETE", self._path(tag))[0] == 202
        found = reading.ask("GET", self._path(tag))
        self._expect(found[0] == 404, tag, found, "after it was deleted")

    def _read(self, server: Server) -> None:
        with closing(_Line(server)) as line:
            while not self._stopping.wait(0.001):
                for tag in range(WRITERS):
                    self._read_tag(tag, line)

    def _read_tag(self, tag: int, line: _Line) -> None:
        was_present, version = self._present[tag], self.acknowledged[tag]
        found = line.ask("GET", self._path(tag))
        self.reads += 1
        if found[0] == 404:
            stayed = was_present and self._present[tag] and self.acknowledged[tag] == version
            self._expect(not stayed, tag, found, f"at version {version}")
        else:
            fresh = found[0] == 200 and _version(found[1]) >= version
            self._expect(fresh, tag, found, f"at version {version}")


def _version(content: bytes) -> int:
    return int(json.loads(content)["annotations"]["version"])


class TestFreshness:
    @pytest.mark.slow
    def test_no_answer_is_older_than_what_was_acknowledged_before_the_question(
        self, pair: Pair, repository: str
    ) -> None:
        """Tags are overwritten and deleted on one server, at once read on the other, and all the time on both."""
        Ledger(pair.one).push(repository, EMPTY)
        search = _Search(pair.servers, repository)
        search.run()
        assert search.faults == []
        assert list(search.acknowledged.values()) == [WRITES // WRITERS - 1] * WRITERS
        assert search.reads > WRITES // 4


def _blob_in_chunks(ledger: Ledger, repository: str, content: Content) -> None:
    session = ledger.begin(repository, content)
    session = ledger.patch(session, content.data[:150_000], 0)
    session = ledger.patch(session, content.data[150_000:], 150_000)
    ledger.finish(repository, session, content)


class TestDeath:
    @pytest.mark.parametrize(
        "failpoint",
        [
            "upload.written:2",
            "upload.parked:1",
            "upload.parked:2",
            "blob.flushed",
            "blob.renamed",
            "blob.published",
            "index.before-commit:1",
            "index.before-commit:3",
            "index.committed:1",
            "index.committed:2",
            "index.committed:4",
        ],
    )
    def test_the_other_goes_on_with_a_blob_whose_server_was_killed(
        self, make_replica: MakeReplica, pair: Pair, repository: str, failpoint: str
    ) -> None:
        dying = make_replica({"HYTHE_FAILPOINT": failpoint})
        content = blob(300_000)
        with client(dying) as doomed:
            ledger = Ledger(doomed)
            with pytest.raises(httpx.TransportError):
                _blob_in_chunks(ledger, repository, content)
            assert dying.wait_dead() == -9
        ledger.http = pair.other
        if ledger._open is not None:
            ledger._open = (repository, anywhere(ledger._open[1]), content)
        if ledger._open is None or not ledger.resume():
            _blob_in_chunks(ledger, repository, content)
        ledger.check()
        ledger.http = pair.one
        ledger.check()

    @pytest.mark.parametrize("failpoint", ["manifest.stored", "index.before-commit", "index.committed"])
    def test_the_other_takes_the_manifest_whose_server_was_killed(
        self, make_replica: MakeReplica, pair: Pair, repository: str, failpoint: str
    ) -> None:
        made, layer = config(), blob()
        before, after = image(made, [layer]), image(made, [layer], annotations={"is": "new"})
        ledger = Ledger(pair.one)
        for content in (made, layer):
            ledger.push(repository, content)
        ledger.put_manifest(repository, before, None, "latest", "before")
        dying = make_replica({"HYTHE_FAILPOINT": failpoint})
        with client(dying) as doomed:
            ledger.http = doomed
            with pytest.raises(httpx.TransportError):
                ledger.put_manifest(repository, after, None, "latest", "after")
            assert dying.wait_dead() == -9
        ledger.http = pair.other
        ledger.check()
        ledger.put_manifest(repository, after, None, "latest", "after")
        ledger.http = pair.one
        ledger.check()
        assert walk(pair.other) > 0


def test_migrating_beside_a_running_server_disturbs_nobody(pair: Pair, repository: str) -> None:
    url = pair.servers[0].settings["index"]["url"]
    ledger = Ledger(pair.one)
    content = blob()
    session = anywhere(ledger.begin(repository, content))
    migrate_postgres(url)
    ledger.http = pair.other
    ledger.finish(repository, session, content, content.data)
    ledger.check()


def test_the_settings_of_a_replica_need_no_file_of_its_own(pair: Pair) -> None:
    data = Path(pair.servers[0].settings["storage"]["directory"])
    assert sorted(entry.name for entry in data.iterdir()) == ["blobs", "uploads"]
