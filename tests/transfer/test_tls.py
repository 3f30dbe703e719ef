"""Certificates: whom we trust, and what is said of the others."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.cli import reach
from registry.oci.errors import ManifestUnknown
from registry.oci.reference import ImageName, Tag
from registry.transfer.errors import Unreachable
from registry.transfer.hosts import Endpoint, HostFile, Registries
from tests.support import peers
from tests.support.server import Server
from tests.transfer.conftest import MakeWay


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate of this machine that nobody signed but itself."""
    directory = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out ca.crt"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = [peers.program("openssl"), *words.split(), *subject]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Server]:
    """A registry that speaks TLS."""
    files = {"tls_certificate": str(certificate / "ca.crt"), "tls_key": str(certificate / "key.pem")}
    server = Server(tmp_path_factory.mktemp("secure"), {"server": files})
    yield server.start()
    server.kill()


def look(make_way: MakeWay, registries: Registries, host: str) -> None:
    async def main() -> None:
        async with make_way(registries=registries) as way:
            await way.source(ImageName.parse(f"{host}/no/such")).resolve(Tag("v1"))

    asyncio.run(main())


def test_a_certificate_that_nobody_vouches_for_is_refused_with_what_to_do(
    make_way: MakeWay, secure: Server
) -> None:
    strict = Registries(host_file=lambda host: HostFile(server=Endpoint(secure.host)))
    with pytest.raises(Unreachable, match=r"not trusted: self.signed.*belongs into /etc/docker/certs\.d/127"):
        look(make_way, strict, secure.host)


def test_an_authority_in_the_hosts_directory_is_trusted(
    make_way: MakeWay, secure: Server, certificate: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "etc/docker/certs.d" / secure.host
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes((certificate / "ca.crt").read_bytes())
    environment = {"HOME": str(tmp_path), "HYTHE_SYSTEM_CONFIG": str(tmp_path / "etc")}
    registries = reach.registries(environment)
    assert registries.endpoint(secure.host).trust.verify
    with pytest.raises(ManifestUnknown):
        look(make_way, registries, secure.host)


def test_on_this_machine_tls_is_found_out_and_any_certificate_will_do(make_way: MakeWay, secure: Server) -> None:
    with pytest.raises(ManifestUnknown):
        look(make_way, Registries(), secure.host)


def test_a_listed_registry_may_have_any_certificate_or_none(
    make_way: MakeWay, secure: Server, server: Server
) -> None:
    for host in (secure.host, server.host):
        with pytest.raises(ManifestUnknown):
            look(make_way, Registries(insecure=("127.0.0.0/8",)), host)


def test_an_authority_that_is_no_certificate_is_an_error_that_names_it(
    make_way: MakeWay, secure: Server, tmp_path: Path
) -> None:
    directory = tmp_path / "etc/docker/certs.d" / secure.host
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_text("no certificate")
    environment = {"HOME": str(tmp_path), "HYTHE_SYSTEM_CONFIG": str(tmp_path / "etc")}
    with pytest.raises(Exception, match=r"ca\.crt: no certificate that can be used"):
        look(make_way, reach.registries(environment), secure.host)
