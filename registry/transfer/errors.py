"""What goes wrong between two machines, in sentences that say what to do.

    HytheError
    ├── TransferError          the other side could not be reached, or broke off for good
    │   ├── Cut                a connection that broke in the middle
    │   ├── Unreachable        no connection: refused, no such host, not trusted, too slow
    │   │   └── SpeaksPlainHttp    it answered HTTP where HTTPS was expected
    │   └── AnswerInvalid      it answered what no registry may answer
    └── RegistryError          what a registry says, read back into the class that it was raised as
        └── Refused            any other code

Source: OCI distribution-spec v1.1, "Error Codes".
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from registry.oci.errors import (
    BlobUnknown,
    Denied,
    DigestInvalid,
    HytheError,
    ManifestInvalid,
    ManifestUnknown,
    NameUnknown,
    RegistryError,
    SizeInvalid,
    StorageFull,
    Unauthorized,
    Unsupported,
)

TEXT_MAX = 300
_E = TypeVar("_E", bound=RegistryError)


class TransferError(HytheError):
    """The other side could not be reached, or broke off and could not be gone on with."""


class Cut(TransferError):
    """A connection that broke in the middle; what was asked may be asked again."""


class Unreachable(TransferError):
    """No connection, or none that may be trusted."""


class SpeaksPlainHttp(Unreachable):
    """The server answered HTTP to a client that began with TLS."""


class AnswerInvalid(TransferError):
    """An answer that no registry may give."""


class Refused(RegistryError):
    """A refusal with a code, or a status, that has no class of its own."""


# Those whose text is the registry's; what is missing has a text of ours, since it was we who asked.
_BY_CODE: dict[str, type[RegistryError]] = {
    "DENIED": Denied,
    "UNAUTHORIZED": Unauthorized,
    "DIGEST_INVALID": DigestInvalid,
    "SIZE_INVALID": SizeInvalid,
    "MANIFEST_INVALID": ManifestInvalid,
    "UNSUPPORTED": Unsupported,
}


def refusal(place: str, status: int, body: bytes) -> RegistryError:
    """The error that an answer of 4xx or 5xx stands for; *place* is what was asked for, `host/repository`."""
    code, message = read_envelope(body)
    if code == "STORAGE_FULL" or status == 507:
        return _with_text(StorageFull, f"{place}: the registry's disk is full")
    if code == "NAME_UNKNOWN":
        return _with_text(NameUnknown, f"{place}: no such repository, or you may not see it")
    kind = _BY_CODE.get(code) or {401: Unauthorized, 403: Denied, 405: Unsupported}.get(status, Refused)
    said = message or (f"code {code}" if code else "no reason was given")
    return _with_text(kind, f"{place}: the registry answered {status}: {said}")


def read_envelope(body: bytes) -> tuple[str, str]:
    """The first code and message of the specification's envelope; empty where the body is none."""
    try:
        entry: Any = json.loads(body)["errors"][0]
        code, message = entry.get("code"), entry.get("message")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "", ""
    return printable(code), printable(message)


def printable(text: object) -> str:
    """A stranger's words, fit for a terminal and for one line."""
    if not isinstance(text, str):
        return ""
    return "".join(mark if mark.isprintable() else " " for mark in text[:TEXT_MAX])


def no_manifest(place: str, reference: str, hint: str = "") -> ManifestUnknown:
    """The error for a tag or digest that a place does not have."""
    error = ManifestUnknown(reference)
    join = "@" if ":" in reference else ":"
    return _reworded(error, f"{place}{join}{reference}: not found{hint}")


def no_blob(place: str, digest: str) -> BlobUnknown:
    """The error for a blob that a place does not have."""
    return _reworded(BlobUnknown(digest), f"{place}: the blob {digest} is not there")


def _with_text(kind: type[RegistryError], text: str) -> RegistryError:
    error = kind.__new__(kind)
    RegistryError.__init__(error, text)
    return error


def _reworded(error: _E, text: str) -> _E:
    error.message = text
    error.args = (text,)
    return error
