"""A client of the API that holds every answer against the API's own description."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jsonschema

PREFIX = "/api/v1"
PROBLEM = "application/problem+json"


class Description:
    """What `/api/v1/openapi.json` says. Objects are taken to have the described fields and no others."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._components = copy.deepcopy(document["components"])
        for schema in self._components["schemas"].values():
            if "properties" in schema:
                schema.setdefault("additionalProperties", False)
        self._paths = [
            (re.compile("[^/]+".join(map(re.escape, re.split(r"\{\w+\}", path)))), path)
            for path in document["paths"]
        ]

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """The described operation of a request; the path with the fewest names in it is meant."""
        found = [template for pattern, template in self._paths if pattern.fullmatch(path)]
        methods = self.document["paths"][min(found, key=lambda one: one.count("{"))] if found else {}
        operation: dict[str, Any] | None = methods.get("get" if method == "HEAD" else method.lower())
        return operation

    def check(self, response: httpx.Response) -> None:
        """Fail unless *response* is as described."""
        request = response.request
        operation = self.operation(request.method, request.url.path)
        if operation is None:
            assert response.status_code in (401, 404, 405, 429), response.text
            self.check_problem(response)
            return
        status = str(response.status_code)
        assert status in operation["responses"] or response.status_code in (405, 408, 500, 503), response.text
        described = operation["responses"].get(status, self.document["components"]["responses"]["problem"])
        if response.is_error:
            self.check_problem(response)
        elif request.content:
            self._validate(json.loads(request.content), operation["requestBody"]["content"])
        if request.method != "HEAD" and "content" in described:
            kind = response.headers["content-type"]
            assert kind in described["content"], (kind, described)
            self._validate(response.json(), described["content"])
        elif "content" not in described:
            assert not response.content

    def check_problem(self, response: httpx.Response) -> None:
        """Fail unless *response* is an error as RFC 9457 has them, with a sentence."""
        assert response.headers["content-type"] == PROBLEM, response.text
        if response.request.method != "HEAD":
            problem = response.json()
            assert problem["status"] == response.status_code
            assert problem["title"] == response.reason_phrase
            assert re.fullmatch(r"[A-Z'/0-9].*[.?!]", problem["detail"]), problem
        if response.status_code == 401:
            assert response.headers["www-authenticate"] == 'Basic realm="Hythe"'

    def _validate(self, value: Any, content: Mapping[str, Any]) -> None:
        [media] = content.values()
        schema = {**media["schema"], "components": self._components}
        jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(value)


class Client:
    """Somebody who uses the API: with name and password, a bearer token, or nothing."""

    def __init__(
        self, url: str, description: Description, login: tuple[str, str] | None = None, bearer: str | None = None
    ) -> None:
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        self.description = description
        self.url = url
        self.name = login[0] if login else ""
        self.password = login[1] if login else ""
        self.http = httpx.Client(base_url=url, auth=login, headers=headers, timeout=60, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """Any request; *path* begins after `/api/v1`."""
        if body is not None:
            options["json"] = body
        response = self.http.request(method, PREFIX + path, **options)
        self.description.check(response)
        assert "set-cookie" not in response.headers
        assert response.headers["cache-control"] == "no-store"
        return response

    def get(self, path: str, status: int = 200) -> Any:
        """What is there."""
        return self._answer(self.ask("GET", path), status)

    def post(self, path: str, body: Any, status: int = 201) -> Any:
        """Make something."""
        return self._answer(self.ask("POST", path, body), status)

    def put(self, path: str, body: Any, status: int = 204) -> Any:
        """Set something."""
        return self._answer(self.ask("PUT", path, body), status)

    def patch(self, path: str, body: Any, status: int = 200) -> Any:
        """Change something."""
        return self._answer(self.ask("PATCH", path, body), status)

    def delete(self, path: str, status: int = 204) -> Any:
        """Delete something."""
        return self._answer(self.ask("DELETE", path), status)

    def everything(self, path: str, limit: int = 1000) -> list[Any]:
        """All entries of a list, page by page."""
        found: list[Any] = []
        response = self.ask("GET", path, params={**_query(path), "limit": str(limit)})
        while True:
            page = response.json()
            assert len(page) <= limit
            found += page
            link = response.headers.get("link")
            if link is None:
                return found
            target = re.fullmatch(r'<(/[^>]+)>; rel="next"', link)
            assert target is not None, link
            response = self.ask("GET", target[1].removeprefix(PREFIX))

    def _answer(self, response: httpx.Response, status: int) -> Any:
        assert response.status_code == status, f"{response.request.url} {response.status_code} {response.text}"
        return response.json() if response.content else None


def _query(path: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
