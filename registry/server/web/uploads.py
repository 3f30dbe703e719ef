"""Uploads over HTTP. Source: OCI distribution-spec v1.1, "Pushing blobs", "Mounting a blob"."""

from __future__ import annotations

import re

from registry.oci.digest import ALGORITHMS, DEFAULT_ALGORITHM, Digest
from registry.oci.errors import BlobUploadInvalid, BlobUploadUnknown, DigestInvalid, NameInvalid, SizeInvalid
from registry.oci.reference import Repository
from registry.server.index.uploads import Session
from registry.server.service.bodies import Chunk
from registry.server.web.context import Context
from registry.server.web.http import Headers, Reply, Request
from registry.server.web.routes import Route

_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?([0-9]{1,19})-([0-9]{1,19})(?:/(?:[0-9]{1,19}|\*))?")
_UPLOAD_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def begin_upload(context: Context, request: Request, route: Route) -> Reply:
    """`POST /v2/<name>/blobs/uploads/`: mount, a whole blob, or a new upload"""
    mounting = request.parameter("mount")
    if mounting is not None and await _mount(context, request, route.repository, mounting):
        return _created(route.repository, Digest.parse(mounting))
    whole = request.parameter("digest")
    if whole is not None and mounting is None:
        digest = Digest.parse(whole)
        length, body = request.content_length(), request.body()
        await context.uploads.push_whole(route.repository, digest, length, body, context.caller)
        return _created(route.repository, digest)
    session = await context.uploads.begin(context.caller, route.repository, _algorithm(request))
    return Reply(202, _standing(session))


async def _mount(context: Context, request: Request, target: Repository, wanted: str) -> bool:
    digest = Digest.parse(wanted)
    source: Repository | None = None
    named = request.parameter("from")
    if named:
        try:
            source = Repository.parse(named)
        except NameInvalid:
            return False  # as a repository that is not there
    return await context.uploads.mount(context.caller, target, digest, source)


def _algorithm(request: Request) -> str:
    algorithm = request.parameter("digest-algorithm") or DEFAULT_ALGORITHM
    if algorithm not in ALGORITHMS:
        raise DigestInvalid(f"digest algorithm {algorithm[:40]!r} is not supported; use {' or '.join(ALGORITHMS)}")
    return algorithm


def _location(session: Session) -> str:
    return f"/v2/{session.repository}/blobs/uploads/{session.id}"


def _standing(session: Session) -> Headers:
    """Where an upload stands, in the form that docker reads: `0-0` also for nothing at all."""
    return [
        (b"location", _location(session).encode()),
        (b"range", f"0-{max(0, session.size_bytes - 1)}".encode()),
        (b"docker-upload-uuid", session.id.encode()),
    ]


def _created(repository: Repository, digest: Digest) -> Reply:
    headers: Headers = [
        (b"location", f"/v2/{repository}/blobs/{digest}".encode()),
        (b"docker-content-digest", digest.encode()),
    ]
    return Reply(201, headers)


def _upload_id(route: Route) -> str:
    """Nothing but an id of ours goes on to be looked up, or to name a file."""
    if not _UPLOAD_ID.fullmatch(route.last):
        raise BlobUploadUnknown(route.last[:100])
    return route.last


def _chunk(request: Request) -> Chunk:
    """What the headers say of the body. Raises BlobUploadInvalid or SizeInvalid."""
    length = request.content_length()
    header = request.header(b"content-range")
    if header is None:
        return Chunk(None, length)
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None:
        raise BlobUploadInvalid("Content-Range is not '<first byte>-<last byte>'", {"range": header[:100]})
    first, last = int(match[1]), int(match[2])
    announced = last - first + 1
    if length == 0 and announced == 1:  # "0-0" for an empty chunk, as some clients write it
        announced = 0
    if announced < 0 or (length is not None and length != announced):
        raise SizeInvalid(
            f"Content-Range speaks of {announced} bytes, Content-Length of {length}",
            {"announced": announced, "length": length},
        )
    return Chunk(first, announced)


async def get_upload(context: Context, request: Request, route: Route) -> Reply:
    """`GET <location>`: how far it has come"""
    session = await context.uploads.status(context.caller, route.repository, _upload_id(route))
    return Reply(204, _standing(session))


async def patch_upload(context: Context, request: Request, route: Route) -> Reply:
    """`PATCH <location>`: one chunk, or everything as a stream"""
    session = await context.uploads.append(
        context.caller, route.repository, _upload_id(route), _chunk(request), request.body()
    )
    return Reply(202, _standing(session))


async def put_upload(context: Context, request: Request, route: Route) -> Reply:
    """`PUT <location>?digest=<digest>`: the last chunk, or none, and the end"""
    upload = _upload_id(route)
    wanted = request.parameter("digest")
    if wanted is None:
        raise DigestInvalid("the parameter 'digest' is missing")
    digest = Digest.parse(wanted)
    await context.uploads.finish(context.caller, route.repository, upload, digest, _chunk(request), request.body())
    request.notes["digest"] = digest
    return _created(route.repository, digest)


async def delete_upload(context: Context, request: Request, route: Route) -> Reply:
    """`DELETE <location>`: forget it"""
    await context.uploads.cancel(context.caller, route.repository, _upload_id(route))
    return Reply(204)
