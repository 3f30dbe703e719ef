"""Content to push, and the helpers that push it: OCI and docker manifests over a plain HTTP client.

The builders return `Content`: bytes with a media type, whose digest and descriptor follow. Nothing here
checks what a registry answers except `failure`, which holds every refusal to the specification's envelope.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx

Document = dict[str, Any]

ALGORITHMS = ("sha256", "sha512")

OCTET_STREAM = "application/octet-stream"
OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
FOREIGN_LAYERS = (
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
)

# The specification's codes, and the one for tags that it tolerates as docker's legacy.
CODES = frozenset(
    {
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "UNAUTHORIZED",
        "DENIED",
        "UNSUPPORTED",
        "TOOMANYREQUESTS",
        "TAG_INVALID",
    }
)


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """The digest of *data* as the standard writes it: `sha256:…`."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@dataclass(frozen=True)
class Content:
    """Bytes with a media type, addressed by a digest of the chosen algorithm."""

    data: bytes
    media_type: str = OCTET_STREAM
    algorithm: str = "sha256"

    @property
    def digest(self) -> str:
        return digest_of(self.data, self.algorithm)

    @property
    def document(self) -> Document:
        """A manifest's bytes, parsed."""
        parsed: Document = json.loads(self.data)
        return parsed

    def descriptor(self, **fields: Any) -> Document:
        """A descriptor of this content; *fields* are added to it, or replace what it says."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data), **fields}

    def under(self, algorithm: str) -> Content:
        """The same bytes, addressed by another algorithm."""
        return Content(self.data, self.media_type, algorithm)


EMPTY = Content(b"{}", OCI_EMPTY)


def encode(document: Any) -> bytes:
    """JSON as a client writes it: compact, in the order given."""
    return json.dumps(document, separators=(",", ":")).encode()


def blob(size_bytes: int = 256, media_type: str = OCTET_STREAM, algorithm: str = "sha256") -> Content:
    """Random bytes, so that no test meets another's blob."""
    return Content(os.urandom(size_bytes), media_type, algorithm)


def config(architecture: str = "amd64", media_type: str = OCI_CONFIG) -> Content:
    """An image's configuration, different at each call."""
    unique = {"org.example.unique": os.urandom(8).hex()}
    return Content(
        encode(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Labels": unique},
                "rootfs": {"type": "layers", "diff_ids": []},
            }
        ),
        media_type,
    )


def manifest(media_type: str, **fields: Any) -> Content:
    """A manifest of *media_type* with *fields*; a field of None is left out."""
    document = {"schemaVersion": 2, "mediaType": media_type, **fields}
    return Content(encode({key: value for key, value in document.items() if value is not None}), media_type)


def image(config: Content, layers: Sequence[Content], /, **fields: Any) -> Content:
    """An OCI image manifest."""
    return manifest(
        OCI_IMAGE,
        **{"config": config.descriptor(), "layers": [layer.descriptor() for layer in layers], **fields},
    )


def docker_image(config: Content, layers: Sequence[Content], /, **fields: Any) -> Content:
    """A docker schema 2 manifest."""
    return manifest(
        DOCKER_IMAGE,
        **{"config": config.descriptor(), "layers": [layer.descriptor() for layer in layers], **fields},
    )


def index(children: Sequence[Document], **fields: Any) -> Content:
    """An OCI image index of the descriptors *children*."""
    return manifest(OCI_INDEX, **{"manifests": list(children), **fields})


def docker_list(children: Sequence[Document], **fields: Any) -> Content:
    """A docker manifest list of the descriptors *children*."""
    return manifest(DOCKER_LIST, **{"manifests": list(children), **fields})


def artifact(artifact_type: str | None, subject: Document | None = None, **fields: Any) -> Content:
    """An artifact with nothing in it, different at each call."""
    empty = EMPTY.descriptor()
    annotations = {"org.example.unique": os.urandom(8).hex(), **fields.pop("annotations", {})}
    return manifest(
        OCI_IMAGE,
        **{
            "artifactType": artifact_type,
            "config": empty,
            "layers": [empty],
            "subject": subject,
            "annotations": annotations,
            **fields,
        },
    )


def platform(architecture: str, os: str = "linux") -> Document:
    """The `platform` field of an index's descriptor."""
    return {"architecture": architecture, "os": os}


def blob_path(repository: str, digest: str) -> str:
    return f"/v2/{repository}/blobs/{digest}"


def uploads_path(repository: str) -> str:
    return f"/v2/{repository}/blobs/uploads/"


def manifest_path(repository: str, reference: str) -> str:
    return f"/v2/{repository}/manifests/{reference}"


def tags_path(repository: str) -> str:
    return f"/v2/{repository}/tags/list"


def referrers_path(repository: str, digest: str) -> str:
    return f"/v2/{repository}/referrers/{digest}"


def with_query(url: str, **parameters: str) -> str:
    """*url* with *parameters* added; what its query already says stays as it is."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(parameters)}"


def octets(start: int | None = None, length: int = 0) -> dict[str, str]:
    """The headers of an upload's body; with *start*, of the chunk that begins there."""
    headers = {"Content-Type": OCTET_STREAM}
    if start is not None:
        headers["Content-Range"] = f"{start}-{start + length - 1}"
    return headers


def location(response: httpx.Response) -> str:
    """Where the answer points, relative or absolute, as an address to ask next."""
    return str(response.url.join(response.headers["Location"]))


def start_upload(http: httpx.Client, repository: str, **parameters: str) -> str:
    """Open an upload session and return its location."""
    response = http.post(uploads_path(repository), params=parameters)
    assert response.status_code == 202, response.text
    return location(response)


def patch(http: httpx.Client, session: str, data: bytes, start: int | None = None) -> httpx.Response:
    """Send *data* to a session: as a stream, or with *start* as the chunk that begins there."""
    return http.patch(session, content=data, headers=octets(start, len(data)))


def append(http: httpx.Client, session: str, data: bytes, start: int | None = None) -> str:
    """As `patch`, for those that must succeed; returns where the session goes on."""
    response = patch(http, session, data, start)
    assert response.status_code == 202, response.text
    return location(response)


def finish(
    http: httpx.Client, session: str, digest: str, data: bytes = b"", start: int | None = None
) -> httpx.Response:
    """Close a session under *digest*, perhaps with the bytes that are still missing."""
    return http.put(with_query(session, digest=digest), content=data, headers=octets(start, len(data)))


def push_blob(http: httpx.Client, repository: str, content: Content) -> Content:
    """Push a blob in two requests and return it."""
    response = finish(http, start_upload(http, repository), content.digest, content.data)
    assert response.status_code == 201, response.text
    return content


def put_manifest(
    http: httpx.Client, repository: str, content: Content, reference: str | None = None, **headers: str
) -> httpx.Response:
    """PUT a manifest under *reference*, or under its digest."""
    return http.put(
        manifest_path(repository, reference or content.digest),
        content=content.data,
        headers={"Content-Type": content.media_type, **headers},
    )


def push_manifest(http: httpx.Client, repository: str, content: Content, reference: str | None = None) -> Content:
    """As `put_manifest`, for those that must succeed; returns the manifest."""
    response = put_manifest(http, repository, content, reference)
    assert response.status_code == 201, response.text
    return content


def push_image(
    http: httpx.Client,
    repository: str,
    reference: str | None = None,
    layers: int = 1,
    algorithm: str = "sha256",
    **fields: Any,
) -> Content:
    """Push a new OCI image with all its blobs and return its manifest."""
    made = config().under(algorithm)
    content = [blob(media_type=OCI_LAYER, algorithm=algorithm) for _ in range(layers)]
    for each in (made, *content):
        push_blob(http, repository, each)
    return push_manifest(http, repository, image(made, content, **fields).under(algorithm), reference)


def push_artifact(
    http: httpx.Client,
    repository: str,
    artifact_type: str | None,
    subject: Document | None = None,
    reference: str | None = None,
    **fields: Any,
) -> Content:
    """Push an artifact with nothing in it and return its manifest."""
    push_blob(http, repository, EMPTY)
    return push_manifest(http, repository, artifact(artifact_type, subject, **fields), reference)


def pages(http: httpx.Client, url: str) -> Iterator[httpx.Response]:
    """The answers to *url* and to every `Link` with rel="next" after it."""
    seen = set()
    following: str | None = url
    while following is not None:
        assert following not in seen, f"{following} is its own successor"
        seen.add(following)
        response = http.get(following)
        assert response.status_code == 200, response.text
        yield response
        link = response.links.get("next")
        following = str(response.url.join(link["url"])) if link else None


def failure(response: httpx.Response) -> tuple[int, str]:
    """Status and first code of a refusal, whose body must be the specification's envelope."""
    assert 400 <= response.status_code < 500, f"{response.status_code}: {response.text[:500]}"
    assert response.headers["Content-Type"].partition(";")[0] == "application/json", response.headers
    errors = response.json()["errors"]
    assert isinstance(errors, list)
    assert errors
    for error in errors:
        assert set(error) <= {"code", "message", "detail"}, error
        assert re.fullmatch("[A-Z_]+", error["code"]), error
        assert error["code"] in CODES, error
        assert isinstance(error.get("message", ""), str), error
    return response.status_code, errors[0]["code"]
