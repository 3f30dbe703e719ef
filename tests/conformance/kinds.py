"""One of every kind of manifest that clients push, each with what it needs already in the repository."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import httpx

from tests.support.oci import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    EMPTY,
    FOREIGN_LAYERS,
    OCI_IMAGE,
    OCI_LAYER,
    Content,
    Document,
    artifact,
    blob,
    config,
    docker_image,
    docker_list,
    image,
    index,
    manifest,
    platform,
    push_artifact,
    push_blob,
    push_image,
    push_manifest,
)

Kind = Callable[[httpx.Client, str], Content]


def pushed(http: httpx.Client, repository: str, *contents: Content) -> tuple[Content, ...]:
    return tuple(push_blob(http, repository, each) for each in contents)


def oci_image(http: httpx.Client, repository: str) -> Content:
    made, *layers = pushed(http, repository, config(), blob(media_type=OCI_LAYER), blob(media_type=OCI_LAYER))
    return image(made, layers, annotations={"org.opencontainers.image.title": "näme ☃"})


def oci_image_without_layers(http: httpx.Client, repository: str) -> Content:
    (made,) = pushed(http, repository, config())
    return image(made, [])


def oci_image_without_media_type(http: httpx.Client, repository: str) -> Content:
    made, layer = pushed(http, repository, config(), blob())
    return image(made, [layer], mediaType=None)


def oci_image_with_the_same_layer_twice(http: httpx.Client, repository: str) -> Content:
    made, layer = pushed(http, repository, config(), blob())
    return image(made, [layer, layer])


def oci_image_with_a_zero_byte_layer(http: httpx.Client, repository: str) -> Content:
    made, layer = pushed(http, repository, config(), blob(0))
    return image(made, [layer])


def oci_image_of_sha512_blobs(http: httpx.Client, repository: str) -> Content:
    made, layer = pushed(http, repository, config().under("sha512"), blob(algorithm="sha512"))
    return image(made, [layer])


def oci_image_in_another_hand(http: httpx.Client, repository: str) -> Content:
    """Indented, with blank lines around it and an order of its own: bytes that no encoder repeats."""
    made, layer = pushed(http, repository, config(), blob())
    document: Document = {"layers": [layer.descriptor()], "config": made.descriptor()}
    document |= {"mediaType": OCI_IMAGE, "annotations": {"a": "é\u2028/<>&"}, "schemaVersion": 2}
    text = json.dumps(document, indent=3).replace("/", "\\/")
    return Content(f"\n\t {text} \r\n\n".encode(), OCI_IMAGE)


def oci_image_with_unknown_fields(http: httpx.Client, repository: str) -> Content:
    made, layer = pushed(http, repository, config(), blob())
    described = layer.descriptor(**{"org.example.extra": {"deep": [1, 2.5, None, True]}})
    return image(made, [], layers=[described], **{"org.example.extra": "kept", "futureField": [{}, [], 1e3]})


def oci_image_with_data_fields(http: httpx.Client, repository: str) -> Content:
    pushed(http, repository, EMPTY)
    embedded = EMPTY.descriptor(data="e30=")
    return manifest(OCI_IMAGE, config=embedded, layers=[embedded])


def oci_image_with_layers_that_stay_elsewhere(http: httpx.Client, repository: str) -> Content:
    made, layer = pushed(http, repository, config(), blob(media_type=OCI_LAYER))
    elsewhere = [
        blob(media_type=media_type).descriptor(urls=["https://store.example.com/layer"], size=123456)
        for media_type in FOREIGN_LAYERS
    ]
    return image(made, [], layers=[*elsewhere, layer.descriptor()])


def oci_artifact(http: httpx.Client, repository: str) -> Content:
    (layer,) = pushed(http, repository, blob(media_type="application/vnd.example.data"))
    pushed(http, repository, EMPTY)
    return artifact("application/vnd.example.artifact.v1", layers=[layer.descriptor()])


def oci_artifact_of_nothing(http: httpx.Client, repository: str) -> Content:
    pushed(http, repository, EMPTY)
    return artifact("application/vnd.example.artifact.v1")


def oci_artifact_with_a_config_of_its_own(http: httpx.Client, repository: str) -> Content:
    made, layer = pushed(http, repository, blob(media_type="application/vnd.example.config"), blob())
    return image(made, [layer])


def oci_artifact_with_a_subject_that_is_not_there(http: httpx.Client, repository: str) -> Content:
    pushed(http, repository, EMPTY)
    return artifact("application/vnd.example.sbom", blob(media_type=OCI_IMAGE).descriptor())


def oci_index(http: httpx.Client, repository: str) -> Content:
    children = [
        push_image(http, repository).descriptor(platform=platform(architecture))
        for architecture in ("amd64", "arm64")
    ]
    return index(children, annotations={"org.example.unique": os.urandom(8).hex()})


def oci_index_of_nothing(http: httpx.Client, repository: str) -> Content:
    return index([], annotations={"org.example.unique": os.urandom(8).hex()})


def oci_index_of_indexes(http: httpx.Client, repository: str) -> Content:
    return index([push_manifest(http, repository, oci_index(http, repository)).descriptor() for _ in range(2)])


def oci_index_of_artifacts(http: httpx.Client, repository: str) -> Content:
    children = [push_artifact(http, repository, "application/vnd.example.one") for _ in range(2)]
    described = [child.descriptor(artifactType="application/vnd.example.one") for child in children]
    return index(described, artifactType="application/vnd.example.all")


def oci_index_of_docker_images(http: httpx.Client, repository: str) -> Content:
    child = push_manifest(http, repository, docker(http, repository))
    return index([child.descriptor(platform=platform("amd64"))])


def oci_index_without_media_type(http: httpx.Client, repository: str) -> Content:
    return index([push_image(http, repository).descriptor()], mediaType=None)


def build_cache(http: httpx.Client, repository: str) -> Content:
    """What BuildKit exports as a cache: an index whose `manifests` are layers, and a config among them."""
    layers = pushed(http, repository, blob(media_type=OCI_LAYER), blob(media_type=OCI_LAYER))
    (cache,) = pushed(http, repository, blob(media_type="application/vnd.buildkit.cacheconfig.v0"))
    annotations = {"buildkit/createdat": "2026-01-01T00:00:00Z"}
    return index([*(each.descriptor(annotations=annotations) for each in layers), cache.descriptor()])


def docker(http: httpx.Client, repository: str) -> Content:
    made, layer = pushed(http, repository, config(media_type=DOCKER_CONFIG), blob(media_type=DOCKER_LAYER))
    return docker_image(made, [layer])


def docker_image_with_a_foreign_layer(http: httpx.Client, repository: str) -> Content:
    (made,) = pushed(http, repository, config(media_type=DOCKER_CONFIG))
    return docker_image(made, [blob(media_type=FOREIGN_LAYERS[0])])


def docker_manifest_list(http: httpx.Client, repository: str) -> Content:
    children = [
        push_manifest(http, repository, docker(http, repository)).descriptor(platform=platform(architecture))
        for architecture in ("arm64", "amd64")
    ]
    return docker_list(children)


def referrer_of_an_image(http: httpx.Client, repository: str) -> Content:
    subject = push_image(http, repository)
    pushed(http, repository, EMPTY)
    return artifact("application/vnd.example.signature", subject.descriptor())


def index_that_refers_to_an_index(http: httpx.Client, repository: str) -> Content:
    subject = push_manifest(http, repository, oci_index(http, repository))
    return index([], subject=subject.descriptor(), artifactType="application/vnd.example.attestations")


def large_image(http: httpx.Client, repository: str) -> Content:
    made, layer = pushed(http, repository, config(), blob())
    return image(made, [layer], annotations={f"org.example.{n}": "x" * 10_000 for n in range(390)})


KINDS: list[Kind] = [
    oci_image,
    oci_image_without_layers,
    oci_image_without_media_type,
    oci_image_with_the_same_layer_twice,
    oci_image_with_a_zero_byte_layer,
    oci_image_of_sha512_blobs,
    oci_image_in_another_hand,
    oci_image_with_unknown_fields,
    oci_image_with_data_fields,
    oci_image_with_layers_that_stay_elsewhere,
    oci_artifact,
    oci_artifact_of_nothing,
    oci_artifact_with_a_config_of_its_own,
    oci_artifact_with_a_subject_that_is_not_there,
    oci_index,
    oci_index_of_nothing,
    oci_index_of_indexes,
    oci_index_of_artifacts,
    oci_index_of_docker_images,
    oci_index_without_media_type,
    build_cache,
    docker,
    docker_image_with_a_foreign_layer,
    docker_manifest_list,
    referrer_of_an_image,
    index_that_refers_to_an_index,
    large_image,
]
