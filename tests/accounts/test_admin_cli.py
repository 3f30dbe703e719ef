"""`hythe admin`: every verb, its mistakes in one sentence, and what it leaves in the audit log."""

from __future__ import annotations

import getpass
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import sqlalchemy as sa

from registry.cli import admin
from registry.server.index import schema
from tests.support import oci
from tests.support.accounts import Done, Registry, elsewhere

PASSWORD = "correct horse"
SECRET = re.compile(r"hyt_[0-9a-f]{16}_[A-Za-z0-9_-]{32}")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry that does not run; take names of your own."""
    return Registry.at_rest(tmp_path_factory.mktemp("desk"))


@pytest.fixture
def fresh(tmp_path: Path) -> Registry:
    """One that nobody else has."""
    return Registry.at_rest(tmp_path)


def account(registry: Registry, name: str) -> dict[str, Any]:
    """What the list says of an account."""
    [found] = [one for one in registry.json("user", "list") if one["name"] == name]
    return dict(found)


# --- people


def test_a_persons_made_password_is_all_that_is_printed_on_standard_output(desk: Registry, name: str) -> None:
    done = desk.run("user", "add", name)

    assert done.status == 0
    assert re.fullmatch(r"(?:[a-z2-9]{6}-){3}[a-z2-9]{6}\n", done.out)
    assert done.err == f"The password of {name}, shown this once:\n"
    made = desk.json("user", "add", f"{name}-b")
    assert set(made) == {"name", "password"}


def test_a_password_from_standard_input_is_not_printed(desk: Registry, name: str) -> None:
    done = desk.run("user", "add", name, "--password-stdin", stdin=f"{PASSWORD}\nmore\n")

    assert (done.status, done.out, done.err) == (0, "", "")
    assert desk.json("user", "add", f"{name}-b", "--password-stdin", stdin=PASSWORD) == {"name": f"{name}-b"}


def test_people_are_listed_without_what_is_nobodys_business(desk: Registry, name: str) -> None:
    desk.user(name, PASSWORD, admin=True)

    assert set(account(desk, name)) == {"id", "name", "kind", "origin", "is_admin", "enabled", "created_ms"}
    assert account(desk, name)["is_admin"]
    assert abs(account(desk, name)["created_ms"] / 1000 - time.time()) < 60
    heading, *rows = desk.do("user", "list").splitlines()
    assert heading.split() == ["NAME", "KIND", "ADMIN", "STATE", "FROM"]
    assert [name, "user", "yes", "local"] in [row.split() for row in rows]


def test_a_person_is_disabled_enabled_promoted_demoted_and_removed(desk: Registry, name: str) -> None:
    desk.user(f"{name}-other", PASSWORD, admin=True)
    desk.user(name, PASSWORD)

    for verb, key, value in (
        ("disable", "enabled", False),
        ("disable", "enabled", False),
        ("enable", "enabled", True),
        ("promote", "is_admin", True),
        ("demote", "is_admin", False),
    ):
        assert desk.do("user", verb, name) == ""
        assert account(desk, name)[key] is value
    desk.do("user", "remove", name)

    assert name not in [one["name"] for one in desk.json("user", "list")]
    assert desk.run("user", "remove", name).status == 1


def test_a_changed_password_is_another(desk: Registry, name: str) -> None:
    desk.user(name, PASSWORD)
    before = desk.account(name)

    made = desk.json("user", "passwd", name)

    assert set(made) == {"name", "password"}
    after = desk.account(name)
    assert after.password_hash != before.password_hash
    assert after.generation > before.generation


# --- robots and tokens


def test_a_robot_has_tokens_and_no_password(desk: Registry, name: str) -> None:
    done = desk.run("robot", "add", name)
    assert (done.status, done.out) == (0, "")
    assert f"hythe admin token add {name} LABEL" in done.err

    assert account(desk, name)["kind"] == "robot"
    assert [one for one in desk.json("robot", "list") if one["kind"] != "robot"] == []
    assert desk.run("user", "passwd", name, "--password-stdin", stdin=PASSWORD).status == 1
    assert desk.run("user", "promote", name).status == 1
    desk.do("robot", "remove", name)
    assert name not in desk.do("robot", "list")


def test_a_token_is_shown_once_and_kept_as_a_hash(desk: Registry, name: str) -> None:
    desk.do("robot", "add", name)
    done = desk.run("token", "add", name, "for the pipeline", "--allow", "pull,push:web/*", "--expires", "90d")
    token = done.out.strip()
    assert SECRET.fullmatch(token)
    assert "shown this once" in done.err
    made = desk.json("token", "add", name, "another one")
    assert SECRET.fullmatch(made["token"])
    assert made["id"] == made["token"].split("_")[1]

    first, second = desk.json("token", "list", name)
    assert (first["id"], first["label"], first["used_ms"]) == (token.split("_")[1], "for the pipeline", None)
    assert first["limits"] == [{"pattern": "web/*", "actions": ["pull", "push"]}]
    assert abs(first["expires_ms"] / 1000 - time.time() - 90 * 86_400) < 60
    assert (second["limits"], second["expires_ms"]) == ([], None)
    for said in (desk.do("token", "list", name), desk.do("--json", "token", "list", name)):
        assert "hash" not in said
        assert token.split("_", 2)[2] not in said
    heading, *rows = desk.do("token", "list", name).splitlines()
    assert heading.split()[:3] == ["ID", "LABEL", "ALLOWS"]
    assert "pull,push:web/*" in rows[0]
    assert "never" in rows[1]

    desk.do("token", "remove", name, first["id"])
    assert [one["id"] for one in desk.json("token", "list", name)] == [second["id"]]


def test_a_token_of_somebody_elses_is_not_removed_by_its_id(desk: Registry, name: str) -> None:
    for who in (name, f"{name}-b"):
        desk.do("robot", "add", who)
    token_id = desk.json("token", "add", name, "x")["id"]

    done = desk.run("token", "remove", f"{name}-b", token_id)

    assert done.status == 1
    assert len(desk.json("token", "list", name)) == 1


# --- teams and grants


def test_a_team_has_people_with_roles(desk: Registry, name: str) -> None:
    desk.do("team", "add", name)
    for who, words in ((f"{name}-a", []), (f"{name}-b", ["--role", "maintainer"])):
        desk.do("robot", "add", who)
        desk.do("team", "join", name, who, *words)

    def listed() -> list[tuple[str, str]]:
        [found] = [team for team in desk.json("team", "list") if team["name"] == name]
        return [(member["name"], member["role"]) for member in found["members"]]

    assert listed() == [(f"{name}-a", "member"), (f"{name}-b", "maintainer")]
    desk.do("team", "join", name, f"{name}-a", "--role", "maintainer")
    assert listed() == [(f"{name}-a", "maintainer"), (f"{name}-b", "maintainer")]
    assert [name, f"{name}-b", "maintainer", "local"] in [
        line.split() for line in desk.do("team", "list").splitlines()
    ]
    desk.do("team", "leave", name, f"{name}-a")
    desk.do("robot", "remove", f"{name}-b")
    assert listed() == []
    desk.do("team", "remove", name)
    assert name not in [team["name"] for team in desk.json("team", "list")]


def test_a_grant_replaces_the_one_on_the_same_pattern(desk: Registry, name: str) -> None:
    desk.do("robot", "add", name)
    desk.do("team", "add", name)
    pattern = f"{name}/*"

    def listed() -> list[tuple[str, str]]:
        found = [grant for grant in desk.json("grant", "list") if grant["pattern"] == pattern]
        return sorted((grant["subject"], ",".join(grant["actions"])) for grant in found)

    for subject in (name, f"user:{name}", f"robot:{name}"):
        desk.do("grant", "add", subject, "push,pull", pattern)
    desk.do("grant", "add", f"team:{name}", "delete", pattern)
    desk.do("grant", "add", "everyone", "pull", pattern)
    desk.do("grant", "add", "anonymous", "pull", pattern)
    assert listed() == [
        ("anonymous", "pull"),
        ("everyone", "pull"),
        (f"team:{name}", "delete"),
        (f"user:{name}", "pull,push"),
    ]
    desk.do("grant", "add", name, "admin", pattern)
    assert (f"user:{name}", "admin") in listed()
    assert [pattern, "everyone", "pull"] in [line.split() for line in desk.do("grant", "list").splitlines()]
    for subject in (name, f"team:{name}", "everyone", "anonymous"):
        desk.do("grant", "remove", subject, pattern)
    assert listed() == []


def test_what_is_removed_takes_its_grants_along_and_a_namesake_gets_none(desk: Registry, name: str) -> None:
    desk.do("robot", "add", name)
    desk.do("team", "add", name)
    desk.do("grant", "add", name, "pull", f"a-{name}/*")
    desk.do("grant", "add", f"team:{name}", "pull", f"b-{name}/*")
    desk.do("team", "join", name, name)

    for family in ("robot", "team"):
        desk.do(family, "remove", name)
        desk.do(family, "add", name)

    assert name not in str(desk.json("grant", "list"))
    for repository in (f"a-{name}/x", f"b-{name}/x", f"{name}/x"):
        assert desk.run("may", name, "pull", repository).status == 1


def test_may_answers_by_its_exit_status_and_says_why(desk: Registry, name: str) -> None:
    desk.do("robot", "add", name)
    desk.do("grant", "add", name, "pull", f"{name}/*")

    yes, no = desk.run("may", name, "pull", f"{name}/web"), desk.run("may", name, "push", f"{name}/web")

    assert (yes.status, yes.out) == (0, f"yes: granted to the account: user:{name} may pull on {name}/*\n")
    assert (no.status, no.out, no.err) == (1, "no: no grant allows it\n", "")
    assert desk.run("may", "anonymous", "pull", f"{name}/web").status == 1


# --- keys and files


def test_a_key_is_rotated(fresh: Registry) -> None:
    first, second = fresh.do("key", "rotate").strip(), fresh.json("key", "rotate")["key"]

    assert first != second
    assert fresh.signing_key().id == second


def test_a_file_is_imported(desk: Registry, name: str, tmp_path: Path) -> None:
    path = tmp_path / "people"
    path.write_text(f"{name}:{bcrypt.hashpw(b'x', bcrypt.gensalt(4)).decode()}\n")

    assert desk.do("htpasswd", "import", str(path)) == "1 added, 0 changed\n"
    assert desk.json("htpasswd", "import", str(path)) == {"added": 0, "changed": 0}
    assert account(desk, name)["origin"] == "local"


# --- mistakes


MISTAKES: list[tuple[list[str], str]] = [
    (["user", "add", "Not A Name"], "cannot name an account"),
    (["user", "add", "a/b"], "cannot name an account"),
    (["user", "add", "anonymous"], "cannot name an account"),
    (["user", "add", "present"], "there is an account 'present' already"),
    (["user", "add", "PRESENT"], "there is an account 'present' already"),
    (["robot", "add", "present"], "there is an account 'present' already"),
    *((["user", verb, "absent"], "there is no account 'absent'") for verb in ("disable", "enable", "remove")),
    *((["user", verb, "absent"], "there is no account 'absent'") for verb in ("promote", "demote", "passwd")),
    (["user", "promote", "machine"], "a robot cannot be an administrator"),
    (["user", "passwd", "machine"], "has no password of this registry's"),
    (["team", "add", "Team"], "cannot name a team"),
    (["team", "add", "a/b"], "cannot name a team"),
    (["team", "add", "crew"], "there is a team 'crew' already"),
    (["team", "remove", "absent"], "there is no team 'absent'"),
    (["team", "join", "absent", "present"], "there is no team 'absent'"),
    (["team", "join", "crew", "absent"], "there is no account 'absent'"),
    (["team", "leave", "crew", "present"], "'present' is not in team 'crew'"),
    (["token", "add", "absent", "x"], "there is no account 'absent'"),
    (["token", "add", "machine", ""], "a token needs a name"),
    (["token", "add", "machine", "x" * 101], "a token needs a name"),
    (["token", "add", "machine", "a\nb"], "a token needs a name"),
    (["token", "add", "machine", "x", "--allow", "pull"], "'pull' is no limit"),
    (["token", "add", "machine", "x", "--allow", "fly:web/*"], "fly is no action"),
    (["token", "add", "machine", "x", "--allow", ":web/*"], "nothing is no action"),
    (["token", "add", "machine", "x", "--allow", "pull:"], "no repository pattern"),
    (["token", "add", "machine", "x", "--allow", "pull:web/**"], "no repository pattern"),
    (["token", "add", "machine", "x", "--expires", "soon"], "'soon' is no time"),
    (["token", "add", "machine", "x", "--expires", "0d"], "more than no time"),
    (["token", "add", "machine", "x", "--expires=-1d"], "'-1d' is no time"),
    (["token", "add", "machine", "x", "--expires", "9" * 400 + "d"], "at most ten years"),
    (["token", "add", "machine", "x", "--expires", "٣d"], "is no time"),
    (["token", "list", "absent"], "there is no account 'absent'"),
    (["token", "remove", "machine", "0123"], "'machine' has no token '0123'"),
    (["token", "remove", "absent", "0123"], "there is no account 'absent'"),
    (["grant", "add", "absent", "pull", "web/*"], "there is no account 'absent'"),
    (["grant", "add", "team:absent", "pull", "web/*"], "there is no team 'absent'"),
    (["grant", "add", "group:x", "pull", "web/*"], "'group:x' is no subject"),
    (["grant", "add", "", "pull", "web/*"], "there is no account ''"),
    (["grant", "add", "present", "fly", "web/*"], "fly is no action"),
    (["grant", "add", "present", "", "web/*"], "nothing is no action"),
    (["grant", "add", "present", "pull", "Web/*"], "no repository pattern"),
    (["grant", "add", "anonymous", "pull,push", "web/*"], "can be granted 'pull' alone"),
    (["grant", "remove", "present", "web/*"], "nothing is granted to it on 'web/*'"),
    (["may", "absent", "pull", "web/x"], "there is no account 'absent'"),
    (["may", "present", "fly", "web/x"], "'fly' is no action"),
    (["may", "present", "pull", "Web"], "not a repository name"),
    (["audit", "--since", "yesterday"], "'yesterday' is no time"),
    (["htpasswd", "import", "/nothing/here"], "/nothing/here: No such file or directory"),
    (["htpasswd", "import", "/"], "Is a directory"),
]


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    made = Registry.at_rest(tmp_path_factory.mktemp("mistakes"))
    made.user("present", PASSWORD)
    made.do("robot", "add", "machine")
    made.do("team", "add", "crew")
    return made


def is_a_sentence(done: Done) -> bool:
    """Whether a command failed with one line that says why, and printed nothing."""
    return (done.status, done.out, done.err.count("\n")) == (1, "", 1) and done.err.startswith("hythe: ")


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[" ".join(words)[:50] for words, _ in MISTAKES])
def test_a_mistake_is_one_sentence_and_changes_nothing(
    furnished: Registry, words: list[str], sentence: str
) -> None:
    before = furnished.look(everything)

    done = furnished.run(*words, stdin="")

    assert is_a_sentence(done), done
    assert sentence in done.err
    assert furnished.look(everything) == before


def everything(tx: sa.Connection) -> list[list[Any]]:
    """Whatever the command line can change."""
    tables = (schema.account, schema.team, schema.membership, schema.permission, schema.credential, schema.audit)
    return [[tuple(row) for row in tx.execute(sa.select(table))] for table in tables]


@pytest.mark.parametrize(
    ("password", "sentence"),
    [("", "at least 8 characters"), ("short", "at least 8 characters"), ("x" * 1025, "at most 1024 bytes")],
)
def test_a_password_that_is_none_is_one_sentence_too(furnished: Registry, password: str, sentence: str) -> None:
    for words in (["user", "add", "newcomer"], ["user", "passwd", "present"]):
        done = furnished.run(*words, "--password-stdin", stdin=password)
        assert is_a_sentence(done), done
        assert sentence in done.err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["user"],
        ["user", "fly"],
        ["user", "add"],
        ["team", "join", "crew", "present", "--role", "king"],
        ["token", "add", "machine"],
        ["--nonsense", "user", "list"],
    ],
    ids=lambda words: " ".join(words) or "nothing",
)
def test_a_command_that_is_none_is_answered_with_how_to_write_it(furnished: Registry, words: list[str]) -> None:
    done = furnished.run(*words)

    assert done.status == 2
    assert done.err.startswith("usage: hythe admin")
    assert "Traceback" not in done.err


@pytest.mark.parametrize("stdin", [b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe\n", b"", b"short\n"])
def test_what_comes_in_by_a_real_pipe_is_a_sentence_too(furnished: Registry, stdin: bytes) -> None:
    done = furnished.spawn("user", "add", "newcomer", "--password-stdin", stdin=stdin)

    assert is_a_sentence(done), done


def test_a_configuration_or_a_place_that_cannot_be_used_is_a_sentence(fresh: Registry, tmp_path: Path) -> None:
    done = fresh.run("--config", str(tmp_path / "absent.yaml"), "user", "list")
    assert is_a_sentence(done), done
    assert "absent.yaml: No such file or directory" in done.err

    (tmp_path / "bad.yaml").write_text("server: {prot: 1}\n")
    done = fresh.run("--config", str(tmp_path / "bad.yaml"), "user", "list")
    assert is_a_sentence(done), done
    assert "server.prot is not a setting" in done.err

    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere.yaml").write_text(f"storage: {{directory: {tmp_path / 'file' / 'below'}}}\n")
    done = fresh.run("--config", str(tmp_path / "nowhere.yaml"), "user", "list")
    assert is_a_sentence(done), done
    assert "Not a directory" in done.err


def test_an_index_that_is_none_is_a_sentence(fresh: Registry) -> None:
    if fresh.server.settings.get("index", {}).get("url"):
        pytest.skip("the index is no file here")
    fresh.server.data.mkdir()
    (fresh.server.data / "index.sqlite3").write_bytes(b"this is no database, but long enough to be one" * 100)

    done = fresh.run("user", "list")

    assert is_a_sentence(done), done


def test_whoever_reads_what_is_printed_may_have_enough_of_it(desk: Registry) -> None:
    for number in range(30):
        desk.grant("everyone", "pull", f"many/{'x' * 200}{number}")
    command = [sys.executable, "-m", "registry", "admin", "--config", desk.config, "audit"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()

    said = process.stderr.read().decode()
    process.stderr.close()

    assert process.wait(60) in (0, 1)
    assert "Traceback" not in said


# --- the last administrator


@pytest.mark.parametrize("verb", ["remove", "disable", "demote"])
def test_the_last_administrator_stays(fresh: Registry, verb: str) -> None:
    fresh.user("first", PASSWORD, admin=True)
    fresh.user("second", PASSWORD, admin=True)
    fresh.user("person", PASSWORD)
    fresh.do("user", "disable", "second")  # who cannot come in is no administrator

    done = fresh.run("user", verb, "first")
    assert is_a_sentence(done), done
    assert "'first' is the last administrator" in done.err

    fresh.do("user", "enable", "second")
    fresh.do("user", verb, "first")
    for last in ("remove", "disable", "demote"):
        assert "'second' is the last administrator" in fresh.run("user", last, "second").err
    fresh.do("user", "remove", "person")


# --- the audit log


def test_each_change_has_a_line_that_says_who_and_from_where(fresh: Registry, tmp_path: Path) -> None:
    people = tmp_path / "people"
    people.write_text(f"carl:{bcrypt.hashpw(b'x', bcrypt.gensalt(4)).decode()}\n")
    fresh.user("boss", PASSWORD, admin=True)
    steps: list[tuple[list[str], str, str]] = [
        (["user", "add", "anna"], "user.add", "anna"),
        (["user", "passwd", "anna"], "user.password", "anna"),
        (["user", "disable", "anna"], "account.disable", "anna"),
        (["user", "enable", "anna"], "account.enable", "anna"),
        (["user", "promote", "anna"], "user.admin", "anna"),
        (["user", "demote", "anna"], "user.no-admin", "anna"),
        (["robot", "add", "ci"], "robot.add", "ci"),
        (["token", "add", "ci", "x"], "token.add", r"ci/[0-9a-f]{16}"),
        (["team", "add", "web"], "team.add", "web"),
        (["team", "join", "web", "anna"], "team.join", "web/anna"),
        (["grant", "add", "anna", "pull,push", "web/*"], "grant.add", r"user:anna pull,push web/\*"),
        (["grant", "remove", "anna", "web/*"], "grant.remove", r"user:anna web/\*"),
        (["team", "leave", "web", "anna"], "team.leave", "web/anna"),
        (["team", "remove", "web"], "team.remove", "web"),
        (["token", "remove", "ci", "{token}"], "token.remove", "ci/{token}"),
        (["robot", "remove", "ci"], "account.remove", "ci"),
        (["user", "remove", "anna"], "account.remove", "anna"),
        (["key", "rotate"], "key.rotate", "[0-9a-f]{32}"),
        (["htpasswd", "import", str(people)], "htpasswd.take", "local"),
    ]
    assert {" ".join(words[:2]) for words, *_ in steps} | READING == set(verbs())
    token = ""
    for words, action, target in steps:
        before = len(fresh.audit())
        out = fresh.do("--json", *(word.format(token=token) for word in words))
        if words[:2] == ["token", "add"]:
            token = json.loads(out)["id"]
        [entry] = fresh.audit()[before:]
        assert (entry["action"], entry["result"]) == (action, "done")
        assert re.fullmatch(target.format(token=token) if "{token}" in target else target, entry["target"])
        assert entry["actor"] == f"operator:{getpass.getuser()}"
        assert entry["address"] == "command line"
        assert abs(entry["at_ms"] / 1000 - time.time()) < 60


READING = {"user list", "robot list", "team list", "token list", "grant list"}


def verbs() -> list[str]:
    """Every verb of the families that are about accounts, `user add`."""
    [families] = [action.choices for action in admin.parser()._actions if action.dest == "family"]
    assert families is not None
    found = []
    for family in ("user", "robot", "team", "token", "grant", "key", "htpasswd"):
        [below] = [each.choices for each in families[family]._actions if each.dest == "verb"]
        found += [f"{family} {verb}" for verb in below]
    return found


def test_the_log_is_printed_for_people_and_for_programs(fresh: Registry) -> None:
    fresh.do("robot", "add", "ci")
    fresh.do("team", "add", "web")

    heading, *lines = fresh.do("audit").splitlines()
    assert heading.split() == ["TIME", "ACTOR", "FROM", "ACTION", "TARGET", "RESULT"]
    assert [line.split("  ")[3:] for line in lines] == [["robot.add", "ci", "done"], ["team.add", "web", "done"]]
    first, second = (json.loads(line) for line in fresh.do("--json", "audit").splitlines())
    assert first["id"] < second["id"]
    assert set(first) == {"id", "at_ms", "actor", "address", "action", "target", "result", "detail"}


def test_the_log_is_read_since_a_time_and_whole_however_long_it_is(fresh: Registry) -> None:
    from registry.server.index import audit

    def fill(tx: Any) -> None:
        for number in range(2500):
            audit.write(tx, "somebody", "somewhere", "tag.move", f"a:{number}")
        old = {"at_ms": 1000, "actor": "old", "address": "", "action": "a", "target": "b", "result": "done"}
        tx.execute(audit.audit.insert(), {**old, "detail": "{}"})

    fresh.do("user", "list")
    fresh.change(fill)

    assert len(fresh.audit()) == 2500
    assert len(fresh.do("--json", "audit", "--since", "99999999999d").splitlines()) == 2501
    assert len(fresh.do("--json", "audit", "--since", "9" * 400 + "d").splitlines()) == 2501
    assert fresh.do("--json", "audit", "--since", "0s") == ""


def test_what_is_written_there_cannot_be_changed_or_deleted(fresh: Registry) -> None:
    fresh.do("robot", "add", "ci")
    before = fresh.audit()

    for statement in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit", "DELETE FROM audit WHERE id = 1"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"):
            fresh.change(lambda tx, text=statement: tx.exec_driver_sql(text))

    assert fresh.audit() == before


def test_a_change_that_fails_leaves_no_line_and_a_line_that_fails_no_change(fresh: Registry) -> None:
    fresh.user("boss", PASSWORD, admin=True)
    before = fresh.audit()

    assert fresh.run("user", "remove", "boss").status == 1
    assert fresh.run("team", "join", "absent", "boss").status == 1

    assert fresh.audit() == before


def test_text_that_would_disturb_a_terminal_is_shown_as_what_it_is(fresh: Registry) -> None:
    from registry.server.index import audit

    fresh.do("user", "list")
    fresh.change(lambda tx: audit.write(tx, "\x1b[31mred", "x", "a", "line\nbreak", "done"))

    said = fresh.do("audit")

    assert "\x1b" not in said
    assert said.count("\n") == 2
    assert r"\u001b[31mred" in said


def test_denied_writes_are_in_the_log_with_the_clients_address(registry: Registry, name: str) -> None:
    who = registry.robot(name)
    registry.grant(f"user:{name}", "pull,push", f"{name}/own/*")
    image = oci.push_image(registry.client(who), f"{name}/own/web", "v1")
    other = oci.push_image(registry.client(who), f"{name}/own/web", None)
    origin = elsewhere()
    client = registry.client(who)
    denied = [
        client.delete(oci.manifest_path(f"{name}/own/web", "v1"), headers=origin),
        client.delete(oci.blob_path(f"{name}/own/web", image.digest), headers=origin),
        client.post(oci.uploads_path(f"{name}/other"), headers=origin),
        oci.put_manifest(client, f"{name}/other", image, "v1", **origin),
        oci.put_manifest(client, f"{name}/own/web", other, "v1", **origin),
    ]
    assert {answer.status_code for answer in denied} == {403}
    read = client.get(oci.tags_path(f"{name}/other"), headers=origin)
    assert read.status_code == 403

    entries = registry.audit(actor=name, result="denied")

    assert [(entry["action"], entry["target"].partition("@")[0]) for entry in entries] == [
        ("repository.delete", f"{name}/own/web"),
        ("repository.delete", f"{name}/own/web"),
        ("repository.push", f"{name}/other"),
        ("repository.push", f"{name}/other"),
        ("repository.overwrite", f"{name}/own/web"),
    ]
    assert {entry["address"] for entry in entries} == {origin["X-Forwarded-For"]}


def test_pushes_and_deletions_are_in_the_log_too(registry: Registry, name: str) -> None:
    who = registry.robot(name)
    registry.grant(f"user:{name}", "pull,push,overwrite,delete", f"{name}/*")
    client = registry.client(who)
    image = oci.push_image(client, f"{name}/web", "v1")
    oci.push_image(client, f"{name}/web", "v1")
    assert client.delete(oci.manifest_path(f"{name}/web", "v1")).status_code == 202
    assert client.delete(oci.manifest_path(f"{name}/web", image.digest)).status_code == 202

    entries = [entry["action"] for entry in registry.audit(actor=name, result="done")]

    assert entries == ["manifest.push", "manifest.push", "tag.delete", "manifest.delete"]


def test_no_secret_stands_in_the_log(fresh: Registry) -> None:
    _, made = fresh.user("anna")
    fresh.user("carl", PASSWORD)
    token = fresh.personal_token("anna")

    said = fresh.do("--json", "audit") + fresh.do("audit")

    for secret in (made, PASSWORD, token, token.split("_", 2)[2]):
        assert secret not in said


def test_the_command_works_as_a_process_of_its_own(fresh: Registry) -> None:
    assert fresh.spawn("robot", "add", "ci").status == 0
    done = fresh.spawn("--json", "token", "add", "ci", "x")
    assert SECRET.fullmatch(done.json()["token"])
    assert fresh.spawn("may", "ci", "pull", "a/b").status == 1
    environment = {**os.environ, "HYTHE_CONFIG": fresh.config}
    command = [sys.executable, "-m", "registry", "admin", "--json", "robot", "list"]
    by_variable = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert [one["name"] for one in json.loads(by_variable.stdout)] == ["ci"]
