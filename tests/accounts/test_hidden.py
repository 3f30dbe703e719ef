"""A repository that one may not see looks exactly like one that does not exist: status, headers, body, time."""

from __future__ import annotations

import random
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from registry.server.web.gateway import HANDLERS
from registry.server.web.routes import Kind
from tests.support import oci
from tests.support.accounts import Identity, Registry, authorization
from tests.support.oci import Content
from tests.support.wire import Answer, Wire, request

# As long as each other, and in the same place of every order.
HIDDEN, MISSING = "hidden-there/web", "hidden-nothe/web"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


@dataclass(frozen=True)
class Secret:
    """What is in the hidden repository, and who tries to find out."""

    image: Content
    blob: Content
    session: str
    callers: dict[str, Identity]


@pytest.fixture(scope="module")
def secret(registry: Registry) -> Secret:
    blob = oci.push_blob(registry.admin, HIDDEN, oci.blob(100))
    image = oci.push_image(registry.admin, HIDDEN, "v1")
    oci.push_artifact(registry.admin, HIDDEN, "application/vnd.example", image.descriptor())
    session = oci.start_upload(registry.admin, HIDDEN).rpartition("/")[2]
    nobody = registry.robot("hidden-nobody")
    limited = registry.personal_token("hidden-nobody", "pull:other/*")
    pusher = registry.robot("hidden-pusher")
    registry.grant("user:hidden-pusher", "pull,push,overwrite,delete", "hidden-own/*")
    scopes = [f"repository:{name}:pull,push,delete" for name in (HIDDEN, MISSING)]
    return Secret(
        image,
        blob,
        session,
        {
            "nobody": None,
            "anonymous token": registry.token(None, *scopes),
            "Basic": nobody,
            "access token": registry.token(nobody, *scopes),
            "access token for the catalogue": registry.token(nobody, "registry:catalog:*"),
            "personal token": nobody[1],
            "limited token": ("hidden-nobody", limited),
            "a neighbour": pusher,
            "not a token": "x.y.z",
        },
    )


@pytest.fixture(scope="module")
def wire(registry: Registry) -> Iterator[Wire]:
    with Wire(registry.server.port) as connection:
        yield connection


def looks(answer: Answer, repository: str) -> tuple[int, dict[str, str], bytes]:
    """All of an answer that may not differ, with the name taken out."""
    headers = {name: value.replace(repository, "NAME") for name, value in answer.headers.items() if name != "date"}
    return answer.status, headers, answer.body.replace(repository.encode(), b"NAME")


def paths(secret: Secret) -> dict[Kind, list[str]]:
    """Paths of each kind that has a repository, which hit something in the hidden one."""
    image, blob = secret.image.digest, secret.blob.digest
    mounts = (f"blobs/uploads/?mount={blob}&from=NAME", f"blobs/uploads/?mount={blob}")
    found = {
        Kind.MANIFEST: [
            "manifests/v1",
            "manifests/v2",
            f"manifests/{image}",
            "manifests/sha256:bad",
            "manifests/%00",
        ],
        Kind.BLOB: [f"blobs/{blob}", "blobs/sha256:bad"],
        Kind.UPLOADS: ["blobs/uploads/", "blobs/uploads", f"blobs/uploads/?digest={blob}", *mounts],
        Kind.UPLOAD: [f"blobs/uploads/{secret.session}", f"blobs/uploads/{secret.session}?digest={blob}"],
        Kind.TAGS: ["tags/list", "tags/list?n=0", "tags/list?last=v0", "tags/list?n=x"],
        Kind.REFERRERS: [f"referrers/{image}", f"referrers/{image}?artifactType=x", "referrers/bad"],
    }
    assert set(found) | {Kind.BASE, Kind.CATALOGUE} == set(HANDLERS)
    return found


def test_on_every_route_and_method_hidden_and_missing_look_the_same(
    registry: Registry, secret: Secret, wire: Wire
) -> None:
    differences = []
    extras = ({}, {"If-None-Match": f'"{secret.image.digest}"'}, {"Range": "bytes=0-1", "Accept": "*/*"})
    for who, identity in secret.callers.items():
        for path in (path for several in paths(secret).values() for path in several):
            for method in METHODS:
                for extra in extras if method in ("GET", "HEAD") else extras[:1]:
                    headers = {**authorization(identity), **extra}
                    body = secret.image.data if method in ("POST", "PUT", "PATCH") else None
                    target = "/v2/{name}/" + path.replace("NAME", "{name}")
                    hidden, missing = (
                        looks(wire.ask(request(method, target.format(name=name), headers, body), method), name)
                        for name in (HIDDEN, MISSING)
                    )
                    assert hidden[0] in (401, 403, 405), (who, method, path, hidden)
                    if hidden != missing:
                        differences.append(f"{who}: {method} {path}: {hidden} and {missing}")
    assert not differences


def without_ids(answer: tuple[int, dict[str, str], bytes]) -> str:
    return re.sub(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", repr(answer))


@pytest.mark.parametrize("ending", ["&from={name}", ""])
@pytest.mark.parametrize("way", ["Basic", "access token", "access token for the source"])
def test_a_mount_says_nothing_of_its_source(
    registry: Registry, secret: Secret, wire: Wire, way: str, ending: str
) -> None:
    pusher = secret.callers["a neighbour"]
    scopes = ["repository:hidden-own/web:pull,push"]
    if way.endswith("source"):
        scopes += [f"repository:{HIDDEN}:pull", f"repository:{MISSING}:pull"]
    identity = pusher if way == "Basic" else registry.token(pusher, *scopes)

    answers = []
    for name, digest in (
        (HIDDEN, secret.blob.digest),
        (MISSING, secret.blob.digest),
        (HIDDEN, oci.digest_of(b"-")),
    ):
        path = f"/v2/hidden-own/web/blobs/uploads/?mount={digest}" + ending.format(name=name)
        answers.append(without_ids(looks(wire.ask(request("POST", path, authorization(identity), b"")), name)))

    assert answers[0].startswith("(202")
    assert len(set(answers)) == 1


def test_a_manifest_that_names_a_hidden_blob_is_told_the_same_as_of_one_that_nobody_has(
    registry: Registry, secret: Secret
) -> None:
    client = registry.client(secret.callers["a neighbour"])
    config = oci.push_blob(client, "hidden-own/web", oci.config())
    answers = [
        oci.put_manifest(client, "hidden-own/web", oci.image(config, [layer]), "v1")
        for layer in (secret.blob, oci.blob(100))
    ]

    assert [answer.status_code for answer in answers] == [404, 404]
    said = {
        answer.text.replace(secret.blob.digest, "D").replace(named, "D")
        for answer, named in zip(
            answers, (secret.blob.digest, answers[1].json()["errors"][0]["detail"]["digest"]), strict=True
        )
    }
    assert len(said) == 1


def test_an_index_whose_child_is_hidden_is_told_the_same_too(registry: Registry, secret: Secret) -> None:
    client = registry.client(secret.callers["a neighbour"])

    there, nowhere = (
        oci.put_manifest(client, "hidden-own/web", oci.index([child.descriptor()]), "v2")
        for child in (secret.image, oci.image(oci.config(), []))
    )

    assert there.status_code == nowhere.status_code == 404
    assert oci.failure(there) == oci.failure(nowhere)


def test_a_subject_that_is_hidden_finds_no_way_into_the_hidden_list(registry: Registry, secret: Secret) -> None:
    client = registry.client(secret.callers["a neighbour"])
    before = registry.admin.get(oci.referrers_path(HIDDEN, secret.image.digest)).json()

    oci.push_artifact(client, "hidden-own/web", "application/vnd.evil", secret.image.descriptor())

    assert registry.admin.get(oci.referrers_path(HIDDEN, secret.image.digest)).json() == before
    listed = client.get(oci.referrers_path("hidden-own/web", secret.image.digest)).json()["manifests"]
    assert [entry["artifactType"] for entry in listed] == ["application/vnd.evil"]


def test_no_list_says_that_it_is_there(registry: Registry, secret: Secret, wire: Wire) -> None:
    for who, identity in secret.callers.items():
        for path in ("/v2/_catalog", "/v2/_catalog?n=10000", f"/v2/_catalog?n=1&last={HIDDEN[:-1]}"):
            answer = wire.ask(request("GET", path, authorization(identity)))
            assert HIDDEN.encode() not in answer.body, (who, path)
        for term in (HIDDEN, "hidden-there", "hidden_there", "%", "there"):
            path = f"/v1/search?q={term.replace('%', '%25')}"
            answer = wire.ask(request("GET", path, authorization(identity)))
            assert HIDDEN.encode() not in answer.body.replace(f'"query":"{term}"'.encode(), b""), (who, path)


def test_a_denied_write_is_written_down_for_both(registry: Registry, secret: Secret) -> None:
    client = registry.client(secret.callers["Basic"])
    for name in (HIDDEN, MISSING):
        assert client.delete(oci.manifest_path(name, "v1")).status_code == 403
        denied = registry.audit(actor="hidden-nobody", target=name, action="repository.delete", result="denied")
        assert denied


# --- time


def is_told_apart(
    wire: Wire, first: bytes, second: bytes, method: str, looks: tuple[int, ...] = (100, 300, 900)
) -> str:
    """How the times of two requests differ, which take turns in a random order; empty when they do not.

    What else the machine does hits both alike, so that it is the medians' noise and nothing in which of a pair
    took longer. A difference that is there is still there when one looks longer.
    """
    said = ""
    for rounds in looks:
        times: dict[bytes, list[float]] = {first: [], second: []}
        for _ in range(rounds):
            for data in random.sample([first, second], 2):
                began = time.perf_counter()
                wire.ask(data, method)
                times[data].append(time.perf_counter() - began)
        one, other = statistics.median(times[first]), statistics.median(times[second])
        longer = statistics.mean(a > b for a, b in zip(times[first], times[second], strict=True))
        if abs(one - other) < 0.00005 + 0.05 * min(one, other) or abs(longer - 0.5) < 0.1:
            return ""
        said = f"{one * 1e6:.0f} and {other * 1e6:.0f} µs, the first longer in {longer:.0%} of the pairs"
    return said


CASES = [
    ("GET", "manifests/v1"),
    ("GET", "manifests/{image}"),
    ("GET", "blobs/{blob}"),
    ("GET", "tags/list"),
    ("GET", "referrers/{image}"),
    ("DELETE", "manifests/v1"),
    ("POST", "blobs/uploads/"),
]


@pytest.mark.parametrize("who", ["nobody", "Basic", "access token"])
@pytest.mark.parametrize(("method", "path"), CASES, ids=[f"{method} {path}" for method, path in CASES])
def test_the_time_does_not_tell_hidden_from_missing(
    secret: Secret, wire: Wire, who: str, method: str, path: str
) -> None:
    where = path.format(image=secret.image.digest, blob=secret.blob.digest)
    headers = authorization(secret.callers[who])
    hidden, missing = (
        request(method, f"/v2/{name}/{where}", headers, b"" if method == "POST" else None)
        for name in (HIDDEN, MISSING)
    )

    assert not is_told_apart(wire, hidden, missing, method)


def test_what_does_take_longer_would_be_noticed(secret: Secret, wire: Wire) -> None:
    headers = authorization(secret.callers["Basic"])
    looked_for = request("GET", f"/v2/{HIDDEN}/tags/list", headers)
    written_down = request("DELETE", f"/v2/{HIDDEN}/manifests/v1", headers)

    assert is_told_apart(wire, written_down, looked_for, "GET", (100,))


@pytest.mark.parametrize("ending", ["&from={name}", ""])
def test_the_time_of_a_mount_does_not_tell_either(
    secret: Secret, wire: Wire, registry: Registry, ending: str
) -> None:
    headers = authorization(secret.callers["a neighbour"])
    ways = ((HIDDEN, secret.blob.digest), (MISSING, oci.digest_of(b"nobody has this")))
    there, nowhere = (f"?mount={digest}" + ending.format(name=name) for name, digest in ways)
    target = "/v2/hidden-own/web/blobs/uploads/"

    one, other = (request("POST", target + query, headers, b"") for query in (there, nowhere))
    assert not is_told_apart(wire, one, other, "POST")
