"""The operator's choices that services obey, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from registry.oci.errors import Unsupported
from registry.server.index.history import Change
from registry.server.service.immutable import TagPattern


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits and switches; units are in the names, 0 of `blob_size_max_bytes` means no limit."""

    manifest_size_max_bytes: int = 4 * 1024 * 1024
    manifest_references_max: int = 10_000
    tags_per_request_max: int = 100
    blob_size_max_bytes: int = 0
    uploads_open_max: int = 10_000
    upload_expiry_seconds: float = 86_400.0
    page_size_max: int = 1000
    delete_enabled: bool = True
    sparse_layers: bool = False
    sparse_indexes: bool = False
    gc_grace_seconds: float = 86_400.0
    immutable_tags: tuple[TagPattern, ...] = ()
    history_seconds: float = 30 * 86_400.0

    def change(self, actor: str, action: str) -> Change | None:
        """What the history is told of a change of tags; None when none is kept."""
        return Change(actor, action) if self.history_seconds else None

    def require_deletion(self) -> None:
        """Raise Unsupported when this registry keeps everything."""
        if not self.delete_enabled:
            raise Unsupported("deletion is switched off in this registry (policy.delete_enabled)")
