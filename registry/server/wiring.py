"""From settings to objects: the only place that builds the registry's parts and joins them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path

import aiofiles
import aiofiles.os
from starlette.applications import Starlette
from starlette.types import ASGIApp

from registry.config import Settings
from registry.content.store import BlobStore
from registry.oci.errors import ConfigurationError, HytheError
from registry.server import care, federation, storage
from registry.server.auth.passwords import read_htpasswd
from registry.server.auth.rights import public_pull
from registry.server.index import changes, credentials, leases, sessions
from registry.server.index.engine import EmbeddedIndex, Index
from registry.server.index.migrate import migrate_postgres, migrate_sqlite, require_schema
from registry.server.service import quotas
from registry.server.service.access import Access
from registry.server.service.administration.accounts import Accounts
from registry.server.service.administration.changes import Actor
from registry.server.service.history import History
from registry.server.service.keyring import KeyRing
from registry.server.service.policy import Policy
from registry.server.service.quotas import Quotas
from registry.server.service.repository import Repositories
from registry.server.service.sessions import Sessions
from registry.server.service.signin import SignIn
from registry.server.service.tokens import Tokens
from registry.server.service.uploads import Uploads
from registry.server.web.api import problems
from registry.server.web.api.call import Care
from registry.server.web.api.router import PREFIX, Router
from registry.server.web.context import Gate, OpenGate
from registry.server.web.endpoints import Area, Endpoints, search_endpoints, token_endpoints
from registry.server.web.gate import AccountsGate
from registry.server.web.gateway import Gateway
from registry.server.web.proxies import Proxies
from registry.server.web.site import make_site
from registry.server.web.throttle import Throttle
from registry.server.web.tokens import TokenEndpoint
from registry.server.web.transfers import Transfers
from registry.server.web.ui.handlers import Pages

log = logging.getLogger("hythe.server")

_EXPIRY_EVERY_SECONDS = 300.0
_EXPIRY_LEASE_SECONDS = 2 * _EXPIRY_EVERY_SECONDS  # longer than the longest pause of who holds it
_HTPASSWD_EVERY_SECONDS = 3.0


def index_path(settings: Settings) -> Path:
    """Where the embedded index lies."""
    if settings.index.url:
        return Path(settings.index.url.removeprefix("sqlite:///")).absolute()
    return settings.data_directory() / "index.sqlite3"


def prepare(settings: Settings) -> str | None:
    """Create what is missing and bring the index to this release's schema; once, before any worker starts.

    Returns the new administrator's password on the first start with accounts, to be shown once. Raises
    ConfigurationError or OSError when something cannot be used.
    """
    Proxies(settings.server.trusted_proxies)
    public_pull(settings.accounts.anonymous_pull)
    federation.check(settings)
    care.check(settings)
    storage.prepare(settings)
    prepare_index(settings)
    return asyncio.run(_set_up(settings)) if settings.has_accounts() else None


def prepare_index(settings: Settings) -> None:
    """Create the embedded index or bring it to this release's schema; a database has to be there and have it.

    Other servers may be at work on a database, so that it is migrated only when somebody says so. Raises
    ConfigurationError or OSError.
    """
    if settings.index.is_postgres():
        require_schema(settings.index.url)
    else:
        migrate_index(settings)


def migrate_index(settings: Settings) -> tuple[str | None, str]:
    """Bring the index to this release's schema; returns that of before and of now. Safe to repeat.

    Raises ConfigurationError or OSError.
    """
    if settings.index.is_postgres():
        return migrate_postgres(settings.index.url)
    path = index_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    keep_private(path)
    return migrate_sqlite(path)


async def _set_up(settings: Settings) -> str | None:
    index = make_index(settings)
    try:
        accounts = make_accounts(settings, index)
        if settings.accounts.htpasswd:
            await take_htpasswd(settings, accounts)
        return await accounts.set_up()
    finally:
        index.close()


def keep_private(path: Path) -> None:
    """Create the index's file so that only its owner can read it: it has the signing key."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)


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
        gc_grace_seconds=settings.gc.grace_seconds,
        immutable_tags=care.immutable_tags(settings),
        history_seconds=policy.history_days * 86_400.0,
    )


def make_index(settings: Settings) -> Index:
    """The database of the settings."""
    if settings.index.is_postgres():
        from registry.server.index.postgres import PostgresIndex  # slow to import

        return PostgresIndex(settings.index.url, settings.index.pool_size)
    return EmbeddedIndex(index_path(settings))


def make_store(settings: Settings, threads: int | None = None) -> BlobStore:
    """The content store of the settings."""
    return storage.make_store(settings, threads)


def make_accounts(settings: Settings, index: Index) -> Accounts:
    """Administration of accounts, as the command line and the API do it."""
    return Accounts(index, public_pull(settings.accounts.anonymous_pull))


def build(settings: Settings) -> ASGIApp:
    """One worker's application."""
    # Threads flush to disk and write the index; the loop wants the interpreter back soon, not after 5 ms.
    sys.setswitchinterval(0.0005)
    index = make_index(settings)
    store = make_store(settings)
    policy = policy_of(settings)
    transfers = Transfers()
    proxies = Proxies(settings.server.trusted_proxies)
    room = Quotas(index, quotas.of(settings.policy.quotas))
    uploads = Uploads(index, store, policy, transfers.piece_bytes, room)
    repositories = Repositories(index, store, policy, storage.redirect(settings, store), room)
    gate, endpoints, areas = _doors(settings, index, proxies, Care(History(index, policy), room))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        works = [*_background(settings, index, store, uploads, policy), *care.background(settings, index, store)]
        background = [asyncio.create_task(work) for work in (*works, repositories.pulls.keep_flushing())]
        yield
        for task in background:
            task.cancel()
        await asyncio.wait(background)
        # Requests that were cut off are parking what they have.
        await transfers.wait_until_none(seconds=10)
        index.close()
        store.close()

    async def check_index() -> None:
        await index.read(changes.count)

    site = make_site({"index": check_index, "storage": store.check}, lifespan)
    return Gateway(
        repositories,
        uploads,
        policy,
        gate,
        {**search_endpoints(repositories, gate), **endpoints},
        site,
        proxies,
        Throttle(settings.limits.request_rate),
        settings.server.body_idle_seconds,
        transfers,
        areas,
    )


def _doors(settings: Settings, index: Index, proxies: Proxies, care: Care) -> tuple[Gate, Endpoints, list[Area]]:
    """Who admits clients, where they get their tokens, and where accounts are looked after."""
    if not settings.has_accounts():
        return OpenGate(), {}, []
    chosen = settings.accounts
    service, public = chosen.service, public_pull(chosen.anonymous_pull)
    accounts = make_accounts(settings, index)
    keys = KeyRing(index, federation.key_lifetime_seconds(settings))
    jobs, foreigners = federation.jobs(settings, accounts), federation.external_tokens(settings)
    access = Access(index, keys, service, service, public, jobs, foreigners)
    tokens = Tokens(index, access, keys, service, service, chosen.token_lifetime_seconds)

    async def record(actor: str, address: str, action: str, target: str) -> None:
        await accounts.record(Actor(actor, address), action, target, "denied")

    external = (chosen.external_token.realm, chosen.external_token.service) if foreigners is not None else None
    gate = AccountsGate(access, proxies, service, settings.server.public_url, record, external)
    browsers = Sessions(index, access, chosen.session_lifetime_seconds)
    pages = Pages(access, accounts, browsers, gate.base_url, federation.door(settings, index))
    api = Area(PREFIX, Router(access, accounts, care).answer, problems)
    return gate, {**token_endpoints(TokenEndpoint(access, tokens, keys)), **pages.endpoints()}, [api]


def _background(
    settings: Settings, index: Index, store: BlobStore, uploads: Uploads, policy: Policy
) -> Iterator[Coroutine[None, None, None]]:
    """What goes on beside the requests of one worker."""
    yield _expire_uploads(index, uploads, store, policy)
    if settings.has_accounts():
        yield _forget_expired(index)
        if settings.accounts.htpasswd:
            yield _follow_htpasswd(settings, make_accounts(settings, index))
        if settings.accounts.oidc.issuer and settings.accounts.oidc.sign_in_every_days:
            yield _lapse(federation.sign_in(settings, index))


async def _forget_expired(index: Index) -> None:
    while True:
        await asyncio.sleep(3600 * random.uniform(0.5, 1.5))  # noqa: S311 - spreads workers
        try:
            await index.note(credentials.remove_expired)
            await index.note(sessions.remove_expired)
        except Exception:
            log.exception("credentials.expiry_failed")


async def _lapse(sign_in: SignIn) -> None:
    """Lock out those for whom the identity provider has not vouched for too long."""
    pause = min(3600.0, sign_in.policy.sign_in_every_seconds / 4)
    while True:
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads workers
        try:
            lapsed = await sign_in.lapse()
            if lapsed:
                log.info("accounts.lapsed", extra={"fields": {"count": lapsed}})
        except Exception:
            log.exception("accounts.lapse_failed")


async def take_htpasswd(settings: Settings, accounts: Accounts) -> None:
    """Let in those whom the htpasswd file lists now. Raises ConfigurationError."""
    path = Path(settings.accounts.htpasswd)
    try:
        async with aiofiles.open(path, encoding="utf-8") as file:
            entries = read_htpasswd(await file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"accounts.htpasswd: {path}: {error}") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"accounts.htpasswd: {path}, {error}") from None
    await accounts.take_htpasswd(Actor("htpasswd", "local"), entries, "htpasswd")


async def _follow_htpasswd(settings: Settings, accounts: Accounts) -> None:
    """Read the file again when it changes."""
    path = Path(settings.accounts.htpasswd)
    seen: object = None
    while True:
        try:
            status = await aiofiles.os.stat(path)
            now = (status.st_mtime_ns, status.st_ino, status.st_size)
            if now != seen:  # the first time too: it may have changed since the start read it
                await take_htpasswd(settings, accounts)
            seen = now
        except (OSError, HytheError) as error:
            log.warning("htpasswd.failed", extra={"fields": {"error": str(error)}})
        await asyncio.sleep(_HTPASSWD_EVERY_SECONDS)


async def _expire_uploads(index: Index, uploads: Uploads, store: BlobStore, policy: Policy) -> None:
    """Now and then, forget uploads that nobody goes on with; one worker does it for all who share the index."""
    lease, me = "uploads.expire", f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4()}"
    try:
        while True:
            await asyncio.sleep(_EXPIRY_EVERY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - spreads workers
            try:
                if not await index.note(leases.acquire, lease, me, _EXPIRY_LEASE_SECONDS):
                    continue
                expired = await uploads.expire()
                await store.remove_stale_temporaries(time.time() - max(86_400.0, policy.upload_expiry_seconds))
                if expired:
                    log.info("uploads.expired", extra={"fields": {"count": expired}})
            except Exception:
                log.exception("uploads.expiry_failed")
    finally:
        with contextlib.suppress(HytheError):
            await index.note(leases.release, lease, me)
