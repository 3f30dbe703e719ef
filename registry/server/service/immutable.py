"""Tags that stay where they point: `team/*:v*` is every tag that begins with v in every repository under team/.

A new tag may be made and pushed again as it is. It cannot be moved, or go, by whatever way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from registry.oci.errors import ConfigurationError, Denied
from registry.oci.reference import Repository
from registry.server.auth import patterns

_TAG_PATTERN = re.compile(r"[a-zA-Z0-9_.*-]{1,128}")


@dataclass(frozen=True, slots=True)
class TagPattern:
    """Repositories as in grants, and after a colon tags, where `*` stands for any characters."""

    repository: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> TagPattern:
        """Read `REPOSITORIES:TAGS`. Raises ConfigurationError."""
        repository, colon, tag = text.rpartition(":")
        if not colon:
            raise ConfigurationError(f"{text[:100]!r} is no pattern of tags: 'team/*:v*' is")
        try:
            return cls(patterns.check_pattern(repository), check_tag_pattern(tag))
        except patterns.NameRefused as error:
            raise ConfigurationError(str(error)) from None

    def covers(self, repository: str, tag: str) -> bool:
        """Whether a tag of a repository is meant."""
        return patterns.matches(self.repository, repository) and tag_matches(self.tag, tag)

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


def check_tag_pattern(text: str) -> str:
    """*text* if it is a pattern of tags. Raises ConfigurationError."""
    if not _TAG_PATTERN.fullmatch(text):
        raise ConfigurationError(f"{text[:100]!r} is no pattern of tags; 'v*', '*-dev' and 'latest' are")
    return text


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")))


def tag_matches(pattern: str, tag: str) -> bool:
    """Whether a tag is one of a pattern."""
    return _compiled(pattern).fullmatch(tag) is not None


def find(rules: Sequence[TagPattern], repository: str, tag: str) -> TagPattern | None:
    """The first rule that makes a tag immutable, None when it may move and go."""
    return next((rule for rule in rules if rule.covers(repository, tag)), None)


def require_mutable(rules: Sequence[TagPattern], repository: Repository, tags: Iterable[str], verb: str) -> None:
    """Raise Denied, with the rule, when one of *tags* that are there already may not be moved or deleted."""
    for tag in tags:
        rule = find(rules, repository, tag)
        if rule is not None:
            raise Denied(
                f"the tag {tag} is immutable here (policy.immutable_tags: {rule}) and cannot be {verb}; "
                "push under another tag",
                {"repository": repository, "tag": tag, "rule": str(rule)},
            )
