"""Named places where tests make the process die, to prove what a crash leaves behind.

`HYTHE_FAILPOINT=blob.renamed` kills the process the first time it comes there; `blob.renamed:3` the third
time. Without the variable a point costs one comparison.
"""

from __future__ import annotations

import os
import signal

_name, _, _count = os.environ.get("HYTHE_FAILPOINT", "").partition(":")
_remaining = int(_count or 1) if _name else 0

# What no request comes to, but a collection or a retention run.
COLLECTION = (
    "gc.unlinked",
    "gc.removed",
    "gc.deleting",
    "gc.condemned",
    "gc.taken-away",
    "gc.deleted",
    "gc.freed",
    "gc.settled",
    "gc.untagged",
)

# What only the care of the data comes to: scrub, restore, rebuild.
CARE = (
    "scrub.condemned",
    "scrub.aside",
    "scrub.forgotten",
    "restore.row",
    "restore.loaded",
    "rebuild.recorded",
    "rebuild.recovered",
)

# What comes to pass when something is brought back.
HISTORY = ("history.shown", "history.done")

# What the client comes to, in the order of a pull.
CLIENT = (
    "ingest.begun",
    "ingest.received",
    "ingest.unpacked",
    "ingest.flushed",
    "ingest.blob-renamed",
    "ingest.layer-renamed",
    "ingest.recorded",
    "image.stored",
    "image.recorded",
)

# What `hythe admin import` and `copy-store` come to.
MOVING = (
    "import.brought",
    "import.recorded",
    "import.tagged",
    "copy.stored",
)

# What a container's life comes to, in its order.
CONTAINERS = (
    "container.noted",
    "container.prepared",
    "container.created",
    "start.begun",
    "start.launched",
    "start.made",
    "start.recorded",
    "start.started",
    "end.cleared",
    "end.recorded",
    "remove.noted",
    "remove.discarded",
    "remove.forgotten",
)

POINTS = (
    "upload.created",
    "upload.written",
    "upload.flushed",
    "upload.parked",
    "blob.flushed",
    "blob.renamed",
    "blob.published",
    "blob.linked",
    "manifest.stored",
    "manifest.indexed",
    "index.before-commit",
    "index.committed",
    "tag.deleted",
    "manifest.deleted",
    "blob.unlinked",
    "upload.cancelled",
    *COLLECTION,
    *CARE,
    *HISTORY,
    *MOVING,
)


def reach(name: str) -> None:
    """Die here, as `kill -9` would, when the environment asks for it."""
    if _name != name:
        return
    global _remaining
    _remaining -= 1
    if _remaining == 0:
        os.kill(os.getpid(), signal.SIGKILL)
