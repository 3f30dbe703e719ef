"""`/api/v1/openapi.json` describes what there is, all of it and nothing else."""

from __future__ import annotations

import re
from typing import Any

import httpx
import jsonschema

from registry.server.web.api.router import OPERATIONS
from tests.api.conftest import House

METHODS = ("get", "put", "post", "delete", "patch")


def operations(house: House) -> list[tuple[str, str, dict[str, Any]]]:
    """Path, method and description of everything that is described."""
    paths = house.description.document["paths"]
    return [(path, method, one) for path, methods in paths.items() for method, one in methods.items()]


def test_everybody_can_read_the_description(house: House) -> None:
    response = httpx.get(f"{house.server.url}/api/v1/openapi.json", trust_env=False, timeout=60)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json()["openapi"].startswith("3.1.")


def test_every_route_is_described_and_every_described_path_is_routed(house: House) -> None:
    routed = {("/api/v1" + one.path, one.method.lower()) for one in OPERATIONS}
    described = {(path, method) for path, method, _ in operations(house)}
    assert described == routed | {("/api/v1/openapi.json", "get")}


def test_every_path_has_just_the_methods_that_are_described(house: House) -> None:
    for path, methods in house.description.document["paths"].items():
        response = house.admin.ask("TRACE", re.sub(r"\{\w+\}", "x", path).removeprefix("/api/v1"))
        assert response.status_code == 405
        assert response.headers["allow"] == ", ".join(sorted(method.upper() for method in methods))


def test_every_operation_has_a_name_of_its_own_a_summary_and_its_parameters(house: House) -> None:
    found = operations(house)
    names = [one["operationId"] for _, _, one in found]
    assert len(set(names)) == len(names)
    for path, method, one in found:
        assert method in METHODS
        assert one["summary"], path
        in_path = {each["name"] for each in one.get("parameters", []) if each["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path))
        assert ("requestBody" in one) == (method in ("put", "post", "patch")), (method, path)


def test_every_schema_is_one(house: House) -> None:
    for name, schema in house.description.document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["description"], name


def test_every_reference_leads_somewhere(house: House) -> None:
    document = house.description.document

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                found = document
                for part in value["$ref"].removeprefix("#/").split("/"):
                    found = found[part]
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(document)


def test_head_is_answered_like_get_without_the_body(house: House) -> None:
    for path in ("/me", "/users", "/teams", "/openapi.json"):
        head, get = house.admin.ask("HEAD", path), house.admin.ask("GET", path)
        assert head.status_code == 200
        assert head.content == b""
        assert head.headers["content-length"] == get.headers["content-length"]
        assert head.headers["content-type"] == get.headers["content-type"]


def test_what_is_not_described_is_not_there(house: House) -> None:
    for path in (
        "",
        "/",
        "/users/",
        "/users//tokens",
        "/nothing",
        "/me/password/x",
        "/users/a/b",
        "/../v2/",
        "/ME",
    ):
        response = house.admin.http.get(httpx.URL(house.server.url + "/api/v1" + path))
        if path != "/../v2/":
            assert response.status_code == 404, path
            house.description.check_problem(response)


def test_a_registry_without_accounts_has_no_api(make_server: Any) -> None:
    server = make_server(accounts={"enabled": "never"})
    for path in ("/api/v1/me", "/api/v1/openapi.json"):
        assert (
            httpx.get(server.url + path, auth=("admin", "admin"), trust_env=False, timeout=60).status_code == 404
        )
