"""What `docker search HOST:PORT/term` asks of a registry: the first protocol's ping and search."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.oci import index, push_manifest

SEARCH = "/v1/search"


def search(http: httpx.Client, **query: str | int) -> dict[str, Any]:
    response = http.get(SEARCH, params=query)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].partition(";")[0] == "application/json"
    document: dict[str, Any] = response.json()
    assert document["num_results"] >= len(document["results"])
    return document


def test_the_ping_says_that_the_registry_stands_alone(http: httpx.Client) -> None:
    response = http.get("/v1/_ping")
    assert response.status_code == 200
    assert response.headers["X-Docker-Registry-Standalone"].lower() == "true"


def test_repositories_are_found_by_a_part_of_their_name(http: httpx.Client) -> None:
    for name in ("search/walrus-one", "search/two-walrus", "search/seal"):
        push_manifest(http, name, index([]), "latest")
    document = search(http, q="walrus", n=25)
    assert document["query"] == "walrus"
    assert sorted(each["name"] for each in document["results"]) == ["search/two-walrus", "search/walrus-one"]
    for each in document["results"]:
        assert isinstance(each["description"], str)
        assert isinstance(each["star_count"], int)
        assert isinstance(each["is_official"], bool)


def test_no_more_are_listed_than_were_asked_for(http: httpx.Client) -> None:
    for letter in "abc":
        push_manifest(http, f"search/otter-{letter}", index([]), "latest")
    assert len(search(http, q="otter", n=2)["results"]) == 2
    assert len(search(http, q="otter")["results"]) == 3


@pytest.mark.parametrize("term", ["_", "%", "\\", "'", "*", "\x00", "ä", "SELECT"])
def test_a_term_is_a_text_and_no_pattern(http: httpx.Client, term: str) -> None:
    push_manifest(http, "search/plain", index([]), "latest")
    response = http.get(SEARCH, params={"q": f"search/p{term}ain"})
    assert response.status_code in {200, 400}
    if response.status_code == 200:
        assert response.json()["results"] == []
