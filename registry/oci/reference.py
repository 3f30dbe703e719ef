"""Repository names and tags, as text that was checked once at the edge.

Source: OCI distribution-spec v1.1, "Pulling manifests".
"""

from __future__ import annotations

import re

from registry.oci.errors import NameInvalid, TagInvalid

NAME_MAX_CHARACTERS = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


class Repository(str):
    """A repository name inside the grammar, `team/web`; equal to its text."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Repository:
        """Read *text*; raises NameInvalid."""
        if len(text) > NAME_MAX_CHARACTERS or not _NAME.fullmatch(text):
            raise NameInvalid(
                "not a repository name: lower-case letters and digits, separated by '.', '_', '__', '-' and '/', "
                f"at most {NAME_MAX_CHARACTERS} characters",
                {"name": text[:300]},
            )
        return cls(text)


class Tag(str):
    """A tag inside the grammar; equal to its text."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Read *text*; raises TagInvalid."""
        if not _TAG.fullmatch(text):
            raise TagInvalid(text)
        return cls(text)
