"""Listing referrers: who is in the list and how, filters, pages, the fallback tag, and empty lists."""

from __future__ import annotations

import os
from urllib.parse import urlencode

import httpx
import pytest

from tests.conformance.conftest import PAGE_SIZE
from tests.support.oci import (
    ALGORITHMS,
    EMPTY,
    OCI_CONFIG,
    OCI_IMAGE,
    OCI_INDEX,
    Content,
    Document,
    artifact,
    blob,
    blob_path,
    digest_of,
    failure,
    index,
    manifest_path,
    pages,
    push_artifact,
    push_blob,
    push_image,
    push_manifest,
    put_manifest,
    referrers_path,
    tags_path,
)

SBOM = "application/vnd.example.sbom.v1+json"
SIGNATURE = "application/vnd.example.signature.v1"

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def assert_is_index(response: httpx.Response) -> list[Document]:
    """The descriptors of an answer, which must be an index that the strictest client can decode."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == OCI_INDEX
    document = response.json()
    assert document["schemaVersion"] == 2
    assert document["mediaType"] == OCI_INDEX
    assert set(document) <= {"schemaVersion", "mediaType", "manifests", "annotations"}
    assert isinstance(document["manifests"], list)
    for descriptor in document["manifests"]:
        assert set(descriptor) <= {"mediaType", "digest", "size", "artifactType", "annotations"}
        assert isinstance(descriptor.get("annotations", {}), dict)
    return document["manifests"]


def referrers(http: httpx.Client, repository: str, digest: str, **query: str) -> list[Document]:
    """All referrers of *digest*, page by page."""
    url = referrers_path(repository, digest) + (f"?{urlencode(query)}" if query else "")
    return [each for page in pages(http, url) for each in assert_is_index(page)]


def digests(descriptors: list[Document]) -> list[str]:
    return sorted(each["digest"] for each in descriptors)


def push_referring_index(
    http: httpx.Client, repository: str, subject: Document, **fields: str | dict[str, str]
) -> Content:
    annotations = {"org.example.unique": os.urandom(8).hex()}
    content = index([], **{"subject": subject, "annotations": annotations, **fields})
    return push_manifest(http, repository, content)


class TestNothing:
    @every_algorithm
    def test_a_repository_that_never_was_has_an_empty_list(
        self, http: httpx.Client, repository: str, algorithm: str
    ) -> None:
        response = http.get(referrers_path(repository, digest_of(b"nothing", algorithm)))
        assert assert_is_index(response) == []
        assert "Link" not in response.headers

    def test_a_digest_that_nobody_refers_to_has_an_empty_list(self, http: httpx.Client, repository: str) -> None:
        content = push_image(http, repository)
        for digest in (content.digest, digest_of(b"never pushed")):
            assert referrers(http, repository, digest) == []

    def test_an_empty_list_can_be_filtered(self, http: httpx.Client, repository: str) -> None:
        path = referrers_path(repository, digest_of(b"nothing"))
        response = http.get(path, params={"artifactType": SBOM})
        assert assert_is_index(response) == []
        assert response.headers["OCI-Filters-Applied"] == "artifactType"

    @pytest.mark.parametrize(
        "digest",
        [
            "sha256:baddigeststring",
            "sha256:" + "0" * 63,
            "sha256:" + "A" * 64,
            "md5:" + "0" * 32,
            "latest",
            "nonsense:",
            pytest.param("sha256:%00", marks=pytest.mark.direct),
        ],
    )
    @pytest.mark.parametrize("known", [True, False], ids=["known repository", "unknown repository"])
    def test_a_malformed_digest_is_refused(
        self, http: httpx.Client, repository: str, digest: str, known: bool
    ) -> None:
        if known:
            push_image(http, repository)
        assert failure(http.get(referrers_path(repository, digest))) == (400, "DIGEST_INVALID")


class TestDescriptors:
    @every_algorithm
    def test_a_referrer_is_listed_with_type_size_digest_and_annotations(
        self, http: httpx.Client, repository: str, algorithm: str
    ) -> None:
        subject = push_image(http, repository, algorithm=algorithm)
        annotations = {"org.example.a": "1", "org.example.ü": "☃", "org.example.empty": ""}
        content = push_artifact(http, repository, SBOM, subject.descriptor(), annotations=annotations)
        assert referrers(http, repository, subject.digest) == [
            {
                "mediaType": OCI_IMAGE,
                "digest": content.digest,
                "size": len(content.data),
                "artifactType": SBOM,
                "annotations": content.document["annotations"],
            }
        ]

    @pytest.mark.parametrize("artifact_type", [None, ""], ids=["absent", "empty"])
    @pytest.mark.parametrize("media_type", [OCI_CONFIG, "application/vnd.example.config.v1"])
    def test_an_image_without_artifact_type_has_its_configs_media_type(
        self, http: httpx.Client, repository: str, artifact_type: str | None, media_type: str
    ) -> None:
        subject = push_image(http, repository)
        made = push_blob(http, repository, blob(media_type=media_type))
        push_artifact(http, repository, artifact_type, subject.descriptor(), config=made.descriptor())
        (listed,) = referrers(http, repository, subject.digest)
        assert listed["artifactType"] == media_type

    def test_an_artifact_type_outranks_the_configs_media_type(self, http: httpx.Client, repository: str) -> None:
        subject = push_image(http, repository)
        push_image(http, repository, subject=subject.descriptor(), artifactType=SIGNATURE)
        (listed,) = referrers(http, repository, subject.digest)
        assert listed["artifactType"] == SIGNATURE

    def test_an_index_is_listed_with_its_artifact_type(self, http: httpx.Client, repository: str) -> None:
        subject = push_image(http, repository)
        content = push_referring_index(http, repository, subject.descriptor(), artifactType=SBOM)
        (listed,) = referrers(http, repository, subject.digest)
        assert listed["mediaType"] == OCI_INDEX
        assert listed["digest"] == content.digest
        assert listed["artifactType"] == SBOM
        assert listed["annotations"] == content.document["annotations"]

    @pytest.mark.parametrize("fields", [{}, {"artifactType": ""}], ids=["absent", "empty"])
    def test_an_index_without_artifact_type_has_none_in_the_list(
        self, http: httpx.Client, repository: str, fields: dict[str, str]
    ) -> None:
        subject = push_image(http, repository)
        push_referring_index(http, repository, subject.descriptor(), **fields)
        (listed,) = referrers(http, repository, subject.digest)
        assert "artifactType" not in listed

    def test_a_referrer_without_annotations_has_none_in_the_list(
        self, http: httpx.Client, repository: str
    ) -> None:
        subject = push_image(http, repository)
        push_image(http, repository, subject=subject.descriptor())
        (listed,) = referrers(http, repository, subject.digest)
        assert listed.get("annotations", {}) == {}

    @every_algorithm
    def test_a_referrer_is_listed_under_the_digest_that_it_was_pushed_by(
        self, http: httpx.Client, repository: str, algorithm: str
    ) -> None:
        subject = push_image(http, repository)
        push_blob(http, repository, EMPTY)
        content = artifact(SBOM, subject.descriptor()).under(algorithm)
        push_manifest(http, repository, content)
        assert digests(referrers(http, repository, subject.digest)) == [content.digest]


class TestMembership:
    def test_images_and_indexes_are_listed_together(self, http: httpx.Client, repository: str) -> None:
        subject = push_image(http, repository, "latest")
        pushed = [
            push_artifact(http, repository, SBOM, subject.descriptor()),
            push_artifact(http, repository, SIGNATURE, subject.descriptor(), "signed"),
            push_referring_index(http, repository, subject.descriptor()),
        ]
        assert digests(referrers(http, repository, subject.digest)) == sorted(each.digest for each in pushed)

    @every_algorithm
    def test_a_referrer_may_come_before_its_subject(
        self, http: httpx.Client, repository: str, algorithm: str
    ) -> None:
        later = push_image(http, f"{repository}/elsewhere", algorithm=algorithm)
        content = push_artifact(http, repository, SBOM, later.descriptor())
        assert digests(referrers(http, repository, later.digest)) == [content.digest]
        for each in (later.document["config"], *later.document["layers"]):
            path = blob_path(f"{repository}/elsewhere", each["digest"])
            push_blob(http, repository, Content(http.get(path).content, algorithm=algorithm))
        push_manifest(http, repository, later)
        assert digests(referrers(http, repository, later.digest)) == [content.digest]

    def test_the_subject_need_not_be_a_manifest_of_the_type_that_it_is_said_to_be(
        self, http: httpx.Client, repository: str
    ) -> None:
        subject = push_image(http, repository)
        content = push_artifact(http, repository, SBOM, subject.descriptor(size=1, mediaType="a/b"))
        assert digests(referrers(http, repository, subject.digest)) == [content.digest]

    def test_a_referrer_may_have_referrers(self, http: httpx.Client, repository: str) -> None:
        subject = push_image(http, repository)
        sbom = push_artifact(http, repository, SBOM, subject.descriptor())
        signature = push_artifact(http, repository, SIGNATURE, sbom.descriptor())
        assert digests(referrers(http, repository, subject.digest)) == [sbom.digest]
        assert digests(referrers(http, repository, sbom.digest)) == [signature.digest]

    def test_referrers_of_another_repository_are_not_listed(self, http: httpx.Client, repository: str) -> None:
        subject = push_image(http, f"{repository}/a").descriptor()
        push_artifact(http, f"{repository}/b", SBOM, subject)
        assert referrers(http, f"{repository}/a", subject["digest"]) == []
        assert len(referrers(http, f"{repository}/b", subject["digest"])) == 1

    def test_pushing_a_referrer_again_lists_it_once(self, http: httpx.Client, repository: str) -> None:
        subject = push_image(http, repository)
        content = push_artifact(http, repository, SBOM, subject.descriptor())
        for reference in ("one", "two", content.digest):
            assert put_manifest(http, repository, content, reference).status_code == 201
        assert digests(referrers(http, repository, subject.digest)) == [content.digest]

    def test_an_overwritten_tag_does_not_remove_the_referrer_that_it_left(
        self, http: httpx.Client, repository: str
    ) -> None:
        subject = push_image(http, repository)
        first, second = (push_artifact(http, repository, SBOM, subject.descriptor(), "sbom") for _ in range(2))
        assert digests(referrers(http, repository, subject.digest)) == sorted([first.digest, second.digest])

    def test_a_deleted_referrer_is_no_longer_listed(self, http: httpx.Client, repository: str) -> None:
        subject = push_image(http, repository)
        gone, stays = (push_artifact(http, repository, SBOM, subject.descriptor()) for _ in range(2))
        assert http.delete(manifest_path(repository, gone.digest)).status_code == 202
        assert digests(referrers(http, repository, subject.digest)) == [stays.digest]

    def test_a_deleted_subject_still_has_a_list(self, http: httpx.Client, repository: str) -> None:
        subject = push_image(http, repository)
        push_artifact(http, repository, SBOM, subject.descriptor())
        assert http.delete(manifest_path(repository, subject.digest)).status_code == 202
        assert http.get(referrers_path(repository, subject.digest)).status_code == 200


class TestFilter:
    def test_only_the_type_that_was_asked_for_is_listed(self, http: httpx.Client, repository: str) -> None:
        subject = push_image(http, repository)
        boms = [push_artifact(http, repository, SBOM, subject.descriptor()) for _ in range(2)]
        boms.append(push_referring_index(http, repository, subject.descriptor(), artifactType=SBOM))
        push_artifact(http, repository, SIGNATURE, subject.descriptor())
        push_referring_index(http, repository, subject.descriptor())
        response = http.get(referrers_path(repository, subject.digest), params={"artifactType": SBOM})
        assert digests(assert_is_index(response)) == sorted(each.digest for each in boms)
        assert response.headers["OCI-Filters-Applied"] == "artifactType"

    def test_the_configs_media_type_counts_where_it_stands_in(self, http: httpx.Client, repository: str) -> None:
        subject = push_image(http, repository)
        content = push_image(http, repository, subject=subject.descriptor())
        push_artifact(http, repository, SBOM, subject.descriptor())
        listed = referrers(http, repository, subject.digest, artifactType=OCI_CONFIG)
        assert digests(listed) == [content.digest]

    @pytest.mark.parametrize(
        "wanted",
        [
            "application/vnd.example",
            SBOM.upper(),
            SBOM + "x",
            "application/vnd.example.sbom_v1+json",
            "%",
            "*",
            "\x00",
        ],
    )
    def test_a_type_matches_whole_or_not_at_all(self, http: httpx.Client, repository: str, wanted: str) -> None:
        subject = push_image(http, repository)
        push_artifact(http, repository, SBOM, subject.descriptor())
        response = http.get(referrers_path(repository, subject.digest), params={"artifactType": wanted})
        if wanted == "\x00" and response.status_code == 400:
            return
        assert assert_is_index(response) == []
        assert response.headers["OCI-Filters-Applied"] == "artifactType"

    def test_without_a_filter_none_is_reported(self, http: httpx.Client, repository: str) -> None:
        response = http.get(referrers_path(repository, push_image(http, repository).digest))
        assert "OCI-Filters-Applied" not in response.headers


class TestPages:
    def test_a_long_list_comes_in_pages_that_link_to_each_other(
        self, paged: httpx.Client, repository: str
    ) -> None:
        subject = push_image(paged, repository)
        pushed = [push_artifact(paged, repository, SBOM, subject.descriptor()).digest for _ in range(8)]
        answers = list(pages(paged, referrers_path(repository, subject.digest)))
        assert [len(assert_is_index(page)) for page in answers] == [3, 3, 2]
        assert all(page.links["next"]["rel"] == "next" for page in answers[:-1])
        assert "Link" not in answers[-1].headers
        assert digests([each for page in answers for each in assert_is_index(page)]) == sorted(pushed)

    def test_a_filter_holds_over_all_pages(self, paged: httpx.Client, repository: str) -> None:
        subject = push_image(paged, repository)
        for _ in range(4):
            push_artifact(paged, repository, SIGNATURE, subject.descriptor())
        boms = [push_artifact(paged, repository, SBOM, subject.descriptor()).digest for _ in range(5)]
        url = f"{referrers_path(repository, subject.digest)}?{urlencode({'artifactType': SBOM})}"
        answers = list(pages(paged, url))
        assert all(page.headers["OCI-Filters-Applied"] == "artifactType" for page in answers)
        assert all(len(assert_is_index(page)) <= PAGE_SIZE for page in answers)
        assert digests([each for page in answers for each in assert_is_index(page)]) == sorted(boms)

    def test_a_list_that_fills_its_page_has_no_next(self, paged: httpx.Client, repository: str) -> None:
        subject = push_image(paged, repository)
        for _ in range(PAGE_SIZE):
            push_artifact(paged, repository, SBOM, subject.descriptor())
        (only,) = pages(paged, referrers_path(repository, subject.digest))
        assert len(assert_is_index(only)) == PAGE_SIZE


def fallback_tag(digest: str) -> str:
    """The tag under which clients keep the list where a registry has no referrers API."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


class TestFallbackTag:
    @every_algorithm
    def test_a_referrer_that_a_client_also_put_under_the_fallback_tag_is_listed_once(
        self, http: httpx.Client, repository: str, algorithm: str
    ) -> None:
        subject = push_image(http, repository, algorithm=algorithm)
        content = push_artifact(http, repository, SBOM, subject.descriptor())
        kept = index([content.descriptor(artifactType=SBOM, annotations=content.document["annotations"])])
        push_manifest(http, repository, kept, fallback_tag(subject.digest))
        (listed,) = referrers(http, repository, subject.digest)
        assert listed["digest"] == content.digest
        assert listed["artifactType"] == SBOM
        assert listed["annotations"] == content.document["annotations"]

    def test_the_fallback_tag_stays_an_ordinary_tag(self, http: httpx.Client, repository: str) -> None:
        subject = push_image(http, repository)
        tag = fallback_tag(subject.digest)
        content = push_manifest(http, repository, index([]), tag)
        assert http.get(manifest_path(repository, tag)).content == content.data
        assert tag in http.get(tags_path(repository)).json()["tags"]
        assert referrers(http, repository, subject.digest) == []

    def test_the_list_is_an_index_even_when_the_fallback_tag_is_not(
        self, http: httpx.Client, repository: str
    ) -> None:
        subject = push_image(http, repository)
        push_image(http, repository, fallback_tag(subject.digest))
        content = push_artifact(http, repository, SBOM, subject.descriptor())
        assert digests(referrers(http, repository, subject.digest)) == [content.digest]

    def test_a_filter_sees_through_the_fallback_tag(self, http: httpx.Client, repository: str) -> None:
        subject = push_image(http, repository)
        content = push_artifact(http, repository, SBOM, subject.descriptor())
        push_manifest(
            http, repository, index([content.descriptor(artifactType=SBOM)]), fallback_tag(subject.digest)
        )
        assert referrers(http, repository, subject.digest, artifactType=SIGNATURE) == []
        assert len(referrers(http, repository, subject.digest, artifactType=SBOM)) == 1
