"""The history over the API: who may read it and bring things back, and what is told to whom."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.conftest import House, MakeHouse
from tests.api.described import Client
from tests.support import oci


class Team:
    """A team with a repository, and a person with some actions on it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.repository = f"{house.team()}/app"
        self.http = house.admin.http

    def person(self, *actions: str) -> Client:
        made = self.house.user()
        body = {"subject": f"user:{made.name}", "pattern": self.repository, "actions": list(actions)}
        self.house.admin.post("/grants", body, 200)
        return made

    def push(self, tag: str | None = None) -> oci.Content:
        return oci.push_image(self.http, self.repository, tag)

    def delete(self, reference: str) -> None:
        assert self.http.delete(oci.manifest_path(self.repository, reference)).status_code == 202

    def restore(self, client: Client, status: int = 200, **body: Any) -> Any:
        return client.post("/restore", {"repository": self.repository, **body}, status)


@pytest.fixture
def team(house: House) -> Team:
    return Team(house)


def test_who_pulls_reads_and_who_pushes_restores(team: Team) -> None:
    made = team.push("v1")
    team.delete(made.digest)
    reader, writer = team.person("pull"), team.person("pull", "push")
    entries = reader.get(f"/history?repository={team.repository}")
    assert [(each["tag"], each["ended_by"], each["how"], each["is_served"]) for each in entries] == [
        (None, "admin", "deleted with its manifest", False),
        ("v1", "admin", "deleted with its manifest", False),
    ]
    team.restore(reader, 403, tag="v1")
    done = team.restore(writer, tag="v1")
    assert done == {"digest": made.digest, "was": None, "manifests": [made.digest], "is_changed": True}
    [entry] = reader.get(f"/history?repository={team.repository}&tag=v1")
    assert entry["is_served"] is True


def test_moving_a_tag_back_needs_the_right_to_overwrite(team: Team) -> None:
    first, second = team.push("v1"), team.push("v1")
    place = team.house.audit_place()
    writer = team.person("pull", "push")
    team.restore(writer, 403, tag="v1")
    denied = [one for one in team.house.audit_after(place) if one["action"] == "tag.restore"]
    assert [(one["actor"], one["target"], one["result"]) for one in denied] == [
        (writer.name, f"{team.repository}:v1", "denied")
    ]
    mover = team.person("pull", "push", "overwrite")
    assert team.restore(mover, tag="v1") == {
        "digest": first.digest,
        "was": second.digest,
        "manifests": [],
        "is_changed": True,
    }
    assert team.restore(mover, tag="v1", digest=second.digest)["was"] == first.digest


def test_a_tag_is_asked_for_at_a_time(team: Team) -> None:
    first, second = team.push("v1"), team.push("v1")
    [entry] = team.house.admin.get(f"/history?repository={team.repository}&tag=v1")
    path = f"/history/at?repository={team.repository}&tag=v1&at="
    since = entry["since"].replace("+00:00", "Z")
    assert team.house.admin.get(path + since) == {
        "digest": first.digest,
        "since": entry["since"],
        "until": entry["until"],
    }
    now = team.house.admin.get(path + entry["until"].replace("+00:00", "Z"))
    assert (now["digest"], now["until"]) == (second.digest, None)
    team.house.admin.get(path + "1h", 404)
    team.house.admin.get(path + "never", 400)
    assert team.restore(team.house.admin, tag="v1", at=entry["since"])["digest"] == first.digest


def test_a_hidden_repository_looks_like_a_missing_one(team: Team) -> None:
    stranger = team.house.user()
    team.delete(team.push("v1").digest)
    for name in (team.repository, "team-nobody/app"):
        for client in (stranger, team.house.admin):
            if client is stranger or name != team.repository:
                for answer in (
                    client.ask("GET", f"/history?repository={name}"),
                    client.ask("GET", f"/history/at?repository={name}&tag=v1&at=1h"),
                    client.ask("DELETE", f"/history?repository={name}"),
                    client.ask("POST", "/restore", {"repository": name, "tag": "v1"}),
                ):
                    assert answer.status_code == 404
                    assert answer.json()["detail"].startswith("There is no such thing here that you may see")


def test_a_deleted_manifest_comes_back_by_its_digest(team: Team) -> None:
    made = team.push()
    team.delete(made.digest)
    assert team.restore(team.house.admin, digest=made.digest)["manifests"] == [made.digest]
    response = team.http.get(oci.manifest_path(team.repository, made.digest))
    assert response.content == made.data


def test_what_is_missing_is_told(team: Team) -> None:
    made = team.push("v1")
    team.delete(made.digest)
    layer = json.loads(made.data)["layers"][0]["digest"]
    assert team.http.delete(oci.blob_path(team.repository, layer)).status_code == 202
    problem = team.restore(team.house.admin, 409, tag="v1")
    assert layer in problem["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"at": "1h"},
        {"tag": "v1", "at": "soon"},
        {"tag": "v1", "at": "1h", "digest": "sha256:" + "0" * 64},
        {"tag": "not a tag"},
        {"digest": "sha256:short"},
        {"tag": ""},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(team: Team, body: dict[str, Any]) -> None:
    team.push("v1")
    team.restore(team.house.admin, 400, **body)


def test_a_limited_token_does_what_its_limits_say(team: Team) -> None:
    team.push("v1")
    first = team.push("v1")
    team.push("v1")
    robot = team.house.robot()
    body = {"subject": f"user:{robot}", "pattern": team.repository, "actions": ["pull", "push", "overwrite"]}
    team.house.admin.post("/grants", body, 200)

    def client(*actions: str) -> Client:
        allow = [{"actions": list(actions), "pattern": team.repository}]
        return team.house.client(bearer=team.house.token(f"robots/{robot}", allow=allow)["token"])

    assert len(client("pull").get(f"/history?repository={team.repository}")) == 2
    client("push").get(f"/history?repository={team.repository}", 404)
    team.restore(client("pull"), 403, tag="v1")
    team.restore(client("pull", "push"), 403, tag="v1")
    assert team.restore(client("pull", "push", "overwrite"), tag="v1")["digest"] == first.digest


def test_the_history_comes_in_pages(team: Team) -> None:
    for _ in range(4):
        team.push("v1")
    path = f"/history?repository={team.repository}&tag=v1"
    assert team.house.admin.everything(path, limit=2) == team.house.admin.get(path)
    assert len(team.house.admin.get(path)) == 3


def test_quotas_are_shown_to_those_whom_they_concern(make_house: MakeHouse) -> None:
    house = make_house(policy={"quotas": {"*": "1GiB", "web/*": 1000, "db/*": 1000}})
    maintainer = house.user()
    house.admin.post("/teams", {"name": "web"})
    house.admin.put(f"/teams/web/members/{maintainer.name}", {"role": "maintainer"})
    oci.push_blob(house.admin.http, "web/app", oci.blob(700))
    assert [each["pattern"] for each in house.admin.get("/quotas")] == ["*", "db/*", "web/*"]
    assert maintainer.get("/quotas") == [
        {
            "pattern": "web/*",
            "limit_bytes": 1000,
            "used_bytes": 700,
            "largest": [{"repository": "web/app", "size_bytes": 700}],
        }
    ]
    person = house.user()
    assert person.get("/quotas") == []
    body = {"subject": f"user:{person.name}", "pattern": "web/mine", "actions": ["pull", "push"]}
    house.admin.post("/grants", body, 200)
    oci.push_blob(person.http, "web/mine", oci.blob(300))
    refused = person.http.post(oci.uploads_path("web/mine"))
    assert refused.status_code == 403
    assert refused.json()["errors"][0]["message"] == (  # web/app is not for everybody to see
        "the quota of web/* is 1000 B, 1000 B are used, most of them by web/mine (300 B); "
        "delete some, or ask for a larger one"
    )
