"""`hythe push`: an image to a registry, its layers byte by byte as they came."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence

from registry.cli import local, reach
from registry.cli.progress import Lines, push
from registry.client.images import records, repack
from registry.client.images.store import Store
from registry.client.images.target import LocalRepository
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import HytheError
from registry.oci.manifest import Manifest
from registry.oci.reference import ImageName, Repository, Tag
from registry.transfer.copy import copy_root
from registry.transfer.plan import read_manifest
from registry.transfer.remote import Remote
from registry.transfer.target import Pieces, Read, Source


def run(words: Sequence[str]) -> int:
    """Run the verb and return its exit status."""
    parser = argparse.ArgumentParser(prog="hythe push", description="Push an image to a registry")
    parser.add_argument("name", metavar="NAME[:TAG]")
    parser.add_argument("-a", "--all-tags", action="store_true", help="all tags of the repository")
    parser.add_argument("-q", "--quiet", action="store_true", help="only print the image's name")
    parser.add_argument("--disable-content-trust", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    with local.opened() as store:
        asyncio.run(_push(store, options))
    return 0


async def _push(store: Store, options: argparse.Namespace) -> None:
    name = ImageName.parse(options.name, store.default_host)
    if options.all_tags and name.tag:
        raise HytheError("tag can't be used with --all-tags/-a")
    if options.all_tags:
        tags = [Tag(each.reference) for each in records.tags_in(store.db, name.name)]
    else:
        if not name.tag and not options.quiet:
            print("Using default tag: latest")
        tags = [name.tag or Tag("latest")]
    found = [each for tag in tags if (each := records.tag(store.db, name.name, tag)) is not None]
    if not found:
        where = name.familiar_name(store.default_host)
        raise HytheError(f"An image does not exist locally with the tag: {where}")
    if not options.quiet:
        print(f"The push refers to repository [{name.name}]")
    async with reach.make() as way:
        with store.works() as works:
            for each in found:
                target = Neighbours(store, name, way.target(name))
                lines = Lines(options.quiet)
                source = LocalRepository(works, name.name)
                root = await repack.compressed(works, await source.resolve(Tag(each.reference)))
                name_of = _short_diff_id(store)
                await copy_root(
                    source, root, target, Tag(each.reference), observe=push(lines, name_of, target.origin_of)
                )
                _say_layers(lines, await read_manifest(source, root), name_of)
                image = records.image(store.db, each.image_id)
                if image is not None:
                    store.note_digest(name.name, root.digest, image, root.digest)
                familiar = name.familiar_name(store.default_host)
                store.tell("push", f"{familiar}:{each.reference}", name=familiar)
                if options.quiet:
                    print(f"{name.name}:{each.reference}")
                else:
                    print(f"{each.reference}: digest: {root.digest} size: {root.size_bytes}")


def _say_layers(lines: Lines, read: tuple[Manifest, bytes], name_of: _ShortDiffId) -> None:
    """Docker has a line for each layer, also where the registry has the whole image and nothing is asked."""
    for layer in read[0].layers:
        if not lines.knows(name_of(layer)):
            lines.say(name_of(layer), "Layer already exists")


class _ShortDiffId:
    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, descriptor: Descriptor) -> str:
        found = records.blob(self._store.db, descriptor.digest)
        return (found[1] if found and found[1] else descriptor.digest).encoded[:12]


def _short_diff_id(store: Store) -> _ShortDiffId:
    return _ShortDiffId(store)


class Neighbours:
    """A registry's repository as a Target that takes blobs over from others of the registry, where we saw them."""

    def __init__(self, store: Store, name: ImageName, remote: Remote) -> None:
        self._store = store
        self._name = name
        self._remote = remote
        self._origins: dict[Digest, str] = {}

    def origin_of(self, descriptor: Descriptor) -> str:
        """Where a mounted blob came from."""
        return self._origins.get(descriptor.digest, "")

    def mount_source(self, source: Source) -> Repository | None:
        """Any name says that there may be one; `mount` finds it."""
        return self._name.repository

    async def mount(self, descriptor: Descriptor, origin: Repository) -> bool:
        """Try the repositories of this registry that had the blob when we last looked."""
        for repository in records.repositories_with(self._store.db, descriptor.digest, f"{self._name.host}/"):
            if repository == self._name.repository:
                continue
            if await self._remote.mount(descriptor, Repository.parse(repository)):
                self._origins[descriptor.digest] = repository
                return True
            break  # a failed mount began an upload; once is enough
        return False

    async def resolve(self, reference: Tag | Digest) -> Descriptor:
        """As the registry says."""
        return await self._remote.resolve(reference)

    def fetch(self, descriptor: Descriptor, start: int = 0) -> Pieces:
        """From the registry."""
        return self._remote.fetch(descriptor, start)

    def tags(self) -> AsyncIterator[Tag]:
        """Of the registry."""
        return self._remote.tags()

    async def exists(self, descriptor: Descriptor) -> bool:
        """In the registry."""
        return await self._remote.exists(descriptor)

    async def push(self, descriptor: Descriptor, read: Read, tag: Tag | None = None) -> None:
        """To the registry."""
        await self._remote.push(descriptor, read, tag)

    async def tag(self, descriptor: Descriptor, tag: Tag) -> None:
        """In the registry."""
        await self._remote.tag(descriptor, tag)
