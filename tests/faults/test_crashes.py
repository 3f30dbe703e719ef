"""A server that is killed at any moment: nothing acknowledged is lost, nothing half done is visible."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from registry import failpoints
from tests.conftest import MakeServer
from tests.support import processes
from tests.support.ledger import Ledger, walk
from tests.support.oci import Content, blob, config, image, index
from tests.support.server import Server
from tests.support.warm import Forker, WarmServer

REPOSITORY = "team/app"
OTHER_REPOSITORY = "team/base"
IN_ONE_DIRECTORY = {"index": {"url": ""}}  # so that data can be copied, whatever else the tests run on
ROUNDS = 10
SEED = 20261120


@dataclass(frozen=True)
class World:
    """A registry with a past: its data, what it promised, and new content that nobody has pushed yet."""

    data: Path
    ledger: Ledger
    first: Content
    second: Content
    loose: Content
    mountable: Content
    new: Content
    small: Content
    large: Content


def client(server: Server) -> httpx.Client:
    """A client without the costs of TLS: hundreds are made here."""
    return httpx.Client(base_url=server.url, timeout=30, trust_env=False, verify=False)


@pytest.fixture(scope="module")
def world(warm: Forker, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once; each crash happens to a copy."""
    made, layer = config(), blob(1000)
    first, second, new = (image(made, [layer], annotations={"which": name}) for name in ("1", "2", "new"))
    loose, mountable = blob(500), blob(700)
    server = WarmServer(warm, tmp_path_factory.mktemp("world"), IN_ONE_DIRECTORY).start()
    with client(server) as http:
        ledger = Ledger(http)
        for content in (made, layer, loose):
            ledger.push(REPOSITORY, content)
        ledger.push(OTHER_REPOSITORY, mountable)
        ledger.put_manifest(REPOSITORY, first, "latest")
        ledger.put_manifest(REPOSITORY, first, "v1")
        ledger.put_manifest(REPOSITORY, second, "v2")
        ledger.check()
    assert server.stop() == 0
    return World(server.data, ledger, first, second, loose, mountable, new, blob(1000), blob(3 << 20))


Operation = Callable[[World, Ledger], None]


def _small_blob(world: World, ledger: Ledger) -> None:
    session = ledger.begin(REPOSITORY, world.small)
    session = ledger.patch(session, world.small.data)
    ledger.finish(REPOSITORY, session, world.small)


def _streamed_blob(world: World, ledger: Ledger) -> None:
    session = ledger.begin(REPOSITORY, world.large)
    data = world.large.data
    session = ledger.patch(session, iter([data[: 1 << 20], data[1 << 20 : 2 << 20], data[2 << 20 :]]))
    ledger.finish(REPOSITORY, session, world.large)


def _chunked_blob(world: World, ledger: Ledger) -> None:
    session = ledger.begin(REPOSITORY, world.large)
    data, size = world.large.data, 1 << 20
    session = ledger.patch(session, data[:size], 0)
    session = ledger.patch(session, data[size : 2 * size], size)
    ledger.finish(REPOSITORY, session, world.large, data[2 * size :], 2 * size)


def _small_chunks(world: World, ledger: Ledger) -> None:
    session = ledger.begin(REPOSITORY, world.small)
    session = ledger.patch(session, world.small.data[:300], 0)
    session = ledger.patch(session, world.small.data[300:600], 300)
    ledger.finish(REPOSITORY, session, world.small, world.small.data[600:], 600)


def _closing_request_with_everything(world: World, ledger: Ledger) -> None:
    ledger.finish(REPOSITORY, ledger.begin(REPOSITORY, world.large), world.large, world.large.data)


def _small_whole_blob(world: World, ledger: Ledger) -> None:
    ledger.push_whole(REPOSITORY, world.small)


def _large_whole_blob(world: World, ledger: Ledger) -> None:
    ledger.push_whole(REPOSITORY, world.large)


def _blob_that_is_there(world: World, ledger: Ledger) -> None:
    ledger.push_whole(REPOSITORY, world.loose)


def _mount(world: World, ledger: Ledger) -> None:
    ledger.mount(REPOSITORY, OTHER_REPOSITORY, world.mountable)


def _manifest_by_tag(world: World, ledger: Ledger) -> None:
    ledger.put_manifest(REPOSITORY, world.new, "new")


def _manifest_by_digest_with_tags(world: World, ledger: Ledger) -> None:
    ledger.put_manifest(REPOSITORY, world.new, None, "a", "b", "latest")


def _index(world: World, ledger: Ledger) -> None:
    ledger.put_manifest(REPOSITORY, index([world.first.descriptor(), world.second.descriptor()]), "multi")


def _tag_move(world: World, ledger: Ledger) -> None:
    ledger.put_manifest(REPOSITORY, world.second, "latest")


def _tag_deletion(world: World, ledger: Ledger) -> None:
    ledger.delete_tag(REPOSITORY, "v1")


def _manifest_deletion(world: World, ledger: Ledger) -> None:
    ledger.delete_manifest(REPOSITORY, world.first.digest)


def _blob_deletion(world: World, ledger: Ledger) -> None:
    ledger.delete_blob(REPOSITORY, world.loose.digest)


def _cancelled_upload(world: World, ledger: Ledger) -> None:
    session = ledger.patch(ledger.begin(REPOSITORY, world.large), world.large.data[: 1 << 20])
    ledger.request("DELETE", session, 204)
    ledger.request("GET", session, 404)


OPERATIONS: dict[str, Operation] = {
    function.__name__.strip("_").replace("_", "-"): function
    for function in (
        _small_blob,
        _streamed_blob,
        _chunked_blob,
        _small_chunks,
        _closing_request_with_everything,
        _small_whole_blob,
        _large_whole_blob,
        _blob_that_is_there,
        _mount,
        _manifest_by_tag,
        _manifest_by_digest_with_tags,
        _index,
        _tag_move,
        _tag_deletion,
        _manifest_deletion,
        _blob_deletion,
        _cancelled_upload,
    )
}
RESUMABLE = {"small-blob", "streamed-blob", "chunked-blob", "small-chunks", "closing-request-with-everything"}

Start = Callable[..., WarmServer]


@pytest.fixture
def start(warm: Forker, world: World, tmp_path: Path) -> Iterator[Start]:
    """Start a server on a copy of the world; `again` starts the last one anew, with the data that it left."""
    servers: list[WarmServer] = []

    def run(failpoint: str | None = None, again: bool = False) -> WarmServer:
        environment = {"HYTHE_FAILPOINT": failpoint} if failpoint else {}
        if again:
            servers[-1].environment = environment
        else:
            for past in servers:
                past.remove()
            servers.append(WarmServer(warm, tmp_path / f"server{len(servers)}", IN_ONE_DIRECTORY, environment))
            shutil.copytree(world.data, servers[-1].data)
        return servers[-1].start()

    yield run
    for server in servers:
        server.remove()


_survey: dict[str, Counter[str]] = {}


def reached_by(name: str, world: World, start: Start) -> Counter[str]:
    """How often an operation that nothing disturbs comes to each failpoint; found out once."""
    if name in _survey:
        return _survey[name]
    server = start()
    with client(server) as http:
        ledger = world.ledger.copy(http)
        OPERATIONS[name](world, ledger)
        ledger.check()
    assert server.stop() == 0
    _survey[name] = Counter(server.reached())
    return _survey[name]


def crashes(reached: Counter[str]) -> Iterator[str]:
    """The values of HYTHE_FAILPOINT that stop an operation: each point, at its first times and the last."""
    for point, times in reached.items():
        yield from (f"{point}:{nth}" for nth in sorted({1, min(times, 2), times}))


def crash(name: str, failpoint: str, world: World, start: Start) -> bool:
    """Run an operation into a failpoint, then see that the registry is sound and the operation can be repeated.

    False when the operation was over before the failpoint was reached so often: the server's own writes in
    the background, which come when they like, are counted too.
    """
    server = start(failpoint)
    with client(server) as http:
        ledger = world.ledger.copy(http)
        try:
            OPERATIONS[name](world, ledger)
        except httpx.TransportError:
            assert server.wait_dead() == -signal.SIGKILL
        else:
            return False
    server = start(again=True)
    with client(server) as http:
        ledger.http = http
        ledger.check()
        if name in RESUMABLE:
            ledger.resume()
        OPERATIONS[name](world, ledger)
        ledger.check()
    assert processes.tracebacks(server.log()) == []
    server.kill()
    return True


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_is_killed_at_any_failpoint_loses_nothing_and_can_be_repeated(
    name: str, world: World, start: Start, subtests: pytest.Subtests
) -> None:
    reached = reached_by(name, world, start)
    crashed = set()
    for failpoint in crashes(reached):
        with subtests.test(failpoint=failpoint):
            if crash(name, failpoint, world, start):
                crashed.add(failpoint.partition(":")[0])
    assert crashed == set(reached)


def test_every_failpoint_is_reached_by_some_operation_and_none_is_unknown(world: World, start: Start) -> None:
    reached: set[str] = set()
    for name in OPERATIONS:
        reached |= set(reached_by(name, world, start))
    # Those are of tests/gc, tests/care, tests/history and tests/moving.
    elsewhere = {*failpoints.COLLECTION, *failpoints.CARE, *failpoints.HISTORY, *failpoints.MOVING}
    assert reached == set(failpoints.POINTS) - elsewhere


def test_a_killed_server_leaves_the_bytes_of_an_upload_that_the_next_one_goes_on_with(
    world: World, start: Start
) -> None:
    server = start("blob.flushed")
    with client(server) as http:
        ledger = world.ledger.copy(http)
        with pytest.raises(httpx.TransportError):
            _chunked_blob(world, ledger)
        server.wait_dead()
    with client(start(again=True)) as http:
        ledger.http = http
        assert ledger.standing().headers["Range"] == f"0-{(2 << 20) - 1}"
        assert ledger.resume()
        ledger.check()


@pytest.mark.parametrize("failpoint", ["upload.flushed:3", "blob.published:3", "index.before-commit:9"])
def test_of_two_workers_the_one_that_is_killed_is_replaced_and_clients_go_on(
    make_server: MakeServer, failpoint: str
) -> None:
    """The failpoint kills each worker that comes there so often; the parent starts new ones."""
    server = make_server({"HYTHE_FAILPOINT": failpoint}, server={"workers": 2})
    broken = 0
    with client(server) as http:
        ledger = Ledger(http)
        contents = [blob(100_000) for _ in range(12)]
        for content in contents:
            for _ in range(20):
                try:
                    session = ledger.patch(ledger.begin("team/app", content), content.data)
                    ledger.finish("team/app", session, content)
                    break
                except httpx.TransportError:
                    broken += 1
                    assert server.process is not None
                    assert server.process.poll() is None, "the parent must not die with its worker"
        ledger.check()
        assert broken
        assert processes.wait_until(lambda: len(processes.workers(server.pid)) == 2)
        assert len(processes.workers(server.pid)) == 2
    assert server.stop() == 0
    assert processes.wait_until(lambda: not processes.session(server.pid)), processes.session(server.pid)


def test_a_worker_that_is_killed_by_hand_is_replaced_while_the_other_answers(make_server: MakeServer) -> None:
    server = make_server(server={"workers": 2})
    assert processes.wait_until(lambda: len(processes.workers(server.pid)) == 2)
    killed, other = processes.workers(server.pid)
    # The other one answers before the dead one is missed: wait until it can.
    with client(server) as http:
        assert http.get("/v2/").status_code == 200
    os.kill(killed, signal.SIGKILL)

    def replaced() -> bool:
        now = processes.workers(server.pid)
        return len(now) == 2 and other in now and killed not in now

    assert processes.wait_until(replaced)
    with client(server) as http:
        ledger = Ledger(http)
        ledger.push("team/app", blob())
        ledger.check()


class Pusher(threading.Thread):
    """A client that pushes images, moves tags and deletes, one after another, until its connection breaks."""

    def __init__(self, server: Server, ledger: Ledger, repository: str, choose: random.Random) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._ledger = ledger
        self._repository = repository
        self._choose = choose
        self.error: BaseException | None = None
        self.pushed = 0

    def run(self) -> None:
        try:
            with client(self._server) as http:
                self._ledger.http = http
                while True:
                    self._push_one()
                    self.pushed += 1
        except httpx.TransportError:
            pass
        except BaseException as error:
            self.error = error

    def _push_one(self) -> None:
        made, layer = config(), blob(self._choose.choice([0, 1000, 70_000, 1_500_000]))
        self._ledger.push(self._repository, made)
        if self._choose.random() < 0.5:
            self._ledger.push_whole(self._repository, layer)
        else:
            session = self._ledger.patch(self._ledger.begin(self._repository, layer), layer.data)
            self._ledger.finish(self._repository, session, layer)
        manifest = image(made, [layer])
        self._ledger.put_manifest(self._repository, manifest, self._choose.choice(["latest", "v1", "v2"]))
        what = self._choose.random()
        if what < 0.1:
            self._ledger.delete_manifest(self._repository, manifest.digest)
        elif what < 0.2:
            self._ledger.delete_tag(self._repository, "v1")


def test_kill_9_at_random_moments_under_a_stream_of_pushes_loses_nothing(warm: Forker, tmp_path: Path) -> None:
    choose = random.Random(SEED)
    server = WarmServer(warm, tmp_path / "server")
    ledgers = [Ledger(httpx.Client()) for _ in range(3)]
    pushed = 0
    try:
        for _ in range(ROUNDS):
            server.start()
            pushers = [
                Pusher(server, ledger, f"team/app{number}", random.Random(choose.random()))
                for number, ledger in enumerate(ledgers)
            ]
            for pusher in pushers:
                pusher.start()
            threading.Event().wait(choose.uniform(0.05, 0.6))
            server.kill()
            for pusher in pushers:
                pusher.join(30)
                assert pusher.error is None
                pushed += pusher.pushed
            server.start()
            with client(server) as http:
                for ledger in ledgers:
                    ledger.http = http
                    ledger.check()
                walk(http)
            assert processes.tracebacks(server.log()) == []
            server.kill()
    finally:
        server.remove()
    assert pushed > ROUNDS
