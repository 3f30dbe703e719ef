"""`hythe manifest inspect`: what a registry has under a name, with docker's options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from registry.cli import command, reach
from registry.oci import image as images
from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.errors import ManifestInvalid
from registry.oci.image import CONFIG_MAX_BYTES
from registry.oci.manifest import Manifest
from registry.oci.reference import ImageName
from registry.transfer.errors import no_manifest
from registry.transfer.plan import read_manifest
from registry.transfer.reach import Reach
from registry.transfer.target import Source, is_manifest, read_all


def run(arguments: Sequence[str]) -> int:
    """`manifest inspect [OPTIONS] [LIST] NAME`."""
    top = command.parser("manifest", "Show what a registry has under a name.")
    verbs = top.add_subparsers(dest="action", metavar="COMMAND", required=True)
    inspect = verbs.add_parser("inspect", help="print a manifest, or an index")
    inspect.add_argument("names", nargs="+", metavar="[LIST] NAME", help="host/repository:tag, or @digest")
    inspect.add_argument("-v", "--verbose", action="store_true", help="with digests, and each image of an index")
    inspect.add_argument("--insecure", action="store_true", help="plain HTTP, or any certificate, will do")
    options = top.parse_args(arguments)
    if len(options.names) > 2:
        inspect.error("at most a list and one of its images are shown")
    return command.execute(_inspect(options))


async def _inspect(options: argparse.Namespace) -> int:
    async with reach.make() as way:
        name = reach.name_of(options.names[-1], way.registries)
        source = (_insecure(way, name) if options.insecure else way).source(name)
        root = await source.resolve(name.reference)
        if len(options.names) > 1:
            root = await _of_list(reach.name_of(options.names[0], way.registries), way, root)
        parsed, data = await read_manifest(source, root)
        if not options.verbose:
            _print(json.loads(data))
        elif media.is_index(root.media_type):
            children = [child for child in parsed.children() if is_manifest(child)]
            where = name.name if name.digest else name.with_default_tag()
            _print([{**await _detail(name, source, each), "Ref": f"{where}@{each.digest}"} for each in children])
        else:
            told = await _detail(name, source, root)
            _print({**told, "Descriptor": {**told["Descriptor"], **await _platform(source, parsed)}})
    return 0


async def _of_list(listed: ImageName, way: Reach, wanted: Descriptor) -> Descriptor:
    """What a list says of one of its images, its platform too. Raises ManifestUnknown."""
    source = way.source(listed)
    parsed, _ = await read_manifest(source, await source.resolve(listed.reference))
    children = parsed.children()
    found = next((child for child in children if child.digest == wanted.digest), None)
    if found is None:
        offered = ", ".join(child.digest for child in children[:20]) or "nothing: it is no list"
        raise no_manifest(str(listed), wanted.digest, f"; it has {offered}")
    return found


async def _platform(source: Source, manifest: Manifest) -> dict[str, Any]:
    """What an image is for, as its configuration says; nothing for an artifact."""
    if manifest.config is None or manifest.config.size_bytes > CONFIG_MAX_BYTES:
        return {}
    try:
        platform = images.parse(await read_all(source, manifest.config, CONFIG_MAX_BYTES)).platform
    except ManifestInvalid:
        return {}
    if not platform.architecture:
        return {}
    variant = {"variant": platform.variant} if platform.variant else {}
    return {"platform": {"architecture": platform.architecture, "os": platform.os, **variant}}


def _insecure(way: Reach, name: ImageName) -> Reach:
    way.registries = replace(way.registries, insecure=(*way.registries.insecure, name.host))
    return way


async def _detail(name: ImageName, source: Source, descriptor: Descriptor) -> dict[str, Any]:
    """What docker prints of one manifest with --verbose."""
    _, data = await read_manifest(source, descriptor)
    kind = "SchemaV2Manifest" if descriptor.media_type == media.DOCKER_MANIFEST else "OCIManifest"
    ref = f"{name.name}@{descriptor.digest}" if descriptor.platform is not None or name.tag is None else str(name)
    return {"Ref": ref, "Descriptor": descriptor.document(), kind: json.loads(data)}


def _print(document: Any) -> None:
    print(json.dumps(document, indent="\t", ensure_ascii=False))
