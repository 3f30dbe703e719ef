"""What was moved or deleted comes back, whole; what nobody wants back any more is collected."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from registry.cli import admin
from registry.server.index import schema
from registry.server.service.history import History
from registry.server.service.policy import Policy
from tests.gc.conftest import StartServer
from tests.gc.keeper import Keeper
from tests.history.conftest import Hythe, keeper_of
from tests.support.oci import (
    Content,
    blob,
    blob_path,
    config,
    docker_image,
    docker_list,
    failure,
    image,
    index,
    manifest_path,
    push_artifact,
    push_blob,
    push_image,
    push_manifest,
    put_manifest,
    referrers_path,
    tags_path,
)
from tests.support.warm import WarmServer

HERE = "team/app"


def delete(http: httpx.Client, reference: str, repository: str = HERE) -> None:
    assert http.delete(manifest_path(repository, reference)).status_code == 202


def at(http: httpx.Client, reference: str) -> str | None:
    response = http.get(manifest_path(HERE, reference))
    return str(response.headers["Docker-Content-Digest"]) if response.status_code == 200 else None


def forget(keeper: Keeper) -> None:
    """Let the time of the history pass."""
    keeper.run(lambda index, store: History(index, Policy(history_seconds=0)).forget_old())


def multi(http: httpx.Client, tag: str | None = None, is_docker: bool = False) -> list[Content]:
    """An index of two images with a layer each: it, its children, their blobs."""
    children, below = [], []
    for _ in range(2):
        made, layer = push_blob(http, HERE, config()), push_blob(http, HERE, blob(2000))
        children.append(push_manifest(http, HERE, (docker_image if is_docker else image)(made, [layer])))
        below += [made, layer]
    top = (docker_list if is_docker else index)([child.descriptor() for child in children])
    return [push_manifest(http, HERE, top, tag), *children, *below]


def check_whole(http: httpx.Client, made: list[Content]) -> None:
    for content in made[:3]:
        assert http.get(manifest_path(HERE, content.digest)).content == content.data
    for content in made[3:]:
        assert http.get(blob_path(HERE, content.digest)).content == content.data


class TestTags:
    def test_a_deleted_one_comes_back(self, http: httpx.Client, hythe: Hythe) -> None:
        made = push_image(http, HERE, "v1")
        delete(http, "v1")
        assert at(http, "v1") is None
        assert hythe("restore", f"{HERE}:v1") == {
            "digest": made.digest,
            "was": None,
            "manifests": [],
            "is_changed": True,
        }
        assert at(http, "v1") == made.digest

    def test_a_move_is_undone_and_that_too(self, http: httpx.Client, hythe: Hythe) -> None:
        first, second = push_image(http, HERE, "v1").digest, push_image(http, HERE, "v1").digest
        for expected in (first, second, first):
            assert hythe("restore", f"{HERE}:v1")["digest"] == expected == at(http, "v1")

    def test_all_tags_of_one_push_are_in_the_history(self, http: httpx.Client, hythe: Hythe) -> None:
        first = push_image(http, HERE, "a")
        push_manifest(http, HERE, first, "b")
        other = push_image(http, HERE)
        url = f"{manifest_path(HERE, other.digest)}?tag=a&tag=b&tag=new"
        http.put(url, content=other.data, headers={"Content-Type": other.media_type}).raise_for_status()
        entries = hythe("history", HERE)["history"]
        assert [(each["name"], each["digest"], each["action"]) for each in entries] == [
            ("b", first.digest, "moved"),
            ("a", first.digest, "moved"),
        ]
        assert {each["actor"] for each in entries} == {"anonymous"}
        assert len({each["until_ms"] for each in entries}) == 1

    def test_the_history_says_until_when_and_goes_on_where_the_tag_was(
        self, http: httpx.Client, hythe: Hythe
    ) -> None:
        digests = [push_image(http, HERE, "v1").digest for _ in range(3)]
        found = hythe("history", f"{HERE}:v1")
        assert [each["digest"] for each in found["history"]] == [digests[1], digests[0]]
        later, earlier = found["history"]
        assert earlier["from_ms"] <= earlier["until_ms"] == later["from_ms"] <= later["until_ms"]
        assert found["now"] == {"digest": digests[2], "from_ms": later["until_ms"], "until_ms": None}

    def test_one_that_was_pushed_again_as_it_was_points_there_since_the_first_time(
        self, http: httpx.Client, hythe: Hythe
    ) -> None:
        made = push_image(http, HERE, "v1")
        before = hythe("history", f"{HERE}:v1")
        time.sleep(0.002)
        push_manifest(http, HERE, made, "v1")
        assert hythe("history", f"{HERE}:v1") == before
        assert before["history"] == []

    def test_it_comes_back_as_it_was_at_a_time(self, http: httpx.Client, hythe: Hythe) -> None:
        digests, moments = [], []
        for _ in range(3):
            digests.append(push_image(http, HERE, "v1").digest)
            time.sleep(0.002)
            moments.append(_now())
            time.sleep(0.002)
        for digest, moment in [*zip(digests, moments, strict=True)][::-1]:
            hythe("restore", f"{HERE}:v1", "--at", moment)
            assert at(http, "v1") == digest
        assert "did not exist at that time" in hythe("restore", f"{HERE}:v1", "--at", "1h")

    def test_it_comes_back_to_any_digest_that_is_there(self, http: httpx.Client, hythe: Hythe) -> None:
        first, second = push_image(http, HERE, "v1").digest, push_image(http, HERE, "v2").digest
        assert hythe("restore", f"{HERE}:v1", "--to", second)["was"] == first
        assert at(http, "v1") == second
        assert hythe("restore", f"{HERE}:v1", "--to", second)["is_changed"] is False

    def test_what_retention_took_comes_back(self, http: httpx.Client, hythe: Hythe) -> None:
        made = push_image(http, HERE, "old")
        push_image(http, HERE, "keep")
        hythe("retention", retention=[{"repositories": "*", "keep_matching": ["keep"]}])
        [entry] = hythe("history", HERE)["history"]
        assert (entry["name"], entry["actor"], entry["action"]) == ("old", "retention", "retention")
        hythe("restore", f"{HERE}:old")
        assert at(http, "old") == made.digest


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() // 1000000 % 1000:03d}Z"


class TestManifests:
    def test_a_deleted_one_is_not_there_for_anybody(self, http: httpx.Client) -> None:
        made = push_image(http, HERE, "v1")
        refers = push_artifact(http, HERE, "test/signature", made.descriptor())
        delete(http, refers.digest)
        assert http.get(referrers_path(HERE, made.digest)).json()["manifests"] == []
        delete(http, made.digest)
        assert at(http, made.digest) is at(http, "v1") is None
        assert http.get(tags_path(HERE)).json()["tags"] == []
        assert HERE not in http.get("/v2/_catalog").json()["repositories"]
        assert failure(http.delete(manifest_path(HERE, made.digest))) == (404, "MANIFEST_UNKNOWN")
        refused = put_manifest(http, HERE, index([made.descriptor()]), "top")
        assert failure(refused) == (404, "MANIFEST_BLOB_UNKNOWN")

    def test_it_comes_back_with_its_tag(self, http: httpx.Client, hythe: Hythe) -> None:
        made = push_image(http, HERE, "v1")
        push_manifest(http, HERE, made, "v2")
        delete(http, made.digest)
        actions = {each["name"]: each["action"] for each in hythe("history", HERE)["history"]}
        assert actions == dict.fromkeys(["", "v1", "v2"], "deleted with its manifest")
        assert hythe("restore", f"{HERE}:v1")["manifests"] == [made.digest]
        assert http.get(manifest_path(HERE, "v1")).content == made.data
        assert at(http, "v2") is None
        hythe("restore", f"{HERE}:v2")
        assert at(http, "v2") == made.digest

    def test_one_without_a_tag_comes_back_by_its_digest(self, http: httpx.Client, hythe: Hythe) -> None:
        made = push_image(http, HERE)
        delete(http, made.digest)
        assert hythe("restore", f"{HERE}@{made.digest}")["manifests"] == [made.digest]
        assert at(http, made.digest) == made.digest
        assert hythe("restore", f"{HERE}@{made.digest}")["is_changed"] is False

    def test_a_push_brings_it_back_too(self, http: httpx.Client, keeper: Keeper, hythe: Hythe) -> None:
        made = push_image(http, HERE, "v1")
        delete(http, made.digest)
        push_manifest(http, HERE, made, "v1")
        assert http.get(manifest_path(HERE, "v1")).content == made.data
        forget(keeper)
        keeper.collect(delete_untagged=True)
        assert at(http, "v1") == made.digest

    @pytest.mark.parametrize("is_docker", [False, True], ids=["oci", "docker"])
    def test_an_index_comes_back_with_all_that_it_lists_after_a_collection(
        self, http: httpx.Client, hythe: Hythe, keeper: Keeper, is_docker: bool
    ) -> None:
        made = multi(http, "multi", is_docker)
        for content in made[:3]:
            delete(http, content.digest)
        keeper.collect(delete_untagged=True)
        keeper.walk(delete_untagged=True)
        keeper.collect(delete_untagged=True)
        assert hythe("restore", f"{HERE}:multi")["manifests"] == sorted(each.digest for each in made[:3])
        check_whole(http, made)
        keeper.collect(delete_untagged=True)
        check_whole(http, made)

    def test_it_stays_gone_when_a_blob_of_it_was_deleted(self, http: httpx.Client, hythe: Hythe) -> None:
        made = multi(http, "multi")
        for content in made[:3]:
            delete(http, content.digest)
        assert http.delete(blob_path(HERE, made[4].digest)).status_code == 202
        message = hythe("restore", f"{HERE}:multi")
        assert (
            message == f"1 of the blobs that it names were deleted, {made[4].digest} first; push the image again"
        )
        assert at(http, "multi") is at(http, made[0].digest) is None
        push_blob(http, HERE, made[4])
        hythe("restore", f"{HERE}:multi")
        check_whole(http, made)

    def test_what_refers_to_it_stays_with_it(self, http: httpx.Client, hythe: Hythe, keeper: Keeper) -> None:
        made = push_image(http, HERE, "v1")
        refers = push_artifact(http, HERE, "test/signature", made.descriptor())
        delete(http, made.digest)
        keeper.collect(delete_untagged=True)
        hythe("restore", f"{HERE}:v1")
        [listed] = http.get(referrers_path(HERE, made.digest)).json()["manifests"]
        assert listed["digest"] == refers.digest


class TestCollection:
    def test_what_the_history_names_stays_for_its_time_and_goes_then(
        self, http: httpx.Client, hythe: Hythe, keeper: Keeper
    ) -> None:
        moved, gone, tagless = multi(http, "moved"), multi(http, "gone"), multi(http, "tagless")
        kept = push_image(http, HERE, "moved")
        delete(http, gone[0].digest)
        delete(http, "tagless")
        assert keeper.collect(delete_untagged=True).removed == 0
        everything = {each.digest for each in (*moved, *gone, *tagless)}
        assert everything <= keeper.stored()
        forget(keeper)
        keeper.collect(delete_untagged=True)
        keeper.check_clean()
        assert not everything & keeper.stored()
        assert at(http, "moved") == kept.digest
        assert "nothing to go back to" in hythe("restore", f"{HERE}:gone")

    def test_a_deleted_manifest_goes_also_where_untagged_ones_stay(
        self, http: httpx.Client, hythe: Hythe, keeper: Keeper
    ) -> None:
        made, untagged = multi(http, "multi"), push_image(http, HERE)
        for content in made[:3]:
            delete(http, content.digest)
        forget(keeper)
        keeper.collect()
        keeper.check_clean()
        assert {row["digest"] for row in keeper.rows(schema.manifest)} == {untagged.digest}

    def test_a_full_walk_finds_a_deleted_one_that_was_missed(
        self, http: httpx.Client, hythe: Hythe, keeper: Keeper
    ) -> None:
        delete(http, push_image(http, HERE, "v1").digest)
        assert keeper.walk().candidates == 0
        keeper.collect()
        forget(keeper)
        keeper.execute("DELETE FROM candidate")
        assert keeper.walk().candidates == 1
        keeper.collect()
        assert keeper.rows(schema.manifest) == []

    def test_a_collection_by_hand_forgets_first(self, http: httpx.Client, hythe: Hythe, keeper: Keeper) -> None:
        delete(http, push_image(http, HERE, "v1").digest)
        hythe("gc")
        assert len(keeper.rows(schema.tag_history)) == 2
        time.sleep(0.002)
        hythe("gc", policy={"history_days": 1e-9})
        assert keeper.rows(schema.tag_history) == keeper.rows(schema.manifest) == []

    def test_an_operator_forgets_what_takes_space(self, http: httpx.Client, hythe: Hythe, keeper: Keeper) -> None:
        for tag in ("one", "two"):
            delete(http, push_image(http, HERE, tag).digest)
        assert hythe("history", f"{HERE}:one", "--forget") == {"forgotten": 1}
        assert hythe("history", HERE, "--forget") == {"forgotten": 3}
        keeper.collect()
        assert keeper.stored() == set()

    def test_without_a_history_nothing_is_kept(self, start: StartServer) -> None:
        server = start(policy={"history_days": 0})
        keeper = keeper_of(server)
        with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
            push_image(http, HERE, "v1")
            delete(http, push_image(http, HERE, "v1").digest)
        assert keeper.rows(schema.tag_history) == []
        assert [row["deleted_ms"] for row in keeper.rows(schema.manifest)] == [None]

    def test_a_server_forgets_by_itself(self, start: StartServer) -> None:
        server = start(policy={"history_days": 1e-9})
        keeper = keeper_of(server)
        with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
            delete(http, push_image(http, HERE, "v1").digest)
        deadline = time.monotonic() + 20
        while keeper.rows(schema.tag_history):
            assert time.monotonic() < deadline
            time.sleep(0.05)


class TestWords:
    def test_an_immutable_tag_comes_back_and_is_not_moved(
        self, registry: WarmServer, http: httpx.Client, hythe: Hythe, keeper: Keeper
    ) -> None:
        first, second = push_image(http, HERE, "v1").digest, push_image(http, HERE, "v1").digest
        fixed = {"policy": {"immutable_tags": ["*:v*"]}}
        assert "is immutable here" in hythe("restore", f"{HERE}:v1", **fixed)
        assert at(http, "v1") == second
        delete(http, "v1")
        hythe("restore", f"{HERE}:v1", "--to", first, **fixed)
        assert at(http, "v1") == first
        rows = [row for row in keeper.rows(schema.audit) if row["action"] == "tag.restore"]
        assert [(row["target"], row["result"]) for row in rows] == [
            (f"{HERE}:v1", "denied"),
            (f"{HERE}:v1", "done"),
        ]
        assert json.loads(rows[1]["detail"]) == {"digest": first, "was": None, "manifests": []}
        assert rows[1]["actor"].startswith("operator:")

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["restore", f"{HERE}:none"], "the history of team/app:none has nothing to go back to"),
            (["restore", f"{HERE}:v1"], "the history of team/app:v1 has nothing to go back to"),
            (["restore", HERE], "says no tag: REPO:TAG or REPO@DIGEST is expected"),
            (["restore", "team/none:v1"], "repository name not known to this registry"),
            (["restore", "Team:v1"], "not a repository name"),
            (["restore", f"{HERE}:v1", "--at", "yesterday"], "'yesterday' is no time"),
            (["restore", f"{HERE}:v1", "--to", "sha256:0"], "digest"),
            (["restore", f"{HERE}@sha256:{'0' * 64}"], "does not have sha256:0000"),
            (["restore", f"{HERE}@sha256:{'0' * 64}", "--at", "1h"], "--at and --to go with REPO:TAG"),
            (["history", "team/none"], "repository name not known to this registry"),
            (["history", HERE, "--limit", "0"], "--limit is a number of entries"),
            (["history", HERE, "--limit", "9" * 30], "--limit is a number of entries"),
            (["restore", f"{HERE}:v1", "--at", "9" * 30 + "d"], "did not exist at that time"),
        ],
    )
    def test_a_mistake_is_told_in_a_sentence(
        self, http: httpx.Client, hythe: Hythe, words: list[str], expected: str
    ) -> None:
        push_image(http, HERE, "v1")
        message = hythe(*words)
        assert expected in message
        assert "\n" not in message

    def test_people_read_a_table(
        self, registry: WarmServer, http: httpx.Client, capsys: pytest.CaptureFixture[str], hythe: Hythe
    ) -> None:
        first = push_image(http, HERE, "v1")
        second = push_image(http, HERE, "v1")
        delete(http, first.digest)
        hythe("history", HERE)
        config_path = str(registry.directory / "admin.yaml")
        assert admin.run(["--config", config_path, "history", f"{HERE}:v1"]) == 0
        heading, now, before = capsys.readouterr().out.splitlines()
        assert heading.split() == ["NAME", "DIGEST", "FROM", "UNTIL", "ENDED", "BY", "HOW"]
        assert second.digest in now
        assert "now" in now
        assert first.digest in before
        assert "anonymous   moved" in before
        assert admin.run(["--config", config_path, "restore", f"{HERE}:v1"]) == 0
        done = capsys.readouterr()
        assert done.out == f"{HERE}:v1: {first.digest}, it was {second.digest}\n"
        assert done.err == "1 deleted manifests are served again\n"
