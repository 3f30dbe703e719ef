"""`hythe cp`: an image from one place to another, without a store between them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from registry.cli import command, output, places, reach
from registry.cli.places import Place
from registry.cli.progress import Lines
from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.errors import HytheError
from registry.oci.platform import Platform, host_platform
from registry.oci.reference import Tag
from registry.transfer.copy import Event, execute
from registry.transfer.layout import LayoutDirectory
from registry.transfer.layout_archive import ArchiveWriter
from registry.transfer.plan import Plan, make_plan, select
from registry.transfer.target import Source, Target

_DONE = {"present": "exists already", "mounted": "mounted", "done": "copied"}


def run(arguments: Sequence[str]) -> int:
    """`cp [OPTIONS] SRC DST`."""
    top = command.parser("cp", "Copy an image, with all platforms, between registries, layouts and archives.")
    top.add_argument("source", metavar="SRC", help="NAME, docker://NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG]")
    top.add_argument("target", metavar="DST", help="the same, or docker-archive:FILE[:NAME]")
    top.add_argument("--platform", metavar="OS/ARCH", help="copy this one of several images")
    top.add_argument("--referrers", action="store_true", help="and what refers to it: signatures, SBOMs")
    top.add_argument("--dry-run", action="store_true", help="say what would be copied")
    top.add_argument("-q", "--quiet", action="store_true", help="print the digest alone")
    top.add_argument("--json", action="store_true", help="print JSON")
    return command.execute(_copy(top.parse_args(arguments)))


async def _copy(options: argparse.Namespace) -> int:
    platform = Platform.parse_text(options.platform) if options.platform else None
    async with reach.make() as way:
        origin, goal = Place.parse(options.source, way), Place.parse(options.target, way)
        async with places.open_source(origin, way) as (source, root):
            if goal.kind == "docker-archive" and platform is None and media.is_index(root.media_type):
                platform = host_platform()  # docker's archives have one image for each name
            root = await select(source, root, platform)
            _require_digest(goal, root)
            if options.dry_run:
                target = await places.look_at_target(goal, way)
                return _show(await make_plan(source, target, root, referrers=options.referrers), options.json)
            async with places.open_target(goal, way) as target:
                plan = await make_plan(source, target, root, referrers=options.referrers)
                tag = goal.tag or (None if goal.name and goal.name.digest else origin.tag or Tag("latest"))
                await _execute(plan, source, target, goal, tag, _Report(options.quiet or options.json))
    if options.json:
        output.as_json({"digest": root.digest, "mediaType": root.media_type, "size": root.size_bytes})
    else:
        print(root.digest)
    return 0


def _require_digest(goal: Place, root: Descriptor) -> None:
    if goal.name is not None and goal.name.digest not in (None, root.digest):
        raise HytheError(f"{goal.name}: what is copied has the digest {root.digest}")


async def _execute(
    plan: Plan, source: Source, target: Target, goal: Place, tag: Tag | None, report: _Report
) -> None:
    """Carry the plan out; what has names of its own gets them in the end."""
    if isinstance(target, ArchiveWriter) and goal.kind == "docker-archive":
        await execute(plan, source, target, None, observe=report)
        await _name(target, plan.root, goal)
    else:
        await execute(plan, source, target, tag, observe=report)
        if tag is None and isinstance(target, LayoutDirectory):
            await target.list_untagged(plan.root)


async def _name(target: ArchiveWriter, root: Descriptor, goal: Place) -> None:
    if not goal.reference:
        await target.list_untagged(root)
        return
    from registry.oci.reference import ImageName

    name = ImageName.parse(goal.reference).with_default_tag()
    await target.tag(root, name.tag or Tag("latest"), str(name))


class _Report:
    """A line for each content on the standard error: when it is done, and on a terminal while it moves."""

    def __init__(self, quiet: bool) -> None:
        self._lines = Lines(quiet, sys.stderr)

    def __call__(self, event: Event) -> None:
        what = event.descriptor
        if event.kind in _DONE:
            size = output.size(what.size_bytes)
            self._lines.say(what.digest[:19], f"{_DONE[event.kind]} ({_kind(what)}, {size})")
        elif event.kind == "moving":
            self._lines.say(what.digest[:19], "copying", event.done_bytes, what.size_bytes)


def _kind(descriptor: Descriptor) -> str:
    if media.is_index(descriptor.media_type):
        return "index"
    return "manifest" if media.is_manifest(descriptor.media_type) else "blob"


def _show(plan: Plan, as_json: bool) -> int:
    found = [*plan.blobs, *(node.descriptor for node in plan.manifests)]
    if as_json:
        rows = [{"digest": each.digest, "mediaType": each.media_type, "size": each.size_bytes} for each in found]
        output.as_json({"root": plan.root.digest, "copies": rows})
        return 0
    for each in found:
        print(f"{each.digest}  {_kind(each):8}  {output.size(each.size_bytes)}")
    return 0
