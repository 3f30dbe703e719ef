"""Scrub and verify: bytes that went wrong are found, nobody is served them, and right ones take their place."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from registry.content.store import BlobStore
from registry.oci.digest import Digest
from registry.server.index.engine import Index
from registry.server.index.inventory import Record
from registry.server.service.examine import Examiner, Finding
from registry.server.service.mend import Mender, Outcome
from tests.care.conftest import Admin, StartServer, client
from tests.care.damage import Vandal
from tests.gc.keeper import Keeper
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
)
from tests.support.warm import WarmServer

REPOSITORY, OTHER = "team/app", "team/other"
LARGE = 6 << 20  # more than a part: a link, in a bucket


@pytest.fixture
def http(registry: WarmServer) -> Iterator[httpx.Client]:
    with client(registry) as made:
        yield made


@pytest.fixture
def vandal(registry: WarmServer, request: pytest.FixtureRequest) -> Vandal:
    distant = registry.settings["storage"].get("kind") == "s3"
    return Vandal(registry, request.getfixturevalue("moto") if distant else None)


def push_tagged(http: httpx.Client, repository: str, tag: str, *layers: Content) -> Content:
    made = push_blob(http, repository, config())
    for layer in layers:
        push_blob(http, repository, layer)
    return push_manifest(http, repository, image(made, list(layers)), tag)


def there(http: httpx.Client, repository: str, content: Content) -> bool:
    """Whether a client that asks is told that it need not push this."""
    return http.head(blob_path(repository, content.digest)).status_code == 200


def pulled(http: httpx.Client, repository: str, content: Content) -> bool:
    answer = http.get(blob_path(repository, content.digest))
    return answer.status_code == 200 and answer.content == content.data


@pytest.mark.parametrize("size_bytes", [3000, LARGE])
def test_a_flipped_bit_is_found_and_healed_by_the_next_push(
    registry: WarmServer, http: httpx.Client, vandal: Vandal, hythe: Admin, size_bytes: int
) -> None:
    layer = blob(size_bytes)
    manifest = push_tagged(http, REPOSITORY, "v1", layer)
    push_tagged(http, OTHER, "v2", layer)
    assert pulled(http, REPOSITORY, layer)
    vandal.flip(layer.digest)
    assert hythe(registry, "scrub", "--rate", "0")[0] == 1
    for repository in (REPOSITORY, OTHER):
        assert not there(http, repository, layer)
        assert http.get(blob_path(repository, layer.digest)).status_code == 404
    [kept] = vandal.quarantined()
    assert kept != layer.data
    assert len(kept) == size_bytes
    # The manifest and its tag stay, and another one that names the lost layer is not taken.
    assert http.get(manifest_path(REPOSITORY, "v1")).content == manifest.data
    again = image(Content(b"{}"), [layer])
    push_blob(http, REPOSITORY, Content(b"{}"))
    refused = http.put(
        manifest_path(REPOSITORY, "v3"), content=again.data, headers={"content-type": again.media_type}
    )
    assert refused.status_code == 404
    mounted = http.post(f"/v2/third/blobs/uploads/?mount={layer.digest}&from={REPOSITORY}")
    assert mounted.status_code == 202
    push_blob(http, OTHER, layer)  # in one of them: it is the same bytes for all
    assert pulled(http, REPOSITORY, layer)
    assert pulled(http, OTHER, layer)
    status, out, _ = hythe(registry, "scrub", "--rate", "0")
    assert status == 0
    assert "0 were wrong" in out
    assert json.loads(hythe(registry, "scrub", "status", "--json")[1])["damaged"] == 0


def test_a_flipped_bit_is_found_by_the_server_itself_and_healed(start: StartServer) -> None:
    server = start(scrub={"interval_seconds": 0.2, "bytes_per_second": 0})
    with client(server) as http:
        layer = blob(100_000)
        push_tagged(http, REPOSITORY, "v1", layer)
        Keeper(server.data).execute("UPDATE job SET finished_ms = 0 WHERE name = 'scrub'")
        Vandal(server).flip(layer.digest)
        wait_until(lambda: not there(http, REPOSITORY, layer))
        push_blob(http, REPOSITORY, layer)
        assert pulled(http, REPOSITORY, layer)
        wait_until(lambda: not Keeper(server.data).run(lambda i, s: i.read(_damaged)))
    found = [event for event in server.events() if event["event"] == "scrub.found"]
    assert [(each["problem"], each["outcome"]) for each in found] == [("wrong bytes", "waits for a push")]


def _damaged(tx: object) -> list[object]:
    return list(tx.exec_driver_sql("SELECT digest FROM damage"))  # type: ignore[attr-defined]


def wait_until(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_verify_names_the_repositories_and_tags_that_suffer(
    registry: WarmServer, http: httpx.Client, vandal: Vandal, hythe: Admin
) -> None:
    layer, fine = blob(3000), blob(3000)
    manifest = push_tagged(http, REPOSITORY, "v1", layer)
    push_manifest(http, REPOSITORY, index([manifest.descriptor()]), "multi")
    push_tagged(http, REPOSITORY, "fine", fine)
    push_blob(http, OTHER, layer)
    assert hythe(registry, "verify", "--all")[0] == 0
    vandal.flip(layer.digest)
    status, out, _ = hythe(registry, "verify", "--all", "--json")
    [problem] = json.loads(out)["problems"]
    assert status == 1
    assert (problem["digest"], problem["problem"]) == (layer.digest, "wrong bytes")
    assert problem["affected"] == [
        {"repository": REPOSITORY, "tags": ["multi", "v1"]},
        {"repository": OTHER, "tags": []},
    ]
    status, out, _ = hythe(registry, "verify", OTHER)
    assert status == 1
    assert f"wrong bytes: {layer.digest} (3000 bytes)" in out
    assert f"{REPOSITORY}: multi, v1" in out
    assert there(http, REPOSITORY, layer), "it only looks"
    assert hythe(registry, "verify", "--all", "--quick")[0] == 0, "lengths alone are right"
    vandal.cut(layer.digest)
    assert "wrong length" in hythe(registry, "verify", "--all", "--quick")[1]
    vandal.remove(layer.digest)
    for words in (("--all",), ("--all", "--quick"), (REPOSITORY,)):
        assert hythe(registry, "verify", *words)[0] == 1
    status, out, _ = hythe(registry, "verify", "--all", "--heal")
    assert status == 1
    assert "waits for a push" in out
    assert ", 1 wrong" in out, "a digest is counted once, before or after it was set aside"
    assert f"missing: {layer.digest}" in hythe(registry, "verify", REPOSITORY)[1], "as long as it is so"
    push_blob(http, REPOSITORY, layer)
    assert hythe(registry, "verify", "--all", "--heal")[0] == 0


def test_a_manifest_is_healed_from_the_index_and_the_index_from_the_store(
    registry: WarmServer, http: httpx.Client, vandal: Vandal, hythe: Admin, request: pytest.FixtureRequest
) -> None:
    manifest = push_tagged(http, REPOSITORY, "v1", blob())
    assert http.get(manifest_path(REPOSITORY, "v1")).content == manifest.data
    for harm in (vandal.flip, vandal.cut, vandal.remove):
        harm(manifest.digest)
        assert hythe(registry, "verify", "--all")[0] == 1
        status, out, _ = hythe(registry, "scrub", "--rate", "0")
        assert status == 0
        assert "1 healed" in out
        assert hythe(registry, "verify", "--all")[0] == 0
    wrong = manifest.data.replace(b"schemaVersion", b"schemaVersioo").hex()
    if registry.settings["storage"].get("kind") == "s3":
        database = registry.settings["index"]["url"].rpartition("/")[2]
        change = f"UPDATE manifest SET payload = '\\x{wrong}'"
        request.getfixturevalue("postgres").execute(database, change)
    else:
        Keeper(registry.data).execute(f"UPDATE manifest SET payload = x'{wrong}'")
    status, out, _ = hythe(registry, "verify", "--all", "--json")
    assert [each["problem"] for each in json.loads(out)["problems"]] == ["wrong in the index"]
    assert hythe(registry, "scrub", "--rate", "0")[0] == 0
    assert http.get(manifest_path(REPOSITORY, "v1")).content == manifest.data
    assert hythe(registry, "verify", "--all")[0] == 0


def test_a_manifest_that_is_wrong_everywhere_is_healed_by_a_push(near: WarmServer, hythe: Admin) -> None:
    with client(near) as http:
        manifest = push_tagged(http, REPOSITORY, "v1", blob())
        Vandal(near).flip(manifest.digest)
        wrong = manifest.data.replace(b"schemaVersion", b"schemaVersioo").hex()
        Keeper(near.data).execute(f"UPDATE manifest SET payload = x'{wrong}'")
        assert hythe(near, "scrub")[0] == 1
        push_manifest(http, REPOSITORY, manifest, "v1")
        assert http.get(manifest_path(REPOSITORY, "v1")).content == manifest.data
        assert hythe(near, "verify", "--all")[0] == 0


def test_a_small_blob_that_went_wrong_is_never_served_and_soon_set_aside(start: StartServer) -> None:
    """Small blobs are kept in memory, where they would outlive their repair."""
    server = start(scrub={"interval_seconds": 0.2})
    with client(server) as http:
        layer = blob(3000)
        push_tagged(http, REPOSITORY, "v1", layer)
        wait_until(lambda: _finished(server))
        Vandal(server).flip(layer.digest)
        assert http.get(blob_path(REPOSITORY, layer.digest)).status_code >= 400
        wait_until(lambda: not there(http, REPOSITORY, layer))
        push_blob(http, REPOSITORY, layer)
        assert pulled(http, REPOSITORY, layer)


def _finished(server: WarmServer) -> bool:
    rows = Keeper(server.data).run(
        lambda i, s: i.read(
            lambda tx: list(tx.exec_driver_sql("SELECT finished_ms FROM job WHERE name = 'scrub'"))
        )
    )
    return bool(rows) and rows[0][0] is not None


def test_a_scrub_is_paused_and_goes_on_where_it_was(near: WarmServer, hythe: Admin) -> None:
    with client(near) as http:
        for number in range(3):
            push_tagged(http, REPOSITORY, f"v{number}", blob())
    assert hythe(near, "scrub", "pause")[0] == 0
    status, _, err = hythe(near, "scrub")
    assert status == 1
    assert "hythe admin scrub resume" in err
    hythe(near, "scrub", "resume")
    digests = sorted(Keeper(near.data).stored())
    Keeper(near.data).execute(
        "INSERT OR REPLACE INTO job (name, paused, holder, started_ms, detail) "
        f"VALUES ('scrub', 0, '', 1, '{json.dumps({'after': digests[5], 'examined': 6})}')"
    )
    done = json.loads(hythe(near, "scrub", "--json")[1])
    assert done["examined"] == 9, "three of nine were left"
    assert json.loads(hythe(near, "scrub", "status", "--json")[1])["detail"]["examined"] == 9


def test_its_speed_is_bounded(near: WarmServer, hythe: Admin) -> None:
    with client(near) as http:
        push_blob(http, REPOSITORY, blob(1_000_000))
    began = time.monotonic()
    assert hythe(near, "scrub", "--rate", "1000000")[0] == 0
    assert 0.7 < time.monotonic() - began < 5


def test_what_nobody_has_any_more_is_nobodys_damage(near: WarmServer, hythe: Admin) -> None:
    with client(near) as http:
        layer = push_blob(http, REPOSITORY, blob())
        http.delete(blob_path(REPOSITORY, layer.digest))
    Vandal(near).flip(layer.digest)
    assert hythe(near, "verify", "--all")[0] == 0


def test_a_mistake_at_the_command_line_is_a_sentence(near: WarmServer, hythe: Admin) -> None:
    assert "--all" in hythe(near, "verify")[2]
    assert "not known" in hythe(near, "verify", "absent/repo")[2]


def test_a_full_collection_names_what_waits_for_a_push(near: WarmServer, hythe: Admin) -> None:
    with client(near) as http:
        layer = blob()
        push_tagged(http, REPOSITORY, "v1", layer)
        assert hythe(near, "gc", "--full")[0] == 0
        Vandal(near).remove(layer.digest)
        hythe(near, "scrub")
        status, _, err = hythe(near, "gc", "--full")
        assert status == 1
        assert f"missing: {layer.digest}" in err
        assert REPOSITORY in err
        push_blob(http, REPOSITORY, layer)
        assert hythe(near, "gc", "--full")[0] == 0
        Keeper(near.data).check()


def test_a_push_between_the_look_and_the_deed_is_left_alone(near: WarmServer) -> None:
    keeper, layer = Keeper(near.data), blob(3000)

    async def look(opened: Index, store: BlobStore) -> Finding:
        found = await Examiner(opened, store).examine(Record(Digest(layer.digest), 3000))
        assert found is not None
        return found

    with client(near) as http:
        push_tagged(http, REPOSITORY, "v1", layer)
        for harm in (Vandal(near).flip, Vandal(near).remove):
            harm(layer.digest)
            finding = keeper.run(look)
            push_blob(http, REPOSITORY, layer)
            assert keeper.run(lambda i, s, f=finding: Mender(i, s).mend(f)) is Outcome.CHANGED  # type: ignore[misc]
            assert there(http, REPOSITORY, layer)
            assert pulled(http, REPOSITORY, layer)


def test_right_bytes_that_an_operator_puts_back_are_taken_for_right(near: WarmServer, hythe: Admin) -> None:
    with client(near) as http:
        layer = blob(3000)
        push_tagged(http, REPOSITORY, "v1", layer)
        path = near.data / "blobs" / "sha256" / layer.digest[7:9] / layer.digest[7:]
        Vandal(near).flip(layer.digest)
        assert hythe(near, "scrub")[0] == 1
        path.write_bytes(layer.data)
        assert "no record" in hythe(near, "verify", REPOSITORY)[1]
        assert hythe(near, "verify", "--all", "--heal")[0] == 0
        assert pulled(http, REPOSITORY, layer)
        assert hythe(near, "verify", "--all")[0] == 0
        assert json.loads(hythe(near, "scrub", "status", "--json")[1])["damaged"] == 0
