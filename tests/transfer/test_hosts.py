"""Which addresses stand for a registry: Hythe's own file and its neighbours', as they are on a disk."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import client_config
from registry.cli import reach
from registry.oci.errors import ConfigurationError, NameInvalid
from registry.oci.reference import ImageName
from registry.transfer import host_files
from registry.transfer.hosts import INSECURE, LOOPBACK, SECURE, Mirror, Place, Registries, is_host
from registry.transfer.http import proxy_for

HUB = "registry-1.docker.io"


class Disk:
    """A home and an /etc of the test's own."""

    def __init__(self, root: Path) -> None:
        self.home, self.etc = root / "home", root / "etc"

    def write(self, path: str, text: str) -> None:
        file = (self.etc if path.startswith("etc/") else self.home).parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def read(self, **more: str) -> Registries:
        return reach.registries({"HOME": str(self.home), "HYTHE_SYSTEM_CONFIG": str(self.etc), **more})


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def shown(places: list[Place]) -> list[str]:
    """Places as text: `https://host/repository`, of several schemes the first."""
    return [f"{each.endpoint.schemes[0]}://{each.endpoint.host}/{each.repository}" for each in places]


def pulls(registries: Registries, name: str) -> list[str]:
    return shown(registries.pull_places(reach.name_of(name, registries)))


def test_without_any_file_names_mean_what_they_mean_to_docker(disk: Disk) -> None:
    found = disk.read()
    assert pulls(found, "busybox") == ["https://docker.io/library/busybox"]
    assert found.origin(ImageName.parse("busybox")).endpoint.address == HUB
    assert found.endpoint("registry.example").schemes == SECURE
    assert found.endpoint("127.0.0.1:5000").schemes == LOOPBACK
    assert found.endpoint("[::1]:5000").schemes == LOOPBACK
    assert found.endpoint("localhost:5000").schemes == LOOPBACK


def test_our_own_file(disk: Disk) -> None:
    disk.write(
        "home/.config/hythe/client.yaml",
        "default_registry: registry.example:5000\n"
        "insecure_registries: [plain.example, 10.0.0.0/8]\n"
        "mirrors:\n  docker.io: [https://one.example, http://two.example:5000/proxy]\n",
    )
    found = disk.read()
    assert pulls(found, "team/web") == ["https://registry.example:5000/team/web"]
    assert pulls(found, "docker.io/busybox") == [
        "https://one.example/library/busybox",
        "http://two.example:5000/proxy/library/busybox",
        "https://docker.io/library/busybox",
    ]
    for host in ("plain.example", "plain.example:5000", "10.1.2.3:5000"):
        assert found.endpoint(host).schemes == INSECURE
        assert not found.endpoint(host).trust.verify
    for host in ("notplain.example", "11.0.0.1", "10.evil.example"):
        assert found.endpoint(host).schemes == SECURE
        assert found.endpoint(host).trust.verify


def test_dockers_file(disk: Disk) -> None:
    setting = {"registry-mirrors": ["https://mirror.example/"], "insecure-registries": ["old.example:5000"]}
    disk.write("etc/docker/daemon.json", json.dumps({**setting, "storage-driver": "overlay2"}))
    found = disk.read()
    assert pulls(found, "busybox")[0] == "https://mirror.example/library/busybox"
    assert pulls(found, "other.example/busybox") == ["https://other.example/busybox"]
    assert found.endpoint("old.example:5000").schemes == INSECURE
    assert found.endpoint("old.example").schemes == SECURE


def test_registries_conf(disk: Disk) -> None:
    disk.write(
        "etc/containers/registries.conf",
        """
        unqualified-search-registries = ["docker.io"]
        [[registry]]
        prefix = "example.com/foo"
        location = "internal.example:5000/bar"
        insecure = true
        [[registry.mirror]]
        location = "mirror.example/baz"
        pull-from-mirror = "digest-only"
        [[registry]]
        location = "blocked.example"
        blocked = true
        [[registry]]
        prefix = "*.wild.example"
        insecure = true
        """,
    )
    disk.write(
        "etc/containers/registries.conf.d/50-more.conf",
        '[[registry]]\nlocation = "more.example"\ninsecure = true\n',
    )
    found = disk.read()
    places = found.pull_places(ImageName.parse("example.com/foo/web:1"))
    assert shown(places) == ["https://mirror.example/baz/web", "https://internal.example:5000/bar/web"]
    assert [place.uses for place in places] == ["digest-only", "all"]
    assert places[1].endpoint.schemes == INSECURE
    assert pulls(found, "example.com/foobar") == ["https://example.com/foobar"]
    with pytest.raises(ConfigurationError, match="blocks this registry"):
        pulls(found, "blocked.example/x")
    assert found.origin(ImageName.parse("a.wild.example:5000/x/y")).endpoint.schemes == INSECURE
    assert found.origin(ImageName.parse("a.wild.example:5000/x/y")).endpoint.host == "a.wild.example:5000"
    assert found.origin(ImageName.parse("wild.example/x")).endpoint.schemes == SECURE
    assert found.origin(ImageName.parse("more.example/x")).endpoint.schemes == INSECURE


def test_of_registries_conf_the_longest_prefix_holds_alone_and_later_files_go_before(disk: Disk) -> None:
    rule = '[[registry]]\nprefix = "{}"\nlocation = "{}"\n[[registry.mirror]]\nlocation = "{}"\n'
    disk.write(
        "etc/containers/registries.conf",
        rule.format("a.example", "a.example", "wide.example")
        + '[[registry]]\nprefix = "a.example/own"\nlocation = "inner.example/own"\n',
    )
    assert pulls(disk.read(), "a.example/x") == ["https://wide.example/x", "https://a.example/x"]
    assert pulls(disk.read(), "a.example/own/x") == ["https://inner.example/own/x"]
    disk.write("etc/containers/registries.conf.d/1.conf", rule.format("a.example", "a.example", "machine.example"))
    disk.write(
        "home/.config/containers/registries.conf.d/1.conf", rule.format("a.example", "b.example", "mine.example")
    )
    assert pulls(disk.read(), "a.example/x") == ["https://mine.example/x", "https://b.example/x"]


def test_a_short_name_is_never_looked_up_where_registries_conf_says(disk: Disk) -> None:
    disk.write(
        "etc/containers/registries.conf",
        'unqualified-search-registries = ["quay.io"]\nshort-name-mode = "enforcing"\n'
        '[aliases]\n"busybox" = "quay.io/other/busybox"\n',
    )
    assert pulls(disk.read(), "busybox") == ["https://docker.io/library/busybox"]


def test_containerds_directories(disk: Disk) -> None:
    disk.write(
        "etc/containerd/certs.d/docker.io/hosts.toml",
        """
        server = "https://registry-1.docker.io"
        [host."https://first.example"]
          capabilities = ["pull"]
          [host."https://first.example".header]
            x-own = ["1"]
        [host."http://second.example:5000/v2/proxy"]
          override_path = true
          skip_verify = true
        [host."https://push.example"]
          capabilities = ["push"]
        """,
    )
    found = disk.read()
    first, second, origin = found.pull_places(ImageName.parse("busybox"))
    assert (first.endpoint.host, first.can_resolve, first.endpoint.headers) == (
        "first.example",
        False,
        (("x-own", "1"),),
    )
    assert (second.endpoint.schemes, second.endpoint.api) == (("http",), "/v2/proxy")
    assert (origin.endpoint.host, origin.endpoint.address) == ("docker.io", HUB)


def test_certificates_of_a_directory(disk: Disk) -> None:
    for name in ("ca.crt", "client.cert", "client.key", "lonely.cert"):
        disk.write(f"etc/docker/certs.d/registry.example:5000/{name}", "")
    directory = disk.etc / "docker/certs.d/registry.example:5000"
    trust = disk.read().endpoint("registry.example:5000").trust
    assert trust.authorities == (directory / "ca.crt",)
    assert trust.client_pairs == ((directory / "client.cert", directory / "client.key"),)
    assert disk.read().endpoint("registry.example").trust.authorities == ()
    assert disk.read().endpoint("127.0.0.1:5000").schemes == LOOPBACK


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("home/.config/hythe/client.yaml", "a: [\n"),
        ("home/.config/hythe/client.yaml", "unknown: 1\n"),
        ("home/.config/hythe/client.yaml", "mirrors: {docker.io: ['ftp://x']}\n"),
        ("etc/docker/daemon.json", "{"),
        ("etc/docker/daemon.json", '{"registry-mirrors": "x"}'),
        ("etc/containers/registries.conf", "[[registry]]\n"),
        ("etc/containers/registries.conf", '[[registry]]\nlocation = "https://x"\nprefix = "y"\n'),
        ("etc/containers/registries.conf", "registry = 1\n"),
        ("etc/containers/registries.conf", "[[registry]\n"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(disk: Disk, path: str, text: str) -> None:
    disk.write(path, text)
    with pytest.raises(ConfigurationError):
        disk.read()


def test_a_settings_file_that_was_named_must_be_there(disk: Disk) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        disk.read(HYTHE_CLIENT_CONFIG=str(disk.home / "nothing.yaml"))


@given(text=st.text(), host=st.sampled_from(["docker.io", "a.example:5000"]))
def test_no_text_makes_a_reader_fail_otherwise(text: str, host: str) -> None:
    for read in (
        lambda: host_files.read_daemon_json(text, "f"),
        lambda: host_files.read_registries_conf(text, "f"),
        lambda: host_files.read_hosts_toml(text, host, Path("/d")),
        lambda: client_config.parse(text, "f"),
        lambda: Mirror.parse(text),
    ):
        with contextlib.suppress(ConfigurationError):
            read()


Values = st.recursive(
    st.booleans() | st.integers() | st.sampled_from(["", "a.example", "https://b.example:1", "x/y", "*.c", "://"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["location", "prefix", "ca", "host"]), inner)
    ),
    max_leaves=6,
)
Keys = st.sampled_from(
    [
        "registry",
        "mirror",
        "server",
        "host",
        "ca",
        "client",
        "registry-mirrors",
        "insecure-registries",
        "skip_verify",
    ]
)


@given(document=st.dictionaries(Keys, Values))
def test_no_document_makes_a_reader_fail_otherwise(document: dict[str, object]) -> None:
    with contextlib.suppress(ConfigurationError):
        host_files.read_daemon_json(json.dumps(document), "f")
    # JSON's values, one key on a line, are TOML's but for objects.
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in document.items())
    with contextlib.suppress(ConfigurationError):
        host_files.read_registries_conf(text, "f")
    with contextlib.suppress(ConfigurationError):
        host_files.read_hosts_toml(text, "docker.io", Path("/d"))


# --- names of images


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("team/web", "docker.io/team/web", "team/web"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y"),
        ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        ("LOCAL/x", "LOCAL/x", "LOCAL/x"),
        ("a.b/c/d:e@sha256:" + "0" * 64, "a.b/c/d:e@sha256:" + "0" * 64, "a.b/c/d:e@sha256:" + "0" * 64),
    ],
)
def test_names_are_read_as_docker_reads_them(text: str, full: str, familiar: str) -> None:
    name = ImageName.parse(text)
    assert str(name) == full
    assert name.familiar() == familiar
    assert ImageName.parse(familiar) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "Busybox",
        "a//b",
        "a/",
        "/a",
        "-a",
        "a:b:c",
        "a@b",
        "a@sha256:12",
        "0" * 64,
        "a:" + "x" * 129,
        "a b",
        "a:-",
    ],
)
def test_what_is_no_name_is_refused_in_dockers_words(text: str) -> None:
    with pytest.raises(NameInvalid, match="invalid reference format"):
        ImageName.parse(text)


@given(st.text())
def test_a_name_that_was_read_is_read_the_same_again(text: str) -> None:
    try:
        name = ImageName.parse(text)
    except NameInvalid:
        return
    assert ImageName.parse(str(name)) == name
    assert ImageName.parse(name.familiar()) == name
    assert is_host(name.host)


# --- proxies


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("https://a.example/", {"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ("https://a.example/", {"https_proxy": "proxy:3128"}, "http://proxy:3128"),
        ("https://a.example/", {"HTTP_PROXY": "http://proxy:3128"}, None),
        ("http://a.example/", {"http_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ("https://a.example/", {"ALL_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ("https://a.example/", {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "b.c, a.example"}, None),
        ("https://x.a.example/", {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".a.example"}, None),
        ("https://127.0.0.1:5000/", {"HTTPS_PROXY": "http://proxy:3128"}, None),
        ("https://a.example/", {}, None),
    ],
)
def test_proxies_of_the_environment(url: str, environment: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(url, environment) == proxy
