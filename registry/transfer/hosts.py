"""Which addresses stand for a registry: its own, and mirrors before it. `host_files.py` reads them from files."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from registry.oci.errors import ConfigurationError, NameInvalid
from registry.oci.reference import DOCKER_HUB, ImageName, Repository
from registry.transfer.http import SYSTEM_TRUST, Trust
from registry.transfer.loopback import is_loopback

Uses = Literal["all", "digest-only", "tag-only"]
_HUB_ADDRESS = "registry-1.docker.io"
SECURE = ("https",)
PLAIN = ("http",)
# A listed insecure registry is asked as docker asks it: TLS of any certificate first, then without.
INSECURE = ("https", "http")
# On this machine plain HTTP is the rule, and TLS the exception that a 2 ms question finds out.
LOOPBACK = ("http", "https")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address to ask: `host` is `name` or `name:port`, `schemes` are tried in order, `api` is a path."""

    host: str
    schemes: tuple[str, ...] = SECURE
    trust: Trust = SYSTEM_TRUST
    api: str = "/v2"
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def address(self) -> str:
        """Where connections go to."""
        return _HUB_ADDRESS if self.host == DOCKER_HUB else self.host


@dataclass(frozen=True, slots=True)
class Place:
    """A repository at an address, and what it is good for: `uses` says for which references."""

    endpoint: Endpoint
    repository: Repository
    uses: Uses = "all"
    can_resolve: bool = True


@dataclass(frozen=True, slots=True)
class Mirror:
    """A place that has copies: `location` is `host[:port][/path]`, a path going before the rest of the name."""

    location: str
    schemes: tuple[str, ...] = ()  # empty: as for any host
    insecure: bool = False
    uses: Uses = "all"

    @classmethod
    def parse(cls, text: str) -> Mirror:
        """Read `https://host`, `http://host:5000` or `host/path`. Raises ConfigurationError."""
        scheme, marks, rest = text.rpartition("://")
        location = rest.strip("/")
        if (marks and scheme not in ("http", "https")) or not location or not is_host(location.partition("/")[0]):
            raise ConfigurationError(f"{text[:200]!r} is no mirror: https://HOST[:PORT][/PATH] is")
        return cls(location, (scheme,) if marks else ())


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for names that begin with `prefix`: `host`, `host/path` or `*.domain`."""

    prefix: str
    location: str = ""  # what takes the prefix's place in the address; empty: itself
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()

    def matches(self, name: str) -> bool:
        """Whether it is for *name*, `host/repository`."""
        if self.prefix.startswith("*."):
            return name.partition("/")[0].partition(":")[0].endswith(self.prefix[1:])
        return name == self.prefix or name.startswith((f"{self.prefix}/", f"{self.prefix}:"))

    def rest(self, name: str) -> str:
        """What of *name* stands after the prefix."""
        if self.prefix.startswith("*."):
            return "/" + name.partition("/")[2]
        return name.removeprefix(self.prefix)


@dataclass(frozen=True, slots=True)
class HostFile:
    """What a directory `certs.d/HOST` says: how to trust the host, and in a hosts.toml, whom to ask before it."""

    trust: Trust = SYSTEM_TRUST
    server: Endpoint | None = None
    mirrors: tuple[tuple[Endpoint, bool, bool], ...] = ()  # each with: may resolve, may pull


@dataclass(frozen=True, slots=True)
class Registries:
    """All settings about registries, from Hythe's own file and from its neighbours' files.

    `rules` has one tuple for each program's files, in the order in which their mirrors are asked: of one tuple the
    rule of the longest prefix holds, alone. `insecure` are hosts and CIDR ranges; `host_file` finds what a
    directory of certificates says of a host.
    """

    default_host: str = DOCKER_HUB
    insecure: tuple[str, ...] = ()
    rules: tuple[tuple[Rule, ...], ...] = ()
    host_file: Callable[[str], HostFile | None] = lambda host: None

    def endpoint(self, host: str, insecure: bool = False, schemes: tuple[str, ...] = ()) -> Endpoint:
        """The address of a registry itself; with *insecure* as if it were listed."""
        file = self.host_file(host)
        if file is not None and file.server is not None and not schemes:
            return file.server
        trust = file.trust if file is not None else SYSTEM_TRUST
        if insecure or self._is_listed(host):
            return Endpoint(host, schemes or INSECURE, replace(trust, verify=False))
        if is_loopback(host_only(host)):
            if trust != SYSTEM_TRUST:
                return Endpoint(host, schemes or INSECURE, trust)
            return Endpoint(host, schemes or LOOPBACK, Trust(verify=False))
        return Endpoint(host, schemes or SECURE, trust)

    def _is_listed(self, host: str) -> bool:
        bare = host_only(host)
        return any(host == entry or bare == entry or _in_range(bare, entry) for entry in self.insecure)

    def origin(self, name: ImageName) -> Place:
        """Where *name* is pushed to, and pulled from when no mirror has it. Raises ConfigurationError."""
        rule = self._rule(name.name)
        if rule is None:
            return Place(self.endpoint(name.host), name.repository)
        if rule.blocked:
            raise ConfigurationError(f"{name.name}: registries.conf blocks this registry")
        return self._place(Mirror(rule.location or rule.prefix, (), rule.insecure), rule, name)

    def pull_places(self, name: ImageName) -> list[Place]:
        """Where to ask for *name*, in order: mirrors, then the registry itself."""
        found = [*self._host_mirrors(name), *self._rule_mirrors(name), self.origin(name)]
        return list(dict.fromkeys(found))

    def _host_mirrors(self, name: ImageName) -> Iterator[Place]:
        file = self.host_file(name.host)
        for endpoint, can_resolve, can_pull in file.mirrors if file is not None else ():
            if can_pull:
                yield Place(endpoint, name.repository, "all", can_resolve)

    def _rule_mirrors(self, name: ImageName) -> Iterator[Place]:
        for rule in self._holding(name.name):
            for mirror in rule.mirrors:
                yield self._place(mirror, rule, name)

    def _rule(self, name: str) -> Rule | None:
        """The first rule that says anything about the registry itself."""
        return next((each for each in self._holding(name) if each.location or each.insecure or each.blocked), None)

    def _holding(self, name: str) -> Iterator[Rule]:
        for rules in self.rules:
            matching = [rule for rule in rules if rule.matches(name)]
            if matching:
                yield max(matching, key=lambda rule: len(rule.prefix))

    def _place(self, mirror: Mirror, rule: Rule, name: ImageName) -> Place:
        location = name.host if mirror.location.startswith("*.") else mirror.location
        host, _, path = (location + rule.rest(name.name)).partition("/")
        try:
            repository = Repository.parse(path)
        except NameInvalid as error:
            raise ConfigurationError(f"{mirror.location} for {name.name}: {error}") from None
        return Place(self.endpoint(host, mirror.insecure, mirror.schemes), repository, mirror.uses)


def host_only(host: str) -> str:
    """A host without its port, an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_host(text: str) -> bool:
    """Whether *text* can be `name`, `name:port` or `[address]:port`."""
    bare, port = host_only(text), text[text.rfind("]") + 1 :].rpartition(":")
    if port[1] and not (port[2].isascii() and port[2].isdigit() and int(port[2]) < 65536):
        return False
    return bool(bare) and all(mark.isascii() and (mark.isalnum() or mark in ".-_:") for mark in bare)


def _in_range(host: str, entry: str) -> bool:
    if "/" not in entry:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
