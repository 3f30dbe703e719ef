"""Tags, the catalogue and referrers: lists that come in pages."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from registry.oci import media
from registry.oci.digest import Digest
from registry.oci.errors import ParameterInvalid, Unauthorized
from registry.server.service.lists import Page, referrers_document
from registry.server.web.context import Context
from registry.server.web.http import Headers, Reply, Request, json_reply
from registry.server.web.routes import Route

_LAST_MAX_CHARACTERS = 512


def page_of(request: Request) -> tuple[str, int | None]:
    """The parameters `last` and `n`. Raises ParameterInvalid."""
    last = request.parameter("last") or ""
    if len(last) > _LAST_MAX_CHARACTERS or "\0" in last:
        raise ParameterInvalid("last is not the name of an entry", {"last": last[:200]})
    text = request.parameter("n")
    if text is None:
        return last, None
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ParameterInvalid("n is not a number of entries", {"n": text[:200]})
    return last, int(text)


def next_page(path: str, page: Page, parameters: dict[str, str]) -> Headers:
    """The Link header to the page after *page*, if there is one."""
    if page.next_after is None:
        return []
    query = urlencode({**parameters, "last": page.next_after})
    return [(b"link", f'<{quote(path)}?{query}>; rel="next"'.encode())]


def _paging(limit: int | None) -> dict[str, str]:
    return {} if limit is None else {"n": str(limit)}


async def list_tags(context: Context, request: Request, route: Route) -> Reply:
    """`GET /v2/<name>/tags/list`"""
    last, limit = page_of(request)
    page = await context.repositories.lists.tags(route.repository, last, limit)
    headers = next_page(request.path, page, _paging(limit))
    return json_reply({"name": route.repository, "tags": page.items}, headers=headers)


async def list_repositories(context: Context, request: Request, route: Route) -> Reply:
    """`GET /v2/_catalog`"""
    if not context.caller.may_list():
        raise Unauthorized("the catalogue needs a login")
    last, limit = page_of(request)
    page = await context.repositories.lists.catalogue(context.caller, last, limit)
    headers = next_page(request.path, page, _paging(limit))
    return json_reply({"repositories": page.items}, headers=headers)


async def list_referrers(context: Context, request: Request, route: Route) -> Reply:
    """`GET /v2/<name>/referrers/<digest>`"""
    subject = Digest.parse(route.last)
    last, limit = page_of(request)
    artifact_type = request.parameter("artifactType") or None
    page = await context.repositories.lists.referrers(route.repository, subject, artifact_type, last, limit)
    parameters = _paging(limit)
    headers: Headers = [(b"content-type", media.OCI_INDEX.encode())]
    if artifact_type is not None:
        parameters["artifactType"] = artifact_type
        headers.append((b"oci-filters-applied", b"artifactType"))
    headers += next_page(request.path, page, parameters)
    return Reply(200, headers, referrers_document(page.items))
