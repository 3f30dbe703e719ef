"""A repository of a registry over HTTP, as a place to copy from and to.

Source: OCI distribution-spec v1.1.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from registry.oci import manifest as manifests
from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid, ManifestTooLarge, ManifestUnknown, RegistryError
from registry.oci.reference import Repository, Tag
from registry.transfer import download, lists, upload
from registry.transfer.download import USUAL_RANGING, Blob, Ranging
from registry.transfer.errors import AnswerInvalid, no_manifest, printable
from registry.transfer.host import Host
from registry.transfer.http import Response
from registry.transfer.target import (
    MANIFEST_MAX_BYTES,
    Pieces,
    Read,
    Source,
    from_bytes,
    is_manifest,
    read_all,
    verified,
    wrong_digest,
)
from registry.transfer.upload import Session

# Docker's types first: very old registries answer schema 1 to clients that do not name what they want.
ACCEPT = ", ".join((*sorted(media.INDEXES | media.IMAGES), media.OCI_ARTIFACT, "*/*;q=0.1"))
_REMEMBERED_MAX = 64


@dataclass(frozen=True, slots=True)
class _Found:
    descriptor: Descriptor
    data: bytes


class Remote:
    """One repository at one endpoint; a Target, Mounting and Referring."""

    def __init__(self, host: Host, repository: Repository, ranging: Ranging = USUAL_RANGING) -> None:
        self.host = host
        self.repository = repository
        self._ranging = ranging
        self._pull = frozenset({f"repository:{repository}:pull"})
        self._push = frozenset({f"repository:{repository}:pull,push"})
        self._remembered: dict[Digest, _Found] = {}
        self._has_referrers = True
        self._telling = asyncio.Lock()

    @property
    def place(self) -> str:
        """Host and repository, for people."""
        return f"{self.host.name}/{self.repository}"

    # --- reading

    async def resolve(self, reference: Tag | Digest) -> Descriptor:
        """The manifest under a tag or digest. No header outranks a digest that was asked for."""
        path = self._manifest_path(reference)
        async with self.host.ask(
            "HEAD",
            path,
            scopes=self._pull,
            headers={"Accept": ACCEPT},
            expects=(200, 404, 405),
            place=self.place,
        ) as answer:
            if answer.status == 404:
                raise self._missing(reference)
            stated = self._stated(answer, reference)
        return stated or (await self._get(reference)).descriptor

    def _missing(self, reference: Tag | Digest) -> ManifestUnknown:
        is_tag = isinstance(reference, Tag)
        return no_manifest(
            self.place, reference, f"; hythe tags {self.place} lists what there is" if is_tag else ""
        )

    def _stated(self, answer: Response, reference: Tag | Digest) -> Descriptor | None:
        """What the headers say, if they say all; its bytes are verified when they come."""
        length = answer.headers.get("Content-Length", "")
        media_type = media.essence(answer.headers.get("Content-Type", ""))
        digest = reference if isinstance(reference, Digest) else answer.headers.get("Docker-Content-Digest")
        if answer.status != 200 or not digest or not length.isdigit() or not media.is_manifest(media_type):
            return None
        if int(length) > MANIFEST_MAX_BYTES:
            raise ManifestTooLarge(MANIFEST_MAX_BYTES)
        return Descriptor(media_type, Digest.parse(digest), int(length))

    async def _get(self, reference: Tag | Digest) -> _Found:
        """A manifest with its bytes, verified where the reference says what they are."""
        path = self._manifest_path(reference)
        async with self.host.ask(
            "GET", path, scopes=self._pull, headers={"Accept": ACCEPT}, expects=(200, 404), place=self.place
        ) as answer:
            if answer.status == 404:
                raise self._missing(reference)
            data = await answer.read(MANIFEST_MAX_BYTES + 1)
            stated = answer.headers.get("Docker-Content-Digest")
            content_type = answer.headers.get("Content-Type")
        if len(data) > MANIFEST_MAX_BYTES:
            raise ManifestTooLarge(MANIFEST_MAX_BYTES)
        wanted = (
            reference if isinstance(reference, Digest) else Digest.parse(stated) if stated else Digest.of(data)
        )
        found = Digest.of(data, wanted.algorithm)
        if found != wanted:
            raise DigestInvalid(f"{self.place}: what came for {wanted} is {found}; it was not taken")
        return self._remember(data, _type_of(data, content_type), wanted)

    def _remember(self, data: bytes, media_type: str, digest: Digest) -> _Found:
        while len(self._remembered) >= _REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]
        found = _Found(Descriptor(media_type, digest, len(data)), data)
        self._remembered[digest] = found
        return found

    def fetch(self, descriptor: Descriptor, start: int = 0) -> Pieces:
        """The bytes from *start* on; a manifest's are verified."""
        if is_manifest(descriptor):
            return self._fetch_manifest(descriptor, start)
        path = f"/v2/{self.repository}/blobs/{descriptor.digest}"
        return download.download(Blob(self.host, path, self._pull, descriptor, self.place), start, self._ranging)

    async def _fetch_manifest(self, descriptor: Descriptor, start: int) -> Pieces:
        found = self._remembered.get(descriptor.digest) or await self._get(descriptor.digest)
        yield found.data[start:]

    def tags(self) -> AsyncIterator[Tag]:
        """Every tag, in the registry's order."""
        return lists.tags(self.host, self.repository, self._pull)

    async def referrers(self, digest: Digest) -> Sequence[Descriptor]:
        """The manifests whose subject is *digest*, from the registry's list or, without one, the fallback tag."""
        if self._has_referrers:
            found = await lists.referrers(self.host, self.repository, digest, self._pull)
            if found is not None:
                return found
            self._has_referrers = False
        return lists.read_referrers(await self._fallback(digest))

    async def _fallback(self, digest: Digest) -> dict[str, Any]:
        try:
            found = await self._get(fallback_tag(digest))
        except ManifestUnknown:
            return {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": []}
        document = json.loads(found.data)
        if not isinstance(document, dict) or not isinstance(document.get("manifests"), list):
            raise AnswerInvalid(f"{self.place}:{fallback_tag(digest)} is no list of referrers")
        return document

    # --- writing

    async def exists(self, descriptor: Descriptor) -> bool:
        """Whether the repository has it."""
        kind = "manifests" if is_manifest(descriptor) else "blobs"
        path = f"/v2/{self.repository}/{kind}/{descriptor.digest}"
        async with self.host.ask(
            "HEAD",
            path,
            scopes=self._push,
            headers={"Accept": ACCEPT},
            expects=(200, 404),
            place=self.place,
        ) as answer:
            return answer.status == 200

    async def push(self, descriptor: Descriptor, read: Read, tag: Tag | None = None) -> None:
        """Push a blob, or a manifest under *tag* or its digest."""
        if not is_manifest(descriptor):
            await upload.upload(Session(self.host, self.repository, self._push), descriptor, read)
            return
        data = b""
        async with aclosing(verified(descriptor, read(0))) as pieces:
            async for piece in pieces:
                data += piece
        await self._put(descriptor, data, tag or descriptor.digest)

    async def _put(self, descriptor: Descriptor, data: bytes, reference: Tag | Digest) -> None:
        async with self.host.ask(
            "PUT",
            self._manifest_path(reference),
            scopes=self._push,
            headers={"Content-Type": descriptor.media_type},
            body=data,
            expects=(201,),
            place=self.place,
        ) as answer:
            stated = answer.headers.get("Docker-Content-Digest", descriptor.digest)
            knows_subjects = "OCI-Subject" in answer.headers
        if stated != descriptor.digest and stated.partition(":")[0] == descriptor.digest.algorithm:
            raise wrong_digest(descriptor, printable(stated))
        self._remember(data, descriptor.media_type, descriptor.digest)
        if not knows_subjects:
            await self._tell_subject(descriptor, data)

    async def _tell_subject(self, descriptor: Descriptor, data: bytes) -> None:
        """Where a registry does not list referrers, their pusher does, under the fallback tag."""
        parsed = manifests.parse(data, descriptor.media_type)
        if parsed.subject is None:
            return
        subject = parsed.subject.digest
        entry = parsed.referrer_descriptor(descriptor.digest, descriptor.size_bytes)
        async with self._telling:  # what another process writes between our reading and writing is lost
            document = await self._fallback(subject)
            if all(known.get("digest") != entry["digest"] for known in document["manifests"]):
                document["manifests"].append(entry)
                changed = json.dumps(document).encode()
                listed = Descriptor(media.OCI_INDEX, Digest.of(changed), len(changed))
                await self._put(listed, changed, fallback_tag(subject))

    async def tag(self, descriptor: Descriptor, tag: Tag) -> None:
        """Let *tag* mean a manifest that is here."""
        data = await read_all(self, descriptor)
        await self.push(descriptor, from_bytes(data), tag)

    def mount_source(self, source: Source) -> Repository | None:
        """The repository of *source*, if that is another one at the same endpoint."""
        origin = getattr(source, "origin", source)
        if not isinstance(origin, Remote) or origin.host.endpoint != self.host.endpoint:
            return None
        return None if origin.repository == self.repository else origin.repository

    async def mount(self, descriptor: Descriptor, origin: Repository) -> bool:
        """Take a blob over from *origin*."""
        session = Session(self.host, self.repository, self._push)
        return await upload.mount(session, descriptor.digest, origin)

    def _manifest_path(self, reference: Tag | Digest) -> str:
        return f"/v2/{self.repository}/manifests/{reference}"


def fallback_tag(digest: Digest) -> Tag:
    """The tag under which a registry without a list of referrers keeps it."""
    return Tag(f"{digest.algorithm}-{digest.encoded}"[:128])


def _type_of(data: bytes, content_type: str | None) -> str:
    try:
        return manifests.parse(data, content_type).media_type
    except RegistryError as error:
        raise AnswerInvalid(f"the registry answered what is no manifest: {error}") from None
