"""What is collected and what is not, seen from outside: a registry, its clients, and an operator."""

from __future__ import annotations

import threading

import httpx
import pytest

from registry.server.index import schema
from tests.gc.conftest import StartServer
from tests.gc.keeper import Keeper
from tests.support.oci import (
    Content,
    blob,
    blob_path,
    config,
    finish,
    image,
    index,
    manifest_path,
    push_artifact,
    push_blob,
    push_image,
    push_manifest,
    put_manifest,
    referrers_path,
    start_upload,
    tags_path,
    uploads_path,
    with_query,
)
from tests.support.warm import WarmServer

REPOSITORY, OTHER = "team/app", "team/other"
GRACE = 1000.0


def has(http: httpx.Client, path: str) -> bool:
    """Whether the registry shows something; GET and HEAD agree."""
    status = http.get(path).status_code
    assert status in (200, 404)
    assert http.head(path).status_code == status
    return status == 200


def has_blob(http: httpx.Client, content: Content, repository: str = REPOSITORY) -> bool:
    return has(http, blob_path(repository, content.digest))


def has_manifest(http: httpx.Client, content: Content, repository: str = REPOSITORY) -> bool:
    return has(http, manifest_path(repository, content.digest))


def delete(http: httpx.Client, path: str) -> None:
    assert http.delete(path).status_code == 202


class TestBlobs:
    def test_one_that_no_manifest_ever_named_goes_with_its_bytes(self, http: httpx.Client, keeper: Keeper) -> None:
        small, large = push_blob(http, REPOSITORY, blob(100)), push_blob(http, REPOSITORY, blob(200_000))
        tally = keeper.collect()
        assert (tally.unlinked, tally.deleted, tally.freed_bytes) == (2, 2, 200_100)
        assert not has_blob(http, small)
        assert not has_blob(http, large)
        assert keeper.stored() == set()
        assert keeper.leftovers() == []
        keeper.check_clean()

    def test_one_that_a_manifest_names_stays_with_it_and_goes_after_it(
        self, http: httpx.Client, keeper: Keeper
    ) -> None:
        made, layer = push_blob(http, REPOSITORY, config()), push_blob(http, REPOSITORY, blob())
        manifest = push_manifest(http, REPOSITORY, image(made, [layer]), "v1")
        keeper.collect()
        assert has_blob(http, layer)
        delete(http, manifest_path(REPOSITORY, manifest.digest))
        assert has_blob(http, layer)
        keeper.collect()
        assert not has_blob(http, layer)
        assert not has_blob(http, made)
        assert keeper.stored() == set()
        keeper.check_clean()

    def test_a_layer_that_manifests_share_goes_with_the_last_of_them(
        self, http: httpx.Client, keeper: Keeper
    ) -> None:
        made, layer = push_blob(http, REPOSITORY, config()), push_blob(http, REPOSITORY, blob())
        first, second = (image(made, [layer], annotations={"which": which}) for which in "12")
        for each in (first, second):
            push_manifest(http, REPOSITORY, each)
        delete(http, manifest_path(REPOSITORY, first.digest))
        keeper.collect()
        assert has_blob(http, layer)
        delete(http, manifest_path(REPOSITORY, second.digest))
        keeper.collect()
        assert not has_blob(http, layer)
        keeper.check_clean()

    def test_bytes_stay_as_long_as_one_repository_has_them(self, http: httpx.Client, keeper: Keeper) -> None:
        made, layer = config(), blob()
        manifest = image(made, [layer])
        for repository in (REPOSITORY, OTHER):
            push_blob(http, repository, made)
            push_blob(http, repository, layer)
            push_manifest(http, repository, manifest, "v1")
        delete(http, manifest_path(REPOSITORY, manifest.digest))
        keeper.collect()
        assert not has_blob(http, layer)
        assert http.get(blob_path(OTHER, layer.digest)).content == layer.data
        assert http.get(manifest_path(OTHER, "v1")).content == manifest.data
        keeper.check_clean()
        delete(http, manifest_path(OTHER, manifest.digest))
        keeper.collect()
        assert keeper.stored() == set()

    def test_one_that_was_deleted_by_hand_leaves_no_bytes(self, http: httpx.Client, keeper: Keeper) -> None:
        loose = push_blob(http, REPOSITORY, blob())
        delete(http, blob_path(REPOSITORY, loose.digest))
        keeper.collect()
        assert keeper.stored() == set()
        keeper.check_clean()

    def test_it_can_be_pushed_again_after_it_went(self, http: httpx.Client, keeper: Keeper) -> None:
        made, layer = push_blob(http, REPOSITORY, config()), push_blob(http, REPOSITORY, blob(100_000))
        keeper.collect()
        for each in (made, layer):
            push_blob(http, REPOSITORY, each)
        push_manifest(http, REPOSITORY, image(made, [layer]), "v1")
        keeper.collect()
        assert http.get(blob_path(REPOSITORY, layer.digest)).content == layer.data

    def test_a_pull_that_began_before_it_went_is_answered_to_the_end(
        self, http: httpx.Client, keeper: Keeper
    ) -> None:
        large = push_blob(http, REPOSITORY, blob(20_000_000))
        with http.stream("GET", blob_path(REPOSITORY, large.digest)) as answer:
            pieces = answer.iter_bytes(65536)
            first = next(pieces)
            keeper.collect()
            assert keeper.stored() == set()
            assert first + b"".join(pieces) == large.data
        assert not has_blob(http, large)

    def test_an_upload_that_is_open_is_none_of_it(self, http: httpx.Client, keeper: Keeper) -> None:
        content = blob(300_000)
        session = start_upload(http, REPOSITORY)
        http.patch(session, content=content.data[:200_000]).raise_for_status()
        keeper.collect()
        keeper.walk()
        assert finish(http, session, content.digest, content.data[200_000:]).status_code == 201
        assert http.get(blob_path(REPOSITORY, content.digest)).content == content.data


class TestPromises:
    """A client that was told of a blob finds it there for a grace period."""

    @pytest.fixture
    def registry(self, start: StartServer) -> WarmServer:
        return start(gc={"enabled": False, "grace_seconds": GRACE})

    @pytest.fixture
    def loose(self, http: httpx.Client, keeper: Keeper) -> Content:
        """A blob that would go with the next collection."""
        made = push_blob(http, REPOSITORY, blob(100_000))
        keeper.grow_older(2 * GRACE)
        return made

    def test_what_was_just_pushed_stays(self, http: httpx.Client, keeper: Keeper) -> None:
        made = push_blob(http, REPOSITORY, blob())
        keeper.grow_older(GRACE * 0.99)
        assert keeper.collect(GRACE, until_done=False).unlinked == 0
        assert has_blob(http, made)

    def test_what_nobody_spoke_of_goes(self, http: httpx.Client, keeper: Keeper, loose: Content) -> None:
        assert keeper.collect(GRACE, until_done=False).deleted == 1
        assert not has_blob(http, loose)

    def test_a_question_makes_it_stay(self, http: httpx.Client, keeper: Keeper, loose: Content) -> None:
        assert http.head(blob_path(REPOSITORY, loose.digest)).status_code == 200
        keeper.collect(GRACE, until_done=False)
        keeper.grow_older(GRACE * 0.8)
        keeper.collect(GRACE, until_done=False)
        assert http.get(blob_path(REPOSITORY, loose.digest)).content == loose.data

    def test_pulling_makes_it_stay(self, http: httpx.Client, keeper: Keeper, loose: Content) -> None:
        assert http.get(blob_path(REPOSITORY, loose.digest)).status_code == 200
        assert keeper.collect(GRACE, until_done=False).unlinked == 0

    def test_pushing_it_again_makes_it_stay(self, http: httpx.Client, keeper: Keeper, loose: Content) -> None:
        push_blob(http, REPOSITORY, loose)
        assert keeper.collect(GRACE, until_done=False).unlinked == 0

    def test_mounting_it_makes_it_stay_where_it_was_mounted(
        self, http: httpx.Client, keeper: Keeper, loose: Content
    ) -> None:
        query = {"mount": loose.digest, "from": REPOSITORY}
        assert http.post(with_query(uploads_path(OTHER), **query)).status_code == 201
        assert keeper.collect(GRACE, until_done=False).unlinked == 1
        assert not has_blob(http, loose)
        assert http.get(blob_path(OTHER, loose.digest)).content == loose.data

    def test_mounting_it_onto_itself_makes_it_stay(
        self, http: httpx.Client, keeper: Keeper, loose: Content
    ) -> None:
        query = {"mount": loose.digest, "from": REPOSITORY}
        assert http.post(with_query(uploads_path(REPOSITORY), **query)).status_code == 201
        assert keeper.collect(GRACE, until_done=False).unlinked == 0

    def test_the_same_closing_request_again_makes_it_stay(self, http: httpx.Client, keeper: Keeper) -> None:
        made, session = blob(), start_upload(http, REPOSITORY)
        assert finish(http, session, made.digest, made.data).status_code == 201
        keeper.grow_older(2 * GRACE)
        assert finish(http, session, made.digest).status_code == 201
        assert keeper.collect(GRACE, until_done=False).unlinked == 0

    def test_the_same_closing_request_after_it_went_is_told_so(self, http: httpx.Client, keeper: Keeper) -> None:
        made, session = blob(), start_upload(http, REPOSITORY)
        assert finish(http, session, made.digest, made.data).status_code == 201
        keeper.grow_older(2 * GRACE)
        keeper.collect(GRACE, until_done=False)
        assert finish(http, session, made.digest).status_code == 404

    def test_a_layer_of_a_manifest_that_goes_stays_a_grace_period_longer(
        self, http: httpx.Client, keeper: Keeper
    ) -> None:
        made, layer = push_blob(http, REPOSITORY, config()), push_blob(http, REPOSITORY, blob())
        manifest = push_manifest(http, REPOSITORY, image(made, [layer]), "v1")
        keeper.grow_older(10 * GRACE)
        assert has_blob(http, layer)  # from now on from memory
        delete(http, manifest_path(REPOSITORY, manifest.digest))
        keeper.collect(GRACE, until_done=False)
        assert has_blob(http, layer)
        push_manifest(http, REPOSITORY, image(made, [layer], annotations={"which": "2"}), "v2")
        keeper.grow_older(10 * GRACE)
        keeper.collect(GRACE, until_done=False)
        assert has_blob(http, layer)

    def test_what_is_named_by_a_manifest_is_answered_without_a_note(
        self, http: httpx.Client, keeper: Keeper
    ) -> None:
        manifest = push_image(http, REPOSITORY, "v1")
        keeper.grow_older(10 * GRACE)
        before = keeper.rows(schema.blob_link)
        for layer in manifest.document["layers"]:
            assert http.head(blob_path(REPOSITORY, layer["digest"])).status_code == 200
        assert keeper.rows(schema.blob_link) == before

    def test_questions_that_follow_each_other_make_one_note(
        self, http: httpx.Client, keeper: Keeper, loose: Content
    ) -> None:
        http.head(blob_path(REPOSITORY, loose.digest))
        before = keeper.rows(schema.blob_link)
        for _ in range(5):
            http.head(blob_path(REPOSITORY, loose.digest))
        assert keeper.rows(schema.blob_link) == before


class TestManifests:
    def test_without_a_tag_they_stay_unless_the_operator_says_otherwise(
        self, http: httpx.Client, keeper: Keeper
    ) -> None:
        manifest = push_image(http, REPOSITORY)
        keeper.collect()
        assert has_manifest(http, manifest)
        assert keeper.collect(delete_untagged=True).removed == 0  # it is no candidate any more
        keeper.walk(delete_untagged=True)
        assert keeper.collect(delete_untagged=True).removed == 1
        assert not has_manifest(http, manifest)
        assert keeper.stored() == set()

    def test_one_whose_tag_moved_on_goes(self, http: httpx.Client, keeper: Keeper) -> None:
        old, new = push_image(http, REPOSITORY, "latest"), push_image(http, REPOSITORY, "latest")
        keeper.collect(delete_untagged=True)
        assert not has_manifest(http, old)
        assert has_manifest(http, new)
        keeper.check_clean()

    def test_one_with_another_tag_stays(self, http: httpx.Client, keeper: Keeper) -> None:
        manifest = push_image(http, REPOSITORY, "one")
        push_manifest(http, REPOSITORY, manifest, "two")
        delete(http, manifest_path(REPOSITORY, "one"))
        keeper.collect(delete_untagged=True)
        assert has_manifest(http, manifest)

    def test_children_of_an_index_stay_with_it_also_through_indexes_between(
        self, http: httpx.Client, keeper: Keeper
    ) -> None:
        child = push_image(http, REPOSITORY)
        between = push_manifest(http, REPOSITORY, index([child.descriptor()]))
        top = push_manifest(http, REPOSITORY, index([between.descriptor()]), "multi")
        keeper.collect(delete_untagged=True)
        assert all(has_manifest(http, each) for each in (child, between, top))
        for layer in child.document["layers"]:
            assert has(http, blob_path(REPOSITORY, layer["digest"]))
        delete(http, manifest_path(REPOSITORY, "multi"))
        keeper.collect(delete_untagged=True)
        assert not any(has_manifest(http, each) for each in (child, between, top))
        assert keeper.stored() == set()
        keeper.check_clean()

    def test_an_index_that_is_going_is_never_without_a_child(self, http: httpx.Client, keeper: Keeper) -> None:
        """Somebody may tag it at any moment, and is asked only for its own children then."""
        child = push_image(http, REPOSITORY)
        between = push_manifest(http, REPOSITORY, index([child.descriptor()]))
        top = push_manifest(http, REPOSITORY, index([between.descriptor()]))
        while has_manifest(http, top):
            assert has_manifest(http, between)
            assert has_manifest(http, child)
            keeper.collect(delete_untagged=True, until_done=False)
        while has_manifest(http, between):
            assert has_manifest(http, child)
            keeper.collect(delete_untagged=True, until_done=False)

    def test_a_child_of_two_indexes_goes_with_the_last(self, http: httpx.Client, keeper: Keeper) -> None:
        child = push_image(http, REPOSITORY)
        first, second = (index([child.descriptor()], annotations={"which": which}) for which in "12")
        push_manifest(http, REPOSITORY, first, "one")
        push_manifest(http, REPOSITORY, second, "two")
        delete(http, manifest_path(REPOSITORY, "one"))
        keeper.collect(delete_untagged=True)
        assert has_manifest(http, child)
        delete(http, manifest_path(REPOSITORY, "two"))
        keeper.collect(delete_untagged=True)
        assert not has_manifest(http, child)

    def test_what_refers_to_a_living_subject_stays_and_what_refers_to_that(
        self, http: httpx.Client, keeper: Keeper
    ) -> None:
        subject = push_image(http, REPOSITORY, "v1")
        sbom = push_artifact(http, REPOSITORY, "application/sbom", subject.descriptor())
        signature = push_artifact(http, REPOSITORY, "application/signature", sbom.descriptor())
        keeper.collect(delete_untagged=True)
        assert has_manifest(http, signature)
        listed = http.get(referrers_path(REPOSITORY, subject.digest)).json()["manifests"]
        assert [each["digest"] for each in listed] == [sbom.digest]

    def test_what_refers_to_a_dead_subject_goes_with_it(self, http: httpx.Client, keeper: Keeper) -> None:
        subject = push_image(http, REPOSITORY, "v1")
        sbom = push_artifact(http, REPOSITORY, "application/sbom", subject.descriptor())
        signature = push_artifact(http, REPOSITORY, "application/signature", sbom.descriptor())
        tagged = push_artifact(http, REPOSITORY, "application/keep", subject.descriptor(), "kept")
        keeper.collect(delete_untagged=True)
        delete(http, manifest_path(REPOSITORY, "v1"))
        keeper.collect(delete_untagged=True)
        assert not any(has_manifest(http, each) for each in (subject, sbom, signature))
        assert has_manifest(http, tagged)
        keeper.check_clean()

    def test_what_refers_to_a_child_of_a_tagged_index_stays(self, http: httpx.Client, keeper: Keeper) -> None:
        child = push_image(http, REPOSITORY)
        push_manifest(http, REPOSITORY, index([child.descriptor()]), "multi")
        signature = push_artifact(http, REPOSITORY, "application/signature", child.descriptor())
        keeper.collect(delete_untagged=True)
        assert has_manifest(http, signature)

    def test_a_child_stays_while_the_index_above_it_has_a_grace_period(
        self, http: httpx.Client, keeper: Keeper
    ) -> None:
        child = push_image(http, REPOSITORY, "child")
        top = push_manifest(http, REPOSITORY, index([child.descriptor()]), "multi")
        delete(http, manifest_path(REPOSITORY, "child"))
        keeper.grow_older(10 * GRACE)
        delete(http, manifest_path(REPOSITORY, "multi"))
        keeper.collect(GRACE, delete_untagged=True, until_done=False)
        assert has_manifest(http, top)
        assert has_manifest(http, child)

    def test_pushing_it_again_without_a_tag_begins_a_grace_period(
        self, http: httpx.Client, keeper: Keeper
    ) -> None:
        manifest = push_image(http, REPOSITORY)
        keeper.grow_older(10 * GRACE)
        push_manifest(http, REPOSITORY, manifest)
        assert keeper.collect(GRACE, delete_untagged=True, until_done=False).removed == 0

    def test_removals_are_in_the_audit_log_with_the_reason(self, http: httpx.Client, keeper: Keeper) -> None:
        manifest = push_image(http, REPOSITORY, "v1")
        delete(http, manifest_path(REPOSITORY, "v1"))
        keeper.collect(delete_untagged=True)
        [entry] = [row for row in keeper.rows(schema.audit) if row["action"] == "manifest.collect"]
        assert (entry["actor"], entry["target"]) == ("collector", f"{REPOSITORY}@{manifest.digest}")
        assert "untagged" in entry["detail"]

    def test_a_refused_push_leaves_no_bytes(self, start: StartServer) -> None:
        server = start(policy={"immutable_tags": ["*:v*"]}, gc={"enabled": False, "grace_seconds": 0})
        keeper = Keeper(server.data)
        with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
            made, layer = push_blob(http, REPOSITORY, config()), push_blob(http, REPOSITORY, blob())
            push_manifest(http, REPOSITORY, image(made, [layer]), "v1")
            refused = image(made, [layer], annotations={"which": "2"})
            assert put_manifest(http, REPOSITORY, refused, "v1").status_code == 403
            assert refused.digest in keeper.stored()
            keeper.collect()
            assert refused.digest not in keeper.stored()
            keeper.check_clean()


class TestWalk:
    """What candidates miss is found by walking through everything."""

    def test_garbage_from_before_there_were_candidates_gets_its_grace_period(
        self, http: httpx.Client, keeper: Keeper
    ) -> None:
        push_blob(http, REPOSITORY, blob())
        push_image(http, REPOSITORY, "v1")
        keeper.execute("DELETE FROM candidate")
        assert keeper.collect().examined == 0
        found = keeper.walk()
        assert (found.links, found.manifests, found.candidates, found.missing) == (3, 1, 1, [])
        assert keeper.collect(GRACE, until_done=False).unlinked == 0
        assert keeper.collect().unlinked == 1
        keeper.check_clean()

    def test_bytes_that_no_row_names_are_found(self, http: httpx.Client, keeper: Keeper) -> None:
        manifest = push_image(http, REPOSITORY, "v1")
        orphan = push_blob(http, REPOSITORY, blob(5000))
        for table in ("blob_link", "blob", "candidate"):
            keeper.execute(f"DELETE FROM {table} WHERE digest = '{orphan.digest}'")
        keeper.execute("DELETE FROM candidate")
        assert keeper.walk().candidates == 1
        assert [str(each.action) for each in keeper.plan()] == ["delete"]
        keeper.collect()
        assert orphan.digest not in keeper.stored()
        assert has_manifest(http, manifest)
        keeper.check_clean()

    def test_a_record_without_anything_else_is_cleared_away(self, http: httpx.Client, keeper: Keeper) -> None:
        """As a crash between the deletion of bytes and its commit leaves it, if the candidate is lost too."""
        push_image(http, REPOSITORY, "v1")
        keeper.execute(f"INSERT INTO blob VALUES ('{blob().digest}', 5, 0)")
        keeper.walk()
        keeper.collect()
        keeper.check_clean()

    @pytest.mark.parametrize("damage", ["gone", "short"])
    def test_bytes_that_are_missing_are_named_and_nothing_is_dropped(
        self, http: httpx.Client, keeper: Keeper, damage: str
    ) -> None:
        manifest = push_image(http, REPOSITORY, "v1")
        lost = manifest.document["layers"][0]["digest"]
        path = keeper.directory / "blobs" / "sha256" / lost[7:9] / lost[7:]
        path.unlink() if damage == "gone" else path.write_bytes(b"x")
        found = keeper.walk()
        assert [(str(each.digest), list(each.repositories)) for each in found.missing] == [(lost, [REPOSITORY])]
        keeper.collect()
        assert lost in {row["digest"] for row in keeper.rows(schema.blob_link)}
        assert has_manifest(http, manifest)

    def test_an_upload_that_the_index_does_not_know_is_freed_and_others_are_not(
        self, http: httpx.Client, keeper: Keeper
    ) -> None:
        """As a killed request leaves it that pushed a whole blob."""
        content = blob(300_000)
        session = start_upload(http, REPOSITORY)
        http.patch(session, content=content.data).raise_for_status()
        left = keeper.directory / "uploads" / "00000000-0000-0000-0000-000000000000"
        left.write_bytes(b"left")
        assert keeper.walk().uploads == 1
        assert not left.exists()
        assert finish(http, session, content.digest).status_code == 201

    def test_a_second_walk_finds_nothing_new(self, http: httpx.Client, keeper: Keeper) -> None:
        push_blob(http, REPOSITORY, blob())
        push_image(http, REPOSITORY)
        keeper.execute("DELETE FROM candidate")
        assert keeper.walk(delete_untagged=True).candidates == 2
        assert keeper.walk(delete_untagged=True).candidates == 0


class TestBesidePulls:
    def test_no_worker_shows_what_another_one_collected(self, start: StartServer) -> None:
        server = start(gc={"enabled": True, "grace_seconds": 0, "interval_seconds": 0.05, "untagged": "delete"})
        other = start(data=server.data, gc={"enabled": False, "grace_seconds": 0})
        with (
            httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http,
            httpx.Client(base_url=other.url, timeout=30, trust_env=False) as elsewhere,
        ):
            keeper = Keeper(server.data)
            keeper.pause(True)
            kept = push_image(http, REPOSITORY, "kept")
            gone = push_image(http, REPOSITORY, "gone")
            paths = [manifest_path(REPOSITORY, gone.digest)]
            paths += [blob_path(REPOSITORY, each["digest"]) for each in gone.document["layers"]]
            for path in paths:
                assert elsewhere.get(path).status_code == 200
            delete(http, manifest_path(REPOSITORY, "gone"))
            keeper.pause(False)
            for _ in range(300):
                if not keeper.rows(schema.candidate):
                    break
                threading.Event().wait(0.05)
            assert [elsewhere.get(path).status_code for path in paths] == [404, 404]
            assert elsewhere.get(manifest_path(REPOSITORY, "kept")).content == kept.data
            assert http.get(tags_path(REPOSITORY)).json()["tags"] == ["kept"]
            keeper.check_clean()
