"""Errors as HTTP: the one place where an error becomes a status and the specification's envelope.

Source: OCI distribution-spec v1.1, "Error Codes".
"""

from __future__ import annotations

from registry.oci import errors
from registry.server.web.http import ClientGone, Headers, Reply, json_reply

# The most special class first: an error has the status of the first one that it is an instance of.
_STATUS: tuple[tuple[type[errors.RegistryError], int], ...] = (
    (errors.ChunkOutOfOrder, 416),
    (errors.UploadBusy, 409),
    (errors.ManifestTooLarge, 413),
    (errors.BlobTooLarge, 413),
    (errors.BlobUnknown, 404),
    (errors.BlobUploadUnknown, 404),
    (errors.ManifestUnknown, 404),
    (errors.ManifestBlobUnknown, 404),
    (errors.NameUnknown, 404),
    (errors.Unauthorized, 401),
    (errors.Denied, 403),
    (errors.Unsupported, 405),
    (errors.TooManyRequests, 429),
    (errors.StorageFull, 507),
    (errors.Unavailable, 503),
    (errors.ContentMissing, 500),
)


class NotFound(errors.RegistryError):
    """A path that is none of the API's."""

    code = "UNSUPPORTED"


class MethodUnknown(errors.Unsupported):
    """A path of the API with a method that it does not have."""

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method} is not a method of this path; {allowed} are", {"allowed": allowed})
        self.allowed = allowed


def status_of(error: errors.RegistryError) -> int:
    """The HTTP status of an error; 400 for what is simply wrong."""
    if isinstance(error, NotFound):
        return 404
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 400)


def render(error: errors.RegistryError) -> Reply:
    """The reply that tells a client of an error."""
    headers: Headers = []
    retry_after = getattr(error, "retry_after_seconds", None)
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    if isinstance(error, errors.Unauthorized) and error.challenge:
        headers.append((b"www-authenticate", error.challenge.encode("latin-1", "replace")))
    if isinstance(error, errors.Unsupported) and error.allowed:
        headers.append((b"allow", error.allowed.encode()))
    if isinstance(error, errors.ManifestBlobUnknown):
        entries = [errors.ManifestBlobUnknown([digest]).entry() for digest in error.digests[:100]]
    else:
        entries = [error.entry()]
    return json_reply({"errors": entries}, status_of(error), headers)


def render_gone(error: ClientGone) -> Reply:
    """For a client that may still listen: its body stood still or broke off."""
    entry = {"code": errors.SizeInvalid.code, "message": str(error)}
    return json_reply({"errors": [entry]}, 408, [(b"connection", b"close")])


def render_fault(fault: str) -> Reply:
    """A fault of ours; the log has the rest under the same id."""
    entry = {"code": "UNKNOWN", "message": f"the registry failed to answer; its log says why, under {fault}"}
    return json_reply({"errors": [entry]}, 500)
