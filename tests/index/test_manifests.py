"""Manifests in the index: their bytes, their tags, what they name, and who refers to whom."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from registry.oci import manifest as documents
from registry.oci import media
from registry.oci.digest import Digest
from registry.oci.manifest import Manifest
from registry.oci.reference import Repository, Tag
from registry.server.index import blobs, changes, manifests, names, tags
from registry.server.index.manifests import Stored
from registry.server.index.schema import manifest as manifest_table
from registry.server.index.schema import reference

TEAM, OTHER = Repository("team/web"), Repository("team/other")
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"


def descriptor(content: str, media_type: str = LAYER) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(content.encode())), "size": len(content)}


def image(*layers: str, media_type: str | None = media.OCI_MANIFEST, **fields: Any) -> dict[str, Any]:
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor("config", CONFIG),
        "layers": [descriptor(layer) for layer in layers],
        **fields,
    }
    return {key: value for key, value in document.items() if value is not None}


def index(*children: str, **fields: Any) -> dict[str, Any]:
    listed = [descriptor(child, media.OCI_MANIFEST) for child in children]
    return {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": listed, **fields}


def read(document: dict[str, Any], content_type: str | None = None) -> tuple[Stored, Manifest]:
    payload = json.dumps(document).encode()
    parsed = documents.parse(payload, content_type)
    return Stored(Digest.of(payload), parsed.media_type, payload), parsed


def put(
    tx: sa.Connection,
    document: dict[str, Any],
    *with_tags: str,
    name: Repository = TEAM,
    content_type: str | None = None,
) -> Stored:
    stored, parsed = read(document, content_type)
    manifests.put(tx, name, stored, parsed, [Tag(each) for each in with_tags])
    return stored


def rows(tx: sa.Connection, table: sa.Table) -> int:
    return int(tx.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


class TestGetting:
    def test_a_manifest_is_found_under_its_digest_and_its_tags_with_its_exact_bytes(
        self, tx: sa.Connection
    ) -> None:
        stored = put(tx, image("one"), "latest", "v1")
        for wanted in (stored.digest, Tag("latest"), Tag("v1")):
            assert manifests.get(tx, TEAM, wanted) == stored
        assert manifests.get(tx, TEAM, Tag("v2")) is None
        assert manifests.get(tx, TEAM, Digest.of(b"other")) is None
        assert manifests.get(tx, OTHER, stored.digest) is None
        assert manifests.get(tx, OTHER, Tag("latest")) is None

    def test_the_same_manifest_in_two_repositories_is_two(self, tx: sa.Connection) -> None:
        stored = put(tx, image("one"), "latest")
        put(tx, image("one"), name=OTHER)
        assert manifests.remove(tx, TEAM, stored.digest)
        assert manifests.get(tx, OTHER, stored.digest) == stored
        assert manifests.get(tx, TEAM, stored.digest) is None

    def test_bytes_that_are_no_text_come_back_as_they_are(self, tx: sa.Connection) -> None:
        payload = bytes(range(256)) * 1000
        stored = Stored(Digest.of(payload, "sha512"), media.OCI_INDEX, payload)
        manifests.put(tx, TEAM, stored, Manifest(media.OCI_INDEX), [])
        assert manifests.get(tx, TEAM, stored.digest) == stored


class TestPutting:
    def test_putting_again_is_putting_once(self, tx: sa.Connection) -> None:
        for _ in range(3):
            put(tx, image("one", "two"), "latest")
        assert rows(tx, manifest_table) == 1
        assert rows(tx, reference) == 3
        assert changes.count(tx) == 0

    def test_it_says_which_tags_pointed_elsewhere(self, tx: sa.Connection) -> None:
        put(tx, image("one"), "a", "b")
        stored, parsed = read(image("two"))
        moved = manifests.put(tx, TEAM, stored, parsed, [Tag(tag) for tag in ("c", "b", "a")])
        assert sorted(moved) == ["a", "b"]
        assert manifests.put(tx, TEAM, stored, parsed, [Tag("a")]) == []
        assert all(manifests.get(tx, TEAM, Tag(tag)) == stored for tag in "abc")

    def test_the_manifest_that_a_tag_pointed_to_stays(self, tx: sa.Connection) -> None:
        first = put(tx, image("one"), "latest")
        put(tx, image("two"), "latest")
        assert manifests.get(tx, TEAM, first.digest) == first

    def test_the_same_layer_twice_is_one_reference(self, tx: sa.Connection) -> None:
        put(tx, image("one", "one"))
        assert rows(tx, reference) == 2

    def test_a_foreign_layer_is_a_reference_too(self, tx: sa.Connection) -> None:
        put(tx, image(layers=[descriptor("far", FOREIGN)]))
        assert rows(tx, reference) == 2

    def test_a_manifest_that_names_nothing_has_no_references(self, tx: sa.Connection) -> None:
        put(tx, index())
        assert rows(tx, reference) == 0

    def test_one_that_names_thousands_has_them_all(self, tx: sa.Connection) -> None:
        put(tx, index(*map(str, range(10_000))))
        assert rows(tx, reference) == 10_000

    def test_the_same_bytes_as_another_type_are_of_the_last_one(self, tx: sa.Connection) -> None:
        subject = descriptor("subject", media.OCI_MANIFEST)
        document = image("one", media_type=None, subject=subject)
        first = put(tx, document, "latest", content_type=media.OCI_MANIFEST)
        assert changes.count(tx) == 0
        second = put(tx, document, content_type=media.DOCKER_MANIFEST)
        assert first.digest == second.digest
        assert manifests.get(tx, TEAM, Tag("latest")) == second
        assert changes.count(tx) == 1
        [(_, entry)] = manifests.referrers(tx, TEAM, Digest(subject["digest"]), None, "", 10)
        assert json.loads(entry)["mediaType"] == media.DOCKER_MANIFEST
        assert rows(tx, reference) == 2


class TestRemoving:
    def test_it_takes_every_tag_that_points_to_it_and_no_other(self, tx: sa.Connection) -> None:
        gone = put(tx, image("one"), "a", "b")
        stays = put(tx, image("two"), "c")
        assert manifests.remove(tx, TEAM, gone.digest)
        assert tags.page(tx, TEAM, "", 10) == ["c"]
        assert manifests.get(tx, TEAM, Tag("c")) == stays
        assert rows(tx, reference) == 2
        assert changes.count(tx) == 1

    def test_it_says_whether_there_was_one(self, tx: sa.Connection) -> None:
        stored = put(tx, image("one"))
        assert not manifests.remove(tx, OTHER, stored.digest)
        assert not manifests.remove(tx, TEAM, Digest.of(b"other"))
        assert manifests.remove(tx, TEAM, stored.digest)
        assert not manifests.remove(tx, TEAM, stored.digest)
        assert changes.count(tx) == 1

    def test_it_may_be_put_again(self, tx: sa.Connection) -> None:
        stored = put(tx, image("one"), "latest")
        manifests.remove(tx, TEAM, stored.digest)
        put(tx, image("one"), "latest")
        assert manifests.get(tx, TEAM, Tag("latest")) == stored


class TestAbsentReferences:
    def absent(
        self, tx: sa.Connection, document: dict[str, Any], need_blobs: bool = True, need_children: bool = True
    ) -> list[str]:
        _, parsed = read(document)
        return list(manifests.absent_references(tx, TEAM, parsed, need_blobs, need_children))

    def digests(self, *contents: str) -> list[str]:
        return [Digest.of(content.encode()) for content in contents]

    def test_an_unknown_repository_has_nothing(self, tx: sa.Connection) -> None:
        assert self.absent(tx, image("one", "two")) == self.digests("config", "one", "two")
        assert self.absent(tx, index("a", "b")) == self.digests("a", "b")

    def test_what_is_missing_comes_in_the_order_of_the_document(self, tx: sa.Connection) -> None:
        blobs.link(tx, TEAM, Digest.of(b"two"), 3)
        blobs.link(tx, OTHER, Digest.of(b"one"), 3)
        assert self.absent(tx, image("three", "two", "one")) == self.digests("config", "three", "one")
        for content in (b"config", b"one", b"three"):
            blobs.link(tx, TEAM, Digest.of(content), 3)
        assert self.absent(tx, image("three", "two", "one")) == []

    def test_a_foreign_layer_is_not_missed(self, tx: sa.Connection) -> None:
        blobs.link(tx, TEAM, Digest.of(b"config"), 6)
        assert self.absent(tx, image(layers=[descriptor("far", FOREIGN)])) == []

    def test_a_child_may_be_a_manifest_or_a_blob_of_this_repository(self, tx: sa.Connection) -> None:
        child = put(tx, image("one"))
        elsewhere = put(tx, image("two"), name=OTHER)
        blobs.link(tx, TEAM, Digest.of(b"layer"), 5)
        listed = [
            {"mediaType": media.OCI_MANIFEST, "digest": stored.digest, "size": len(stored.payload)}
            for stored in (child, elsewhere)
        ]
        document = index(manifests=[*listed, descriptor("layer"), descriptor("nothing")])
        assert self.absent(tx, document) == [elsewhere.digest, *self.digests("nothing")]

    def test_what_is_not_asked_for_is_not_missed(self, tx: sa.Connection) -> None:
        assert self.absent(tx, image("one"), need_blobs=False) == []
        assert self.absent(tx, index("a"), need_children=False) == []
        assert self.absent(tx, image("one"), need_children=False) == self.digests("config", "one")
        assert self.absent(tx, index("a"), need_blobs=False) == self.digests("a")

    def test_thousands_of_children_are_looked_up(self, tx: sa.Connection) -> None:
        names.find_or_add(tx, TEAM)
        contents = [str(number) for number in range(3_000)]
        for content in contents[:1_000]:
            blobs.link(tx, TEAM, Digest.of(content.encode()), 1)
        assert self.absent(tx, index(*contents)) == self.digests(*contents[1_000:])


class TestReferrers:
    SUBJECT = descriptor("subject", media.OCI_MANIFEST)

    def referrers(
        self,
        tx: sa.Connection,
        kind: str | None = None,
        after: str = "",
        limit: int = 100,
        name: Repository = TEAM,
    ) -> list[str]:
        subject = Digest(self.SUBJECT["digest"])
        return [digest for digest, _ in manifests.referrers(tx, name, subject, kind, after, limit)]

    def put_some(self, tx: sa.Connection, count: int, kind: str) -> list[str]:
        return [
            put(
                tx,
                image(subject=self.SUBJECT, artifactType=kind, annotations={"number": str(number)}),
            ).digest
            for number in range(count)
        ]

    def test_those_of_a_subject_come_in_byte_order_of_their_digests(self, tx: sa.Connection) -> None:
        found = self.put_some(tx, 20, "application/a")
        put(tx, image("one"))
        put(tx, image("one", subject=descriptor("another subject", media.OCI_MANIFEST)))
        put(tx, image("one", subject=self.SUBJECT), name=OTHER)
        assert self.referrers(tx) == sorted(found)
        assert len(self.referrers(tx, name=OTHER)) == 1
        assert self.referrers(tx, name=Repository("unknown")) == []

    @pytest.mark.parametrize("size", [1, 3, 20, 21])
    def test_pages_of_any_size_have_every_one_once(self, tx: sa.Connection, size: int) -> None:
        expected = sorted(self.put_some(tx, 20, "application/a"))
        found: list[str] = []
        while page := self.referrers(tx, after=found[-1] if found else "", limit=size):
            found += page
        assert found == expected

    def test_one_type_may_be_asked_for(self, tx: sa.Connection) -> None:
        some, others = self.put_some(tx, 5, "application/a"), self.put_some(tx, 5, "application/b")
        assert self.referrers(tx, "application/a") == sorted(some)
        assert self.referrers(tx, "application/b") == sorted(others)
        assert self.referrers(tx, "application/c") == []
        assert self.referrers(tx, "application/%") == []

    def test_an_images_type_is_its_configs(self, tx: sa.Connection) -> None:
        stored = put(tx, image("one", subject=self.SUBJECT))
        assert self.referrers(tx, CONFIG) == [stored.digest]

    def test_an_entry_describes_its_manifest(self, tx: sa.Connection) -> None:
        annotations = {"org.example": "ä“\U0001f600\n\u2028\x00"}
        stored = put(tx, index(subject=self.SUBJECT, artifactType="application/a", annotations=annotations))
        [(digest, entry)] = manifests.referrers(tx, TEAM, Digest(self.SUBJECT["digest"]), None, "", 10)
        assert digest == stored.digest
        assert json.loads(entry) == {
            "mediaType": media.OCI_INDEX,
            "digest": stored.digest,
            "size": len(stored.payload),
            "artifactType": "application/a",
            "annotations": annotations,
        }

    def test_a_subject_need_not_be_there_and_one_that_goes_leaves_its_referrers(self, tx: sa.Connection) -> None:
        subject = put(tx, image("one"))
        named = {"mediaType": media.OCI_MANIFEST, "digest": subject.digest, "size": len(subject.payload)}
        stored = put(tx, image("two", subject=named))
        assert manifests.remove(tx, TEAM, subject.digest)
        assert [digest for digest, _ in manifests.referrers(tx, TEAM, subject.digest, None, "", 9)] == [
            stored.digest
        ]

    def test_one_that_is_removed_is_listed_no_more(self, tx: sa.Connection) -> None:
        first, *rest = self.put_some(tx, 3, "application/a")
        manifests.remove(tx, TEAM, Digest(first))
        assert self.referrers(tx) == sorted(rest)
