"""Quotas: what is allowed, what is used, and by whom."""

from __future__ import annotations

from msgspec import Struct

from registry.server.auth.patterns import is_inside
from registry.server.service.quotas import Usage
from registry.server.web.api.call import Call
from registry.server.web.api.guards import everyone, maintained
from registry.server.web.api.operations import Operation


class RepositorySize(Struct):
    """A repository, and the bytes that it has, those that others have too included."""

    repository: str
    size_bytes: int


class QuotaUsage(Struct):
    """How many bytes the repositories of a pattern may have together, and have, each blob counted once."""

    pattern: str
    limit_bytes: int
    used_bytes: int
    largest: list[RepositorySize]


def _shown(found: Usage) -> QuotaUsage:
    largest = [RepositorySize(name, size_bytes) for name, size_bytes in found.largest]
    return QuotaUsage(found.quota.pattern, found.quota.limit_bytes, found.used_bytes, largest)


async def list_quotas(call: Call) -> list[QuotaUsage]:
    """Quotas: all for an administrator, for others those inside of the namespaces of teams that they maintain."""
    teams = maintained(call.rights)
    wanted = [
        quota
        for quota in call.quotas.quotas
        if teams is None or any(is_inside(quota.pattern, team) for team in teams)
    ]
    return [_shown(found) for found in await call.quotas.usage(wanted)]


OPERATIONS = (Operation("GET", "/quotas", list_quotas, everyone, answer=list[QuotaUsage]),)
