"""Who may do what where: the whole table, over HTTP and on the command line, against a plain model of the rules.

Nothing here is sampled. Each kind of caller, with each kind of token, tries everything on each repository, with
Basic, with an access token of the token service, and with a personal token as Bearer.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support import oci
from tests.support.accounts import Identity, Registry, authorization, elsewhere
from tests.support.oci import Content
from tests.support.wire import Answer, Closed, Wire, request

ACTIONS = ("pull", "push", "overwrite", "delete", "admin")

OWN, TEAM, DEEP = "rights-own/web", "rights-team/web", "rights-team/a/b/c"
SHARED, OPEN, PUBLIC = "rights-shared/web", "rights-open/web", "public/rights"
HIDDEN, ALMOST, MISSING = "rights-hidden/web", "rights-owner/web", "rights-own/nothing"
REPOSITORIES = (OWN, TEAM, DEEP, SHARED, OPEN, PUBLIC, HIDDEN, ALMOST)

# --- the model: as plain as it can be said, and sharing nothing with the registry's code

SINGLE = {f"rights-{action}er": action for action in ACTIONS}
KINDS = (
    "anonymous",
    "rights-boss",  # an administrator
    "rights-plain",  # nobody gave them anything
    *SINGLE,  # one action each on rights-own/*
    "rights-writer",  # all but `admin` on rights-own/web alone
    "rights-member",  # of the team that rights-team/* belongs to
    "rights-maintainer",
    "rights-guest",  # of a team that was granted something on rights-team/web
)
# What a token of each kind is confined to; None for nothing.
STATES: dict[str, list[tuple[str, set[str]]] | None] = {
    "unlimited": None,
    "for pulling two namespaces": [("rights-own/", {"pull"}), ("rights-team/", {"pull"})],
    "for pushing everywhere": [("", {"push"})],
    "for all of one repository": [(TEAM, set(ACTIONS))],
}


def given(kind: str, repository: str) -> set[str]:
    """What the rules give a caller on a repository."""
    if kind == "rights-boss":
        return set(ACTIONS)
    found: set[str] = set()
    if repository.startswith(("rights-open/", "public/")):
        found |= {"pull"}
    if repository.startswith("rights-shared/") and kind != "anonymous":
        found |= {"pull", "push"}
    if kind in SINGLE and repository.startswith("rights-own/"):
        found |= {SINGLE[kind]}
    if kind == "rights-writer" and repository == OWN:
        found |= {"pull", "push", "overwrite", "delete"}
    if repository.startswith("rights-team/"):
        if kind == "rights-member":
            found |= {"pull", "push", "overwrite"}
        if kind == "rights-maintainer":
            found |= set(ACTIONS)
        if kind == "rights-guest" and repository == TEAM:
            found |= {"pull", "delete"}
    return found


def confined(state: str, repository: str) -> set[str]:
    """What a token may be used for on a repository."""
    limits = STATES[state]
    if limits is None:
        return set(ACTIONS)
    return set().union(*(actions for start, actions in limits if repository.startswith(start)))


def may(kind: str, state: str, action: str, repository: str) -> bool:
    return action in given(kind, repository) & confined(state, repository)


# --- the world


@dataclass
class Place:
    """A repository of the table, with things in it that may be overwritten and deleted."""

    name: str
    config: Content
    image: Content
    others: tuple[Content, Content]  # what the tag `moving` points to in turn
    victim: Content
    spare: Content


@dataclass
class World:
    """The registry of the table, asked over a connection of our own."""

    registry: Registry
    places: dict[str, Place] = field(default_factory=dict)
    secrets: dict[tuple[str, str], str] = field(default_factory=dict)
    tokens: dict[tuple[str, str, str], str] = field(default_factory=dict)
    wire: Wire | None = None
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def ask(
        self,
        identity: Identity,
        method: str,
        target: str,
        content: Content | None = None,
        origin: dict[str, str] | None = None,
    ) -> Answer:
        """One request, with a body or without; *origin* is the header of one that comes from elsewhere."""
        headers = {**authorization(identity), **(origin or {})}
        if content is not None:
            headers["Content-Type"] = content.media_type
        body = content.data if content is not None else b"" if method in ("POST", "PUT", "PATCH") else None
        data = request(method, target, headers, body)
        try:
            return self._open().ask(data, method)
        except Closed:
            self.wire = None
            return self._open().ask(data, method)

    def _open(self) -> Wire:
        if self.wire is None:
            self.wire = Wire(self.registry.server.port)
        return self.wire

    @property
    def boss(self) -> Identity:
        return self.secrets["rights-boss", "unlimited"]

    def identities(self, kind: str, state: str, repository: str) -> dict[str, Identity]:
        """Each way to come as somebody; a personal token as Bearer is the same login as with Basic."""
        if kind == "anonymous":
            return {"nobody": None, "access token": self.token(kind, state, repository)}
        secret = self.secrets[kind, state]
        found = {"Basic": (kind, secret), "access token": self.token(kind, state, repository)}
        return found if STATES[state] else {**found, "personal token": secret}

    def token(self, kind: str, state: str, repository: str, *more: str) -> str:
        """An access token for all that the token service grants on a repository."""
        key = (kind, state, " ".join((repository, *more)))
        if key not in self.tokens:
            identity = None if kind == "anonymous" else (kind, self.secrets[kind, state])
            scope = f"repository:{repository}:pull,push,delete"
            self.tokens[key] = self.registry.token(identity, scope, *more)
        return self.tokens[key]


@pytest.fixture(scope="module")
def world(registry: Registry) -> Iterator[World]:
    made = World(registry)
    registry.user("rights-boss", "correct horse", admin=True)
    for kind in KINDS[2:]:
        registry.do("robot", "add", kind)
    for name in ("rights-team", "rights-guests"):
        registry.do("team", "add", name)
    registry.do("team", "join", "rights-team", "rights-member")
    registry.do("team", "join", "rights-team", "rights-maintainer", "--role", "maintainer")
    registry.do("team", "join", "rights-guests", "rights-guest", "--role", "maintainer")
    for kind, action in SINGLE.items():
        registry.grant(f"user:{kind}", action, "rights-own/*")
    registry.grant("user:rights-writer", "pull,push,overwrite,delete", OWN)
    registry.grant("team:rights-guests", "pull,delete", TEAM)
    registry.grant("everyone", "pull,push", "rights-shared/*")
    registry.grant("anonymous", "pull", "rights-open/*")
    for kind in KINDS[1:]:
        for state, limits in STATES.items():
            words = [
                f"{','.join(sorted(actions))}:{start + '*' if start[-1:] in ('', '/') else start}"
                for start, actions in limits or ()
            ]
            made.secrets[kind, state] = registry.personal_token(kind, *words, label=state)
    for name in REPOSITORIES:
        made.places[name] = furnish(made, name)
    yield made
    if made.wire is not None:
        made.wire.close()


def furnish(world: World, name: str) -> Place:
    """Put into a repository what the table asks for."""
    client = world.registry.client(world.boss)
    config, layer = oci.config(), oci.blob(media_type=oci.OCI_LAYER)
    spare = oci.blob()
    for content in (config, layer, spare):
        oci.push_blob(client, name, content)
    image, first, second, victim = (
        oci.push_manifest(client, name, oci.image(config, [layer], annotations={"number": str(number)}), tag)
        for number, tag in enumerate(("v1", "moving", None, "gone"))
    )
    return Place(name, config, image, (first, second), victim, spare)


# --- what is tried: each is a method of asking, the rights that it needs in order, and the answer when it has them


class Try:
    """Everything that somebody may try on a place; each answers its status, and puts back what it changed."""

    def __init__(
        self, world: World, place: Place, identity: Identity, origin: dict[str, str] | None = None
    ) -> None:
        self.origin = origin
        self.world = world
        self.place = place
        self.identity = identity

    def _ask(self, method: str, path: str, content: Content | None = None) -> int:
        target = f"/v2/{self.place.name}/{path}"
        return self.world.ask(self.identity, method, target, content, self.origin).status

    def _repair(self, method: str, path: str, content: Content) -> None:
        answer = self.world.ask(self.world.boss, method, f"/v2/{self.place.name}/{path}", content)
        assert answer.status == 201, answer.body

    def pull_a_tag(self) -> int:
        return self._ask("GET", "manifests/v1")

    def pull_by_digest(self) -> int:
        return self._ask("HEAD", f"manifests/{self.place.image.digest}")

    def pull_a_blob(self) -> int:
        return self._ask("GET", f"blobs/{self.place.config.digest}")

    def look_for_a_blob(self) -> int:
        return self._ask("HEAD", f"blobs/{self.place.config.digest}")

    def list_tags(self) -> int:
        return self._ask("GET", "tags/list")

    def list_referrers(self) -> int:
        return self._ask("GET", f"referrers/{self.place.image.digest}")

    def upload_a_blob(self) -> int:
        whole = oci.blob(8)
        return self._ask("POST", f"blobs/uploads/?digest={whole.digest}", whole)

    def begin_an_upload(self) -> int:
        target = f"/v2/{self.place.name}/blobs/uploads/"
        answer = self.world.ask(self.identity, "POST", target, origin=self.origin)
        if answer.status == 202:
            assert self.world.ask(self.identity, "DELETE", answer.headers["location"]).status == 204
        return answer.status

    def push_a_new_tag(self) -> int:
        return self._ask("PUT", f"manifests/new-{next(self.world.numbers)}", self.place.image)

    def push_by_digest(self) -> int:
        return self._ask("PUT", f"manifests/{self.place.image.digest}", self.place.image)

    def push_by_digest_with_a_new_tag(self) -> int:
        tag = f"new-{next(self.world.numbers)}"
        return self._ask("PUT", f"manifests/{self.place.image.digest}?tag={tag}", self.place.image)

    def push_a_tag_that_stays_where_it_is(self) -> int:
        return self._ask("PUT", "manifests/v1", self.place.image)

    def overwrite_a_tag(self) -> int:
        return self._move("manifests/moving")

    def overwrite_by_a_parameter(self) -> int:
        return self._move(f"manifests/{self._next().digest}?tag=moving")

    def overwrite_among_new_tags(self) -> int:
        tag = f"new-{next(self.world.numbers)}"
        status = self._move(f"manifests/{self._next().digest}?tag={tag}&tag=moving")
        there = self.world.ask(self.world.boss, "HEAD", f"/v2/{self.place.name}/manifests/{tag}").status
        assert there == (200 if status == 201 else 404), "a refused push left something"
        return status

    def _next(self) -> Content:
        return self.place.others[1]

    def _move(self, path: str) -> int:
        now, wanted = self.place.others
        status = self._ask("PUT", path, wanted)
        pointing = self.world.ask(self.world.boss, "HEAD", f"/v2/{self.place.name}/manifests/moving")
        moved = pointing.headers["docker-content-digest"] == wanted.digest
        assert moved == (status == 201), "the answer says something else than what happened"
        if moved:
            self.place.others = (wanted, now)
        return status

    def delete_a_tag(self) -> int:
        status = self._ask("DELETE", "manifests/gone")
        if status == 202:
            self._repair("PUT", "manifests/gone", self.place.victim)
        return status

    def delete_by_digest(self) -> int:
        status = self._ask("DELETE", f"manifests/{self.place.victim.digest}")
        if status == 202:
            self._repair("PUT", "manifests/gone", self.place.victim)
        return status

    def delete_a_blob(self) -> int:
        status = self._ask("DELETE", f"blobs/{self.place.spare.digest}")
        if status == 202:
            self._repair("POST", f"blobs/uploads/?digest={self.place.spare.digest}", self.place.spare)
        return status


TRIES: dict[str, tuple[tuple[str, ...], int]] = {
    "pull_a_tag": (("pull",), 200),
    "pull_by_digest": (("pull",), 200),
    "pull_a_blob": (("pull",), 200),
    "look_for_a_blob": (("pull",), 200),
    "list_tags": (("pull",), 200),
    "list_referrers": (("pull",), 200),
    "upload_a_blob": (("push",), 201),
    "begin_an_upload": (("push",), 202),
    "push_a_new_tag": (("push",), 201),
    "push_by_digest": (("push",), 201),
    "push_by_digest_with_a_new_tag": (("push",), 201),
    "push_a_tag_that_stays_where_it_is": (("push",), 201),
    "overwrite_a_tag": (("push", "overwrite"), 201),
    "overwrite_by_a_parameter": (("push", "overwrite"), 201),
    "overwrite_among_new_tags": (("push", "overwrite"), 201),
    "delete_a_tag": (("delete",), 202),
    "delete_by_digest": (("delete",), 202),
    "delete_a_blob": (("delete",), 202),
}


def expected(kind: str, state: str, way: str, name: str, repository: str) -> int:
    """The status that the rules ask for."""
    needed, done = TRIES[name]
    for action in needed:
        if not may(kind, state, action, repository):
            # That a tag exists is seen late, when a token of the protocol, which knows no such right, was let in.
            return 403 if way == "Basic" or action == "overwrite" else 401
    return done


CASES = [
    pytest.param(kind, state, id=f"{kind} with a token {state}")
    for kind in KINDS
    for state in STATES
    if kind != "anonymous" or state == "unlimited"
]


def test_the_table_tries_everything_that_there_is_to_try() -> None:
    assert set(TRIES) == {name for name in vars(Try) if not name.startswith("_")}


@pytest.mark.parametrize(("kind", "state"), CASES)
def test_over_http_everybody_may_what_the_rules_say_and_nothing_else(world: World, kind: str, state: str) -> None:
    differences = []
    for repository in REPOSITORIES:
        for way, identity in world.identities(kind, state, repository).items():
            attempt = Try(world, world.places[repository], identity)
            for name in TRIES:
                status, wanted = getattr(attempt, name)(), expected(kind, state, way, name, repository)
                if status != wanted:
                    differences.append(f"{way}: {name} on {repository}: {status}, not {wanted}")
    assert not differences


@pytest.mark.parametrize(("kind", "state"), CASES)
def test_what_is_not_there_is_told_only_to_those_who_might_see_it(world: World, kind: str, state: str) -> None:
    nothing = Place(MISSING, oci.EMPTY, oci.EMPTY, (oci.EMPTY, oci.EMPTY), oci.EMPTY, oci.EMPTY)
    absent = {name: 404 for name, (needed, _) in TRIES.items() if needed in (("pull",), ("delete",))}
    absent["list_referrers"] = 200  # the specification's answer for what is not known
    differences = []
    for way, identity in world.identities(kind, state, MISSING).items():
        attempt = Try(world, nothing, identity)
        for name, status in absent.items():
            known = expected(kind, state, way, name, MISSING)
            wanted = known if known in (401, 403) else status
            if (found := getattr(attempt, name)()) != wanted:
                differences.append(f"{way}: {name}: {found}, not {wanted}")
    assert not differences


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_line_says_what_http_does(world: World, kind: str) -> None:
    differences = []
    for repository in (*REPOSITORIES, MISSING):
        for action in ACTIONS:
            done = world.registry.run("--json", "may", kind, action, repository)
            wanted = may(kind, "unlimited", action, repository)
            said = done.json()
            if (done.status, said["allowed"], said["because"] is not None) != (0 if wanted else 1, wanted, wanted):
                differences.append(f"{action} on {repository}: {done}")
    assert not differences


def test_the_command_line_names_the_grant_that_decides(world: World) -> None:
    def because(*words: str) -> str:
        return str(world.registry.json("may", *words)["because"])

    assert because("rights-boss", "delete", TEAM).startswith("administrator")
    assert because("rights-member", "push", TEAM) == (
        "member of the owning team: team:rights-team may pull,push,overwrite on rights-team/*"
    )
    assert because("rights-writer", "delete", OWN) == (
        "granted to the account: user:rights-writer may pull,push,overwrite,delete on rights-own/web"
    )
    assert because("rights-guest", "delete", TEAM) == (
        "granted to a team of it: team:rights-guests may pull,delete on rights-team/web"
    )
    assert because("rights-plain", "push", SHARED) == (
        "granted to everyone who signed in: everyone may pull,push on rights-shared/*"
    )
    assert because("anonymous", "pull", OPEN) == "granted to everybody: anonymous may pull on rights-open/*"
    assert because("rights-plain", "pull", PUBLIC) == "accounts.anonymous_pull: anonymous may pull on public/*"


# --- tokens and accounts that hold no longer


@pytest.fixture(scope="module")
def shut_out(world: World) -> dict[str, Identity]:
    """Each kind of caller with what does not hold any more, although the rules would give it much."""
    registry = world.registry
    registry.do("robot", "add", "rights-disabled")
    registry.do("team", "join", "rights-team", "rights-disabled", "--role", "maintainer")
    secret = registry.personal_token("rights-disabled")
    scopes = [f"repository:{name}:pull,push,delete" for name in REPOSITORIES]
    of_disabled = registry.token(("rights-disabled", secret), *scopes)
    expiring = registry.personal_token("rights-maintainer", expires="1s", label="expiring")
    of_expiring = registry.token(("rights-maintainer", expiring), *scopes)
    access = [(name, ["pull", "push", "delete"]) for name in REPOSITORIES]
    expired = registry.forge(registry.claims("rights-boss", *access, age_seconds=3600))
    registry.do("user", "disable", "rights-disabled")
    registry.change(end, expiring)
    return {
        "disabled, Basic": ("rights-disabled", secret),
        "disabled, personal token": secret,
        "disabled, access token": of_disabled,
        "expired personal token, Basic": ("rights-maintainer", expiring),
        "expired personal token": expiring,
        "access token of an expired personal token": of_expiring,
        "expired access token": expired,
        "another's name with a good token": ("rights-plain", world.secrets["rights-boss", "unlimited"]),
        "a name that nobody has": ("rights-nobody", secret),
    }


def end(tx: Any, secret: str) -> None:
    """Let a personal token's time be over."""
    from registry.server.index import changes
    from registry.server.index.schema import credential

    tx.execute(credential.update().where(credential.c.id == secret.split("_")[1]).values(expires_ms=1))
    changes.mark(tx)


def test_what_holds_no_longer_opens_nothing_not_even_what_is_public(
    world: World, shut_out: dict[str, Identity]
) -> None:
    differences = []
    for (who, identity), repository in itertools.product(shut_out.items(), (*REPOSITORIES,)):
        if isinstance(identity, tuple) and repository not in (TEAM, PUBLIC):
            continue  # a login that fails is the same for all; its failures are counted
        attempt = Try(world, world.places[repository], identity, elsewhere())
        for name in TRIES if isinstance(identity, str) else ("pull_a_tag", "push_a_new_tag", "delete_a_tag"):
            if (status := getattr(attempt, name)()) != 401:
                differences.append(f"{who}: {name} on {repository}: {status}")
    assert not differences
    assert world.registry.run("may", "rights-disabled", "pull", TEAM).status == 1


def test_what_holds_no_longer_gets_no_token_and_no_list(world: World, shut_out: dict[str, Identity]) -> None:
    for who, identity in shut_out.items():
        for path in ("/v2/", "/v2/_catalog", "/v1/search?q=rights"):
            assert world.ask(identity, "GET", path, origin=elsewhere()).status == 401, who
        if isinstance(identity, tuple):
            path = f"/token?scope=repository:{TEAM}:pull"
            assert world.ask(identity, "GET", path, origin=elsewhere()).status == 401, who


# --- lists


def listed(world: World, identity: Identity, path: str) -> set[str] | None:
    answer = world.ask(identity, "GET", path)
    if answer.status != 200:
        assert answer.status == 401
        return None
    document = json.loads(answer.body)
    names = document.get("repositories") or [result["name"] for result in document.get("results", [])]
    return {name for name in names if name in REPOSITORIES}


@pytest.mark.parametrize(("kind", "state"), CASES)
def test_lists_have_what_one_may_pull_and_nothing_else(world: World, kind: str, state: str) -> None:
    visible = {name for name in REPOSITORIES if may(kind, state, "pull", name)}
    ways = world.identities(kind, state, OWN)
    identity = None if kind == "anonymous" else (kind, world.secrets[kind, state])
    ways["access token"] = world.registry.token(identity, "registry:catalog:*")

    for way, who in ways.items():
        assert listed(world, who, "/v2/_catalog?n=1000") == visible, way
        for term in ("rights", "web", "hidden", "%", "_", "rights-"):
            matching = {name for name in visible if term in name}
            assert listed(world, who, f"/v1/search?n=100&q={term.replace('%', '%25')}") == matching, (way, term)


def test_pages_of_the_catalogue_have_no_holes_where_something_is_hidden(world: World) -> None:
    names, path = [], "/v2/_catalog?n=1"
    while path:
        answer = world.ask(("rights-member", world.secrets["rights-member", "unlimited"]), "GET", path)
        page = json.loads(answer.body)["repositories"]
        assert len(page) == 1
        names += page
        path = answer.headers.get("link", "").partition("<")[2].partition(">")[0]

    assert names == sorted(names)
    assert not {HIDDEN, OWN, ALMOST} & set(names)
    assert {TEAM, DEEP, SHARED, OPEN, PUBLIC} <= set(names)


# --- mounts


@pytest.mark.parametrize("kind", [kind for kind in KINDS if may(kind, "unlimited", "push", SHARED)])
def test_a_blob_is_mounted_from_where_one_may_pull_and_from_nowhere_else(world: World, kind: str) -> None:
    differences = []
    for source, from_it in itertools.product(REPOSITORIES, (True, False)):
        digest = oci.push_blob(world.registry.client(world.boss), source, oci.blob(16)).digest
        wanted = 201 if source == SHARED or may(kind, "unlimited", "pull", source) else 202
        identities = {
            "Basic": (kind, world.secrets[kind, "unlimited"]),
            "personal token": world.secrets[kind, "unlimited"],
            "access token for both": world.token(kind, "unlimited", SHARED, f"repository:{source}:pull"),
        }
        for way, identity in identities.items():
            query = f"mount={digest}" + (f"&from={source}" if from_it else "")
            answer = world.ask(identity, "POST", f"/v2/{SHARED}/blobs/uploads/?{query}")
            if answer.status != wanted:
                differences.append(
                    f"{way}: from {source if from_it else 'anywhere'}: {answer.status}, not {wanted}"
                )
            if answer.status == 201 and source != SHARED:
                assert world.ask(world.boss, "DELETE", f"/v2/{SHARED}/blobs/{digest}").status == 202
    assert not differences


def test_a_mount_with_a_token_for_the_target_alone_falls_back_to_an_upload(world: World) -> None:
    digest = oci.push_blob(world.registry.client(world.boss), TEAM, oci.blob(16)).digest
    token = world.token("rights-member", "unlimited", SHARED)

    for query in (f"mount={digest}&from={TEAM}", f"mount={digest}"):
        assert world.ask(token, "POST", f"/v2/{SHARED}/blobs/uploads/?{query}").status == 202


def test_knowing_a_digest_is_no_right_to_its_bytes(world: World) -> None:
    hidden = world.places[HIDDEN]
    identity = ("rights-writer", world.secrets["rights-writer", "unlimited"])

    for path in (f"blobs/{hidden.config.digest}", f"manifests/{hidden.image.digest}"):
        assert world.ask(identity, "GET", f"/v2/{OWN}/{path}").status == 404
    naming = oci.image(hidden.config, [])
    answer = world.ask(identity, "PUT", f"/v2/{OWN}/manifests/stolen", naming)
    assert (answer.status, answer.code()) == (404, "MANIFEST_BLOB_UNKNOWN")


# --- uploads


@pytest.fixture
def session(world: World) -> Iterator[tuple[Identity, str]]:
    """An upload that the writer began, with some bytes in it."""
    owner = ("rights-writer", world.secrets["rights-writer", "unlimited"])
    begun = world.ask(owner, "POST", f"/v2/{OWN}/blobs/uploads/")
    location = begun.headers["location"]
    assert world.ask(owner, "PATCH", location, Content(b"half of ")).status == 202
    yield owner, location
    world.ask(owner, "DELETE", location)


OTHERS = ("rights-pusher", "rights-boss")


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "PUT", "DELETE"])
def test_an_upload_of_somebody_elses_is_not_there(
    world: World, session: tuple[Identity, str], kind: str, method: str
) -> None:
    owner, location = session
    whole = Content(b"half of it")
    content = {"PATCH": Content(b"it"), "PUT": Content(b"it")}.get(method)
    query = f"?digest={whole.digest}" if method == "PUT" else ""

    for way, identity in world.identities(kind, "unlimited", OWN).items():
        answer = world.ask(identity, method, location + query, content)
        assert answer.status == 404, way
        if method != "HEAD":
            assert answer.code() == "BLOB_UPLOAD_UNKNOWN"

    assert world.ask(owner, "GET", location).headers["range"] == "0-7"
    assert world.ask(owner, "PUT", f"{location}?digest={whole.digest}", Content(b"it")).status == 201


def test_an_upload_goes_on_however_its_owner_comes(world: World, session: tuple[Identity, str]) -> None:
    _, location = session
    for identity in world.identities("rights-writer", "unlimited", OWN).values():
        assert world.ask(identity, "GET", location).headers["range"] == "0-7"


def test_an_upload_belongs_to_its_repository(world: World, session: tuple[Identity, str]) -> None:
    owner, location = session

    for repository in (SHARED, HIDDEN, OWN + "/x"):
        elsewhere = location.replace(OWN, repository)
        for method in ("GET", "PATCH", "PUT", "DELETE"):
            status = world.ask(owner, method, elsewhere + ("?digest=sha256:" + "0" * 64)).status
            assert status == (404 if repository == SHARED else 403)
    assert world.ask(owner, "GET", location).status == 204


def test_an_upload_of_a_deleted_account_is_not_its_namesakes(world: World) -> None:
    registry = world.registry
    first = registry.robot("rights-namesake")
    location = world.ask(first, "POST", f"/v2/{SHARED}/blobs/uploads/").headers["location"]
    registry.do("robot", "remove", "rights-namesake")
    second = registry.robot("rights-namesake")

    assert world.ask(second, "GET", location).status == 404
    assert world.ask(second, "PUT", f"{location}?digest={oci.digest_of(b'')}").status == 404


def test_an_upload_that_begins_before_a_right_is_lost_ends_with_it(world: World) -> None:
    registry = world.registry
    who = registry.robot("rights-leaver")
    registry.grant("user:rights-leaver", "push", "rights-leaver/*")
    location = world.ask(who, "POST", "/v2/rights-leaver/web/blobs/uploads/").headers["location"]
    registry.do("grant", "remove", "user:rights-leaver", "rights-leaver/*")

    for method in ("GET", "PATCH", "PUT", "DELETE"):
        assert world.ask(who, method, f"{location}?digest={oci.digest_of(b'')}").status == 403
