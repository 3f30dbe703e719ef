"""`hythe pull`: an image from a registry, verified and unpacked."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from registry.cli import local, output, reach
from registry.cli.progress import Lines, Pull
from registry.client.images import records
from registry.client.images.store import Store
from registry.client.images.target import LocalRepository
from registry.oci.errors import HytheError
from registry.oci.platform import Platform, choose, host_platform
from registry.oci.reference import ImageName
from registry.transfer.copy import copy_root
from registry.transfer.plan import select
from registry.transfer.target import Source


def run(words: Sequence[str]) -> int:
    """Run the verb and return its exit status."""
    parser = argparse.ArgumentParser(prog="hythe pull", description="Pull an image from a registry")
    parser.add_argument("name", metavar="NAME[:TAG|@DIGEST]")
    parser.add_argument("-a", "--all-tags", action="store_true", help="all tags of the repository")
    parser.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="another platform than this machine's")
    parser.add_argument("-q", "--quiet", action="store_true", help="only print the image's name")
    parser.add_argument("--disable-content-trust", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    with local.opened(telling=True) as store:
        asyncio.run(_pull(store, options))
    return 0


async def _pull(store: Store, options: argparse.Namespace) -> None:
    wanted = Platform.parse_text(options.platform) if options.platform else host_platform()
    name = ImageName.parse(options.name, store.default_host)
    if options.all_tags and (name.tag or name.digest):
        raise HytheError("tag can't be used with --all-tags/-a")
    async with reach.make() as way:
        source = way.source(name)
        if not options.all_tags:
            if not (name.tag or name.digest or options.quiet):
                print("Using default tag: latest")
            image = await fetch(store, source, name.with_default_tag(), wanted, options.quiet)
            _compare(store, image, name.with_default_tag(), wanted)
        else:
            async for tag in source.tags():
                await fetch(store, source, ImageName(name.host, name.repository, tag), wanted, options.quiet, True)
        if not options.quiet or options.all_tags:
            shown = name if options.all_tags else name.with_default_tag()
            print(str(shown) if not options.all_tags else shown.familiar(store.default_host))
        else:
            print(str(name.with_default_tag()))


def _compare(store: Store, image: records.Image, name: ImageName, wanted: Platform) -> None:
    """Warn, in docker's words, of an image for another platform: what is no index is pulled whatever was asked."""
    actual = store.config(image.id).platform
    if not actual.architecture or choose([actual], wanted) is not None:
        return
    said = (
        f"WARNING: image with reference {name.familiar(store.default_host)} was found but does not match the "
        f"specified platform: wanted {wanted}, actual: {actual}"
    )
    output.note(said)


async def fetch(
    store: Store, source: Source, name: ImageName, wanted: Platform, quiet: bool, one_of_many: bool = False
) -> records.Image:
    """Bring one image here and give it its name; returns it."""
    if not quiet:
        print(f"{name.reference}: Pulling from {name.repository}")
    root = await source.resolve(name.reference)
    chosen = await select(source, root, wanted)
    before = store.find_name(str(name))
    telling = Pull(Lines(quiet))
    with store.works(telling.stored) as works:
        target = LocalRepository(works, name.name)
        await copy_root(source, chosen, target, None if name.digest else name.tag, observe=telling.event)
        stored = records.manifest(store.db, chosen.digest)
        image = records.image(store.db, stored.image_id) if stored else None
        if stored is None or image is None:
            raise HytheError(f"{name} was removed while it was pulled; pull it again")
        store.note_digest(name.name, root.digest, image, stored.digest)
        store.tell("pull", name.familiar(store.default_host), name=name.familiar_name(store.default_host))
    if not quiet:
        print(f"Digest: {root.digest}")
        same = before is not None and before.image_id == image.id
        words = "Image is up to date for" if same else "Downloaded newer image for"
        print(f"Status: {words} {name.familiar(store.default_host)}")
    return image
