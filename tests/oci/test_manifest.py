"""Manifests: what each kind names, and everything that is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.oci import media
from registry.oci.digest import Digest
from registry.oci.errors import ManifestInvalid
from registry.oci.manifest import Manifest, parse
from registry.oci.platform import Platform

Document = dict[str, Any]

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def descriptor(content: str, media_type: str = LAYER, **fields: Any) -> Document:
    return {"mediaType": media_type, "digest": str(Digest.of(content.encode())), "size": len(content), **fields}


def image(media_type: str = media.OCI_MANIFEST, **fields: Any) -> Document:
    return {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor("config", CONFIG),
        "layers": [descriptor("one"), descriptor("two")],
        **fields,
    }


def index(media_type: str = media.OCI_INDEX, **fields: Any) -> Document:
    children = [descriptor("a", media.OCI_MANIFEST), descriptor("b", media.DOCKER_MANIFEST)]
    return {"schemaVersion": 2, "mediaType": media_type, "manifests": children, **fields}


def artifact(**fields: Any) -> Document:
    return {
        "mediaType": media.OCI_ARTIFACT,
        "artifactType": "application/example",
        "blobs": [descriptor("one")],
        **fields,
    }


KINDS: dict[str, Document] = {
    "OCI image": image(),
    "docker image": image(media.DOCKER_MANIFEST),
    "OCI index": index(),
    "docker list": index(media.DOCKER_LIST),
    "artifact": artifact(),
}
every_kind = pytest.mark.parametrize("document", KINDS.values(), ids=KINDS)
every_image = pytest.mark.parametrize("media_type", sorted(media.IMAGES))
every_index = pytest.mark.parametrize("media_type", sorted(media.INDEXES))


def read(document: Document, content_type: str | None = None, **arguments: Any) -> Manifest:
    return parse(json.dumps(document).encode(), content_type, **arguments)


def without(document: Document, *names: str) -> Document:
    return {key: value for key, value in document.items() if key not in names}


def digests(found: Any) -> list[str]:
    return [each.digest for each in found]


def refusal(document: Document | bytes, content_type: str | None = None, **arguments: Any) -> str:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(ManifestInvalid) as raised:
        parse(data, content_type, **arguments)
    return str(raised.value)


class TestKinds:
    @every_image
    def test_an_image_names_its_config_and_then_its_layers(self, media_type: str) -> None:
        manifest = read(image(media_type))
        assert manifest.media_type == media_type
        assert digests(manifest.blobs()) == [Digest.of(b"config"), Digest.of(b"one"), Digest.of(b"two")]
        assert manifest.children() == ()
        assert manifest.config is not None
        assert manifest.config.size_bytes == 6

    @every_index
    def test_an_index_names_its_children_in_their_order_and_no_blobs(self, media_type: str) -> None:
        manifest = read(index(media_type))
        assert digests(manifest.children()) == [Digest.of(b"a"), Digest.of(b"b")]
        assert [child.media_type for child in manifest.children()] == [media.OCI_MANIFEST, media.DOCKER_MANIFEST]
        assert list(manifest.blobs()) == []

    def test_an_artifact_names_its_blobs(self) -> None:
        assert digests(read(artifact()).blobs()) == [Digest.of(b"one")]
        assert list(read(without(artifact(), "blobs")).blobs()) == []

    @pytest.mark.parametrize(
        "foreign",
        [
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ],
    )
    def test_a_foreign_layer_is_listed_but_not_needed(self, foreign: str) -> None:
        manifest = read(image(layers=[descriptor("far", foreign), descriptor("near")]))
        assert digests(manifest.layers) == [Digest.of(b"far"), Digest.of(b"near")]
        assert digests(manifest.blobs()) == [Digest.of(b"config"), Digest.of(b"near")]

    @every_kind
    def test_a_content_type_that_agrees_may_have_parameters_and_capitals(self, document: Document) -> None:
        content_type = f" {document['mediaType'].upper()} ; charset=utf-8"
        assert read(document, content_type) == read(document, None) == read(document, document["mediaType"])

    @every_kind
    def test_the_content_type_decides_for_a_document_that_does_not_say(self, document: Document) -> None:
        assert read(without(document, "mediaType"), document["mediaType"]).media_type == document["mediaType"]

    def test_a_document_with_neither_is_an_image_unless_it_lists_manifests(self) -> None:
        assert read(without(image(), "mediaType")).media_type == media.OCI_MANIFEST
        assert read(without(index(), "mediaType")).media_type == media.OCI_INDEX

    @every_kind
    def test_empty_lists_are_lists(self, document: Document) -> None:
        name = next(name for name in ("layers", "manifests", "blobs") if name in document)
        manifest = read(document | {name: []})
        assert manifest.layers == manifest.manifests == ()

    @every_kind
    def test_a_subject_and_annotations_may_come_with_any_kind(self, document: Document) -> None:
        subject = descriptor("subject", media.OCI_MANIFEST)
        manifest = read(document | {"subject": subject, "annotations": {"a": "b", "A": "c"}})
        assert manifest.subject is not None
        assert manifest.subject.digest == Digest.of(b"subject")
        assert manifest.annotations == {"a": "b", "A": "c"}

    @every_kind
    def test_null_is_the_same_as_absent_where_a_field_may_be_absent(self, document: Document) -> None:
        nothing = {"subject": None, "annotations": None}
        assert read(document | nothing) == read(document)

    @every_kind
    def test_unknown_fields_are_nobodys_business(self, document: Document) -> None:
        unknown = {"org.example": [1, {"x": None}], "config2": 5, "": "", "subjects": [], "ö": 1e300}
        assert read(document | unknown) == read(document)

    def test_a_platform_is_read_and_nonsense_counts_as_none(self) -> None:
        platforms: list[Any] = [
            {"os": "linux", "architecture": "arm", "variant": "v7", "os.version": "1"},
            {"os": "linux", "architecture": "amd64"},
            {"os": 5, "architecture": "amd64"},
            "linux",
            None,
        ]
        children = [descriptor(str(place), platform=each) for place, each in enumerate(platforms)]
        assert [child.platform for child in read(index(manifests=children)).children()] == [
            Platform("linux", "arm", "v7"),
            Platform("linux", "amd64"),
            None,
            None,
            None,
        ]


class TestReferrers:
    def test_the_type_shown_is_the_artifact_type_else_the_configs(self) -> None:
        assert read(image(artifactType="application/example")).referrer_type() == "application/example"
        assert read(image()).referrer_type() == CONFIG
        assert read(image(artifactType="")).referrer_type() == CONFIG
        assert read(index()).referrer_type() is None
        assert read(index(artifactType="application/example")).referrer_type() == "application/example"

    def test_the_entry_says_what_the_specification_asks(self) -> None:
        manifest = read(image(annotations={"a": "b"}, subject=descriptor("s")))
        digest = Digest.of(b"x")
        assert manifest.referrer_descriptor(digest, 17) == {
            "mediaType": media.OCI_MANIFEST,
            "digest": digest,
            "size": 17,
            "artifactType": CONFIG,
            "annotations": {"a": "b"},
        }

    def test_the_entry_leaves_out_what_there_is_not(self) -> None:
        entry = read(index(subject=descriptor("s"))).referrer_descriptor(Digest.of(b"x"), 1)
        assert set(entry) == {"mediaType", "digest", "size"}


class TestRefusals:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b" ",
            b"{",
            b"null",
            b"[]",
            b'"x"',
            b"1",
            b"{}{}",
            b"{'a':1}",
            b'{"a":1,}',
            b"\xff",
            b"\x00",
            b"{\x00}",
        ],
    )
    def test_what_is_no_json_object(self, data: bytes) -> None:
        assert "JSON" in refusal(data)

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
    def test_json_in_another_encoding_than_utf_8(self, encoding: str) -> None:
        assert "not JSON" in refusal(json.dumps(image()).encode(encoding))

    @pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
    def test_what_only_python_takes_for_json(self, value: str) -> None:
        assert "not JSON" in refusal(
            json.dumps(image()).encode().replace(b'"layers"', f'"x":{value},"layers"'.encode())
        )

    @pytest.mark.parametrize("depth", [2_000, 200_000])
    @pytest.mark.parametrize("opening", ["[", '{"a":'])
    def test_nesting_without_end(self, opening: str, depth: int) -> None:
        assert refusal(b'{"x":' + opening.encode() * depth)

    @pytest.mark.parametrize(
        "text", ['"\\ud800"', '"a\\udfff"', '"\\udc00\\ud800"', '["\\ud83d"]', '{"\\ud83d":1}']
    )
    def test_half_of_a_surrogate_pair_escaped(self, text: str) -> None:
        data = json.dumps(image()).encode()[:-1] + f',"x":{text}}}'.encode()
        assert "surrogate" in refusal(data)

    def test_a_whole_surrogate_pair_is_a_character(self) -> None:
        data = json.dumps(image(annotations={"a": "\U0001f600"})).encode()
        assert b"\\ud83d\\ude00" in data
        assert parse(data, None).annotations == {"a": "\U0001f600"}

    def test_half_of_a_surrogate_pair_as_bytes(self) -> None:
        data = json.dumps(image()).encode()[:-1] + b',"x":"\xed\xa0\x80"}'
        assert "not JSON" in refusal(data)

    @pytest.mark.parametrize("place", ["the document", "a descriptor", "annotations", "somewhere unknown"])
    def test_two_fields_of_one_name(self, place: str) -> None:
        text = json.dumps(image(annotations={"a": "b"}, unknown=[{"a": "b"}]))
        twice = {
            "the document": text[:-1] + ', "layers": []}',
            "a descriptor": text.replace('"size": 3', '"size": 3, "size": 4', 1),
            "annotations": text.replace('{"a": "b"}', '{"a": "b", "a": "c"}', 1),
            "somewhere unknown": text.replace('[{"a": "b"}]', '[{"a": "b", "a": "b"}]'),
        }[place]
        assert twice != text
        assert "same name" in refusal(twice.encode())

    @pytest.mark.parametrize(
        "name",
        [
            "Layers",
            "LAYERS",
            "layerſ",
            "Config",
            "mediatype",
            "MediaType",
            "schemaversion",
            "ſubject",
            "Manifests",
        ],
    )
    @every_kind
    def test_a_field_that_gos_decoder_would_take_for_a_known_one(self, document: Document, name: str) -> None:
        assert "can be read as" in refusal(document | {name: "anything"})

    @pytest.mark.parametrize("name", ["Digest", "DIGEST", "Size", "ſize", "mediatype", "urlſ", "Platform"])
    def test_such_a_field_in_a_descriptor(self, name: str) -> None:
        assert "can be read as" in refusal(image(layers=[descriptor("x") | {name: "anything"}]))
        assert "can be read as" in refusal(image(config=descriptor("x") | {name: "anything"}))
        assert "can be read as" in refusal(image(subject=descriptor("x") | {name: "anything"}))
        assert "can be read as" in refusal(index(manifests=[descriptor("x") | {name: "anything"}]))

    @pytest.mark.parametrize("version", [0, 1, 3, "2", None, [2], True, {}])
    @every_kind
    def test_another_schema_version(self, document: Document, version: Any) -> None:
        if document["mediaType"] == media.OCI_ARTIFACT:  # it never had one
            assert read(document | {"schemaVersion": version}) == read(document)
        else:
            assert "schemaVersion" in refusal(document | {"schemaVersion": version})

    @every_kind
    @pytest.mark.parametrize("content_type", sorted(media.MANIFESTS))
    def test_a_content_type_that_the_document_contradicts(self, document: Document, content_type: str) -> None:
        if content_type != document["mediaType"]:
            assert "Content-Type" in refusal(document, content_type)

    @pytest.mark.parametrize(
        "media_type", ["application/json", "text/html", "x", CONFIG, "application/vnd.oci.image.manifest.v2+json"]
    )
    def test_a_type_that_is_no_manifest(self, media_type: str) -> None:
        assert "not a manifest type" in refusal(image(media_type))
        assert "not a manifest type" in refusal(without(image(), "mediaType"), media_type)

    @pytest.mark.parametrize("media_type", media.DOCKER_SCHEMA1)
    def test_dockers_schema_1(self, media_type: str) -> None:
        assert "schema 1" in refusal({"schemaVersion": 1, "fsLayers": []}, media_type)

    @every_image
    def test_an_image_that_lists_manifests(self, media_type: str) -> None:
        assert "manifests" in refusal(image(media_type, manifests=[]))
        assert "manifests" in refusal(image(media_type, manifests=None))

    @every_index
    @pytest.mark.parametrize("name", ["layers", "config"])
    def test_an_index_that_has_layers_or_a_config(self, media_type: str, name: str) -> None:
        assert name in refusal(index(media_type, **{name: []}))

    @every_kind
    @pytest.mark.parametrize("value", [None, {}, "x", 1, True])
    def test_a_list_that_is_none(self, document: Document, value: Any) -> None:
        name = next(name for name in ("layers", "manifests", "blobs") if name in document)
        if (name, value) == ("blobs", None):
            assert read(document | {name: value}).layers == ()
        else:
            assert f"{name} is not a list" in refusal(document | {name: value})

    @every_image
    def test_an_image_without_a_list_of_layers_or_without_a_config(self, media_type: str) -> None:
        assert "layers" in refusal(without(image(media_type), "layers"))
        assert "config" in refusal(without(image(media_type), "config"))

    def test_an_artifact_without_a_type(self) -> None:
        assert "artifactType" in refusal(without(artifact(), "artifactType"))
        assert "artifactType" in refusal(artifact(artifactType=""))

    @every_kind
    def test_more_entries_than_are_accepted(self, document: Document) -> None:
        name = next(name for name in ("layers", "manifests", "blobs") if name in document)
        many = document | {name: [descriptor("x")] * 11}
        assert "11 entries" in refusal(many, references_max=10)
        assert read(many, references_max=11)

    @every_kind
    @pytest.mark.parametrize(
        "bad",
        [
            {"annotations": []},
            {"annotations": "x"},
            {"annotations": {"a": 1}},
            {"annotations": {"a": None}},
            {"artifactType": 5},
            {"artifactType": ["x"]},
            {"mediaType": 5},
            {"mediaType": [media.OCI_MANIFEST]},
            {"subject": []},
            {"subject": "x"},
        ],
        ids=str,
    )
    def test_a_field_of_the_wrong_type(self, document: Document, bad: Document) -> None:
        assert next(iter(bad)) in refusal(document | bad)

    @pytest.mark.parametrize(
        "bad",
        [
            None,
            [],
            "sha256:" + "0" * 64,
            7,
            {},
            without(descriptor("x"), "digest"),
            without(descriptor("x"), "size"),
            descriptor("x", digest=None),
            descriptor("x", digest=5),
            descriptor("x", digest=""),
            descriptor("x", digest="latest"),
            descriptor("x", digest="sha256:" + "0" * 63),
            descriptor("x", digest="sha256:" + "A" * 64),
            descriptor("x", digest="md5:" + "0" * 32),
            descriptor("x", digest="sha256:../../../etc/passwd"),
            descriptor("x", size=None),
            descriptor("x", size=-1),
            descriptor("x", size=2**63),
            descriptor("x", size=10**400),
            descriptor("x", size="1"),
            descriptor("x", size=1.0),
            descriptor("x", size=True),
            descriptor("x", mediaType=5),
            descriptor("x", mediaType=None),
        ],
        ids=lambda bad: str(bad)[:60],
    )
    def test_a_bad_descriptor_wherever_it_stands_and_it_is_named(self, bad: Any) -> None:
        assert "layers[1]" in refusal(image(layers=[descriptor("good"), bad]))
        assert "manifests[0]" in refusal(index(manifests=[bad]))
        assert "blobs[0]" in refusal(artifact(blobs=[bad]))
        assert "config" in refusal(image(config=bad))
        if bad is not None:
            assert "subject" in refusal(image(subject=bad))

    def test_the_largest_size_is_taken(self) -> None:
        manifest = read(image(layers=[descriptor("x", size=2**63 - 1), descriptor("y", size=0)]))
        assert [layer.size_bytes for layer in manifest.layers] == [2**63 - 1, 0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*image(), *index(), *artifact(), *descriptor(""), "subject", "annotations", "platform"])
LOOKALIKES = st.sampled_from(["Digest", "MEDIATYPE", "layerſ"])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A sound document in which some values, some names and some bytes are others."""
    document = json.loads(json.dumps(draw(st.sampled_from(list(KINDS.values())))))
    for _ in range(draw(st.integers(0, 3))):
        holders = [document]
        for holder in holders:
            values = holder.values() if isinstance(holder, dict) else holder
            holders += [value for value in values if isinstance(value, (dict, list)) and value]
        holder = draw(st.sampled_from(holders))
        if isinstance(holder, dict):
            name = draw(st.sampled_from(sorted(holder)) | NAMES | LOOKALIKES)
            value = draw(JSON | st.sampled_from([descriptor("x"), media.OCI_INDEX, media.OCI_MANIFEST, 2]))
            if draw(st.booleans()):
                holder.pop(name, None)
            else:
                holder[name] = value
        else:
            holder[draw(st.integers(0, len(holder) - 1))] = draw(JSON)
    data = bytearray(json.dumps(document).encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.sampled_from([len(data), len(data), len(data) // 2]))])


class TestAnything:
    @given(mutated(), st.none() | st.sampled_from(sorted(media.MANIFESTS)) | st.text(max_size=30))
    def test_a_damaged_document_is_read_or_is_invalid_and_nothing_else(
        self, data: bytes, content_type: str | None
    ) -> None:
        try:
            manifest = parse(data, content_type)
        except ManifestInvalid:
            return
        assert manifest.media_type in media.MANIFESTS
        assert not (manifest.layers and manifest.manifests)
        for each in (*manifest.blobs(), *manifest.children()):
            assert Digest.parse(each.digest) == each.digest
            assert 0 <= each.size_bytes < 2**63
        # What is kept of it in the index, and shown in a list, is text that can be written.
        entry = manifest.referrer_descriptor(Digest.of(data), len(data))
        json.dumps([entry, manifest.referrer_type()], ensure_ascii=False).encode()

    @given(st.binary(max_size=200))
    def test_any_bytes_are_invalid_and_nothing_else(self, data: bytes) -> None:
        with pytest.raises(ManifestInvalid):
            parse(data, None)

    @given(JSON)
    def test_any_json_is_invalid_and_nothing_else(self, value: Any) -> None:
        with pytest.raises(ManifestInvalid):
            parse(json.dumps(value).encode(), None)
