"""The compose file's topology, by processes: the same variables, the same verbs, the same nginx, TLS in front."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.conftest import DEPLOY, verb_is_known
from tests.support import processes, s3
from tests.support.ledger import Ledger, fetch
from tests.support.nginx import CONFIGURATION, Nginx
from tests.support.oci import blob, blob_path, push_image, start_upload
from tests.support.postgres import Postgres
from tests.support.s3 import spawn
from tests.support.server import free_port

COMPOSE = DEPLOY / "compose"
SERVERS = ("hythe-1", "hythe-2")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The services, with what .env.example says in place of ${…}."""
    example = dict(line.split("=", 1) for line in (COMPOSE / ".env.example").read_text().split())
    text = re.sub(
        r"\$\{(\w+)(:\?[^}]*)?\}", lambda match: example[match[1]], (COMPOSE / "compose.yaml").read_text()
    )
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    return services


def test_all_that_is_needed_is_there(compose: dict[str, Any]) -> None:
    for name, service in compose.items():
        assert set(service.get("depends_on", ())) <= compose.keys(), name
        assert "build" not in service or (COMPOSE / service["build"] / "Dockerfile").exists()
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert not source.startswith("../") or (COMPOSE / source).exists(), source
    assert verb_is_known(compose["migrate"]["command"])
    assert compose["migrate"]["environment"] == compose[SERVERS[0]]["environment"]
    nginx = CONFIGURATION.read_text()
    assert set(re.findall(r"server (\S+):5000 ", nginx)) == set(SERVERS)
    assert not set(re.findall(r"ssl_certificate\S* +(\S+);", nginx)) - {
        f"/etc/nginx/tls/tls.{x}" for x in ("crt", "key")
    }


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this machine, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout tls.key -out tls.crt"
    )
    subprocess.run(command.split(), cwd=directory, check=True, capture_output=True)
    return directory / "tls.crt", directory / "tls.key"


@pytest.fixture(scope="module")
def site(
    compose: dict[str, Any],
    ceph: s3.Ceph,
    postgres: Postgres,
    certificate: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The address of the whole, on an empty database."""
    home, port = tmp_path_factory.mktemp("compose"), free_port()
    prefix = s3.new_prefix()
    outside = {
        "HYTHE_INDEX_URL": postgres.url(postgres.empty_database()),
        "HYTHE_STORAGE_S3_ENDPOINT": ceph.endpoint,
        "HYTHE_STORAGE_S3_BUCKET": ceph.bucket,
        "HYTHE_STORAGE_S3_PREFIX": prefix,
        "HYTHE_STORAGE_S3_ACCESS_KEY": s3.ACCESS_KEY,
        "HYTHE_STORAGE_S3_SECRET_KEY": s3.SECRET_KEY,
        "HYTHE_SERVER_PUBLIC_URL": f"https://localhost:{port}",
        # The proxy is this machine, not one of compose's network.
        "HYTHE_SERVER_TRUSTED_PROXIES": "127.0.0.1",
    }
    started, ports = [], {}
    try:
        for name in ("migrate", *SERVERS):
            service = compose[name]
            ports[name] = free_port()
            environment = {**os.environ, **service["environment"], **outside}
            # What the image says, but for the address.
            environment["HYTHE_STORAGE_DIRECTORY"] = str(home / name)
            environment.update({"HYTHE_SERVER_HOST": "127.0.0.1", "HYTHE_SERVER_PORT": str(ports[name])})
            environment["HYTHE_ACCOUNTS_ENABLED"] = "always"
            command = [sys.executable, "-m", "registry", *service.get("command", ["serve"])]
            process = spawn(command, home / f"{name}.log", environment)
            started.append(process)
            if name == "migrate":
                assert process.wait(60) == 0, (home / "migrate.log").read_text()
        for name in SERVERS:
            s3.wait_for(lambda name=name: s3.is_listening(ports[name]), name)  # type: ignore[misc]
        started_nginx = Nginx(home / "nginx", [ports[name] for name in SERVERS], port, certificate).start()
        yield f"https://localhost:{port} {_password(home)}"
        started_nginx.stop()
        assert not processes.tracebacks("".join((home / f"{name}.log").read_text() for name in SERVERS))
    finally:
        for process in started:
            process.terminate()
            process.wait(60)


def _password(home: Path) -> str:
    """The first administrator's, which one of the servers printed."""

    def found() -> list[str]:
        logs = "".join((home / f"{name}.log").read_text() for name in SERVERS)
        return re.findall(r"^ *Password: (\S+)$", logs, re.MULTILINE)

    assert processes.wait_until(found, 30)
    [password] = found()
    return password


def test_clients_push_and_pull_over_tls_with_a_login(
    site: str, certificate: tuple[Path, Path], repository: str
) -> None:
    address, password = site.split()
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    with httpx.Client(base_url=address, verify=trust, timeout=30, trust_env=False) as http:
        refused = http.get("/v2/")
        assert refused.status_code == 401
        assert f'realm="{address}/token"' in refused.headers["WWW-Authenticate"]
        scope = {"service": "hythe", "scope": f"repository:{repository}:pull,push"}
        token = http.get("/token", params=scope, auth=("admin", password)).json()["token"]
        http.headers["Authorization"] = f"Bearer {token}"
        assert start_upload(http, repository).startswith((address, "/"))
        made = push_image(http, repository, "latest")
        ledger, large = Ledger(http), blob(20 << 20)
        ledger.push_whole(repository, large)
        assert fetch(http, blob_path(repository, large.digest)) == (large.digest, large.data)
        assert http.get(f"/v2/{repository}/manifests/latest").content == made.data
