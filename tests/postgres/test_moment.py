"""How often a request asks the database for the epoch."""

from __future__ import annotations

import httpx

from tests.conftest import MakeServer
from tests.support.accounts import Registry, authorization
from tests.support.oci import manifest_path, push_image
from tests.support.postgres import Postgres
from tests.support.proxy import Proxy


def test_a_request_of_somebody_with_an_account_asks_the_database_for_the_epoch_once(
    postgres: Postgres, make_server: MakeServer, repository: str
) -> None:
    proxy = Proxy(postgres.port)
    server = make_server(
        index={"url": postgres.url(postgres.database(), proxy.port)}, accounts={"enabled": "always"}
    )
    registry = Registry(server)
    token = registry.token(("admin", registry.password), f"repository:{repository}:pull,push")
    with httpx.Client(base_url=server.url, headers=authorization(token), timeout=30, trust_env=False) as http:
        made = push_image(http, repository, "latest")
        seen: list[bytes] = []
        proxy.sees = seen.append
        for _ in range(12):
            assert http.get(manifest_path(repository, "latest")).content == made.data
    asked = sum(piece.count(b"\0epoch\0") for piece in seen)
    assert asked == 12
    registry.close()
    proxy.close()
