"""Faults that real systems had: each class of them, and the test here that fails when its defence is removed.

A token's key is trusted because the token names it (distribution CVE-2025-24976, Quay):
    accounts/test_forged_tokens.py::test_a_key_that_the_token_brings_or_names_is_not_used
    accounts/test_forged_tokens.py::test_a_foreign_key_under_our_id_is_refused
    accounts/test_forged_tokens.py::test_an_unsigned_token_is_refused
    accounts/test_forged_tokens.py::test_the_public_key_is_no_shared_secret
    accounts/test_forged_tokens.py::test_our_own_signature_under_another_algorithms_name_is_refused
    accounts/test_forged_tokens.py::test_a_token_without_a_required_claim_is_refused
    accounts/test_forged_tokens.py::test_a_token_of_or_for_somebody_else_is_refused
    accounts/test_tokens.py::test_the_client_chooses_neither_audience_nor_subject
A default key or password ships (Harbor):
    accounts/test_first_start.py::test_no_two_registries_share_a_password_or_a_key
    accounts/test_first_start.py::test_no_password_that_anybody_could_know_opens_it
A token outlives what it was for (Harbor: deleted and recreated; a missing `iat` crashed):
    accounts/test_forged_tokens.py::test_a_token_is_overtaken_at_once_by
    accounts/test_forged_tokens.py::test_a_token_without_a_required_claim_is_refused
    accounts/test_tokens.py::test_a_refresh_token_lives_no_longer_than_the_token_that_made_it
Groups are never revoked (zot CVE-2025-23208):
    accounts/test_forged_tokens.py::test_a_token_is_overtaken_at_once_by_leaving_or_losing_the_team
    federation/test_sign_in.py::test_groups_are_teams_and_what_is_no_longer_listed_is_taken_back_at_the_next_sign_in
An API token's scopes are dropped (Gitea):
    accounts/test_rights.py::test_over_http_everybody_may_what_the_rules_say_and_nothing_else
    accounts/test_tokens.py::test_a_refresh_token_keeps_the_limits_of_the_token_that_made_it
    api/test_tokens.py::test_a_limited_token_makes_no_tokens_at_all
Anonymous reads of private names (Gitea CVE-2026-27771):
    accounts/test_hidden.py::test_on_every_route_and_method_hidden_and_missing_look_the_same
    accounts/test_hidden.py::test_no_list_says_that_it_is_there
    accounts/test_hidden.py::test_the_time_does_not_tell_hidden_from_missing
    accounts/test_rights.py::test_lists_have_what_one_may_pull_and_nothing_else
Blobs across repositories (zot CVE-2024-39897, distribution CVE-2026-35172):
    accounts/test_rights.py::test_knowing_a_digest_is_no_right_to_its_bytes
    accounts/test_rights.py::test_a_blob_is_mounted_from_where_one_may_pull_and_from_nowhere_else
    accounts/test_safety.py::test_a_deleted_blob_is_gone_for_all_though_it_was_just_served
Somebody else's upload session (Quay CVE-2026-32589), saved hash state that is unpickled (CVE-2026-32590):
    accounts/test_rights.py::test_an_upload_of_somebody_elses_is_not_there
    accounts/test_rights.py::test_an_upload_belongs_to_its_repository
    accounts/test_safety.py::test_saved_state_is_never_run
    accounts/test_safety.py::test_nothing_is_ever_unpickled
The right is inferred from the verb (zot CVE-2026-31801, distribution CVE-2026-41888):
    accounts/test_rights.py::test_over_http_everybody_may_what_the_rules_say_and_nothing_else
    accounts/test_safety.py::test_where_deletion_is_switched_off_nobody_deletes_in_any_way
The registry fetches what it is told to (distribution CVE-2026-33540):
    accounts/test_safety.py::test_nothing_that_is_pushed_makes_the_registry_ask_anybody
    federation/test_sign_in.py::test_a_description_that_names_other_hosts_is_not_followed
Ids in the admin interface that no one checks (Harbor CVE-2022-31667 to 31670):
    api/test_requests.py::test_ids_of_others_are_not_there_on_ones_own_paths
    api/test_roles.py::test_an_operation_does_what_the_table_says
    accounts/test_admin_cli.py::test_a_token_of_somebody_elses_is_not_removed_by_its_id
LIKE with unescaped `_` and `%` (Quay):
    accounts/test_rights.py::test_lists_have_what_one_may_pull_and_nothing_else
    accounts/test_safety.py::test_a_name_that_begins_like_another_has_nothing_of_it
Names that are prefixes of robots' names (Harbor):
    accounts/test_safety.py::test_a_name_that_begins_like_another_has_nothing_of_it
One cheap request, much work (CVE-2023-2253, CVE-2025-62727, and others):
    conformance/test_lists.py::test_a_number_beyond_all_measure_is_bounded_or_refused
    conformance/test_lists.py::test_no_page_is_longer_than_the_server_allows
    conformance/test_ranges.py::test_overlapping_ranges_do_not_multiply_the_blob
    conformance/test_ranges.py::test_a_header_as_long_as_headers_may_be_costs_moments
    faults/test_bad_clients.py::test_ten_thousand_ranges_cost_one_answer
    faults/test_bad_clients.py::test_a_deeply_nested_manifest_is_refused
    faults/test_bad_clients.py::test_an_index_with_very_many_children_is_refused_at_once
    faults/test_bad_clients.py::test_more_open_uploads_than_allowed_are_asked_to_come_back
    faults/test_bad_clients.py::test_readers_that_stop_are_dropped_and_hold_little_memory
    accounts/test_logins.py::test_many_wrong_logins_at_once_do_not_stall_the_server
    accounts/test_logins.py::test_one_address_that_guesses_at_many_names_is_slowed_for_all_of_them
    accounts/test_forged_tokens.py::test_a_huge_token_is_refused_and_costs_little
    accounts/test_tokens.py::test_thousands_of_scopes_are_no_error_and_little_work
    auth/test_patterns.py::test_a_pattern_of_many_stars_costs_no_more_than_others
A pull through a proxy grants admin (Quay CVE-2025-4374): nothing is pulled through; when it is, here.
An open redirect by backslash in the login page (zot), CSRF, cookies, hostile text:
    accounts/test_safety.py::test_no_path_leads_to_another_host
    accounts/test_safety.py::test_what_is_pushed_is_never_served_as_a_page
    federation/test_pages.py::test_no_door_leads_to_another_site
    federation/test_pages.py::test_every_form_of_another_site_is_refused_and_changes_nothing
    federation/test_pages.py::test_cookies_are_out_of_reach_for_scripts_and_other_sites
    federation/test_pages.py::test_what_somebody_typed_is_text_and_nothing_else
Data (distribution #4478, #2881, #3178, #4702; zot #3924, #4427; Quay #5390):
    faults/test_crashes.py::test_an_operation_that_is_killed_at_any_failpoint_loses_nothing_and_can_be_repeated
    faults/test_full_disk.py::test_a_full_index_refuses_and_goes_on_when_there_is_room_again
    model/test_races.py::test_pushing_what_others_delete_gives_a_whole_blob_or_none
    accounts/test_safety.py::test_a_blob_whose_bytes_were_lost_is_no_empty_success
"""

from __future__ import annotations

import ast
import pickle
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import registry as package
from registry.server.index.schema import upload
from tests.accounts.conftest import MakeRegistry
from tests.support import oci
from tests.support.accounts import Registry, authorization
from tests.support.oci import Content
from tests.support.wire import Wire, request

HERE = Path(__file__).parent
NAMED = re.findall(r"^    (\S+\.py)::(\w+)$", __doc__ or "", re.MULTILINE)


@pytest.mark.parametrize(("file", "test"), NAMED, ids=[test for _, test in NAMED])
def test_every_defence_has_the_test_that_is_named(file: str, test: str) -> None:
    tree = ast.parse((HERE.parent / file).read_text())

    assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_line_of_the_list_has_a_test() -> None:
    classes = [line for line in (__doc__ or "").splitlines()[2:] if line and not line.startswith(" ")]

    assert len(classes) == 17
    assert all(line.endswith((":", "here.")) for line in classes)


# --- those that no other file has


def test_a_deleted_blob_is_gone_for_all_though_it_was_just_served(pair: Registry, name: str) -> None:
    who = pair.robot(name)
    pair.grant(f"user:{name}", "pull,push,delete", f"{name}/*")
    client, headers = pair.client(who), authorization(who)
    blob = oci.blob(1000)
    for where in ("a", "b"):
        oci.push_blob(client, f"{name}/{where}", blob)
    path = oci.blob_path(f"{name}/a", blob.digest)
    for _ in range(3):
        assert {answer.status for answer in pair.workers.ask("GET", path, headers)} == {200}

    assert client.delete(path).status_code == 202

    for method in ("GET", "HEAD"):
        assert {answer.status for answer in pair.workers.ask(method, path, headers)} == {404}
    other = oci.blob_path(f"{name}/b", blob.digest)
    assert {answer.body for answer in pair.workers.ask("GET", other, headers)} == {blob.data}


class Evil:
    """What does something when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_saved_state_is_never_run(registry: Registry, name: str, tmp_path: Path) -> None:
    session = oci.start_upload(registry.admin, f"{name}/web")
    oci.append(registry.admin, session, b"a" * 200_000)
    traces = [tmp_path / "state", tmp_path / "parts"]
    state, parts = (pickle.dumps(Evil(path)) for path in traces)
    row = upload.c.id == session.rpartition("/")[2]
    registry.change(lambda tx: tx.execute(upload.update().where(row).values(hash_state=state, parts=parts)))
    logged = registry.server.log_path.stat().st_size

    answers = [
        registry.admin.get(session),
        oci.patch(registry.admin, session, b"b"),
        oci.finish(registry.admin, session, oci.digest_of(b"a" * 200_000)),
        registry.admin.delete(session),
    ]

    assert answers[1].status_code >= 400
    assert not any(path.exists() for path in traces)
    forget_faults(registry, logged)


def forget_faults(registry: Registry, after_bytes: int) -> None:
    """Take lines out of a server's log that tell of damage which the test did itself."""
    with registry.server.log_path.open("r+b") as log:
        log.truncate(after_bytes)


def test_nothing_is_ever_unpickled() -> None:
    dangerous = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
    for path in Path(package.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not dangerous & {each.partition(".")[0] for each in names}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "__import__"), path


def test_where_deletion_is_switched_off_nobody_deletes_in_any_way(make_registry: MakeRegistry) -> None:
    registry = make_registry(policy={"delete_enabled": False})
    image = oci.push_image(registry.admin, "web/app", "v1")
    config = image.document["config"]["digest"]
    token = registry.client(registry.token(("admin", registry.password), "repository:web/app:pull,push,delete"))

    for client in (registry.admin, token):
        for path in ("manifests/v1", f"manifests/{image.digest}", f"blobs/{config}", "manifests/absent"):
            answer = client.delete(f"/v2/web/app/{path}")
            assert oci.failure(answer) == (405, "UNSUPPORTED"), path
            assert "DELETE" not in answer.headers["Allow"]

    assert registry.admin.get("/v2/web/app/manifests/v1").content == image.data
    assert registry.admin.head(oci.blob_path("web/app", config)).status_code == 200


def test_nothing_that_is_pushed_makes_the_registry_ask_anybody(registry: Registry, name: str) -> None:
    asked: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        over = threading.Event()

        def listen() -> None:
            while not over.is_set():
                try:
                    asked.append(listener.accept())
                except TimeoutError:
                    continue

        listening = threading.Thread(target=listen)
        listening.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        try:
            push_with_addresses(registry, name, url)
        finally:
            time.sleep(0.3)  # whoever is asked in the background is asked by now
            over.set()
            listening.join()

    assert not asked


def push_with_addresses(registry: Registry, name: str, url: str) -> None:
    """Bring an address in wherever a client can write one."""
    client, repository = registry.admin, f"{name}/web"
    config = oci.push_blob(client, repository, oci.config())
    for number, media_type in enumerate(oci.FOREIGN_LAYERS):
        layer = oci.blob(10, media_type).descriptor(urls=[url, f"{url}latest/meta-data"])
        image = oci.manifest(oci.OCI_IMAGE, config=config.descriptor(urls=[url]), layers=[layer])
        assert oci.put_manifest(client, repository, image, f"v{number}").status_code == 201
        client.get(oci.blob_path(repository, layer["digest"]))
    client.get("/v2/", headers={"Host": url.split("/")[2], "Referer": url, "X-Forwarded-Host": url.split("/")[2]})
    client.get("/token", params={"service": url, "realm": url, "scope": f"repository:{url}:pull"})
    client.get(f"{oci.referrers_path(repository, config.digest)}?artifactType={url}")
    claims = registry.claims("admin", (repository, ["pull"]))
    for header in ("jku", "x5u"):
        token = registry.forge(claims, None, {header: url, "kid": url})
        assert registry.client(token).get("/v2/").status_code == 401


def test_a_name_that_begins_like_another_has_nothing_of_it(registry: Registry, name: str) -> None:
    names = [f"{name}a", f"{name}a-b", f"{name}a_b", f"{name}axb", f"{name}a.b"]
    who = [registry.robot(each) for each in names]
    for each in names:
        registry.do("team", "add", each)
        registry.do("team", "join", each, each)
        registry.grant(f"user:{each}", "pull,push", f"grant-{each}/*")
        oci.push_image(registry.admin, f"{each}/web", "v1")
        oci.push_image(registry.admin, f"grant-{each}/web", "v1")
    sessions = [oci.start_upload(registry.client(one), f"{one[0]}/web") for one in who]

    for each, identity in zip(names, who, strict=True):
        listed = registry.client(identity).get("/v2/_catalog?n=1000").json()["repositories"]
        own = [repository for repository in listed if name in repository]
        assert sorted(own) == sorted([f"{each}/web", f"grant-{each}/web"])
        found = registry.client(identity).get("/v1/search", params={"q": f"{each}/"}).json()["results"]
        assert {result["name"] for result in found} == {f"{each}/web", f"grant-{each}/web"}

    registry.do("robot", "remove", names[0])
    registry.do("team", "remove", names[0])

    assert registry.client(who[0]).get("/v2/").status_code == 401
    for each, identity, session in list(zip(names, who, sessions, strict=True))[1:]:
        assert registry.client(identity).get(oci.tags_path(f"{each}/web")).status_code == 200
        assert registry.client(identity).get(oci.tags_path(f"grant-{each}/web")).status_code == 200
        assert registry.client(identity).get(session).status_code == 204
        assert len(registry.json("token", "list", each)) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "//evil.example/",
        "/\\evil.example",
        "/\\\\evil.example/healthz/",
        "//evil.example/healthz/",
        "/healthz/",
        "/readyz//",
        "/token/",
        "/v1/_ping/",
        "/v2//",
        "/%2f%2fevil.example/",
        "/%5cevil.example/",
        "/login?next=//evil.example",
        "/login?next=/\\evil.example",
        "/.well-known/jwks.json/",
        "http://evil.example/healthz",
    ],
)
def test_no_path_leads_to_another_host(registry: Registry, path: str, method: str) -> None:
    with Wire(registry.server.port) as wire:
        headers = {"Host": registry.host}
        answer = wire.ask(request(method, path, headers, b"" if method == "POST" else None), method)

    assert answer.status < 500
    target = answer.headers.get("location", "")
    assert not target or re.fullmatch(rf"(http://{registry.host})?/(?![/\\]).*", target), target


HOSTILE = b"<script>alert(document.domain)</script>"


def test_what_is_pushed_is_never_served_as_a_page(registry: Registry, name: str) -> None:
    client, repository = registry.admin, f"{name}/web"
    blob = oci.push_blob(client, repository, Content(HOSTILE, "text/html"))
    config = oci.push_blob(client, repository, oci.config())
    text = {"org.example": HOSTILE.decode()}
    image = oci.push_manifest(client, repository, oci.image(config, [], annotations=text), "v1")
    oci.push_artifact(client, repository, "text/html", image.descriptor(), annotations=text)

    answers = [
        client.get(oci.blob_path(repository, blob.digest), headers={"Accept": "text/html"}),
        client.get(oci.manifest_path(repository, "v1"), headers={"Accept": "text/html"}),
        client.get(oci.referrers_path(repository, image.digest)),
        client.get(oci.tags_path(repository)),
        client.get(f"/v2/{HOSTILE.decode()}/tags/list"),
        client.get(f"/v2/{repository}/manifests/{HOSTILE.decode()}"),
        client.get("/v2/_catalog", params={"n": HOSTILE.decode()}),
        client.get("/v1/search", params={"q": HOSTILE.decode()}),
        client.get(f"/{HOSTILE.decode()}"),
        client.get("/token", params={"scope": HOSTILE.decode()}),
    ]

    kinds = {answer.headers["Content-Type"].partition(";")[0] for answer in answers}
    pages = {"text/html", "application/xhtml+xml", "image/svg+xml", "text/xml", "application/xml"}
    assert not kinds & pages
    for kind in ("text/html", "image/svg+xml", "application/xhtml+xml"):
        pushed = client.put(
            oci.manifest_path(repository, "v2"), content=image.data, headers={"Content-Type": kind}
        )
        assert pushed.status_code == 400


def test_a_blob_whose_bytes_were_lost_is_no_empty_success(make_registry: MakeRegistry) -> None:
    registry = make_registry()
    for size in (10, 300_000):
        blob = oci.push_blob(registry.admin, "web/app", oci.blob(size))
        encoded = blob.digest.partition(":")[2]
        [path] = [path for path in registry.server.data.rglob(f"*{encoded}*") if path.is_file()]
        path.unlink()
        logged = registry.server.log_path.stat().st_size

        answer = registry.admin.get(oci.blob_path("web/app", blob.digest))

        assert answer.status_code == 500
        assert answer.json()["errors"][0]["code"] == "UNKNOWN"
        forget_faults(registry, logged)
        oci.push_blob(registry.admin, "web/app", blob)
        assert registry.admin.get(oci.blob_path("web/app", blob.digest)).content == blob.data
