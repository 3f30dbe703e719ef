"""What a copy would move, as plain data: worked out from the source's manifests and what the target has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from registry.oci import manifest as manifests
from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import ManifestInvalid
from registry.oci.manifest import Manifest
from registry.oci.platform import Platform, PlatformUnknown, choose
from registry.transfer.target import Referring, Source, Target, is_manifest, read_all

DEPTH_MAX = 8
MANIFESTS_MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Node:
    """A manifest to copy, with its bytes, and how far it is above those that name no other manifest."""

    descriptor: Descriptor
    data: bytes
    height: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a copy moves: blobs first, then the manifests from the lowest up, `root` the last.

    `present` is what the target has already. `root` is not in `manifests` when the target has it.
    """

    root: Descriptor
    blobs: tuple[Descriptor, ...] = ()
    manifests: tuple[Node, ...] = ()
    present: tuple[Descriptor, ...] = ()

    @property
    def size_bytes(self) -> int:
        """The length of all blobs that move."""
        return sum(blob.size_bytes for blob in self.blobs)


@dataclass(slots=True)
class _Walk:
    source: Source
    target: Target
    referrers: bool
    at_once: asyncio.Semaphore
    # Every digest that the walk came to, so that what two images share is looked at once.
    heights: dict[Digest, asyncio.Task[int]] = field(default_factory=dict)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    present: list[Descriptor] = field(default_factory=list)
    size_bytes: int = 0


async def read_manifest(source: Source, descriptor: Descriptor) -> tuple[Manifest, bytes]:
    """A manifest, verified and parsed, with its bytes. Raises ManifestInvalid and what reading raises."""
    data = await read_all(source, descriptor)
    return manifests.parse(data, descriptor.media_type), data


async def select(source: Source, root: Descriptor, wanted: Platform | None) -> Descriptor:
    """The manifest below *root* that is for *wanted*: itself when it is no index or any platform will do.

    Raises PlatformUnknown, which says for which platforms there are images.
    """
    if wanted is None:
        return root
    for _ in range(DEPTH_MAX):
        if not media.is_index(root.media_type):
            return root
        children = (await read_manifest(source, root))[0].children()
        place = choose([child.platform for child in children], wanted)
        if place is None:
            raise PlatformUnknown(_no_such_platform(wanted, children))
        root = children[place]
    raise ManifestInvalid(f"indexes are nested more than {DEPTH_MAX} deep")


def _no_such_platform(wanted: Platform, children: Sequence[Descriptor]) -> str:
    known = {str(child.platform) for child in children if child.platform is not None}
    offered = ", ".join(sorted(known - {"unknown/unknown"})) or "none that says what it is for"
    return f"no image for {wanted}; there are: {offered}"


async def make_plan(
    source: Source,
    target: Target,
    root: Descriptor,
    *,
    referrers: bool = False,
    includes: Callable[[Descriptor], bool] = lambda child: True,
    at_once: int = 8,
) -> Plan:
    """What copying *root* and all below it to *target* takes, less what is there.

    *includes* says of each child of an index whether it comes along: a sparse copy, which only some targets
    take. With *referrers*, what has any of the manifests as its subject comes too (signatures, SBOMs).
    """
    walk = _Walk(source, target, referrers, asyncio.Semaphore(at_once))
    try:
        _manifest(walk, root, includes, DEPTH_MAX)
        while under_way := [task for task in walk.heights.values() if not task.done()]:
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_EXCEPTION)
            _raise_failure(done)
        _raise_failure(walk.heights.values())
    finally:
        for task in walk.heights.values():
            task.cancel()
        await asyncio.gather(*walk.heights.values(), return_exceptions=True)
    nodes = sorted(walk.nodes, key=lambda node: (node.descriptor.digest == root.digest, node.height))
    return Plan(root, tuple(walk.blobs.values()), tuple(nodes), tuple(walk.present))


def _manifest(
    walk: _Walk, descriptor: Descriptor, includes: Callable[[Descriptor], bool], depth: int
) -> asyncio.Task[int]:
    task = walk.heights.get(descriptor.digest)
    if task is None:
        task = asyncio.create_task(_visit(walk, descriptor, includes, depth))
        walk.heights[descriptor.digest] = task
    return task


async def _visit(walk: _Walk, descriptor: Descriptor, includes: Callable[[Descriptor], bool], depth: int) -> int:
    """Take in a manifest and all below it, then those that refer to it; return its height."""
    if depth == 0:
        raise ManifestInvalid(f"indexes are nested more than {DEPTH_MAX} deep")
    async with walk.at_once:
        is_there = await walk.target.exists(descriptor)
    skips = is_there and not media.is_index(descriptor.media_type)
    height = 0
    if skips:
        walk.present.append(descriptor)
    else:
        async with walk.at_once:
            parsed, data = await read_manifest(walk.source, descriptor)
        _count(walk, data)
        walk.blobs |= {blob.digest: blob for blob in parsed.blobs()}
        height = await _below(walk, parsed, includes, depth)
        if is_there:
            walk.present.append(descriptor)
        else:
            walk.nodes.append(Node(descriptor, data, height))
    if walk.referrers and isinstance(walk.source, Referring):
        async with walk.at_once:
            found = await walk.source.referrers(descriptor.digest)
        for referrer in found:
            _manifest(walk, referrer, includes, depth - 1)  # not awaited: a lying list may go in a circle
    return height


async def _below(walk: _Walk, parsed: Manifest, includes: Callable[[Descriptor], bool], depth: int) -> int:
    children = [child for child in parsed.children() if includes(child)]
    # An index may list what is no manifest: to the standard such an entry is content like a blob.
    walk.blobs |= {child.digest: child for child in children if not is_manifest(child)}
    below = [_manifest(walk, child, includes, depth - 1) for child in children if is_manifest(child)]
    return 1 + max(await asyncio.gather(*below), default=-1)


def _raise_failure(tasks: Iterable[asyncio.Task[int]]) -> None:
    for task in tasks:
        task.result()


def _count(walk: _Walk, data: bytes) -> None:
    walk.size_bytes += len(data)
    if walk.size_bytes > MANIFESTS_MAX_BYTES:
        raise ManifestInvalid(f"the manifests below this one are more than {MANIFESTS_MAX_BYTES >> 20} MiB")
