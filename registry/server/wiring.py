"""From settings to objects: the only place that builds the registry's parts and joins them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.types import ASGIApp

from registry.config import Settings
from registry.content.files import FileStore
from registry.server.index import changes
from registry.server.index.engine import EmbeddedIndex
from registry.server.index.migrate import migrate_sqlite
from registry.server.service.policy import Policy
from registry.server.service.repository import Repositories
from registry.server.service.uploads import Uploads
from registry.server.web.context import OpenGate
from registry.server.web.gateway import Gateway
from registry.server.web.proxies import Proxies
from registry.server.web.site import make_site
from registry.server.web.throttle import Throttle
from registry.server.web.transfers import Transfers

log = logging.getLogger("hythe.server")

_EXPIRY_EVERY_SECONDS = 300.0


def index_path(settings: Settings) -> Path:
    """Where the embedded index lies."""
    if settings.index.url:
        return Path(settings.index.url.removeprefix("sqlite:///")).absolute()
    return settings.data_directory() / "index.sqlite3"


def prepare(settings: Settings) -> None:
    """Create what is missing and bring the index to this release's schema; once, before any worker starts.

    Raises ConfigurationError or OSError when the directory cannot be used.
    """
    Proxies(settings.server.trusted_proxies)
    FileStore(settings.data_directory(), threads=1).close()
    path = index_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    migrate_sqlite(path)


def policy_of(settings: Settings) -> Policy:
    """The settings that services obey."""
    limits, policy = settings.limits, settings.policy
    return Policy(
        manifest_size_max_bytes=limits.manifest_size_bytes,
        manifest_references_max=limits.manifest_references,
        tags_per_request_max=limits.tags_per_request,
        blob_size_max_bytes=limits.blob_size_bytes,
        uploads_open_max=limits.uploads_open,
        upload_expiry_seconds=limits.upload_expiry_seconds,
        page_size_max=limits.page_size,
        delete_enabled=policy.delete_enabled,
        sparse_layers=policy.sparse == "all",
        sparse_indexes=policy.sparse in ("all", "indexes"),
    )


def build(settings: Settings) -> ASGIApp:
    """One worker's application."""
    # Threads flush to disk and write the index; the loop wants the interpreter back soon, not after 5 ms.
    sys.setswitchinterval(0.0005)
    index = EmbeddedIndex(index_path(settings))
    store = FileStore(settings.data_directory(), settings.storage.threads)
    policy = policy_of(settings)
    transfers = Transfers()
    uploads = Uploads(index, store, policy, transfers.piece_bytes)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        expiring = asyncio.create_task(_expire_uploads(uploads, store, policy))
        yield
        expiring.cancel()
        await asyncio.wait([expiring])
        # Requests that were cut off are parking what they have.
        await transfers.wait_until_none(seconds=10)
        index.close()
        store.close()

    async def check_index() -> None:
        await index.read(changes.count)

    site = make_site({"index": check_index, "storage": store.check}, lifespan)
    return Gateway(
        Repositories(index, store, policy),
        uploads,
        policy,
        OpenGate(),
        site,
        Proxies(settings.server.trusted_proxies),
        Throttle(settings.limits.request_rate),
        settings.server.body_idle_seconds,
        transfers,
    )


async def _expire_uploads(uploads: Uploads, store: FileStore, policy: Policy) -> None:
    """Now and then, forget uploads that nobody goes on with."""
    while True:
        await asyncio.sleep(_EXPIRY_EVERY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - spreads workers
        try:
            expired = await uploads.expire()
            await store.remove_stale_temporaries(time.time() - max(86_400.0, policy.upload_expiry_seconds))
            if expired:
                log.info("uploads.expired", extra={"fields": {"count": expired}})
        except Exception:
            log.exception("uploads.expiry_failed")
