"""Manifests over HTTP. Source: OCI distribution-spec v1.1, "Pulling manifests", "Pushing Manifests"."""

from __future__ import annotations

from functools import lru_cache

from registry.oci import media
from registry.oci.digest import Digest, is_digest
from registry.oci.errors import ManifestInvalid, ManifestUnknown, TagInvalid
from registry.oci.reference import Tag
from registry.server.index.manifests import Stored
from registry.server.web.context import Context
from registry.server.web.http import Headers, Reply, Request
from registry.server.web.routes import Route

_IMMUTABLE = (b"cache-control", b"max-age=31536000, immutable")


@lru_cache(maxsize=8192)
def reference(text: str) -> Tag | Digest:
    """The last part of a manifest's path. Raises DigestInvalid or TagInvalid."""
    return Digest.parse(text) if is_digest(text) else Tag.parse(text)


async def get_manifest(context: Context, request: Request, route: Route) -> Reply:
    """`GET` and `HEAD /v2/<name>/manifests/<tag-or-digest>`"""
    try:
        wanted = reference(route.last)
    except TagInvalid:
        raise ManifestUnknown(route.last[:200]) from None
    stored = await context.repositories.manifest(route.repository, wanted)
    if media.is_index(stored.media_type) and isinstance(wanted, Tag) and knows_no_index(request):
        stored = await context.repositories.image_for_old_client(route.repository, stored)
    request.notes["digest"] = stored.digest
    context.repositories.pulls.record(route.repository, wanted, stored.digest)
    return _reply(request, stored, by_digest=isinstance(wanted, Digest))


def knows_no_index(request: Request) -> bool:
    """Whether this is docker before 1.10's successor: it lists schema 2 as what it accepts, and no index.

    Everybody else gets what is stored, whatever they list; clients that care about types list them all.
    """
    accept = (request.header(b"accept") or "").lower()
    if media.DOCKER_MANIFEST not in accept:
        return False
    accepted = {media.essence(part) for part in accept.split(",")}
    return media.DOCKER_MANIFEST in accepted and not accepted & (media.INDEXES | {"*/*", "application/*"})


def _reply(request: Request, stored: Stored, by_digest: bool) -> Reply:
    etag = f'"{stored.digest}"'
    headers: Headers = [
        (b"content-type", stored.media_type.encode()),
        (b"docker-content-digest", stored.digest.encode()),
        (b"etag", etag.encode()),
    ]
    if by_digest:
        headers.append(_IMMUTABLE)
    if matches(request.header(b"if-none-match"), etag):
        return Reply(304, headers)
    return Reply(200, headers, stored.payload)


def matches(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names *etag*; weak and strong compare alike. Source: RFC 9110, 13.1.2."""
    if header is None:
        return False
    return header.strip() == "*" or etag in {part.strip().removeprefix("W/") for part in header.split(",")}


async def put_manifest(context: Context, request: Request, route: Route) -> Reply:
    """`PUT /v2/<name>/manifests/<tag-or-digest>`, by digest also with `?tag=`, once for each tag"""
    wanted = reference(route.last)
    with_tags = [Tag.parse(text) for text in request.parameters("tag")]
    if with_tags and isinstance(wanted, Tag):
        raise ManifestInvalid("the parameter 'tag' goes with a push by digest")
    payload = await request.whole_body(context.policy.manifest_size_max_bytes)
    pushed = await context.repositories.pushes.push(
        context.caller, route.repository, wanted, with_tags, request.header(b"content-type"), payload
    )
    request.notes["digest"] = pushed.digest
    shown = pushed.digest if isinstance(wanted, Digest) else wanted
    headers: Headers = [
        (b"location", f"/v2/{route.repository}/manifests/{shown}".encode()),
        (b"docker-content-digest", pushed.digest.encode()),
    ]
    if pushed.subject is not None:
        headers.append((b"oci-subject", pushed.subject.encode()))
    headers += [(b"oci-tag", tag.encode()) for tag in dict.fromkeys(with_tags)]
    return Reply(201, headers)


async def delete_manifest(context: Context, request: Request, route: Route) -> Reply:
    """`DELETE /v2/<name>/manifests/<tag-or-digest>`: a tag alone, or a manifest with its tags"""
    wanted = reference(route.last)
    if isinstance(wanted, Digest):
        await context.repositories.deletions.manifest(context.caller, route.repository, wanted)
    else:
        await context.repositories.deletions.tag(context.caller, route.repository, wanted)
    return Reply(202)
