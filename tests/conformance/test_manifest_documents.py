"""What a manifest's document must be: JSON, of one kind, in keeping with its Content-Type and digest."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.conformance.kinds import docker, docker_manifest_list, oci_image, oci_index
from tests.support.oci import (
    DOCKER_IMAGE,
    DOCKER_LIST,
    DOCKER_SCHEMA1,
    OCI_CONFIG,
    OCI_IMAGE,
    OCI_INDEX,
    OCI_LAYER,
    Content,
    Document,
    blob,
    blob_path,
    config,
    digest_of,
    encode,
    failure,
    image,
    index,
    manifest_path,
    platform,
    push_blob,
    push_image,
    put_manifest,
    tags_path,
)

INVALID = (400, "MANIFEST_INVALID")
REPOSITORY = "documents/shared"


def put(http: httpx.Client, repository: str, data: bytes, media_type: str = OCI_IMAGE) -> httpx.Response:
    return put_manifest(http, repository, Content(data, media_type), "latest")


@pytest.fixture(scope="module")
def sound_image(http: httpx.Client) -> Content:
    """An image with which nothing is wrong; REPOSITORY has its blobs."""
    return oci_image(http, REPOSITORY)


@pytest.fixture(scope="module")
def sound_index(http: httpx.Client) -> Content:
    """An index with which nothing is wrong; REPOSITORY has its children."""
    return oci_index(http, REPOSITORY)


class TestJson:
    @pytest.mark.parametrize("media_type", [OCI_IMAGE, OCI_INDEX, DOCKER_IMAGE, DOCKER_LIST])
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"   ",
            b"{",
            b"}",
            b"nonsense",
            b"null",
            b"true",
            b"17",
            b'"text"',
            b"[]",
            b"[{}]",
            b"{}",
            b'{"schemaVersion":2',
            b'{"schemaVersion":2,}',
            b'{"schemaVersion":2}{"schemaVersion":2}',
            b"{'schemaVersion':2}",
            b'{"schemaVersion":2,"x":"\xff\xfe"}',
            b"\x00\x01\x02",
            b"\x1f\x8b\x08\x00",
        ],
    )
    def test_what_is_no_json_object_of_a_manifest_is_refused(
        self, http: httpx.Client, repository: str, media_type: str, data: bytes
    ) -> None:
        assert failure(put(http, repository, data, media_type)) == INVALID
        assert http.head(manifest_path(repository, "latest")).status_code == 404

    @pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"01", b"0x1", b"1.", b"'a'", b"\x01"])
    def test_a_value_that_json_does_not_know_is_refused(
        self, http: httpx.Client, sound_image: Content, value: bytes
    ) -> None:
        data = encode(sound_image.document | {"extra": 0}).replace(b'"extra":0', b'"extra":' + value)
        assert failure(put(http, REPOSITORY, data)) == INVALID

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "latin-1"])
    def test_json_in_another_encoding_than_utf_8_is_refused(
        self, http: httpx.Client, sound_image: Content, encoding: str
    ) -> None:
        document = sound_image.document | {"annotations": {"a": "ä"}}
        data = json.dumps(document, ensure_ascii=False).encode(encoding)
        assert failure(put(http, REPOSITORY, data)) == INVALID

    @pytest.mark.parametrize("field", ["schemaVersion", "mediaType", "config", "layers"])
    def test_a_field_that_is_there_twice_is_refused(
        self, http: httpx.Client, sound_image: Content, field: str
    ) -> None:
        again = encode({field: sound_image.document[field]})
        data = sound_image.data[:-1] + b"," + again[1:]
        assert failure(put(http, REPOSITORY, data)) == INVALID

    @pytest.mark.parametrize("depth", [20_000, 200_000, 1_500_000])
    @pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["arrays", "objects"])
    @pytest.mark.parametrize("complete", [True, False], ids=["closed", "left open"])
    def test_nesting_without_end_is_refused_and_the_server_lives_on(
        self, http: httpx.Client, sound_image: Content, depth: int, opening: bytes, closing: bytes, complete: bool
    ) -> None:
        depth //= len(opening)
        nested = opening * depth + (b"0" + closing * depth if complete else b"")
        data = encode(sound_image.document | {"extra": 0}).replace(b'"extra":0', b'"extra":' + nested)
        assert failure(put(http, REPOSITORY, data)) == INVALID
        assert http.get("/v2/").status_code == 200

    def test_a_little_nesting_in_an_unknown_field_is_nobodys_business(
        self, http: httpx.Client, sound_image: Content
    ) -> None:
        value: Any = "bottom"
        for _ in range(30):
            value = {"down": [value]}
        response = put(http, REPOSITORY, encode(sound_image.document | {"org.example.deep": value}))
        assert response.status_code == 201

    @pytest.mark.parametrize("number", ["9" * 5000, "1e400", "-1e-400", "1" + "0" * 400 + ".5"])
    def test_absurd_numbers_in_an_unknown_field_are_no_fault_of_the_server(
        self, http: httpx.Client, sound_image: Content, number: str
    ) -> None:
        text = json.dumps(sound_image.document | {"extra": 0}).replace('"extra": 0', f'"extra": {number}')
        response = put(http, REPOSITORY, text.encode())
        assert response.status_code == 201 or failure(response) == INVALID

    def test_a_lone_surrogate_in_a_string_is_no_fault_of_the_server(
        self, http: httpx.Client, sound_image: Content
    ) -> None:
        data = encode(sound_image.document | {"annotations": {"a": "\ud800"}})
        response = put(http, REPOSITORY, data)
        assert response.status_code == 201 or failure(response) == INVALID
        if response.status_code == 201:
            assert http.get(manifest_path(REPOSITORY, "latest")).content == data

    def test_a_nul_in_a_string_is_no_fault_of_the_server(self, http: httpx.Client, sound_image: Content) -> None:
        data = encode(sound_image.document | {"annotations": {"a\x00b": "c\x00d"}, "artifactType": "a\x00b"})
        response = put(http, REPOSITORY, data)
        assert response.status_code == 201 or failure(response) == INVALID


class TestKind:
    @pytest.mark.parametrize("media_type", [OCI_IMAGE, OCI_INDEX, DOCKER_IMAGE, DOCKER_LIST])
    def test_a_document_that_is_image_and_index_at_once_is_refused(
        self, http: httpx.Client, repository: str, media_type: str
    ) -> None:
        made, layer = (push_blob(http, repository, each) for each in (config(), blob()))
        child = push_image(http, repository).descriptor()
        both = image(made, [layer]).document | {"mediaType": media_type, "manifests": [child]}
        assert failure(put(http, repository, encode(both), media_type)) == INVALID
        both.pop("mediaType")
        assert failure(put(http, repository, encode(both), media_type)) == INVALID

    @pytest.mark.parametrize(
        ("said", "is_really"),
        [
            (OCI_IMAGE, OCI_INDEX),
            (OCI_INDEX, OCI_IMAGE),
            (OCI_IMAGE, DOCKER_IMAGE),
            (DOCKER_IMAGE, OCI_IMAGE),
            (DOCKER_LIST, OCI_INDEX),
            (OCI_INDEX, DOCKER_LIST),
            (DOCKER_IMAGE, DOCKER_LIST),
        ],
    )
    def test_a_content_type_that_the_document_contradicts_is_refused(
        self, http: httpx.Client, repository: str, said: str, is_really: str
    ) -> None:
        kinds = {OCI_IMAGE: oci_image, OCI_INDEX: oci_index, DOCKER_IMAGE: docker}
        content = kinds.get(is_really, docker_manifest_list)(http, repository)
        assert failure(put(http, repository, content.data, said)) == INVALID

    def test_an_image_without_media_type_is_no_index(self, http: httpx.Client, repository: str) -> None:
        made, layer = (push_blob(http, repository, each) for each in (config(), blob()))
        bare = image(made, [layer], mediaType=None)
        assert failure(put(http, repository, bare.data, OCI_INDEX)) == INVALID

    def test_an_index_without_media_type_is_no_image(self, http: httpx.Client, repository: str) -> None:
        bare = index([push_image(http, repository).descriptor()], mediaType=None)
        assert failure(put(http, repository, bare.data, OCI_IMAGE)) == INVALID

    @pytest.mark.parametrize("media_type", ["text/html", "application/json", "nonsense", DOCKER_SCHEMA1])
    def test_a_type_that_is_no_manifest_is_refused(
        self, http: httpx.Client, repository: str, media_type: str
    ) -> None:
        response = put(http, repository, b'{"schemaVersion":1,"name":"x","tag":"y","fsLayers":[]}', media_type)
        assert failure(response)[0] in {400, 415}

    @pytest.mark.parametrize("version", [0, 1, 3, "2", None, [2]])
    def test_another_schema_version_is_refused(
        self, http: httpx.Client, sound_image: Content, version: Any
    ) -> None:
        document = sound_image.document | {"schemaVersion": version}
        assert failure(put(http, REPOSITORY, encode(document))) == INVALID


BAD_DESCRIPTORS: list[Any] = [
    None,
    "sha256:" + "0" * 64,
    17,
    [],
    {},
    {"digest": digest_of(b"x"), "size": 1, "mediaType": 5},
    {"digest": 5, "size": 1, "mediaType": OCI_LAYER},
    {"size": 1, "mediaType": OCI_LAYER},
    {"digest": "", "size": 1, "mediaType": OCI_LAYER},
    {"digest": "nonsense", "size": 1, "mediaType": OCI_LAYER},
    {"digest": "sha256:" + "0" * 63, "size": 1, "mediaType": OCI_LAYER},
    {"digest": "sha256:" + "A" * 64, "size": 1, "mediaType": OCI_LAYER},
    {"digest": "sha256:../../../etc/passwd", "size": 1, "mediaType": OCI_LAYER},
    {"digest": digest_of(b"x"), "size": -1, "mediaType": OCI_LAYER},
    {"digest": digest_of(b"x"), "size": "1", "mediaType": OCI_LAYER},
    {"digest": digest_of(b"x"), "size": 1.5, "mediaType": OCI_LAYER},
]


def bad_descriptors(*fields: str) -> list[Any]:
    """Each malformed descriptor in each of *fields*; but a null subject is no subject."""
    return [
        pytest.param(field, bad, id=f"{field}-{encode(bad).decode()[:60]}")
        for field in fields
        for bad in BAD_DESCRIPTORS
        if (field, bad) != ("subject", None)
    ]


class TestFields:
    @pytest.mark.parametrize(("where", "bad"), bad_descriptors("config", "layers", "subject"))
    def test_an_image_with_a_malformed_descriptor_is_refused(
        self, http: httpx.Client, sound_image: Content, where: str, bad: Any
    ) -> None:
        document = sound_image.document
        document[where] = [*document["layers"], bad] if where == "layers" else bad
        assert failure(put(http, REPOSITORY, encode(document)))[0] == 400

    @pytest.mark.parametrize(("where", "bad"), bad_descriptors("manifests", "subject"))
    def test_an_index_with_a_malformed_descriptor_is_refused(
        self, http: httpx.Client, sound_index: Content, where: str, bad: Any
    ) -> None:
        document = sound_index.document
        document[where] = [*document["manifests"], bad] if where == "manifests" else bad
        assert failure(put(http, REPOSITORY, encode(document), OCI_INDEX))[0] == 400

    @pytest.mark.parametrize("bad", [{}, "text", 17, True])
    @pytest.mark.parametrize(("field", "media_type"), [("layers", OCI_IMAGE), ("manifests", OCI_INDEX)])
    def test_a_list_that_is_none_is_refused(
        self, http: httpx.Client, sound_image: Content, sound_index: Content, field: str, media_type: str, bad: Any
    ) -> None:
        whole = sound_image if media_type == OCI_IMAGE else sound_index
        assert failure(put(http, REPOSITORY, encode(whole.document | {field: bad}), media_type)) == INVALID

    def test_an_image_without_a_config_is_refused(self, http: httpx.Client, sound_image: Content) -> None:
        document = sound_image.document
        del document["config"]
        assert failure(put(http, REPOSITORY, encode(document))) == INVALID

    @pytest.mark.parametrize("bad", [{"annotations": []}, {"annotations": {"a": 1}}, {"artifactType": 5}])
    def test_what_the_referrers_list_copies_must_have_the_right_type(
        self, http: httpx.Client, sound_image: Content, bad: Document
    ) -> None:
        document = sound_image.document | {"subject": sound_image.descriptor()} | bad
        assert failure(put(http, REPOSITORY, encode(document))) == INVALID

    @pytest.mark.parametrize("empty", [{"annotations": None}, {"subject": None}, {"annotations": {}}])
    def test_a_field_that_is_empty_is_as_one_that_is_absent(
        self, http: httpx.Client, sound_image: Content, empty: Document
    ) -> None:
        response = put(http, REPOSITORY, encode(sound_image.document | empty))
        assert response.status_code == 201
        assert "OCI-Subject" not in response.headers

    @pytest.mark.parametrize(
        "fields",
        [
            {"platform": platform("amd64") | {"os.version": "10", "os.features": ["a"], "variant": "v8"}},
            {"annotations": {"a": "b"}, "urls": [], "data": "eA=="},
            {"artifactType": "application/vnd.example"},
        ],
        ids=["platform", "annotations", "artifactType"],
    )
    def test_every_lawful_field_of_a_descriptor_is_accepted(
        self, http: httpx.Client, repository: str, fields: Document
    ) -> None:
        child = push_image(http, repository).descriptor(**fields)
        assert put(http, repository, index([child]).data, OCI_INDEX).status_code == 201


class TestDigest:
    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    def test_a_digest_of_other_bytes_is_refused_and_nothing_is_stored(
        self, http: httpx.Client, repository: str, algorithm: str
    ) -> None:
        content = oci_image(http, repository)
        claimed = digest_of(content.data + b"  ", algorithm)
        response = put_manifest(http, repository, content, claimed)
        assert failure(response) == (400, "DIGEST_INVALID")
        for digest in (claimed, content.digest):
            assert http.head(manifest_path(repository, digest)).status_code == 404

    def test_a_refused_manifest_leaves_the_tag_where_it_was(self, http: httpx.Client, repository: str) -> None:
        content = push_image(http, repository, "latest")
        assert failure(put(http, repository, b"nonsense")) == INVALID
        assert http.get(manifest_path(repository, "latest")).content == content.data
        assert http.get(tags_path(repository)).json()["tags"] == ["latest"]

    def test_a_manifest_is_no_blob_until_somebody_pushes_it_as_one(
        self, http: httpx.Client, repository: str
    ) -> None:
        content = push_image(http, repository)
        response = http.get(blob_path(repository, content.digest))
        assert response.status_code in {200, 404}
        if response.status_code == 200:
            assert response.content == content.data

    def test_a_config_that_is_no_json_is_nobodys_business(self, http: httpx.Client, repository: str) -> None:
        made, layer = (
            push_blob(http, repository, blob(media_type=OCI_CONFIG)),
            push_blob(http, repository, blob()),
        )
        assert put(http, repository, image(made, [layer]).data).status_code == 201
