"""`hythe save`, `hythe load` and `hythe import`: images from and to files."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from registry.cli import image_changes, local, whole
from registry.cli.places import replacing
from registry.client.images import author, records
from registry.client.images.ingest import Works
from registry.client.images.store import Store
from registry.client.images.target import LocalRepository
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import HytheError
from registry.oci.platform import Platform, host_platform
from registry.oci.reference import ImageName, Tag
from registry.transfer.archive import Archive
from registry.transfer.copy import copy_root
from registry.transfer.docker_archive import DockerArchive
from registry.transfer.index_json import INDEX_FILE
from registry.transfer.layout_archive import ArchiveWriter, LayoutArchive
from registry.transfer.plan import select

_NO_NAME = "localhost/unnamed"


# --- save


def save(words: Sequence[str]) -> int:
    """Run `save` and return its exit status."""
    parser = argparse.ArgumentParser(prog="hythe save", description="Save images to an archive")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("-o", "--output", metavar="FILE", help="write there, not to the standard output")
    parser.add_argument("--format", choices=("docker-archive", "oci-archive"), default="docker-archive")
    options = parser.parse_args(words)
    if options.output is None and sys.stdout.isatty():
        raise HytheError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    with local.opened() as store:
        wanted = [_wanted(store, text) for text in options.images]
        with _output(options.output) as file:
            asyncio.run(_save(store, wanted, file, options.format == "docker-archive"))
    return 0


def _wanted(store: Store, text: str) -> tuple[records.Image, list[records.Name]]:
    """An image, and the names that it is saved under: the one that was said, all tags of a bare repository."""
    image, name = store.find(text), store.find_name(text)
    return image, [name] if name is not None and ":" not in name.reference else []


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[bytes]]:
    if path is None:
        yield sys.stdout.buffer
        return
    with replacing(Path(path)) as file:
        yield file


async def _save(
    store: Store, wanted: list[tuple[records.Image, list[records.Name]]], file: IO[bytes], for_docker: bool
) -> None:
    writer = ArchiveWriter(file, for_docker)
    with store.works() as works:
        for image, names in wanted:
            stored = records.manifests_of(store.db, image.id)[0]
            chosen = records.manifest(store.db, names[0].manifest) if names else stored
            chosen = chosen or stored
            root = Descriptor(chosen.media_type, chosen.digest, chosen.size_bytes)
            await copy_root(LocalRepository(works, _NO_NAME), root, writer)
            for name in names:
                await writer.tag(root, name.reference, f"{name.repository}:{name.reference}")
            if not names:
                await writer.list_untagged(root)
        await writer.finish()


# --- load


@dataclass(frozen=True, slots=True)
class _Found:
    descriptor: Descriptor
    names: tuple[str, ...]


def load(words: Sequence[str]) -> int:
    """Run `load` and return its exit status."""
    parser = argparse.ArgumentParser(prog="hythe load", description="Load images from an archive")
    parser.add_argument("-i", "--input", metavar="FILE", help="read this file, not the standard input")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of what is read")
    parser.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="of an index, another than this machine's")
    options = parser.parse_args(words)
    if options.input is None and sys.stdin.isatty():
        raise HytheError("requested load from stdin, but stdin is empty")
    platform = Platform.parse_text(options.platform) if options.platform else host_platform()
    with local.opened(telling=True) as store, _archive(options.input) as archive:
        for line in asyncio.run(_load(store, archive, platform)):
            print(line)
    return 0


@contextlib.contextmanager
def _archive(path: str | None) -> Iterator[Archive]:
    archive = (
        whole.open_archive(Path(path)) if path else whole.read_archive(sys.stdin.buffer, "the standard input")
    )
    try:
        yield archive
    finally:
        archive.close()


async def _load(store: Store, archive: Archive, platform: Platform) -> list[str]:
    source: DockerArchive | LayoutArchive
    if INDEX_FILE in archive:
        source = LayoutArchive(archive)
        found = _by_descriptor([(entry.descriptor, entry.names) for entry in await source.entries()])
    else:
        source = await DockerArchive.open(archive)
        found = [_Found(image.descriptor, image.names) for image in source.images]
    said: list[str] = []
    with store.works() as works:
        for each in found:
            root = await select(source, each.descriptor, platform)
            names = [name for text in each.names if (name := _name(text, store)) is not None]
            await copy_root(source, root, LocalRepository(works, names[0].name if names else _NO_NAME))
            stored = records.manifest(store.db, root.digest)
            assert stored is not None
            for name in names:
                await LocalRepository(works, name.name).tag(root, name.tag or Tag("latest"))
                said.append(f"Loaded image: {name.with_default_tag().familiar(store.default_host)}")
            store.tell("load", stored.image_id, name=said[-1].partition(": ")[2] if names else stored.image_id)
            if not names:
                said.append(f"Loaded image ID: {stored.image_id}")
    return said


def _by_descriptor(entries: list[tuple[Descriptor, tuple[str, ...]]]) -> list[_Found]:
    """An image that is listed several times, once, under all of its names."""
    found: dict[Digest, _Found] = {}
    for descriptor, names in entries:
        before = found.get(descriptor.digest)
        found[descriptor.digest] = _Found(descriptor, (*(before.names if before else ()), *names))
    return list(found.values())


def _name(text: str, store: Store) -> ImageName | None:
    """A name with its repository. None for a layout's bare tag, which says none."""
    if ":" not in text and "/" not in text:
        return None
    name = ImageName.parse(text, store.default_host)
    return None if name.digest else name


# --- import


def import_(words: Sequence[str]) -> int:
    """Run `import` and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="hythe import", description="Make an image of a root file system's archive"
    )
    parser.add_argument("file", metavar="FILE|-")
    parser.add_argument("name", nargs="?", metavar="REPOSITORY[:TAG]")
    parser.add_argument("-c", "--change", action="append", default=[], metavar="INSTRUCTION", help="CMD, ENV, …")
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="comment of the image")
    parser.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="what the files are for")
    options = parser.parse_args(words)
    platform = Platform.parse_text(options.platform) if options.platform else host_platform()
    config = _configuration(options.message, options.file, platform, options.change)
    with local.opened(telling=True) as store:
        name = ImageName.parse(options.name, store.default_host).with_default_tag() if options.name else None
        try:
            file = cast(IO[bytes], sys.stdin.buffer) if options.file == "-" else Path(options.file).open("rb")  # noqa: SIM115
        except OSError as error:
            raise HytheError(f"{options.file}: {error.strerror}") from None
        with file, store.works() as works:
            print(asyncio.run(_import(works, file, config, name)))
    return 0


async def _import(works: Works, file: IO[bytes], config: dict[str, Any], name: ImageName | None) -> Digest:
    layer = author.pack(works, author.plain(file))
    root = await author.make(works, name.name if name else _NO_NAME, config, [layer], name.tag if name else None)
    stored = records.manifest(works.db, root.digest)
    assert stored is not None
    return stored.image_id


def _configuration(message: str, source: str, platform: Platform, changes: Sequence[str]) -> dict[str, Any]:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(epoch) if epoch else time.time()))
    comment = message or f"Imported from {source}"
    config: dict[str, Any] = {}
    for change in changes:
        image_changes.apply(config, change)
    return {
        "created": created,
        "architecture": platform.architecture,
        **({"variant": platform.variant} if platform.variant else {}),
        "os": platform.os,
        "config": config,
        "history": [{"created": created, "comment": comment}],
    }
