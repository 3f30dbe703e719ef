"""Which tags stay and which go: rules and facts in, decisions out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from registry.oci.errors import ConfigurationError
from registry.server.auth import patterns
from registry.server.index.pulled import TagFacts
from registry.server.service.immutable import TagPattern, check_tag_pattern, find, tag_matches

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Rule:
    """What stays in the repositories of a pattern; 0 means not asked for. A rule may protect and keep nothing."""

    repositories: str
    keep_last: int = 0
    keep_younger_days: float = 0.0
    keep_pulled_days: float = 0.0
    keep_matching: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()

    def check(self) -> Rule:
        """This rule, if it can be used. Raises ConfigurationError."""
        try:
            patterns.check_pattern(self.repositories)
        except patterns.NameRefused as error:
            raise ConfigurationError(f"retention: {error}") from None
        for pattern in (*self.keep_matching, *self.protect):
            check_tag_pattern(pattern)
        if not self.is_limiting() and not self.protect:
            raise ConfigurationError(
                f"retention: the rule for {self.repositories!r} keeps nothing and protects nothing; "
                "say keep_last, keep_younger_days, keep_pulled_days, keep_matching or protect"
            )
        return self

    def is_limiting(self) -> bool:
        """Whether tags that it does not keep shall go."""
        return bool(self.keep_last or self.keep_younger_days or self.keep_pulled_days or self.keep_matching)

    def covers(self, repository: str) -> bool:
        """Whether it speaks of a repository."""
        return patterns.matches(self.repositories, repository)


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, and since when pulls are known, in milliseconds since 1970."""

    now_ms: int
    pulls_since_ms: int


@dataclass(frozen=True, slots=True)
class TagDecision:
    """What becomes of a tag, and why."""

    tag: TagFacts
    stays: bool
    reason: str


def plan(
    repository: str,
    tags: Sequence[TagFacts],
    rules: Sequence[Rule],
    immutable: Sequence[TagPattern],
    moment: Moment,
) -> list[TagDecision]:
    """What becomes of all *tags* of a repository: one stays when any rule keeps it, or none says that any go."""
    speaking = [rule for rule in rules if rule.covers(repository)]
    limiting = [rule for rule in speaking if rule.is_limiting()]
    reasons: dict[str, str] = {}
    for tag in tags:
        if (fixed := find(immutable, repository, tag.name)) is not None:
            reasons[tag.name] = f"immutable: {fixed}"
        elif (pattern := _matching(tag, [each for rule in speaking for each in rule.protect])) is not None:
            reasons[tag.name] = f"protected: {pattern}"
    free = [tag for tag in tags if tag.name not in reasons]
    for rule in limiting:
        for tag, reason in _kept(free, rule, moment):
            reasons.setdefault(tag.name, reason)
    if not limiting:
        return [TagDecision(tag, True, reasons.get(tag.name, "no rule limits it")) for tag in tags]
    gone = "no rule keeps it: " + ", ".join(sorted({rule.repositories for rule in limiting}))
    return [TagDecision(tag, tag.name in reasons, reasons.get(tag.name, gone)) for tag in tags]


def _kept(tags: Sequence[TagFacts], rule: Rule, moment: Moment) -> Iterator[tuple[TagFacts, str]]:
    """What one rule keeps, with the reason."""
    newest = sorted(tags, key=lambda tag: (-tag.moved_ms, tag.name))[: rule.keep_last]
    yield from ((tag, f"one of the last {rule.keep_last}") for tag in newest)
    for tag in tags:
        if moment.now_ms - tag.moved_ms < rule.keep_younger_days * _DAY_MS:
            yield tag, f"younger than {rule.keep_younger_days:g} days"
        elif reason := _pulled(tag, rule, moment):
            yield tag, reason
        elif (pattern := _matching(tag, rule.keep_matching)) is not None:
            yield tag, f"matches {pattern}"


def _pulled(tag: TagFacts, rule: Rule, moment: Moment) -> str | None:
    """Why a rule about pulls keeps a tag; one that was pushed lately had no time to be pulled."""
    if not rule.keep_pulled_days:
        return None
    since_ms = moment.now_ms - rule.keep_pulled_days * _DAY_MS
    if moment.pulls_since_ms > since_ms:
        return "pulls are not known for so long yet"
    if max(tag.moved_ms, tag.pulled_ms or 0) > since_ms:
        return f"pulled within {rule.keep_pulled_days:g} days"
    return None


def _matching(tag: TagFacts, found: Sequence[str]) -> str | None:
    return next((pattern for pattern in found if tag_matches(pattern, tag.name)), None)
