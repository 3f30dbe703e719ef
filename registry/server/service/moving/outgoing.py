"""Writing repositories out, as docker's registry keeps them or as OCI layouts, while this one serves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from registry.content import docker_layout
from registry.content.departures import Departures
from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import ContentMissing, DigestInvalid
from registry.oci.reference import Repository, Tag
from registry.server.index import manifests, names
from registry.server.index.engine import Index
from registry.server.service import groups
from registry.server.service.moving import leaving
from registry.server.service.moving.leaving import Departure, Leaving
from registry.server.service.moving.plan import Problem
from registry.server.service.moving.report import Report
from registry.transfer import index_json

Format = Literal["registry", "oci"]

_PAGE = 1000
_AT_ONCE = 8


class Export:
    """One run. *progress* is told now and then how far it is."""

    def __init__(
        self, index: Index, departures: Departures, form: Format, progress: Callable[[Report], None]
    ) -> None:
        self._index = index
        self._out = departures
        self._form = form
        self._progress = progress
        self.report = Report()

    async def run(self, wanted: Mapping[Repository, Sequence[Tag]]) -> Report:
        """Write *wanted* repositories (no tags: with all that they have), or all.

        Raises NameUnknown, ManifestUnknown.
        """
        if wanted:
            for repository, tags in wanted.items():
                await self._write(await leaving.plan(self._index, repository, tags))
            return self.report
        after = ""
        while page := await self._index.read(names.page, after, _PAGE):
            for name in page:
                await self._write(await leaving.plan(self._index, Repository(name), ()))
            after = page[-1]
        return self.report

    async def _write(self, departure: Departure) -> None:
        """Bytes, then what names them, then tags: a reader of what is there finds all that it asks for."""
        write = self._to_registry if self._form == "registry" else self._to_layout
        await write(departure)
        self.report.repositories += 1
        self._progress(self.report)

    async def _blobs(self, departure: Departure, path: Callable[[Digest], str]) -> set[Digest]:
        """Write the blobs, and then the bytes of the manifests; returns the manifests that are whole there."""
        sizes = {digest: size for each in departure.manifests.values() for digest, size in each.blobs}
        wanted = sorted(sizes)
        are_here = await groups.gather(lambda d: self._blob(departure, d, sizes[d], path(d)), wanted, _AT_ONCE)
        here = {digest for digest, is_here in zip(wanted, are_here, strict=True) if is_here}
        whole, written = set(), 0
        for digest, each in departure.manifests.items():
            stored = await self._index.read(manifests.get, departure.repository, digest)
            if stored is None or not here.issuperset(blob for blob, _ in each.blobs):
                self._problem(departure, digest, "it, or a blob of it, is not here any more")
                continue
            written += await self._out.text(path(digest), stored.payload)
            whole.add(digest)
        self.report.manifests += written
        self.report.manifests_present += len(whole) - written
        return whole

    async def _blob(self, departure: Departure, digest: Digest, size_bytes: int, path: str) -> bool:
        try:
            self.report.add_blob(await self._out.blob(digest, size_bytes, path), size_bytes)
        except (ContentMissing, DigestInvalid) as error:
            self._problem(departure, digest, str(error))
            return False
        return True

    def _problem(self, departure: Departure, what: str, why: str) -> None:
        self.report.problems.append(Problem(departure.repository, what, why))

    # --- docker's registry

    async def _to_registry(self, departure: Departure) -> None:
        whole, repository = await self._blobs(departure, docker_layout.blob), departure.repository
        for digest in sorted({blob for each in departure.manifests.values() for blob, _ in each.blobs}):
            await self._out.text(docker_layout.layer(repository, digest), digest.encode())
        for digest in sorted(whole):
            await self._out.text(docker_layout.revision(repository, digest), digest.encode())
        pointing = {tag: digest for tag, digest in departure.tags.items() if digest in whole}
        for subject, referrers in departure.referrers().items():
            tag = Tag(f"{subject.algorithm}-{subject.encoded[:64]}")
            if tag not in departure.tags:
                pointing[tag] = await self._fallback(
                    repository, [each for each in referrers if each.digest in whole]
                )
        for tag, digest in pointing.items():
            text = digest.encode()
            await self._out.text(docker_layout.tag_index(repository, tag, digest), text)
            self.report.tags_created += await self._out.text(docker_layout.tag(repository, tag), text)

    async def _fallback(self, repository: Repository, referrers: Sequence[Leaving]) -> Digest:
        """The index under a tag by which clients find what refers to a subject, as that registry has no list.

        Source: OCI distribution-spec v1.1, "Referrers Tag Schema".
        """
        data = _index([each.referrer for each in referrers])
        digest = Digest.of(data)
        await self._out.text(docker_layout.blob(digest), data)
        await self._out.text(docker_layout.revision(repository, digest), digest.encode())
        return digest

    # --- OCI layouts

    async def _to_layout(self, departure: Departure) -> None:
        root = departure.repository

        def path(digest: Digest) -> str:
            return f"{root}/{index_json.blob_name(digest)}"

        whole = await self._blobs(departure, path)
        entries = []
        for tag, digest in departure.tags.items():
            if digest in whole:
                name = {index_json.REF_NAME: tag}
                entries.append({**_descriptor(departure.manifests[digest]), "annotations": name})
        entries += [_descriptor(departure.manifests[digest]) for digest in departure.roots() if digest in whole]
        await self._out.text(f"{root}/{index_json.LAYOUT_FILE}", index_json.LAYOUT_TEXT)
        await self._out.text(f"{root}/{index_json.INDEX_FILE}", _index(entries))


def _descriptor(manifest: Leaving) -> dict[str, object]:
    return Descriptor(manifest.media_type, manifest.digest, manifest.size_bytes).document()


def _index(entries: Sequence[dict[str, object]]) -> bytes:
    document = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": list(entries)}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
