"""The one tree of errors that deep code raises; each knows its code, none knows HTTP.

    HytheError
    ├── RegistryError            the specification's codes; rendered as its JSON envelope
    │   ├── BlobUnknown, BlobUploadUnknown, BlobUploadInvalid, ChunkOutOfOrder
    │   ├── ManifestUnknown, ManifestInvalid, ManifestTooLarge, ManifestBlobUnknown
    │   ├── NameInvalid, NameUnknown, TagInvalid, DigestInvalid, SizeInvalid
    │   ├── Unauthorized, Denied, Unsupported, TooManyRequests
    │   └── StorageFull, Unavailable
    └── ConfigurationError       what an operator wrote wrong

Source: OCI distribution-spec v1.1, "Error Codes".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class HytheError(Exception):
    """Everything that Hythe raises on purpose; its text is meant for a person."""


class ConfigurationError(HytheError):
    """A setting that cannot be used; the text names its path and what is allowed."""


class RegistryError(HytheError):
    """One entry of the specification's error envelope: a code, a sentence, and a detail for programs."""

    code: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, detail: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail

    def entry(self) -> dict[str, Any]:
        """The error as the envelope lists it."""
        entry: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.detail is not None:
            entry["detail"] = self.detail
        return entry


class BlobUnknown(RegistryError):
    """The repository has no blob of this digest."""

    code = "BLOB_UNKNOWN"

    def __init__(self, digest: str) -> None:
        super().__init__("blob unknown to this repository", {"digest": digest})


class BlobUploadUnknown(RegistryError):
    """No such upload here: never begun, finished, cancelled, expired, or somebody else's."""

    code = "BLOB_UPLOAD_UNKNOWN"

    def __init__(self, upload: str) -> None:
        super().__init__("upload unknown: it was finished, cancelled or never begun", {"upload": upload})


class BlobUploadInvalid(RegistryError):
    """A request that this upload cannot take; the upload itself lives on."""

    code = "BLOB_UPLOAD_INVALID"


class UploadBusy(BlobUploadInvalid):
    """Another request is writing to the same upload at this moment."""

    def __init__(self) -> None:
        super().__init__("another request is writing to this upload; ask for its status and go on from there")


class ChunkOutOfOrder(BlobUploadInvalid):
    """A chunk that does not begin where the upload ends."""

    def __init__(self, begins_at: int, upload: str, size_bytes: int) -> None:
        super().__init__(
            f"the chunk begins at byte {begins_at}, but the upload goes on at byte {size_bytes}",
            {"offset": size_bytes},
        )
        self.upload = upload
        self.size_bytes = size_bytes


class ManifestUnknown(RegistryError):
    """The repository has no manifest under this tag or digest."""

    code = "MANIFEST_UNKNOWN"

    def __init__(self, reference: str) -> None:
        super().__init__("manifest unknown to this repository", {"reference": reference})


class ManifestInvalid(RegistryError):
    """A manifest that is not one, or that says two things at once."""

    code = "MANIFEST_INVALID"


class ManifestTooLarge(RegistryError):
    """A manifest above the limit."""

    code = "SIZE_INVALID"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"the body is larger than this registry accepts ({limit_bytes} bytes)", {"limit": limit_bytes}
        )


class BlobTooLarge(RegistryError):
    """A blob above the limit."""

    code = "SIZE_INVALID"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"the blob is larger than this registry accepts ({limit_bytes} bytes)", {"limit": limit_bytes}
        )


class ManifestBlobUnknown(RegistryError):
    """A manifest names content that the repository does not have; one entry for each digest."""

    code = "MANIFEST_BLOB_UNKNOWN"

    def __init__(self, digests: Sequence[str]) -> None:
        super().__init__("the manifest names content that was not pushed here", {"digest": digests[0]})
        self.digests = tuple(digests)


class NameInvalid(RegistryError):
    """A repository name outside of the specification's grammar."""

    code = "NAME_INVALID"


class NameUnknown(RegistryError):
    """No such repository, or none that the caller may see: the two look alike."""

    code = "NAME_UNKNOWN"

    def __init__(self, name: str) -> None:
        super().__init__("repository name not known to this registry", {"name": name})


class TagInvalid(RegistryError):
    """A tag outside of the specification's grammar (which has no code of its own for it)."""

    code = "MANIFEST_INVALID"

    def __init__(self, tag: str) -> None:
        super().__init__(
            "not a tag: up to 128 letters, digits, '_', '.' and '-', the first neither '.' nor '-'",
            {"tag": tag[:200]},
        )


class DigestInvalid(RegistryError):
    """A digest that is no digest, or not that of the bytes that came."""

    code = "DIGEST_INVALID"


class SizeInvalid(RegistryError):
    """A length that does not match what came."""

    code = "SIZE_INVALID"


class ParameterInvalid(RegistryError):
    """A query parameter or header that cannot be read."""

    code = "UNSUPPORTED"


class Unauthorized(RegistryError):
    """Credentials are needed, or those that came are not good.

    `challenge` is the WWW-Authenticate value that tells a client how to get them.
    """

    code = "UNAUTHORIZED"
    challenge: str | None = None


class Denied(RegistryError):
    """The caller is known and may not do this."""

    code = "DENIED"


class Unsupported(RegistryError):
    """A setting switched this off, or it does not exist; `allowed` are the methods that there are."""

    code = "UNSUPPORTED"
    allowed: str = ""


class TooManyRequests(RegistryError):
    """A limit on rate or number; `retry_after_seconds` says when to come back."""

    code = "TOOMANYREQUESTS"

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message, {"retry_after_seconds": retry_after_seconds})
        self.retry_after_seconds = retry_after_seconds


class StorageFull(RegistryError):
    """The disk is full or a quota of the file system is reached; nothing of the request was kept."""

    code = "STORAGE_FULL"

    def __init__(self) -> None:
        super().__init__("the registry has no space left; nothing was stored, tell its operator")


class Unavailable(RegistryError):
    """Something that the registry needs does not answer now."""

    code = "UNAVAILABLE"

    def __init__(self, message: str = "the registry cannot answer now; try again soon") -> None:
        super().__init__(message)
        self.retry_after_seconds = 2


class ContentMissing(RegistryError):
    """The index names bytes that the content store does not have: damage that an operator must see."""

    code = "UNKNOWN"

    def __init__(self, digest: str) -> None:
        super().__init__(
            "the registry lost these bytes; push them again, and tell its operator", {"digest": digest}
        )
        self.digest = digest
