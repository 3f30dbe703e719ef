"""`hythe manifest inspect`: what a registry has under a name, with docker's options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from registry.cli import command, reach
from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.reference import ImageName
from registry.transfer.plan import read_manifest
from registry.transfer.reach import Reach
from registry.transfer.target import Source, is_manifest


def run(arguments: Sequence[str]) -> int:
    """`manifest inspect [OPTIONS] NAME`."""
    top = command.parser("manifest", "Show what a registry has under a name.")
    verbs = top.add_subparsers(dest="action", metavar="COMMAND", required=True)
    inspect = verbs.add_parser("inspect", help="print a manifest, or an index")
    inspect.add_argument("name", metavar="NAME", help="host/repository:tag, or @digest")
    inspect.add_argument("-v", "--verbose", action="store_true", help="with digests, and each image of an index")
    inspect.add_argument("--insecure", action="store_true", help="plain HTTP, or any certificate, will do")
    return command.execute(_inspect(top.parse_args(arguments)))


async def _inspect(options: argparse.Namespace) -> int:
    async with reach.make() as way:
        name = reach.name_of(options.name, way.registries)
        source = (_insecure(way, name) if options.insecure else way).source(name)
        root = await source.resolve(name.reference)
        parsed, data = await read_manifest(source, root)
        if not options.verbose:
            _print(json.loads(data))
            return 0
        children = [child for child in parsed.children() if is_manifest(child)]
        if not media.is_index(root.media_type):
            _print(await _detail(name, source, root))
        else:
            _print([await _detail(name, source, child) for child in children])
    return 0


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
