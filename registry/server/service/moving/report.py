"""What came of moving in or out."""

from __future__ import annotations

from dataclasses import dataclass, field

from registry.content.placing import How
from registry.server.service.moving.plan import Problem


@dataclass(frozen=True, slots=True)
class Conflict:
    """A tag that moved on both sides, and was left as it is here."""

    repository: str
    tag: str
    here: str
    there: str


@dataclass(slots=True)
class Report:
    """Counts, and everything that somebody has to look at. In a dry run, what would be."""

    repositories: int = 0
    manifests: int = 0
    manifests_present: int = 0
    blobs: dict[How, int] = field(default_factory=dict)
    blobs_bytes: dict[How, int] = field(default_factory=dict)
    tags_created: int = 0
    tags_moved: int = 0
    tags_deleted: int = 0
    tags_kept: int = 0
    loose_blobs: int = 0
    unfinished_uploads: int = 0
    problems: list[Problem] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    deleted_there: list[str] = field(default_factory=list)

    def add_blob(self, how: How, size_bytes: int) -> None:
        """Count a blob."""
        self.blobs[how] = self.blobs.get(how, 0) + 1
        self.blobs_bytes[how] = self.blobs_bytes.get(how, 0) + size_bytes

    @property
    def needs_attention(self) -> bool:
        """Whether something was not done."""
        return bool(self.problems or self.conflicts)
