"""From settings to the content store: a directory or a bucket."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from registry import config
from registry.config import S3Settings, Settings
from registry.content.files import FileStore
from registry.content.store import BlobStore
from registry.content.trees import DirectoryTree, Tree
from registry.oci.errors import ConfigurationError, Unavailable
from registry.server.service.repository import Redirect

if TYPE_CHECKING:
    from registry.content.s3 import S3Store
    from registry.content.s3_client import S3Options

log = logging.getLogger("hythe.storage")

_S3 = "s3://"


def prepare(settings: Settings) -> None:
    """Create the directory, or see that the bucket can be used; a store that does not answer may do so later.

    Raises ConfigurationError or OSError.
    """
    if settings.storage.kind == "directory":
        make_store(settings, threads=1).close()
        return
    store = _make_s3(settings, threads=1)
    try:
        store.require_bucket()
    except Unavailable as error:
        log.warning("storage.unavailable", extra={"fields": {"error": str(error)}})
    finally:
        store.close()


def make_store(settings: Settings, threads: int | None = None) -> BlobStore:
    """The content store of the settings."""
    if settings.storage.kind == "s3":
        return _make_s3(settings, threads)
    return FileStore(settings.data_directory(), threads or settings.storage.threads)


def _make_s3(settings: Settings, threads: int | None) -> S3Store:
    from registry.content.s3 import S3Store  # slow to import

    options = _options(settings.storage.s3)
    return S3Store(options, settings.data_directory(), threads or settings.storage.threads)


def _options(s3: S3Settings) -> S3Options:
    from registry.content.s3_client import S3Options

    prefix = s3.prefix.strip("/")
    return S3Options(
        bucket=s3.bucket,
        prefix=f"{prefix}/" if prefix else "",
        endpoint=s3.endpoint,
        region=s3.region,
        addressing=s3.addressing,
        access_key=s3.access_key,
        secret_key=s3.secret_key,
        encryption=s3.sse,
        kms_key=s3.sse_kms_key_id,
        checksums=s3.request_checksum_calculation,
        ca_bundle=s3.ca_bundle,
        part_bytes=s3.part_size_bytes,
        connections_max=s3.max_pool_connections,
        connect_timeout_seconds=s3.connect_timeout_seconds,
        read_timeout_seconds=s3.read_timeout_seconds,
        attempts=s3.attempts,
        redirect_endpoint=s3.redirect_endpoint,
    )


def redirect(settings: Settings, store: BlobStore) -> Redirect | None:
    """What gives clients the store's own address of a blob, if they shall go there."""
    s3 = settings.storage.s3
    if settings.storage.kind != "s3" or s3.redirect != "always":
        return None
    from registry.content.s3 import S3Store

    assert isinstance(store, S3Store)
    return functools.partial(store.redirect_url, ttl_seconds=s3.redirect_ttl_seconds)


def tree_at(settings: Settings, where: str) -> Tree:
    """Somebody else's files, in a directory or in `s3://BUCKET/PREFIX` of the store of storage.s3.

    Raises ConfigurationError, Unavailable.
    """
    if not where.startswith(_S3):
        if not Path(where).is_dir():
            raise ConfigurationError(f"{where} is no directory")
        return DirectoryTree(Path(where))
    from registry.content.s3_tree import BucketTree

    tree = BucketTree(_options_at(settings, where))
    tree.require()
    return tree


def store_at(settings: Settings, where: str, must_exist: bool) -> BlobStore:
    """The content store in a directory, in `s3://BUCKET/PREFIX` of the store of storage.s3, or of a settings file.

    Raises ConfigurationError, Unavailable.
    """
    if where.startswith(_S3):
        from registry.content.s3 import S3Store

        store = S3Store(_options_at(settings, where), settings.data_directory(), settings.storage.threads)
        store.require_bucket()
        return store
    path = Path(where)
    if path.is_file():
        return make_store(config.load(path, {}))
    if must_exist and not (path / "blobs").is_dir():
        raise ConfigurationError(f"{where} is no content store: it has no directory blobs/")
    return FileStore(path, settings.storage.threads)


def _options_at(settings: Settings, where: str) -> S3Options:
    """The options of storage.s3, for another bucket of that store."""
    bucket, _, prefix = where.removeprefix(_S3).partition("/")
    if not bucket:
        raise ConfigurationError(f"{where} names no bucket; s3://BUCKET/PREFIX does")
    prefix = prefix.strip("/")
    return replace(_options(settings.storage.s3), bucket=bucket, prefix=f"{prefix}/" if prefix else "")


def place(settings: Settings) -> str:
    """Where the data are, for a person."""
    s3 = settings.storage.s3
    if settings.storage.kind == "directory":
        return str(settings.data_directory())
    at = f" at {s3.endpoint}" if s3.endpoint else ""
    return f"the bucket {s3.bucket}{at}"
