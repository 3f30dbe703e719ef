"""From settings to the parts that take somebody else's word: a token service, an identity provider, CI systems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from registry.config import CiRule, Settings
from registry.oci.errors import ConfigurationError, RegistryError
from registry.server.auth import foreign
from registry.server.auth.foreign import KeysRefused
from registry.server.auth.jobs import Rule, is_open
from registry.server.auth.patterns import check_team
from registry.server.auth.rights import ROLE_ACTIONS
from registry.server.index.engine import Index
from registry.server.service import signin
from registry.server.service.administration.accounts import Accounts
from registry.server.service.administration.words import limit_of
from registry.server.service.external import ExternalTokens
from registry.server.service.jobs import Jobs
from registry.server.service.keysets import Keys, KeySet, Remembered, keys_of_file
from registry.server.service.oidc import Provider, keys_of_issuer
from registry.server.service.signin import SignIn
from registry.server.web.ui.handlers import Door
from registry.transfer.fetch import Fetcher

_SECRET_MAX_BYTES = 4096


def check(settings: Settings) -> None:
    """Raise ConfigurationError for what cannot work, before anybody relies on it. Asks nobody over the network."""
    external_tokens(settings)
    provider(settings)
    policy(settings)
    for rule in settings.accounts.ci:
        rule_of(rule)
        _job_keys(rule)


def key_lifetime_seconds(settings: Settings) -> float:
    """For how long what we sign may live."""
    accounts = settings.accounts
    return max([accounts.token_lifetime_seconds, *(rule.lifetime_seconds for rule in accounts.ci)])


# --- keys


def _fetcher(setting: str, address: str, hosts: tuple[str, ...] = ()) -> Fetcher:
    try:
        return Fetcher(address, hosts)
    except ConfigurationError as error:
        raise ConfigurationError(f"{setting}: {error}") from None


def _file_keys(setting: str, path: Path, read: Callable[[bytes], Keys]) -> KeySet:
    """Keys of a file, which has to be right when we start."""
    try:
        read(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{setting}: {path}: {error.strerror}") from None
    except KeysRefused as error:
        raise ConfigurationError(f"{setting}: {path}: {error}") from None
    return keys_of_file("a file of keys", path, read)


# --- an external token service


def external_tokens(settings: Settings) -> ExternalTokens | None:
    """The token service in place of ours."""
    chosen = settings.accounts.external_token
    if not chosen.realm:
        return None
    if chosen.public_key:
        keys = _file_keys("accounts.external_token.public_key", Path(chosen.public_key), foreign.read_pem)
    elif chosen.jwks_file:
        keys = _file_keys("accounts.external_token.jwks_file", Path(chosen.jwks_file), foreign.read_key_set_text)
    else:
        fetcher = _fetcher("accounts.external_token.jwks_url", chosen.jwks_url)

        async def load() -> Keys:
            return foreign.read_key_set(await fetcher.get(chosen.jwks_url))

        keys = KeySet(Remembered("the token service", load))
    required = [claim for claim in ("iat", "nbf") if claim not in chosen.may_lack]
    return ExternalTokens(keys, chosen.issuer, chosen.service, required)


# --- an identity provider


def provider(settings: Settings) -> Provider | None:
    """Where people sign in."""
    chosen = settings.accounts.oidc
    if not chosen.issuer:
        return None
    fetcher = _fetcher("accounts.oidc.issuer", chosen.issuer, chosen.hosts)
    secret = chosen.client_secret or _secret_of(chosen.client_secret_file)
    return Provider(chosen.issuer, fetcher, chosen.client_id, secret, chosen.scopes)


def _secret_of(path: str) -> str:
    if not path:
        return ""
    try:
        secret = Path(path).read_text(encoding="utf-8")[:_SECRET_MAX_BYTES].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"accounts.oidc.client_secret_file: {path}: {error}") from None
    if not secret:
        raise ConfigurationError(f"accounts.oidc.client_secret_file: {path} is empty")
    return secret


def policy(settings: Settings) -> signin.Policy:
    """What a provider's claims mean."""
    chosen = settings.accounts.oidc
    return signin.Policy(
        chosen.issuer,
        chosen.username_claim,
        chosen.groups_claim,
        {group: _place(group, text) for group, text in chosen.groups.items()},
        frozenset(chosen.allowed_groups),
        chosen.admin_group,
        chosen.sign_in_every_days * 86_400,
    )


def _place(group: str, text: str) -> tuple[str, str]:
    """A team and a role from `team:role`."""
    team, _, role = text.partition(":")
    try:
        check_team(team)
    except RegistryError as error:
        raise ConfigurationError(f"accounts.oidc.groups: {group}: {error}") from None
    if role not in ROLE_ACTIONS:
        expected = " or ".join(f"{team}:{known}" for known in ROLE_ACTIONS)
        raise ConfigurationError(f"accounts.oidc.groups: {group}: {expected} is expected, not {text!r}")
    return team, role


def sign_in(settings: Settings, index: Index) -> SignIn:
    """The accounts of those who sign in there."""
    return SignIn(index, policy(settings))


def door(settings: Settings, index: Index) -> Door | None:
    """The way in through the provider, for the pages."""
    found = provider(settings)
    if found is None:
        return None
    chosen = settings.accounts.oidc
    return Door(found, chosen.title or urlsplit(chosen.issuer).netloc, sign_in(settings, index))


# --- CI systems


def rule_of(chosen: CiRule) -> Rule:
    """A rule for jobs."""
    try:
        limits = tuple(limit_of(text) for text in chosen.allow)
    except RegistryError as error:
        raise ConfigurationError(f"accounts.ci: {chosen.name}: allow: {error}") from None
    if is_open(chosen.claims):
        raise ConfigurationError(
            f"accounts.ci: {chosen.name}: claims: strangers' jobs would match too; "
            "at least one has to begin with something other than '*'"
        )
    lifetime = float(chosen.lifetime_seconds)
    return Rule(chosen.name, chosen.issuer, chosen.audience, chosen.claims, limits, lifetime)


def _job_keys(chosen: CiRule) -> KeySet:
    setting = f"accounts.ci: {chosen.name}"
    if chosen.jwks_file:
        return _file_keys(f"{setting}: jwks_file", Path(chosen.jwks_file), foreign.read_key_set_text)
    return keys_of_issuer(chosen.issuer, _fetcher(f"{setting}: issuer", chosen.issuer))


def jobs(settings: Settings, accounts: Accounts) -> Jobs | None:
    """The jobs that are let in. Rules with the same issuer share what is known of its keys."""
    chosen = settings.accounts.ci
    if not chosen:
        return None
    shared = {(rule.issuer, rule.jwks_file): rule for rule in chosen}
    keys = {place: _job_keys(rule) for place, rule in shared.items()}
    by_name = {rule.name: keys[rule.issuer, rule.jwks_file] for rule in chosen}
    return Jobs([rule_of(rule) for rule in chosen], by_name, accounts)
