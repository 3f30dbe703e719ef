"""Real clients with accounts: they log in, do what they may, and say in words what they may not."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.accounts.conftest import FROM_ANYWHERE, MakeRegistry
from tests.support import images, oci, peers, processes
from tests.support.accounts import Registry, authorization, challenge_of, registry_with_accounts
from tests.support.images import Image
from tests.support.peers import PLAIN, Client, Containerd
from tests.support.server import Server
from tests.support.wire import Wire, request

PASSWORD = "correct horse"
DENIED = "denied: requested access to the resource is denied"
peer = pytest.mark.peer


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The clients' registry: anna and the robot ci are in the team `web`, bob is not; all may pull `public/*`."""
    server = Server(tmp_path_factory.mktemp("hub"), {"accounts": {"anonymous_pull": ["public/*"]}})
    with registry_with_accounts(server) as running:
        for name in ("anna", "bob"):
            running.user(name, PASSWORD)
        running.do("team", "add", "web")
        running.do("team", "join", "web", "anna")
        running.do("robot", "add", "ci")
        running.do("team", "join", "web", "ci")
        yield running
        assert not peers.faults(server)


@pytest.fixture(scope="module")
def running_containerd() -> Iterator[Containerd]:
    peers.require_busybox()
    with peers.running_containerd() as containerd:
        yield containerd


@pytest.fixture(scope="module")
def running_docker(running_containerd: Containerd) -> Iterator[Client]:
    with peers.running_docker(running_containerd) as docker:
        yield docker


@pytest.fixture
def docker(running_docker: Client, hub: Registry) -> Iterator[Client]:
    """A docker client that is logged in nowhere and has no images."""
    running_docker("system", "prune", "--all", "--force")
    yield running_docker
    running_docker("logout", hub.host)


@pytest.fixture(scope="module")
def make_tool() -> Iterator[Callable[[str], Client]]:
    peers.require_busybox()
    with peers.container_tools() as make:
        yield make


@pytest.fixture
def image() -> Image:
    """An image that nobody has."""
    return images.busybox_image(f"made at {time.time_ns()}", flavour=images.DOCKER)


def load(docker: Client, directory: Path, image: Image, *names: str) -> None:
    docker("load", "--input", images.write_docker_archive(directory / "load.tar", {names[0]: image}))
    for name in names[1:]:
        docker("tag", names[0], name)


def log_in(docker: Client, hub: Registry, name: str, password: str = PASSWORD) -> None:
    assert "Login Succeeded" in docker("login", "--username", name, "--password", password, hub.host)


def kept(docker: Client, hub: Registry) -> dict[str, Any]:
    """What docker keeps of its login at the registry."""
    path = Path(docker.environment["DOCKER_CONFIG"]) / "config.json"
    auths: dict[str, Any] = json.loads(path.read_text()).get("auths", {}) if path.exists() else {}
    found: dict[str, Any] = auths.get(hub.host, {})
    return found


# --- docker


@peer
def test_docker_logs_in_pushes_pulls_and_logs_out(
    hub: Registry, docker: Client, image: Image, tmp_path: Path
) -> None:
    name = f"{hub.host}/web/first:v1"
    load(docker, tmp_path, image, name)
    assert DENIED in docker.refused("push", name)
    assert hub.admin.get("/v2/web/first/tags/list").status_code == 404

    log_in(docker, hub, "anna")
    docker("push", name)
    docker("rmi", name)
    docker("pull", name)
    docker("rmi", name)
    docker("logout", hub.host)

    assert f"may require 'docker login': {DENIED}" in docker.refused("pull", name)
    assert not kept(docker, hub)


@peer
def test_docker_keeps_a_refresh_token_and_no_password(hub: Registry, docker: Client) -> None:
    log_in(docker, hub, "anna")

    found = kept(docker, hub)
    assert found["identitytoken"].startswith("hyr_")
    assert PASSWORD not in json.dumps(found)
    assert base64.b64decode(found.get("auth", "")).decode() in ("", "anna:")


@peer
def test_a_wrong_password_is_told_in_words_and_nothing_is_kept(hub: Registry, docker: Client) -> None:
    for name, password in (("anna", "wrong"), ("nobody", PASSWORD), ("anna", "hyt_nonsense")):
        said = docker.refused("login", "--username", name, "--password", password, hub.host)
        assert "unauthorized: the name or the password is wrong" in said
    assert not kept(docker, hub)


@peer
def test_a_denied_push_is_told_in_words_and_leaves_nothing(
    hub: Registry, docker: Client, image: Image, tmp_path: Path
) -> None:
    name = f"{hub.host}/web/denied:v1"
    load(docker, tmp_path, image, name)
    log_in(docker, hub, "bob")

    said = docker.refused("push", name)

    assert DENIED in said
    assert hub.admin.get("/v2/web/denied/tags/list").status_code == 404
    assert hub.audit(actor="bob", target="web/denied", result="denied")


@peer
def test_a_hidden_and_a_missing_image_are_told_in_the_same_words(
    hub: Registry, docker: Client, image: Image
) -> None:
    peers.upload(hub.admin, "web/hidden", image, "v1")
    log_in(docker, hub, "bob")

    hidden, missing = (docker.refused("pull", f"{hub.host}/web/{name}:v1") for name in ("hidden", "missin"))

    assert hidden.replace("hidden", "NAME") == missing.replace("missin", "NAME")


@peer
@pytest.mark.parametrize("name", ["anna", "ci"])
def test_a_token_is_a_password_too(hub: Registry, docker: Client, image: Image, tmp_path: Path, name: str) -> None:
    where = f"{hub.host}/web/by-token-of-{name}:v1"
    load(docker, tmp_path, image, where)

    log_in(docker, hub, name, hub.personal_token(name))
    docker("push", where)
    docker("rmi", where)
    docker("pull", where)


@peer
def test_a_limited_token_pulls_and_does_not_push(
    hub: Registry, docker: Client, image: Image, tmp_path: Path
) -> None:
    peers.upload(hub.admin, "web/limited", image, "v1")
    log_in(docker, hub, "anna", hub.personal_token("anna", "pull:web/limited"))

    docker("pull", f"{hub.host}/web/limited:v1")
    docker("tag", f"{hub.host}/web/limited:v1", f"{hub.host}/web/limited:v2")

    assert "denied" in docker.refused("push", f"{hub.host}/web/limited:v2")


@peer
def test_a_deleted_token_ends_dockers_login_at_once(hub: Registry, docker: Client, image: Image) -> None:
    peers.upload(hub.admin, "web/revoked", image, "v1")
    token = hub.personal_token("anna")
    log_in(docker, hub, "anna", token)
    docker("pull", f"{hub.host}/web/revoked:v1")
    docker("rmi", f"{hub.host}/web/revoked:v1")

    hub.do("token", "remove", "anna", token.split("_")[1])

    assert "unauthorized" in docker.refused("pull", f"{hub.host}/web/revoked:v1")


@peer
def test_a_changed_password_ends_dockers_login_at_once(hub: Registry, docker: Client, image: Image) -> None:
    peers.upload(hub.admin, "public/changed", image, "v1")
    hub.user("carla", PASSWORD)
    log_in(docker, hub, "carla")
    docker("pull", f"{hub.host}/public/changed:v1")
    docker("rmi", f"{hub.host}/public/changed:v1")

    hub.do("user", "passwd", "carla", "--password-stdin", stdin="another horse\n")

    assert "unauthorized" in docker.refused("pull", f"{hub.host}/public/changed:v1")
    log_in(docker, hub, "carla", "another horse")
    docker("pull", f"{hub.host}/public/changed:v1")


@peer
def test_what_all_may_pull_needs_no_login_and_everything_else_does(
    hub: Registry, docker: Client, image: Image
) -> None:
    peers.upload(hub.admin, "public/app", image, "v1")
    peers.upload(hub.admin, "web/app", image, "v1")

    docker("pull", f"{hub.host}/public/app:v1")

    assert f"may require 'docker login': {DENIED}" in docker.refused("pull", f"{hub.host}/web/app:v1")
    docker("tag", f"{hub.host}/public/app:v1", f"{hub.host}/public/app:v2")
    assert DENIED in docker.refused("push", f"{hub.host}/public/app:v2")
    assert hub.admin.get("/v2/public/app/tags/list").json()["tags"] == ["v1"]


@peer
def test_a_team_is_joined_without_a_new_login(hub: Registry, docker: Client, image: Image, tmp_path: Path) -> None:
    name = f"{hub.host}/web/joined:v1"
    load(docker, tmp_path, image, name)
    hub.user("dora", PASSWORD)
    log_in(docker, hub, "dora")
    assert "denied" in docker.refused("push", name)

    hub.do("team", "join", "web", "dora")
    docker("push", name)

    hub.do("team", "leave", "web", "dora")
    assert "denied" in docker.refused("pull", name)


@peer
def test_a_tag_that_may_not_be_moved_is_told_in_words(
    hub: Registry, docker: Client, image: Image, tmp_path: Path
) -> None:
    name = f"{hub.host}/locked/app:v1"
    peers.upload(hub.admin, "locked/app", images.busybox_image("what was there before"), "v1")
    hub.grant("user:bob", "pull,push", "locked/*")
    load(docker, tmp_path, image, name, f"{hub.host}/locked/app:v2")
    log_in(docker, hub, "bob")
    before = hub.admin.head("/v2/locked/app/manifests/v1").headers["Docker-Content-Digest"]

    said = docker.refused("push", name)

    assert "denied: bob may not overwrite here" in said
    assert hub.admin.head("/v2/locked/app/manifests/v1").headers["Docker-Content-Digest"] == before
    docker("push", f"{hub.host}/locked/app:v2")
    assert hub.audit(actor="bob", action="repository.overwrite", result="denied")


@peer
def test_a_push_mounts_what_one_may_pull_and_uploads_what_one_may_no_longer(
    hub: Registry, docker: Client, image: Image, tmp_path: Path
) -> None:
    names = [f"{hub.host}/{where}:v1" for where in ("source/app", "target/first", "target/second")]
    load(docker, tmp_path, image, *names)
    hub.user("erna", PASSWORD)
    hub.grant("user:erna", "pull,push", "source/*")
    hub.grant("user:erna", "pull,push", "target/*")
    log_in(docker, hub, "erna")
    docker("push", names[0])

    assert docker("push", names[1]).count("Mounted from source/app") == len(image.layers)

    hub.do("grant", "remove", "user:erna", "source/*")
    for layer in peers.stored_manifest(hub.admin, "target/first", "v1").document()["layers"]:
        path = oci.blob_path("target/first", layer["digest"])
        assert hub.admin.delete(path).status_code == 202  # or docker would mount from there
    said = docker("push", names[2])
    assert "Mounted from source/app" not in said
    assert peers.stored_manifest(hub.admin, "target/second", "v1").document()["schemaVersion"] == 2
    hub.grant("user:erna", "pull,push", "source/*")


@peer
def test_docker_search_finds_what_one_may_pull(hub: Registry, docker: Client, image: Image) -> None:
    peers.upload(hub.admin, "public/searched", image, "v1")
    peers.upload(hub.admin, "web/searched", image, "v1")

    assert "public/searched" in docker("search", f"{hub.host}/searched")
    assert "web/searched" not in docker("search", f"{hub.host}/searched")

    log_in(docker, hub, "anna")
    found = docker("search", f"{hub.host}/searched")
    assert "public/searched" in found
    assert "web/searched" in found


# --- podman, skopeo, containerd


@peer
def test_podman_logs_in_pushes_pulls_and_logs_out(
    hub: Registry, make_tool: Callable[[str], Client], image: Image, tmp_path: Path
) -> None:
    podman, name = make_tool("podman"), f"{hub.host}/web/of-podman:v1"
    podman("load", "--input", images.write_docker_archive(tmp_path / "load.tar", {name: image}))
    assert DENIED in podman.refused("push", PLAIN, name)
    said = podman.refused("login", PLAIN, "--username", "anna", "--password", "wrong", hub.host)
    assert "invalid username/password" in said

    podman("login", PLAIN, "--username", "anna", "--password", PASSWORD, hub.host)
    try:
        podman("push", PLAIN, name)
        podman("rmi", "--all", "--force")
        podman("pull", PLAIN, name)
        podman("tag", name, f"{hub.host}/elsewhere/app:v1")
        said = podman.refused("push", PLAIN, f"{hub.host}/elsewhere/app:v1")
        assert "requested access to the resource is denied" in said
    finally:
        podman("logout", hub.host)
        podman("rmi", "--all", "--force")

    assert "unauthorized" in podman.refused("pull", PLAIN, name)


@peer
def test_podman_pulls_what_is_public_without_a_login(
    hub: Registry, make_tool: Callable[[str], Client], image: Image
) -> None:
    podman = make_tool("podman")
    peers.upload(hub.admin, "public/of-podman", image, "v1")

    podman("pull", PLAIN, f"{hub.host}/public/of-podman:v1")
    podman("rmi", "--all", "--force")


@peer
def test_skopeo_brings_its_credentials_for_each_command(
    hub: Registry, make_tool: Callable[[str], Client], image: Image, tmp_path: Path
) -> None:
    skopeo = peers.as_skopeo(make_tool("skopeo"), tmp_path / "data")
    archive = images.write_docker_archive(tmp_path / "a.tar", {f"{hub.host}/x:v1": image})
    target = f"docker://{hub.host}/web/of-skopeo:v1"
    plain = "--dest-tls-verify=false"
    token = hub.personal_token("ci", "pull,push:web/*")

    skopeo("copy", plain, "--dest-creds", f"ci:{token}", f"docker-archive:{archive}", target)
    assert skopeo.json("inspect", PLAIN, "--creds", f"anna:{PASSWORD}", target)["Name"].endswith("web/of-skopeo")

    assert "denied" in skopeo.refused("inspect", PLAIN, "--creds", f"bob:{PASSWORD}", target)
    assert "unauthorized" in skopeo.refused("inspect", PLAIN, "--creds", "anna:wrong", target)
    assert "log in to do this" in skopeo.refused("inspect", PLAIN, "--no-creds", target)
    said = skopeo.refused("copy", plain, "--dest-creds", f"bob:{PASSWORD}", f"docker-archive:{archive}", target)
    assert "denied" in said
    limited = f"ci:{hub.personal_token('ci', 'pull:web/*')}"
    assert "denied" in skopeo.refused("delete", PLAIN, "--creds", limited, target)


@peer
def test_skopeo_copies_between_repositories_with_two_logins(
    hub: Registry, make_tool: Callable[[str], Client], image: Image, tmp_path: Path
) -> None:
    skopeo = peers.as_skopeo(make_tool("skopeo"), tmp_path / "data")
    peers.upload(hub.admin, "web/from", image, "v1")
    hub.grant("user:bob", "pull,push", "bobs/*")

    skopeo(
        "copy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        *("--src-creds", f"anna:{PASSWORD}", "--dest-creds", f"bob:{PASSWORD}"),
        f"docker://{hub.host}/web/from:v1",
        f"docker://{hub.host}/bobs/to:v1",
    )

    assert peers.stored_manifest(hub.admin, "bobs/to", "v1") == image.manifest


@peer
def test_containerd_posts_its_credentials_and_pushes_and_pulls(
    hub: Registry, running_containerd: Containerd, tmp_path: Path
) -> None:
    running_containerd.forget()
    ctr, name = running_containerd.ctr, f"{hub.host}/web/of-containerd:v1"
    image = images.busybox_image("of containerd")
    archive = images.write_oci_archive(tmp_path / "load.tar", {name: image})
    ctr("images", "import", "--no-unpack", archive)
    login = ("--plain-http", "--user")

    refused = ctr.refused("images", "push", *login, f"bob:{PASSWORD}", name)
    assert "401 Unauthorized" in refused or "denied" in refused or "insufficient_scope" in refused
    ctr("images", "push", *login, f"ci:{hub.personal_token('ci')}", name)
    assert peers.stored_manifest(hub.admin, "web/of-containerd", "v1") == image.manifest
    running_containerd.forget()
    ctr("images", "pull", *login, f"anna:{PASSWORD}", name)
    running_containerd.forget()

    for wrong in ("anna:wrong", f"bob:{PASSWORD}"):
        ctr.refused("images", "pull", *login, wrong, name)
    ctr.refused("images", "pull", "--plain-http", name)
    assert [
        event for event in hub.server.events() if (event.get("method"), event.get("path")) == ("POST", "/token")
    ]


@peer
def test_containerd_pulls_what_is_public_without_a_login(hub: Registry, running_containerd: Containerd) -> None:
    running_containerd.forget()
    peers.upload(hub.admin, "public/of-containerd", images.busybox_image("for all"), "v1")

    running_containerd.ctr("images", "pull", "--plain-http", f"{hub.host}/public/of-containerd:v1")
    running_containerd.forget()


# --- a push that outlives its token, over HTTP: 90 s would be long for a test


def test_an_upload_goes_on_with_a_new_token_where_the_old_one_left_it(registry: Registry, name: str) -> None:
    who = registry.robot(name)
    registry.grant(f"user:{name}", "pull,push", f"{name}/*")
    blob = oci.blob(300_000)
    session = oci.start_upload(
        registry.client(registry.token(who, f"repository:{name}/web:pull,push")), f"{name}/web"
    )
    first = registry.client(registry.token(who, f"repository:{name}/web:pull,push"))
    oci.append(first, session, blob.data[:200_000])
    claims = registry.claims(name, (f"{name}/web", ["pull", "push"]), age_seconds=3600)
    expired = registry.client(registry.forge(claims))

    refused = expired.patch(session, content=blob.data[200_000:])
    assert refused.status_code == 401
    challenge = challenge_of(refused)
    assert (challenge["error"], challenge["scope"]) == ("invalid_token", f"repository:{name}/web:pull,push")
    assert oci.failure(oci.finish(expired, session, blob.digest)) == (401, "UNAUTHORIZED")

    again = registry.client(registry.token(who, challenge["scope"]))
    assert again.get(session).headers["Range"] == "0-199999"
    oci.append(again, session, blob.data[200_000:], 200_000)
    assert oci.finish(again, session, blob.digest).status_code == 201
    assert again.get(oci.blob_path(f"{name}/web", blob.digest)).content == blob.data


def test_a_request_that_began_under_a_good_token_is_taken_to_its_end(registry: Registry, name: str) -> None:
    who = registry.robot(name)
    registry.grant(f"user:{name}", "pull,push", f"{name}/*")
    session = oci.start_upload(registry.client(who), f"{name}/web")
    path = session.removeprefix(registry.server.url)
    claims = registry.claims(name, (f"{name}/web", ["pull", "push"]))
    # Good for two seconds more: until the leeway for clocks is over.
    dying = authorization(registry.forge(claims, exp=int(time.time()) - 28))

    with Wire(registry.server.port) as wire:
        head = request("PATCH", path, {**dying, "Content-Length": "200000"})
        wire.send(head + b"a" * 100_000)
        ended = processes.wait_until(lambda: registry.client().get("/v2/", headers=dying).status_code == 401)
        assert ended
        wire.send(b"b" * 100_000)
        answer = wire.answer()

    assert answer.status == 202
    assert answer.headers["range"] == "0-199999"


def test_a_token_of_the_shortest_life_is_told_as_such(make_registry: MakeRegistry) -> None:
    registry = make_registry(server=FROM_ANYWHERE, accounts={"token_lifetime_seconds": 60})

    assert registry.ask_token().json()["expires_in"] == 60


def test_a_life_that_docker_would_not_believe_is_refused(tmp_path: Path) -> None:
    server = Server(tmp_path, {"accounts": {"enabled": "always", "token_lifetime_seconds": 59}})
    with suppress(AssertionError):
        server.start()

    assert server.wait_dead() == 1
    assert "accounts.token_lifetime_seconds" in server.log()
