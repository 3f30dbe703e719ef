"""`hythe admin`: accounts, teams, tokens, grants and the audit log of the registry on this machine.

It works on the index itself, with the same settings as `hythe serve`, whether that runs or not: a running
server sees each change with its next request.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from registry.cli import care, history, migrate, moving, output, recovery, settings
from registry.oci.errors import ConfigurationError
from registry.oci.reference import Repository
from registry.server import wiring
from registry.server.auth import secrets
from registry.server.auth.caller import ACTIONS
from registry.server.auth.passwords import read_htpasswd
from registry.server.auth.rights import ROLE_ACTIONS
from registry.server.service.administration.accounts import Accounts
from registry.server.service.administration.changes import Actor, Refused
from registry.server.service.administration.words import Subject, actions_of, lifetime_of, limit_of, since_ms_of

if TYPE_CHECKING:
    Families = argparse._SubParsersAction[argparse.ArgumentParser]
Verb = Callable[[Accounts, argparse.Namespace], Awaitable[int | None]]
# What a verb does it prints; a server's log lines are for a server.
_SILENT = logging.NullHandler()
_PLACES = "how much: 'pull:team/*' or 'pull,push:team/web'; repeat it for more"


def run(arguments: Sequence[str]) -> int:
    """Run `hythe admin ARGUMENTS` and return its exit status."""
    options = parser().parse_args(arguments)
    logging.getLogger("hythe").addHandler(_SILENT)
    try:
        if options.family in recovery.FAMILIES:  # they work on an index that may not be there
            return recovery.run(settings.load(options.config), _actor(), options)
        return asyncio.run(_run(options))
    except BrokenPipeError:  # whoever read what is printed has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        raise ConfigurationError(f"{error.filename or options.config}: {error.strerror}") from None


async def _run(options: argparse.Namespace) -> int:
    chosen = settings.load(options.config)
    if options.family == "migrate":
        return migrate.migrate(chosen, options.json)
    wiring.prepare_index(chosen)
    index = wiring.make_index(chosen)
    try:
        if options.family in care.FAMILIES:
            return await care.run(chosen, index, _actor(), options)
        if options.family in history.FAMILIES:
            return await history.run(chosen, index, _actor(), options)
        if options.family in moving.FAMILIES:
            return await moving.run(chosen, index, _actor(), options)
        verb: Verb = options.run
        return await verb(wiring.make_accounts(chosen, index), options) or 0
    finally:
        index.close()


def _actor() -> Actor:
    """Who is at the keyboard, as far as the system knows."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = str(os.getuid())
    return Actor(f"operator:{name}", "command line")


# --- the command line


def parser() -> argparse.ArgumentParser:
    """All verbs of `hythe admin`."""
    top = argparse.ArgumentParser(prog="hythe admin", description=__doc__.partition("\n")[0])
    top.add_argument("--config", metavar="FILE", help="the settings that `hythe serve` runs with")
    top.add_argument("--json", action="store_true", help="print JSON")
    families = top.add_subparsers(dest="family", metavar="COMMAND", required=True)
    for add in (_user_verbs, _robot_verbs, _team_verbs, _token_verbs, _grant_verbs, _other_verbs):
        add(families)
    return top


def _family(families: Families, name: str, help_text: str) -> Families:
    made = families.add_parser(name, help=help_text, description=help_text)
    return made.add_subparsers(dest="verb", metavar="VERB", required=True)


def _verb(family: Families, name: str, run_it: Verb, help_text: str, *names: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = family.add_parser(name, help=help_text, description=help_text)
    for argument in names:
        made.add_argument(argument.lower(), metavar=argument)
    made.set_defaults(run=run_it)
    return made


def _user_verbs(families: Families) -> None:
    family = _family(families, "user", "people")
    add = _verb(family, "add", _user_add, "add a person", "NAME")
    add.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    add.add_argument("--admin", action="store_true", help="as an administrator")
    _verb(family, "list", _user_list, "list people and robots")
    passwd = _verb(family, "passwd", _user_passwd, "set a person's password", "NAME")
    passwd.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    _verb(family, "disable", _disable, "lock an account out at once", "NAME")
    _verb(family, "enable", _enable, "let an account in again", "NAME")
    _verb(family, "remove", _remove, "delete an account and everything of it", "NAME")
    _verb(family, "promote", _promote, "make a person an administrator", "NAME")
    _verb(family, "demote", _demote, "make an administrator a person like others", "NAME")


def _robot_verbs(families: Families) -> None:
    family = _family(families, "robot", "robots, which have tokens and no password")
    _verb(family, "add", _robot_add, "add a robot", "NAME")
    _verb(family, "list", _robot_list, "list robots")
    _verb(family, "remove", _remove, "delete a robot and its tokens", "NAME")


def _team_verbs(families: Families) -> None:
    family = _family(families, "team", "teams; the namespace of its name belongs to a team")
    _verb(family, "add", _team_add, "add a team", "TEAM")
    _verb(family, "list", _team_list, "list teams and their people")
    _verb(family, "remove", _team_remove, "delete a team; its repositories stay", "TEAM")
    join = _verb(family, "join", _team_join, "put an account into a team", "TEAM", "NAME")
    join.add_argument("--role", choices=sorted(ROLE_ACTIONS), default="member")
    _verb(family, "leave", _team_leave, "take an account out of a team", "TEAM", "NAME")


def _token_verbs(families: Families) -> None:
    family = _family(families, "token", "personal access tokens and tokens of robots")
    add = _verb(family, "add", _token_add, "make a token and show it, this once", "NAME", "LABEL")
    add.add_argument("--allow", action="append", default=[], metavar="ACTIONS:PATTERN", help=_PLACES)
    add.add_argument("--expires", metavar="TIME", help="90d, 12h or 30m from now; never when it is left out")
    _verb(family, "list", _token_list, "list an account's tokens", "NAME")
    _verb(family, "remove", _token_remove, "delete a token; it stops to work at once", "NAME", "ID")


def _grant_verbs(families: Families) -> None:
    family = _family(families, "grant", "who may do what where")
    subject = f"SUBJECT is user:NAME, team:NAME, everyone or anonymous; ACTIONS of {','.join(ACTIONS)}"
    _verb(family, "add", _grant_add, subject, "SUBJECT", "ACTIONS", "PATTERN")
    _verb(family, "list", _grant_list, "list grants")
    _verb(family, "remove", _grant_remove, "take back what was granted on a pattern", "SUBJECT", "PATTERN")


def _other_verbs(families: Families) -> None:
    may = _verb(families, "may", _may, "say whether, and by which grant", "NAME", "ACTION", "REPOSITORY")
    may.epilog = "exit status: 0 yes, 1 no"
    audit = _verb(families, "audit", _audit, "print the audit log")
    audit.add_argument("--since", default="3650d", metavar="TIME", help="of the last 30d, 12h or 30m")
    families.add_parser("migrate", help=migrate.HELP, description=migrate.HELP)
    care.add_verbs(families)
    recovery.add_verbs(families)
    history.add_verbs(families)
    moving.add_verbs(families)
    key = _family(families, "key", "the keys that sign access tokens")
    _verb(key, "rotate", _key_rotate, "sign with a new key from now on; nobody is logged out")
    htpasswd = _family(families, "htpasswd", "htpasswd files (bcrypt)")
    _verb(htpasswd, "import", _htpasswd_import, "take the people of a file over as accounts", "FILE")


# --- the verbs


def _password(options: argparse.Namespace) -> tuple[str, bool]:
    """A password from standard input or the keyboard; else a new one, and that it is to be shown."""
    try:
        if options.password_stdin:
            return sys.stdin.readline().rstrip("\r\n"), False
        if not sys.stdin.isatty():
            return secrets.new_password(), True
        first = getpass.getpass("Password (empty: make one): ")
        if first and getpass.getpass("Again: ") != first:
            raise Refused("the two differ")
    except UnicodeDecodeError:
        raise Refused("the password is not UTF-8") from None
    except EOFError:
        raise Refused("no password was given") from None
    return (first, False) if first else (secrets.new_password(), True)


def _show_password(options: argparse.Namespace, name: str, password: str, is_new: bool) -> None:
    if options.json:
        output.as_json({"name": name, **({"password": password} if is_new else {})})
    elif is_new:
        output.note(f"The password of {name}, shown this once:")
        print(password)


async def _user_add(accounts: Accounts, options: argparse.Namespace) -> None:
    password, is_new = await asyncio.to_thread(_password, options)
    account = await accounts.add_user(_actor(), options.name, password, options.admin)
    _show_password(options, account.name, password, is_new)


async def _user_passwd(accounts: Accounts, options: argparse.Namespace) -> None:
    password, is_new = await asyncio.to_thread(_password, options)
    await accounts.set_password(_actor(), options.name, password)
    _show_password(options, options.name, password, is_new)


async def _user_list(accounts: Accounts, options: argparse.Namespace, kind: str | None = None) -> None:
    found = [account for account in await accounts.list() if kind in (None, account.kind)]
    if options.json:
        hidden = ("password_hash", "generation")
        output.as_json([{k: v for k, v in asdict(one).items() if k not in hidden} for one in found])
        return
    rows = [
        (one.name, one.kind, "yes" if one.is_admin else "", "" if one.enabled else "disabled", one.origin)
        for one in found
    ]
    output.table(("NAME", "KIND", "ADMIN", "STATE", "FROM"), rows)


async def _robot_list(accounts: Accounts, options: argparse.Namespace) -> None:
    await _user_list(accounts, options, "robot")


async def _disable(accounts: Accounts, options: argparse.Namespace) -> None:
    await accounts.set_enabled(_actor(), options.name, False)


async def _enable(accounts: Accounts, options: argparse.Namespace) -> None:
    await accounts.set_enabled(_actor(), options.name, True)


async def _remove(accounts: Accounts, options: argparse.Namespace) -> None:
    await accounts.remove(_actor(), options.name)


async def _promote(accounts: Accounts, options: argparse.Namespace) -> None:
    await accounts.set_admin(_actor(), options.name, True)


async def _demote(accounts: Accounts, options: argparse.Namespace) -> None:
    await accounts.set_admin(_actor(), options.name, False)


async def _robot_add(accounts: Accounts, options: argparse.Namespace) -> None:
    account = await accounts.add_robot(_actor(), options.name)
    output.note(f"Now make it a token: hythe admin token add {account.name} LABEL")


async def _team_add(accounts: Accounts, options: argparse.Namespace) -> None:
    await accounts.teams.add(_actor(), options.team)


async def _team_list(accounts: Accounts, options: argparse.Namespace) -> None:
    found = await accounts.teams.list()
    if options.json:
        people = [[{"name": n, "role": r, "origin": o} for n, r, o in team.members] for team in found]
        names = [team.name for team in found]
        output.as_json([{"name": n, "members": members} for n, members in zip(names, people, strict=True)])
        return
    rows = [
        (team.name, name, role, origin) for team in found for name, role, origin in team.members or [("",) * 3]
    ]
    output.table(("TEAM", "NAME", "ROLE", "FROM"), rows)


async def _team_remove(accounts: Accounts, options: argparse.Namespace) -> None:
    await accounts.teams.remove(_actor(), options.team)


async def _team_join(accounts: Accounts, options: argparse.Namespace) -> None:
    await accounts.teams.join(_actor(), options.team, options.name, options.role)


async def _team_leave(accounts: Accounts, options: argparse.Namespace) -> None:
    await accounts.teams.leave(_actor(), options.team, options.name)


async def _token_add(accounts: Accounts, options: argparse.Namespace) -> None:
    limits = [limit_of(text) for text in options.allow]
    lifetime = lifetime_of(options.expires) if options.expires else None
    secret = await accounts.tokens.add(_actor(), options.name, options.label, limits, lifetime)
    if options.json:
        output.as_json({"id": secret.id, "token": str(secret)})
        return
    output.note(f"The token {secret.id} of {options.name}, shown this once; it is the password of docker login:")
    print(secret)


async def _token_list(accounts: Accounts, options: argparse.Namespace) -> None:
    found = await accounts.tokens.of(options.name)
    if options.json:
        output.as_json(
            [{k: v for k, v in asdict(one).items() if k not in ("hash", "account_id")} for one in found]
        )
        return
    rows = [
        (
            one.id,
            one.label,
            " ".join(f"{','.join(sorted(limit.actions))}:{limit.pattern}" for limit in one.limits) or "all",
            output.moment(one.expires_ms) or "never",
            output.moment(one.used_ms) or "never",
        )
        for one in found
    ]
    output.table(("ID", "LABEL", "ALLOWS", "EXPIRES", "LAST USED"), rows)


async def _token_remove(accounts: Accounts, options: argparse.Namespace) -> None:
    await accounts.tokens.remove(_actor(), options.name, options.id)


async def _grant_add(accounts: Accounts, options: argparse.Namespace) -> None:
    actions = actions_of([options.actions])
    await accounts.grants.add(_actor(), Subject.parse(options.subject), options.pattern, actions)


async def _grant_list(accounts: Accounts, options: argparse.Namespace) -> None:
    found = await accounts.grants.list()
    if options.json:
        output.as_json([asdict(one) for one in found])
        return
    output.table(("PATTERN", "SUBJECT", "ACTIONS"), [(g.pattern, g.subject, ",".join(g.actions)) for g in found])


async def _grant_remove(accounts: Accounts, options: argparse.Namespace) -> None:
    await accounts.grants.remove(_actor(), Subject.parse(options.subject), options.pattern)


async def _may(accounts: Accounts, options: argparse.Namespace) -> int:
    if options.action not in ACTIONS:
        raise Refused(f"{options.action!r} is no action; {', '.join(ACTIONS)} are")
    grant = await accounts.grants.decide(options.name, options.action, Repository.parse(options.repository))
    if options.json:
        output.as_json({"allowed": grant is not None, "because": None if grant is None else str(grant)})
    else:
        print("no: no grant allows it" if grant is None else f"yes: {grant}")
    return 0 if grant is not None else 1


async def _audit(accounts: Accounts, options: argparse.Namespace) -> None:
    since_ms, after = since_ms_of(options.since), 0
    if not options.json:
        print("TIME                  ACTOR  FROM  ACTION  TARGET  RESULT")
    while entries := await accounts.audit(since_ms, after):
        for entry in entries:
            _print_entry(entry, options.json)
        after = entries[-1].id


def _print_entry(entry: object, as_json: bool) -> None:
    fields = asdict(entry)  # type: ignore[call-overload]
    if as_json:  # a line for each entry, so that a long log streams
        print(json.dumps(fields, ensure_ascii=False))
        return
    words = [fields[name] for name in ("actor", "address", "action", "target", "result")]
    print("  ".join([output.moment(fields["at_ms"]), *map(output.cell, words)]))


async def _key_rotate(accounts: Accounts, options: argparse.Namespace) -> None:
    key_id = await accounts.rotate_key(_actor())
    output.as_json({"key": key_id}) if options.json else print(key_id)


async def _htpasswd_import(accounts: Accounts, options: argparse.Namespace) -> None:
    try:
        text = await asyncio.to_thread(Path(options.file).read_text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{options.file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{options.file} is not a text in UTF-8") from None
    added, changed = await accounts.take_htpasswd(_actor(), read_htpasswd(text), "local")
    if options.json:
        output.as_json({"added": added, "changed": changed})
    else:
        print(f"{added} added, {changed} changed")
