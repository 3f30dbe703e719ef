"""Moving an image, an index or anything else with a manifest from one place to another.

Pull, push, save, load, mirror and `cp` are this one function with another source and target: children before
parents, nothing that is there already, a mount instead of bytes where the two are neighbours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal

from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid
from registry.oci.platform import Platform
from registry.oci.reference import Repository, Tag
from registry.transfer.plan import Node, Plan, make_plan, select
from registry.transfer.target import Doubting, Mounting, Pieces, Read, Source, Target, from_bytes

BLOBS_AT_ONCE = 4
MANIFESTS_AT_ONCE = 8

Kind = Literal["waiting", "present", "mounted", "moving", "done"]


@dataclass(frozen=True, slots=True)
class Event:
    """What happens to one content. For `moving`, `done_bytes` says how much came; it may fall after a cut.

    waiting → present | mounted | (moving … →) done. Manifests that are there already are `present` from the start.
    """

    kind: Kind
    descriptor: Descriptor
    done_bytes: int = 0


Observe = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Choice:
    """What is copied, and how fast.

    `platform` None means all platforms: the whole index. With one, the root is the chosen image's manifest.
    """

    platform: Platform | None = None
    referrers: bool = False
    blobs_at_once: int = BLOBS_AT_ONCE


def ignore(event: Event) -> None:
    """Observes nothing."""


async def copy(
    source: Source,
    reference: Tag | Digest,
    target: Target,
    tag: Tag | None = None,
    choice: Choice = Choice(),
    observe: Observe = ignore,
) -> Descriptor:
    """Copy what *reference* means in *source* to *target*, there under *tag* (None: by digest alone).

    Returns the descriptor of the copied root. May be repeated after any failure and then goes on from what
    arrived. Raises what the two places raise; of several failures at once the first.
    """
    root = await select(source, await source.resolve(reference), choice.platform)
    return await copy_root(source, root, target, tag, choice, observe)


async def copy_root(
    source: Source,
    root: Descriptor,
    target: Target,
    tag: Tag | None = None,
    choice: Choice = Choice(),
    observe: Observe = ignore,
) -> Descriptor:
    """`copy` of a manifest that was resolved, and chosen, before."""
    plan = await make_plan(source, target, root, referrers=choice.referrers, at_once=MANIFESTS_AT_ONCE)
    await execute(plan, source, target, tag, choice.blobs_at_once, observe)
    return plan.root


async def execute(
    plan: Plan,
    source: Source,
    target: Target,
    tag: Tag | None = None,
    blobs_at_once: int = BLOBS_AT_ONCE,
    observe: Observe = ignore,
) -> None:
    """Carry a plan out."""
    for descriptor in plan.present:
        observe(Event("present", descriptor))
    for blob in plan.blobs:
        observe(Event("waiting", blob))
    origin = target.mount_source(source) if isinstance(target, Mounting) else None
    await _each((partial(_blob, blob, source, target, origin, observe) for blob in plan.blobs), blobs_at_once)
    for _, level in groupby(plan.manifests, key=lambda node: (node.height, _is_root(node, plan))):
        steps = (
            partial(_manifest, node, target, tag if _is_root(node, plan) else None, observe) for node in level
        )
        await _each(steps, MANIFESTS_AT_ONCE)
    if tag is not None and not any(_is_root(node, plan) for node in plan.manifests):
        await target.tag(plan.root, tag)


def _is_root(node: Node, plan: Plan) -> bool:
    return node.descriptor.digest == plan.root.digest


async def _manifest(node: Node, target: Target, tag: Tag | None, observe: Observe) -> None:
    await target.push(node.descriptor, from_bytes(node.data), tag)
    observe(Event("done", node.descriptor, node.descriptor.size_bytes))


async def _blob(
    blob: Descriptor, source: Source, target: Target, origin: Repository | None, observe: Observe
) -> None:
    if await target.exists(blob):
        observe(Event("present", blob))
    elif origin is not None and isinstance(target, Mounting) and await target.mount(blob, origin):
        observe(Event("mounted", blob))
    else:
        await _push(blob, source, target, observe)
        observe(Event("done", blob, blob.size_bytes))


async def _push(blob: Descriptor, source: Source, target: Target, observe: Observe) -> None:
    while True:
        try:
            return await target.push(blob, _watched(blob, source, observe))
        except DigestInvalid:
            if not (isinstance(source, Doubting) and source.doubt(blob)):
                raise


def _watched(blob: Descriptor, source: Source, observe: Observe) -> Read:
    """The source's bytes, of which each piece that passes is told."""

    async def read(start: int) -> Pieces:
        done_bytes = start
        observe(Event("moving", blob, done_bytes))
        async with aclosing(source.fetch(blob, start)) as pieces:
            async for piece in pieces:
                yield piece
                done_bytes += len(piece)
                observe(Event("moving", blob, done_bytes))

    return read


async def _each(steps: Iterable[Callable[[], Awaitable[None]]], at_once: int) -> None:
    """Run *steps*, *at_once* of them at a time, in order; the first failure ends all and is raised as it is."""
    waiting = iter(steps)

    async def work() -> None:
        for step in waiting:
            await step()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())
    except ExceptionGroup as failures:  # and no except*, which raises a group again in Python before 3.11.4
        raise _first(failures) from None


def _first(failures: BaseExceptionGroup[Exception]) -> Exception:
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, Exception)
    return found
