"""Jobs of CI systems: the token that a job got from its own system is exchanged for rights here.

Source: RFC 8693; OpenID Connect Discovery 1.0.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from registry.oci.errors import Unauthorized
from registry.server.auth import foreign
from registry.server.auth.jobs import JOB_TOKEN_AGE_MAX_SECONDS, Job, Rule
from registry.server.auth.tokens import Claims, TokenInvalid
from registry.server.service.administration.accounts import Accounts
from registry.server.service.administration.changes import Actor
from registry.server.service.keysets import KeySet

log = logging.getLogger("hythe.federation")

REFUSED = "no rule lets this job in: its token is not valid here, or no longer, or says something else"


class Jobs:
    """The rules, and the keys of each rule's issuer by the rule's name."""

    def __init__(self, rules: Sequence[Rule], keys: Mapping[str, KeySet], accounts: Accounts) -> None:
        self._rules = tuple(rules)
        self._marks = {(rule.name, rule.mark()): rule for rule in rules}
        self._keys = keys
        self._accounts = accounts

    async def exchange(self, token: str, address: str) -> Job:
        """The job of a CI system's token, by the first rule that lets it in. Each one is in the audit log.

        Raises Unauthorized, with the same words for every reason, and Unavailable when the issuer's keys cannot
        be had.
        """
        try:
            issuer = foreign.issuer_of(token)
        except TokenInvalid:
            raise Unauthorized(REFUSED) from None
        seen: dict[
            tuple[KeySet, str], dict[str, Any] | None
        ] = {}  # a signature is verified once for each audience
        for rule in self._rules:
            if rule.issuer != issuer:
                continue
            place = self._keys[rule.name], rule.audience
            if place not in seen:
                seen[place] = await _verified(*place, issuer, token)
            claims = seen[place]
            if claims is not None and rule.lets_in(claims):
                return await self._let_in(rule, claims, address)
        for claims in filter(None, seen.values()):
            subject = foreign.printable(claims["sub"], 1000)
            log.warning("job.refused", extra={"fields": {"client": address, "issuer": issuer, "subject": subject}})
        raise Unauthorized(REFUSED)

    async def _let_in(self, rule: Rule, claims: Mapping[str, Any], address: str) -> Job:
        subject = foreign.printable(claims["sub"], 1000)
        expires_at = time.time() + rule.lifetime_seconds
        job = foreign.printable(claims.get("jti", ""), 200)
        actor = Actor(rule.caller, address)
        await self._accounts.record(actor, "token.exchange", subject, "done", issuer=rule.issuer, jti=job)
        return Job(rule, subject, expires_at)

    def rule_of(self, claims: Claims) -> Rule:
        """The rule by which a token of ours was made, which has to be there still. Raises TokenInvalid."""
        rule = None if claims.rule is None else self._marks.get(claims.rule)
        if rule is None:
            raise TokenInvalid("the token is not valid here, or no longer")
        return rule


async def _verified(keys: KeySet, audience: str, issuer: str, token: str) -> dict[str, Any] | None:
    try:
        claims = await keys.verify(token, issuer, audience, ("iat", "nbf", "sub"), is_sole_audience=True)
    except TokenInvalid:
        return None
    return None if int(claims["iat"]) < time.time() - JOB_TOKEN_AGE_MAX_SECONDS else claims
