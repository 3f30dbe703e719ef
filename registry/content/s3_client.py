"""A client of an S3 store: how it is spoken to, and what its faults mean."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from registry.oci.errors import ConfigurationError, StorageFull, Unavailable

_MISSING = {"NoSuchKey", "NoSuchUpload", "NotFound", "404"}
_FULL = {"QuotaExceeded", "StorageFull", "XMinioStorageFull", "InsufficientStorage"}
# What an operator has to set right; found when the server starts, or later when somebody changed the store.
_REFUSED = {"AccessDenied", "NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled"}


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where a bucket is and how it is spoken to; config.example.yaml documents each."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    addressing: str = "auto"
    access_key: str = ""
    secret_key: str = ""
    encryption: str = ""
    kms_key: str = ""
    checksums: str = "when_required"
    ca_bundle: str = ""
    part_bytes: int = 16 << 20
    connections_max: int = 64
    connect_timeout_seconds: float = 5.0
    read_timeout_seconds: float = 60.0
    attempts: int = 4
    redirect_endpoint: str = ""


class Missing(Exception):
    """The key or the multipart upload is not there."""


@contextlib.contextmanager
def store_faults_are_answers() -> Iterator[None]:
    """Turn what the store or the way to it says into Missing, StorageFull or Unavailable."""
    try:
        yield
    except ClientError as error:
        raise _answer(error) from error
    except BotoCoreError as error:
        raise Unavailable("the object store does not answer; try again soon") from error


def _answer(error: ClientError) -> Exception:
    code = _code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _MISSING:
        return Missing()
    if code in _FULL or status == 507:
        return StorageFull()
    if code in _REFUSED:
        return Unavailable("the object store refuses this registry; tell its operator")
    return Unavailable("the object store cannot do this now; try again soon")


@functools.lru_cache(maxsize=1)
def _session() -> Any:
    """What all clients share: it reads boto3's description of S3, which takes a while."""
    return boto3.session.Session()


def connect(options: S3Options, endpoint: str) -> Any:
    """A client, which threads may share. Keys that are not set are looked for as Amazon's own tools do."""
    # A store that has its own address rarely has one for each bucket too. At Amazon's, botocore's "auto" would
    # sign addresses of its global host, which sends clients on to that of the region.
    style = options.addressing if options.addressing != "auto" else "path" if endpoint else "virtual"
    config = Config(
        signature_version="s3v4",
        connect_timeout=options.connect_timeout_seconds,
        read_timeout=options.read_timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": options.attempts},
        max_pool_connections=options.connections_max,
        tcp_keepalive=True,
        user_agent_extra="hythe",
        request_checksum_calculation=options.checksums,
        response_checksum_validation="when_required",
        # Every real store compares a body with the SHA-256 that it was signed with; other checksums some ignore.
        s3={"addressing_style": style, "payload_signing_enabled": True},
    )
    return _session().client(
        "s3",
        region_name=options.region,
        endpoint_url=endpoint or None,
        aws_access_key_id=options.access_key or None,
        aws_secret_access_key=options.secret_key or None,
        verify=options.ca_bundle or None,
        config=config,
    )


def require_bucket(client: Any, bucket: str, prefix: str) -> None:
    """Raise ConfigurationError when a bucket is not there or not ours, Unavailable when nobody answers."""
    try:
        client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except ClientError as error:
        if isinstance(answer := _answer(error), Unavailable) and _code(error) not in _REFUSED:
            raise answer from error
        raise ConfigurationError(f"storage.s3: bucket {bucket!r} cannot be used: {error}") from error
    except BotoCoreError as error:
        raise Unavailable(str(error)) from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
