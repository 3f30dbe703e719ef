"""The description of the API, made from the declarations of its operations.

Source: OpenAPI Specification 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from registry import __version__
from registry.server.web.api.operations import PAGING, Operation
from registry.server.web.api.problems import CHALLENGE, MEDIA_TYPE, Problem

_ABOUT = (
    "Accounts, teams, grants, tokens, the audit log, quotas, and the history of tags of this registry. "
    "Administrators may do everything, a team's maintainers look after its people and the grants inside of its "
    "namespace, and everybody after their own password, tokens and sessions. What one may not see looks like what "
    'does not exist. Lists come in pages: follow the Link header with rel="next". Errors are problem details '
    "(RFC 9457) whose `detail` says what to do."
)
_NAMES = {
    "user": "A person's name.",
    "robot": "A robot's name.",
    "team": "A team's name.",
    "member": "The name of a person or a robot.",
    "token": "A token's id, which stands between its prefix and its secret: hyt_ID_…",
    "session": "A session's id.",
}
_PROBLEMS = {
    400: "The request is not as described; `field` says where, when it is one field.",
    401: "Who is asking is not known.",
    403: "Who is asking may not do this.",
    404: "There is no such thing, or none that the caller may see.",
    413: "The body is larger than 64 KiB.",
    415: "The body does not say that it is JSON.",
    429: "Too many requests or failed logins; Retry-After says when to come back.",
}
_TEXT = {"schema": {"type": "string"}}


def document(prefix: str, operations: Sequence[Operation]) -> dict[str, Any]:
    """The whole description; paths begin with *prefix*."""
    kinds = [kind for one in operations for kind in (one.body, one.answer) if kind is not None]
    found, components = msgspec.json.schema_components(
        [*kinds, Problem], ref_template="#/components/schemas/{name}"
    )
    schemas = dict(zip(kinds, found, strict=False))
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(prefix.rstrip("/") + one.path, {})[one.method.lower()] = _operation(one, schemas)
    paths[prefix + "openapi.json"] = {"get": _of_itself()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hythe",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"basic": []}, {"bearer": []}],
        "tags": [{"name": name} for name in dict.fromkeys(_tag(one) for one in operations)],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {"problem": _problem("Something else is wrong.")},
            "securitySchemes": {
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "A name, and its password or a token.",
                },
                "bearer": {"type": "http", "scheme": "bearer", "description": "A token that begins with hyt_."},
            },
        },
    }


def _operation(one: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": _operation_id(one),
        "tags": [_tag(one)],
        "summary": one.summary,
        "responses": _responses(one, schemas),
    }
    if one.description:
        described["description"] = one.description
    parameters = [*_path_parameters(one.path), *_query_parameters(one)]
    if parameters:
        described["parameters"] = parameters
    if one.body is not None:
        content = {"application/json": {"schema": schemas[one.body]}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _operation_id(one: Operation) -> str:
    """Unique: those that are made for people and robots alike have the same handler's name."""
    return (
        f"{one.handler.__name__}_of_{_tag(one)}"
        if "<locals>" in one.handler.__qualname__
        else one.handler.__name__
    )


def _tag(one: Operation) -> str:
    return one.path.split("/")[1]


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "description": _NAMES[name], **_TEXT}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _query_parameters(one: Operation) -> list[dict[str, Any]]:
    return [
        {
            "name": each.name,
            "in": "query",
            "required": each.required,
            "description": each.description,
            "schema": each.schema,
        }
        for each in one.query
    ]


def _responses(one: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    done: dict[str, Any] = {"description": "Done."}
    if one.answer is not None:
        done["content"] = {"application/json": {"schema": schemas[one.answer]}}
    if PAGING[0] in one.query:
        done["headers"] = {"Link": {"description": 'The next page, with rel="next".', **_TEXT}}
    found = {str(one.status): done}
    wrong = [400] if one.body or one.query else []
    wrong += [401, 403, 404] if "{" in one.path or one.query or one.may_be_missing else [401, 403]
    wrong += [413, 415] if one.body else []
    for status in (*wrong, 429):
        found[str(status)] = _problem(_PROBLEMS[status])
    found["401"]["headers"] = {"WWW-Authenticate": {"description": CHALLENGE.decode(), **_TEXT}}
    found["429"]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    if one.conflict:
        found["409"] = _problem(one.conflict)
    return {**dict(sorted(found.items())), "default": {"$ref": "#/components/responses/problem"}}


def _problem(description: str) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": description, "content": content}


def _of_itself() -> dict[str, Any]:
    done = {"description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {"type": "object"}}}}
    return {
        "operationId": "describe",
        "summary": "This description",
        "security": [],
        "responses": {"200": done, "default": {"$ref": "#/components/responses/problem"}},
    }
