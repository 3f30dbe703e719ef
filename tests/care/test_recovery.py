"""Backup, restore and rebuild: the drill that one hopes never to need."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import signal
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from registry.server.index.engine import EmbeddedIndex
from tests.care.conftest import Admin, StartServer, client
from tests.care.damage import Vandal
from tests.gc.keeper import Keeper
from tests.support import s3
from tests.support.oci import (
    Content,
    blob,
    blob_path,
    config,
    image,
    index,
    manifest_path,
    push_blob,
    push_manifest,
    tags_path,
)
from tests.support.postgres import Postgres, shared
from tests.support.warm import Forker, WarmServer

REPOSITORY, OTHER = "team/app", "team/other"


@dataclass(frozen=True)
class Pushed:
    """What a registry was given: manifests by repository and tag, and everything else."""

    tags: dict[tuple[str, str], Content]
    manifests: list[Content]
    blobs: list[Content]


def push_some(http: httpx.Client) -> Pushed:
    """A multi-arch image, a signature of it, layers that repositories share, and a blob of its own."""
    shared, large = blob(2000), blob(200_000)
    configs = [config(), config("arm64")]
    for content in (shared, large, *configs):
        push_blob(http, REPOSITORY, content)
    children = [push_manifest(http, REPOSITORY, image(made, [shared, large])) for made in configs]
    top = push_manifest(http, REPOSITORY, index([child.descriptor() for child in children]), "multi")
    empty = push_blob(http, REPOSITORY, Content(b"{}"))
    signature = push_manifest(http, REPOSITORY, image(empty, [shared], subject=top.descriptor()))
    for content in (shared, configs[0]):
        push_blob(http, OTHER, content)
    single = push_manifest(http, OTHER, image(configs[0], [shared], annotations={"of": "other"}), "v1")
    tags = {(REPOSITORY, "multi"): top, (OTHER, "v1"): single}
    return Pushed(tags, [*children, top, signature, single], [shared, large, *configs, empty])


def check_tags(http: httpx.Client, pushed: Pushed) -> None:
    for (repository, tag), content in pushed.tags.items():
        assert http.get(manifest_path(repository, tag)).content == content.data


def check_digests(http: httpx.Client, repository: str, pushed: Pushed) -> None:
    """Everything is pullable by digest in one repository."""
    for content in pushed.manifests:
        answer = http.get(manifest_path(repository, content.digest))
        assert answer.content == content.data
        assert answer.headers["content-type"] == content.media_type
    for content in pushed.blobs:
        assert http.get(blob_path(repository, content.digest)).content == content.data


def lose_index(server: WarmServer) -> None:
    if "index" in server.settings:
        server.settings["index"]["url"] = shared().url(shared().empty_database())
    for path in server.data.glob("index.sqlite3*"):
        path.unlink()


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    directory = tmp_path / "backups"
    directory.mkdir()
    return directory


def backed_up(server: WarmServer, hythe: Admin, directory: Path) -> Path:
    status, out, err = hythe(server, "backup", "create", str(directory))
    assert status == 0
    assert "signing key" in err
    return Path(out.strip())


# ---------------------------------------------------------------- backups


@pytest.mark.parametrize("source", ["sqlite", "postgresql"])
@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
def test_a_backup_of_either_database_is_restored_into_either(
    source: str, target: str, start: StartServer, hythe: Admin, backups: Path, postgres: Postgres
) -> None:
    def at(kind: str, empty: bool = False) -> dict[str, dict[str, str]]:
        if kind == "sqlite":
            return {}
        return {"index": {"url": postgres.url(postgres.empty_database() if empty else postgres.database())}}

    server = start(**at(source), accounts={"enabled": "always"})
    hythe(server, "--json", "user", "add", "anna", "--admin")
    server.stop()
    server.settings["accounts"] = {"enabled": "never"}
    server.start()
    with client(server) as http:
        pushed = push_some(http)
        file = backed_up(server, hythe, backups)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    server.stop()
    moved = start(go=False, **at(target, empty=True))
    moved.settings["storage"] = server.settings["storage"]
    if source == target == "sqlite":
        lose_index(server)
    elif target == "sqlite":
        assert not (server.data / "index.sqlite3").exists()
    listed = json.loads(hythe(moved, "backup", "list", str(backups), "--json")[1])
    assert [(each["whole"], each["database"], each["tags"]) for each in listed] == [(True, source, 2)]
    if source == target == "postgresql":
        assert "empty" in hythe(moved, "user", "list")[2]
    status, out, _ = hythe(moved, "backup", "restore", str(file))
    assert status == 0
    assert "2 repositories, 5 manifests, 2 tags, 2 accounts" in out
    assert hythe(moved, "verify", "--all")[0] == 0
    users = {each["name"] for each in json.loads(hythe(moved, "--json", "user", "list")[1])}
    assert users == {"admin", "anna"}
    assert hythe(moved, "--json", "user", "add", "bert")[0] == 0, "ids go on where they were"
    ids = [each["id"] for each in json.loads(hythe(moved, "--json", "user", "list")[1])]
    assert len(set(ids)) == 3
    moved.start()
    with client(moved) as http:
        check_tags(http, pushed)
        push_some(http)
    assert hythe(moved, "backup", "restore", str(file))[0] == 1, "not into what is used"
    assert "--force" in hythe(moved, "backup", "restore", str(file))[2]
    # What triggers do is as before: a tag that goes leaves a candidate, and the audit log stays as it is.
    if target == "sqlite":
        keeper = Keeper(server.data)
        assert {row[0] for row in keeper.run(lambda i, s: i.read(_triggers))} >= {"audit_no_delete"}


def _triggers(tx: object) -> list[tuple[str]]:
    return list(tx.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'"))  # type: ignore


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_backup_is_of_one_moment_while_others_push(
    database: str, start: StartServer, hythe: Admin, backups: Path, postgres: Postgres
) -> None:
    """A manifest in it never lacks what it names, whatever goes on meanwhile."""
    index = {} if database == "sqlite" else {"index": {"url": postgres.url(postgres.database())}}
    near, reader = start(**index), start(go=False)
    reader.settings["storage"], reader.data = near.settings["storage"], near.data
    if database == "sqlite":
        reader.settings["index"] = {"url": f"sqlite:///{backups}/index.sqlite3"}
    stop = threading.Event()
    directories = [backups / str(number) for number in range(3)]
    for each in directories:
        each.mkdir()

    def push() -> None:
        with client(near) as http:
            while not stop.is_set():
                push_some(http)

    pushing = threading.Thread(target=push)
    pushing.start()
    try:
        files = [backed_up(near, hythe, made) for made in directories]
    finally:
        stop.set()
        pushing.join()
    near.stop()
    path = backups / "index.sqlite3" if database == "sqlite" else near.data / "index.sqlite3"
    for file in files:
        assert hythe(reader, "backup", "restore", "--force", str(file))[0] == 0
        Keeper(near.data, lambda: EmbeddedIndex(path)).check()


def test_what_was_pushed_after_the_backup_is_gone_by_force_and_added_by_a_rebuild(
    near: WarmServer, hythe: Admin, backups: Path
) -> None:
    with client(near) as http:
        first = push_some(http)
        file = backed_up(near, hythe, backups)
        second = push_some(http)
    near.stop()
    assert hythe(near, "backup", "restore", "--force", str(file))[0] == 0
    status, out, _ = hythe(near, "rebuild", "--add")
    assert status == 0, out
    near.start()
    with client(near) as http:
        check_tags(http, first)
        check_digests(http, "recovered", second)
        assert len(http.get(tags_path("recovered")).json()["tags"]) == 2  # the index and the single image


@pytest.mark.parametrize("harm", ["cut", "flipped", "edited", "text"])
def test_a_damaged_backup_is_refused_and_changes_nothing(
    harm: str, near: WarmServer, hythe: Admin, backups: Path
) -> None:
    with client(near) as http:
        pushed = push_some(http)
        file = backed_up(near, hythe, backups)
        data = file.read_bytes()
        if harm == "cut":
            file.write_bytes(data[:-200])
        elif harm == "flipped":
            file.write_bytes(data[:300] + bytes([data[300] ^ 1]) + data[301:])
        elif harm == "edited":
            file.write_bytes(gzip.compress(gzip.decompress(data).replace(b'"multi"', b'"other"')))
        else:
            file.write_text("not a backup")
        status, _, err = hythe(near, "backup", "restore", "--force", str(file))
        assert status == 1
        assert "damaged" in err or "no backup" in err
        assert hythe(near, "backup", "list", str(backups))[0] == 1
        check_tags(http, pushed)


def test_a_backup_replaces_no_file(near: WarmServer, hythe: Admin, backups: Path) -> None:
    file = backed_up(near, hythe, backups)
    assert "is there already" in hythe(near, "backup", "create", str(file))[2]
    assert len(list(backups.iterdir())) == 1
    assert "No such file" in hythe(near, "backup", "create", str(backups / "no" / "where"))[2]


def test_a_collection_while_the_bytes_are_copied_takes_nothing_that_the_backup_needs(
    near: WarmServer, hythe: Admin, backups: Path, tmp_path: Path
) -> None:
    """Index first, then the bytes, which may take as long as a grace period: nothing has to be paused."""
    settings = {"gc": {"enabled": False, "grace_seconds": 3600, "untagged": "delete"}}
    with client(near) as http:
        pushed = push_some(http)
        file = backed_up(near, hythe, backups)
        for (repository, tag), content in pushed.tags.items():
            http.delete(manifest_path(repository, tag))
            http.delete(manifest_path(repository, content.digest))
    assert hythe(near, "gc", **settings)[0] == 0
    near.stop()
    shutil.copytree(near.data / "blobs", tmp_path / "copy" / "blobs")
    near.settings["storage"] = {"directory": str(tmp_path / "copy")}
    near.data = tmp_path / "copy"
    assert hythe(near, "backup", "restore", str(file))[0] == 0
    assert hythe(near, "verify", "--all")[0] == 0
    near.start()
    with client(near) as http:
        check_tags(http, pushed)


def test_what_is_missing_after_a_restore_is_told_and_pushed_again(
    near: WarmServer, hythe: Admin, backups: Path
) -> None:
    with client(near) as http:
        pushed = push_some(http)
        file = backed_up(near, hythe, backups)
        near.stop()
        lost = pushed.blobs[0]
        Vandal(near).remove(lost.digest)
        hythe(near, "backup", "restore", "--force", str(file))
        status, out, _ = hythe(near, "verify", "--all", "--quick", "--heal")
        assert status == 1
        assert f"missing: {lost.digest}" in out
        assert f"{REPOSITORY}: multi" in out
        near.start()
        assert http.head(blob_path(REPOSITORY, lost.digest)).status_code == 404
        push_blob(http, OTHER, lost)
        check_digests(http, REPOSITORY, Pushed({}, pushed.manifests[:3], pushed.blobs[:4]))


# ---------------------------------------------------------------- rebuild


@pytest.fixture
def registry_of(request: pytest.FixtureRequest, start: StartServer) -> Iterator[WarmServer]:
    if request.param.startswith("bucket"):
        moto: s3.Moto = request.getfixturevalue("moto")
        index = {"url": shared().url(shared().database())}
        yield start(index=index, storage=moto.settings(part_size_bytes=5 << 20))
    else:
        yield start()


@pytest.mark.parametrize("registry_of", ["directory and SQLite", "bucket and PostgreSQL"], indirect=True)
def test_without_an_index_everything_is_found_by_digest_and_with_a_backup_by_tag(
    registry_of: WarmServer, hythe: Admin, backups: Path
) -> None:
    server = registry_of
    with client(server) as http:
        first = push_some(http)
        file = backed_up(server, hythe, backups)
        second = push_some(http)
        push_blob(http, "third", blob())
    server.stop()
    lose_index(server)
    status, out, err = hythe(server, "rebuild")
    assert status == 0, out + err
    assert "10 manifests and 10 blobs" in out
    server.start()
    with client(server) as http:
        assert http.get("/v2/_catalog").json() == {"repositories": ["recovered"]}
        check_digests(http, "recovered", first)
        check_digests(http, "recovered", second)
        top = first.tags[REPOSITORY, "multi"]
        assert len(http.get(f"/v2/recovered/referrers/{top.digest}").json()["manifests"]) == 1
        assert len(http.get(tags_path("recovered")).json()["tags"]) == 4
    assert hythe(server, "verify", "--all")[0] == 0
    assert hythe(server, "rebuild")[0] == 0, "again, it finds nothing new"
    server.stop()
    lose_index(server)
    assert hythe(server, "rebuild", "--backup", str(file))[0] == 0
    server.start()
    with client(server) as http:
        check_tags(http, first)
        check_digests(http, "recovered", second)
        assert len(http.get(tags_path("recovered")).json()["tags"]) == 2
    assert hythe(server, "verify", "--all")[0] == 0
    assert "--add" in hythe(server, "rebuild")[2], "an index that is in use is not added to by mistake"


def test_an_index_pushed_after_the_backup_brings_children_that_the_backup_has(
    near: WarmServer, hythe: Admin, backups: Path
) -> None:
    with client(near) as http:
        first = push_some(http)
        file = backed_up(near, hythe, backups)
        child = first.manifests[0]
        late = push_manifest(http, REPOSITORY, index([child.descriptor()]), "late")
    near.stop()
    lose_index(near)
    assert hythe(near, "rebuild", "--backup", str(file))[0] == 0
    near.start()
    with client(near) as http:
        for content in (late, child):
            assert http.get(manifest_path("recovered", content.digest)).content == content.data
        for descriptor in [child.document["config"], *child.document["layers"]]:
            assert http.get(blob_path("recovered", descriptor["digest"])).status_code == 200


def test_a_rebuild_takes_no_wrong_manifest_and_says_what_is_incomplete(near: WarmServer, hythe: Admin) -> None:
    with client(near) as http:
        pushed = push_some(http)
    near.stop()
    lose_index(near)
    wrong, lost = pushed.manifests[0], pushed.blobs[1]
    Vandal(near).flip(wrong.digest)
    Vandal(near).remove(lost.digest)
    status, _, err = hythe(near, "rebuild")
    assert status == 1
    assert f"wrong bytes: {wrong.digest}" in err
    assert f"incomplete: {pushed.manifests[1].digest}" in err


@pytest.mark.parametrize("point", ["restore.row", "restore.loaded"])
def test_a_restore_that_is_killed_leaves_what_was_there_and_succeeds_again(
    point: str, near: WarmServer, hythe: Admin, backups: Path, warm: Forker, tmp_path: Path
) -> None:
    with client(near) as http:
        pushed = push_some(http)
        file = backed_up(near, hythe, backups)
    near.stop()
    lose_index(near)
    words = ["backup", "restore", str(file)]
    assert run(warm, near, tmp_path, words, point) == -signal.SIGKILL
    assert run(warm, near, tmp_path, words) == 0
    near.start()
    with client(near) as http:
        check_tags(http, pushed)


@pytest.mark.parametrize(
    ("point", "with_backup"),
    [
        ("restore.loaded", True),
        ("rebuild.recorded", True),
        ("rebuild.recovered", True),
        ("index.committed:2", True),
        ("rebuild.recovered", False),
    ],
)
def test_a_rebuild_that_is_killed_goes_on_when_it_is_run_again(
    point: str, with_backup: bool, near: WarmServer, hythe: Admin, backups: Path, warm: Forker, tmp_path: Path
) -> None:
    with client(near) as http:
        first = push_some(http)
        file = backed_up(near, hythe, backups)
        second = push_some(http)
    near.stop()
    lose_index(near)
    words = ["rebuild", *(["--backup", str(file)] if with_backup else [])]
    assert run(warm, near, tmp_path, words, point) == -signal.SIGKILL
    Keeper(near.data).execute("DELETE FROM lease") if not point.startswith("restore") else None  # as a minute does
    assert run(warm, near, tmp_path, words) == 0
    near.start()
    with client(near) as http:
        check_digests(http, "recovered", second)
        if with_backup:
            check_tags(http, first)
        else:
            check_digests(http, "recovered", first)


def run(warm: Forker, server: WarmServer, directory: Path, words: list[str], failpoint: str = "") -> int:
    path = directory / "operator.yaml"
    path.write_text(yaml.safe_dump(server.settings))
    environment = {"HYTHE_FAILPOINT": failpoint}
    process = warm.start(
        ["admin", "--config", str(path), *words], environment, directory / "log", directory / "reached"
    )
    return process.wait(60)


def test_a_backup_may_go_to_standard_output(near: WarmServer, warm: Forker, hythe: Admin, tmp_path: Path) -> None:
    assert run(warm, near, tmp_path, ["backup", "create", "-"]) == 0
    (tmp_path / "log").rename(tmp_path / "piped.gz")
    listed = json.loads(hythe(near, "backup", "list", str(tmp_path / "piped.gz"), "--json")[1])
    assert [each["whole"] for each in listed] == [True]


def test_an_index_that_is_damaged_is_a_sentence(near: WarmServer, hythe: Admin, backups: Path) -> None:
    file = backed_up(near, hythe, backups)
    near.stop()
    lose_index(near)
    (near.data / "index.sqlite3").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    for words in (
        ["backup", "create", str(backups / "new")],
        ["backup", "restore", "--force", str(file)],
        ["rebuild"],
    ):
        assert "is damaged, or no index" in hythe(near, *words)[2]
    lose_index(near)
    assert "there is no index" in hythe(near, "backup", "create", str(backups))[2]
    assert [path.name for path in backups.iterdir()] == [file.name]


def as_of_0005(lines: list[bytes]) -> Iterator[bytes]:
    """The tables of a backup without what came after that release."""
    newer, kept, is_there = {"damage", "tag_history"}, [], True
    for line in lines:
        value = json.loads(line)
        if isinstance(value, dict):
            is_there = value["table"] not in newer
            kept = [n for n, name in enumerate(value["columns"]) if name not in ("since_ms", "deleted_ms")]
            if value["table"] == "candidate":  # whose time has the same name
                kept = list(range(len(value["columns"])))
            value["columns"] = [value["columns"][n] for n in kept]
        else:
            value = [value[n] for n in kept]
        if is_there:
            yield json.dumps(value).encode() + b"\n"


def test_a_backup_of_an_older_release_is_brought_to_this_ones_schema(
    near: WarmServer, hythe: Admin, backups: Path
) -> None:
    with client(near) as http:
        pushed = push_some(http)
        file = backed_up(near, hythe, backups)
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    header = json.loads(lines[0])
    assert header["schema"] > "0005"
    text = b"".join([json.dumps({**header, "schema": "0005"}).encode() + b"\n", *as_of_0005(lines[1:-1])])
    end = json.dumps({"sha256": hashlib.sha256(text).hexdigest(), "rows": 0}).encode() + b"\n"
    file.write_bytes(gzip.compress(text + end))
    near.stop()
    assert "restore it into a new file" in hythe(near, "backup", "restore", "--force", str(file))[2]
    lose_index(near)
    assert hythe(near, "backup", "restore", str(file))[0] == 0
    near.start()
    with client(near) as http:
        check_tags(http, pushed)
    assert hythe(near, "verify", "--all")[0] == 0


def test_a_backup_of_a_later_release_is_refused(near: WarmServer, hythe: Admin, backups: Path) -> None:
    file = backed_up(near, hythe, backups)
    near.stop()
    for old, new in ((b'"hythe_backup":1', b'"hythe_backup":2'), (b'"schema":"0', b'"schema":"9')):
        lines = gzip.decompress(file.read_bytes()).replace(old, new, 1).splitlines(keepends=True)
        text = b"".join(lines[:-1])
        end = json.dumps({"sha256": hashlib.sha256(text).hexdigest(), "rows": 0}).encode() + b"\n"
        other = backups / "other.gz"
        other.write_bytes(gzip.compress(text + end))
        lose_index(near)
        status, _, err = hythe(near, "backup", "restore", str(other))
        assert status == 1
        assert "later release" in err or "does not know" in err
