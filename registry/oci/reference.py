"""Repository names, tags and the names of images, as text that was checked once at the edge.

Sources: OCI distribution-spec v1.1, "Pulling manifests"; docker's reference grammar (distribution/reference).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid, NameInvalid, TagInvalid

NAME_MAX_CHARACTERS = 255
DOCKER_HUB = "docker.io"

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:.]+\])(?::[0-9]{{1,5}})?")
_IMAGE_ID = re.compile(r"[a-f0-9]{64}")


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


@dataclass(frozen=True, slots=True)
class ImageName:
    """What a person calls an image: the registry's host, a repository there, and a tag, a digest, both or none."""

    host: str
    repository: Repository
    tag: Tag | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str, default_host: str = DOCKER_HUB) -> ImageName:
        """Read *text* as docker does: `busybox` is `docker.io/library/busybox`. Raises NameInvalid.

        The first part is a host when it has a dot, a colon or a capital letter, or is `localhost`; without
        one, *default_host* is meant. No tag is added: see `with_default_tag`.
        """
        if "://" in text:
            raise _invalid(text, f"leave out the {text.partition('://')[0]}://")
        rest, digest = _cut_digest(text)
        rest, tag = _cut_tag(rest, text)
        host, path = _cut_host(rest)
        host = DOCKER_HUB if host == "index.docker.io" else host or default_host
        if not _HOST.fullmatch(host):
            raise _invalid(text, f"{host[:100]!r} is no host")
        if _IMAGE_ID.fullmatch(rest):
            raise _invalid(text, "64 hexadecimal digits are an image's id, not a name")
        if host == DOCKER_HUB and "/" not in path:
            path = f"library/{path}"
        if path != path.lower():
            raise _invalid(text, "repository name must be lowercase")
        try:
            return cls(host, Repository.parse(path), tag, digest)
        except NameInvalid as error:
            raise _invalid(text, error.message) from None

    @property
    def reference(self) -> Digest | Tag:
        """What a registry is asked for: the digest if there is one, else the tag, else `latest`."""
        return self.digest or self.tag or Tag("latest")

    def with_default_tag(self) -> ImageName:
        """Itself, or with `latest` when it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag=Tag("latest"))

    @property
    def name(self) -> str:
        """Host and repository, `docker.io/library/busybox`."""
        return f"{self.host}/{self.repository}"

    def familiar_name(self, default_host: str = DOCKER_HUB) -> str:
        """Host and repository as people write them: `busybox`, `127.0.0.1:5000/team/web`."""
        if self.host != default_host:
            return self.name
        short = self.repository.removeprefix("library/")
        return short if self.host == DOCKER_HUB and "/" not in short else str(self.repository)

    def familiar(self, default_host: str = DOCKER_HUB) -> str:
        """The whole as people write it: `busybox:1.36`."""
        return self.familiar_name(default_host) + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix()


def _cut_digest(text: str) -> tuple[str, Digest | None]:
    rest, at, digest = text.partition("@")
    if not at:
        return rest, None
    try:
        return rest, Digest.parse(digest)
    except DigestInvalid as error:
        raise _invalid(text, error.message) from None


def _cut_tag(rest: str, text: str) -> tuple[str, Tag | None]:
    before, colon, last = rest.rpartition(":")
    if not colon or "/" in last:
        return rest, None
    try:
        return before, Tag.parse(last)
    except TagInvalid as error:
        raise _invalid(text, error.message) from None


def _cut_host(rest: str) -> tuple[str, str]:
    first, slash, path = rest.partition("/")
    is_host = "." in first or ":" in first or first == "localhost" or first != first.lower()
    return (first, path) if slash and is_host else ("", rest)


def _invalid(text: str, why: str) -> NameInvalid:
    return NameInvalid(f"invalid reference format: {text[:300]!r}: {why}", {"name": text[:300]})
