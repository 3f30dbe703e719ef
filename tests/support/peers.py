"""Real clients for tests: docker, containerd, podman, buildah, skopeo, umoci, each with files of its own.

Nothing here touches a store, a configuration or a network device of the machine's own engines, and nothing is
left running or mounted afterwards; only podman's memory of where blobs are (/var/lib/containers/cache) cannot
be moved. A peer that is not on the machine skips its tests; where `CI` is set it fails them, so that a green
build has really met every peer.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest

from tests.support import images
from tests.support.images import Blob, Image, Index
from tests.support.server import Server, free_port

PLAIN = "--tls-verify=false"
ALL_TYPES = ", ".join(
    (images.OCI_INDEX, images.DOCKER_LIST, images.OCI_MANIFEST, images.DOCKER_MANIFEST, "*/*;q=0.1")
)
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


# ---------------------------------------------------------------- what is here


def unavailable(reason: str) -> NoReturn:
    """End the test that needs a peer: skipped, or failed where `CI` is set."""
    if os.environ.get("CI"):
        pytest.fail(f"CI has every peer, but {reason}", pytrace=False)
    pytest.skip(reason)


def program(name: str, package: str = "") -> str:
    """The path of *name*; without it the test is skipped. *package* is Debian's, if it has another name."""
    # Debian's clients go before others of the same name: they are the versions that the engines come with.
    found = shutil.which(name, path="/usr/bin:/usr/sbin") or shutil.which(name, path=search_path())
    if found is None:
        unavailable(f"{name} is not installed (Debian has it in {package or name})")
    return found


def search_path() -> str:
    """PATH with the system's own directories, which a user's PATH may lack."""
    return f"{os.environ.get('PATH', '')}:{SEARCH_PATH}"


def require_root(name: str) -> None:
    """Skip the test unless it runs as root, as *name* needs."""
    if os.geteuid() != 0:
        unavailable(f"{name} needs root here")


def require_busybox() -> None:
    """Skip the test when images that run cannot be made."""
    if images.busybox_path() is None:
        unavailable("busybox is not installed (Debian has it in busybox-static)")


# ---------------------------------------------------------------- programs


class Client:
    """A program that is called like a function: arguments in, what it printed out."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        self.command = list(command)
        self.environment = dict(environment)
        self.directory = directory

    def __call__(self, *arguments: str | Path, timeout: float = 120.0) -> str:
        """Run it and return its standard output; raise AssertionError with all that it said when it fails."""
        return self._succeed(arguments, timeout).stdout

    def said(self, *arguments: str | Path, timeout: float = 120.0) -> str:
        """Run it and return its standard output and its standard error, one after the other."""
        done = self._succeed(arguments, timeout)
        return done.stdout + done.stderr

    def refused(self, *arguments: str | Path, timeout: float = 120.0) -> str:
        """Run it, see that it fails, and return what it said."""
        done = self._run(arguments, timeout)
        assert done.returncode != 0, f"{self._words(arguments)} succeeded:\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def json(self, *arguments: str | Path) -> Any:
        """Run it and read its standard output as JSON."""
        return json.loads(self(*arguments))

    def _succeed(self, arguments: Sequence[str | Path], timeout: float) -> subprocess.CompletedProcess[str]:
        done = self._run(arguments, timeout)
        said = f"{done.stdout}{done.stderr}".strip()
        assert done.returncode == 0, f"{self._words(arguments)} ended with {done.returncode}:\n{said}"
        return done

    def _run(self, arguments: Sequence[str | Path], timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def _words(self, arguments: Sequence[str | Path]) -> str:
        return " ".join([os.path.basename(self.command[0]), *map(str, arguments)])


class Daemon:
    """A process that serves until it is stopped; its log is *directory*/log."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        self.name = os.path.basename(command[0])
        self.log_path = directory / "log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*_dies_with_us(), *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
            )

    def wait_until(self, ready: Callable[[], bool], timeout: float = 30.0) -> None:
        """Return when *ready* says so; skip the test when the daemon cannot run on this machine."""
        deadline = time.monotonic() + timeout
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                unavailable(f"{self.name} does not start on this machine: {self._last_words()}")
            time.sleep(0.05)

    def stop(self, timeout: float = 30.0) -> None:
        """End it, by force if need be, and wait for it."""
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout)

    def _last_words(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"


@functools.cache
def _dies_with_us() -> tuple[str, ...]:
    # A test run that is killed cleans nothing up; the kernel then still ends the daemons.
    found = shutil.which("setpriv", path=search_path())
    return (found, "--pdeathsig", "TERM", "--") if found else ()


def private_environment(home: Path) -> dict[str, str]:
    """An environment in which a client finds no file and no proxy of the user's."""
    kept = {"PATH": search_path(), "LANG": "C.UTF-8"}
    return {**kept, "HOME": str(home), "TMPDIR": str(home), "XDG_RUNTIME_DIR": str(home)}


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """A directory with a short path (sockets have 107 bytes), unmounted and removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="hythe-"))
    try:
        yield path
    finally:
        unmount_below(path)
        shutil.rmtree(path)


def unmount_below(path: Path) -> None:
    """Unmount all that is mounted at or under *path*, the innermost first."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].encode().decode("unicode_escape") for line in mounts]
    for point in reversed(points):
        if point == str(path) or point.startswith(f"{path}/"):
            subprocess.run(["umount", "--lazy", point], check=True, capture_output=True)


# ---------------------------------------------------------------- containerd and docker


@dataclass(frozen=True)
class Containerd:
    """A running containerd; `ctr` is its client, in a namespace of our own."""

    socket: Path
    ctr: Client

    def forget(self) -> None:
        """Remove all images, and wait until their content is gone too: the next pull fetches every byte."""
        names = self.ctr("images", "ls", "-q").split()
        if names:
            self.ctr("images", "rm", "--sync", *names)
        assert not self.contents()

    def contents(self) -> set[str]:
        """The digests that its content store has."""
        return set(self.ctr("content", "ls", "-q").split())


CONTAINERD_CONFIG = """\
version = 2
root = "{here}/root"
state = "{here}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]

[grpc]
address = "{here}/sock"
"""


@contextlib.contextmanager
def running_containerd() -> Iterator[Containerd]:
    """A containerd of our own."""
    require_root("containerd")
    containerd, ctr = program("containerd"), program("ctr", "containerd")
    program("runc")
    with private_directory() as here:
        environment = private_environment(here)
        (here / "config.toml").write_text(CONTAINERD_CONFIG.format(here=here))
        made = Containerd(here / "sock", Client([ctr, "-a", f"{here}/sock", "-n", "clients"], environment, here))
        daemon = Daemon([containerd, "--config", f"{here}/config.toml"], environment, here)
        try:
            daemon.wait_until(functools.partial(_answers, made.ctr, "version"))
            yield made
        finally:
            daemon.stop()


@contextlib.contextmanager
def running_docker(containerd: Containerd) -> Iterator[Client]:
    """A docker engine of our own upon *containerd*; what is yielded is the docker client that talks to it."""
    require_root("docker")
    dockerd, client = program("dockerd", "docker.io"), program("docker", "docker.io")
    with private_directory() as here, private_bridge() as bridge:
        environment = private_environment(here) | {
            "DOCKER_HOST": f"unix://{here}/sock",
            "DOCKER_CONFIG": f"{here}/config",
            "DOCKER_CLI_EXPERIMENTAL": "enabled",  # `docker manifest` of clients before 20.10
        }
        (here / "daemon.json").write_text(json.dumps(_docker_settings(here, containerd, bridge)))
        docker = Client([client], environment, here)
        daemon = Daemon([dockerd, "--config-file", f"{here}/daemon.json"], environment, here)
        try:
            daemon.wait_until(functools.partial(_answers, docker, "info"))
            yield docker
        finally:
            daemon.stop()


def _docker_settings(here: Path, containerd: Containerd, bridge: str) -> dict[str, Any]:
    return {
        "data-root": f"{here}/data",
        "exec-root": f"{here}/exec",
        "pidfile": f"{here}/pid",
        "hosts": [f"unix://{here}/sock"],
        "deprecated-key-path": f"{here}/key.json",
        "insecure-registries": ["127.0.0.0/8"],
        "containerd": str(containerd.socket),
        # The firewall and docker0 belong to the machine's own docker; `bridge: none` would delete the latter.
        "bridge": bridge,
        "iptables": False,
        "ip6tables": False,
        "ip-forward": False,
        "ip-masq": False,
        "userland-proxy": False,
    }


@contextlib.contextmanager
def private_bridge() -> Iterator[str]:
    """The name of a network bridge that exists only for our docker."""
    ip, name = program("ip", "iproute2"), f"hythe{os.getpid()}"
    subprocess.run([ip, "link", "add", name, "type", "bridge"], check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run([ip, "link", "delete", name], check=True, capture_output=True)


def _answers(client: Client, *arguments: str) -> bool:
    try:
        client(*arguments, timeout=10)
    except (AssertionError, subprocess.TimeoutExpired):
        return False
    return True


# ---------------------------------------------------------------- podman, buildah, skopeo, umoci


# `static_dir` is where podman looks when it is called with --root alone, as its clean-up command is: elsewhere,
# the end of a container is never recorded, and `podman run` waits 20 s for it.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
netns = "none"
log_driver = "k8s-file"

[network]
network_config_dir = "{here}/network"

[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{here}/tmp"
static_dir = "{here}/graph/libpod"
volume_path = "{here}/graph/volumes"
"""
STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{here}/graph"
runroot = "{here}/run"
"""
POLICY = {"default": [{"type": "insecureAcceptAnything"}]}


@contextlib.contextmanager
def container_tools() -> Iterator[Callable[..., Client]]:
    """A factory of clients that share one image store of our own: `make("podman")`, `make("skopeo")`."""
    require_root("podman")
    with private_directory() as here:
        environment = _write_tools_files(here)
        try:
            yield lambda name: Client([program(name)], environment, here)
        finally:
            if shutil.which("podman"):
                Client(["podman"], environment, here)("rm", "--all", "--force")


def _write_tools_files(here: Path) -> dict[str, str]:
    """Write the configuration that podman, buildah and skopeo read; return the environment that names it."""
    policy = here / ".config/containers/policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text(json.dumps(POLICY))
    (here / "containers.conf").write_text(CONTAINERS_CONF.format(here=here))
    (here / "storage.conf").write_text(STORAGE_CONF.format(here=here))
    (here / "registries.conf").write_text("unqualified-search-registries = []\n")
    (here / "auth.json").write_text("{}")
    return private_environment(here) | {
        "CONTAINERS_CONF": f"{here}/containers.conf",
        "CONTAINERS_STORAGE_CONF": f"{here}/storage.conf",
        "CONTAINERS_REGISTRIES_CONF": f"{here}/registries.conf",
        "REGISTRY_AUTH_FILE": f"{here}/auth.json",
    }


def as_skopeo(tool: Client, data: Path) -> Client:
    """*tool* with its memory of where blobs are in *data*.

    What it remembers of other tests may make it push another compression of a layer, and so another digest.
    Root's memory is the machine's and no option moves it, hence the variable (containers/image, `rootless`).
    """
    own = {"XDG_DATA_HOME": str(data), "_CONTAINERS_ROOTLESS_UID": "1"}
    return Client(tool.command, {**tool.environment, **own}, tool.directory)


# ---------------------------------------------------------------- docker's own registry


class DockerRegistry:
    """Debian's docker-registry, with its storage in *directory*/data."""

    def __init__(self, directory: Path) -> None:
        self._program = program("docker-registry")
        self.directory = directory
        self.data = directory / "data"
        self.port = free_port()
        self._daemon: Daemon | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The base address, without a slash at its end."""
        return f"http://{self.host}"

    def start(self) -> DockerRegistry:
        """Start it, and return when it answers."""
        settings = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.data)}, "delete": {"enabled": True}},
            "http": {"addr": self.host},
        }
        config = self.directory / "config.yml"
        config.write_text(json.dumps(settings))
        self._daemon = Daemon(
            [self._program, "serve", str(config)], private_environment(self.directory), self.directory
        )
        self._daemon.wait_until(self._is_up)
        return self

    def _is_up(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/v2/", trust_env=False).status_code == 200
        return False

    def stop(self) -> None:
        """End it; safe to repeat."""
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None


# ---------------------------------------------------------------- the registry's side


def http_client(server: Server | DockerRegistry) -> httpx.Client:
    """A client for *server*; it is the caller's to close."""
    return httpx.Client(base_url=server.url, timeout=30, trust_env=False)


def upload(http: httpx.Client, repository: str, item: Image | Index, *tags: str) -> str:
    """Push *item* byte for byte, children first, its own manifest under each of *tags*; return its digest."""
    for blob in item.blobs:
        _upload_blob(http, repository, blob)
    for manifest in item.manifests:
        references = tags if tags and manifest is item.manifest else (manifest.digest,)
        for reference in references:
            answer = http.put(
                f"/v2/{repository}/manifests/{reference}",
                content=manifest.data,
                headers={"Content-Type": manifest.media_type},
            )
            assert answer.status_code == 201, answer.text
    return item.digest


def _upload_blob(http: httpx.Client, repository: str, blob: Blob) -> None:
    opened = http.post(f"/v2/{repository}/blobs/uploads/")
    assert opened.status_code == 202, opened.text
    location = httpx.URL(opened.headers["Location"]).copy_merge_params({"digest": blob.digest})
    closed = http.put(location, content=blob.data, headers={"Content-Type": "application/octet-stream"})
    assert closed.status_code == 201, closed.text


def stored_manifest(http: httpx.Client, repository: str, reference: str) -> Blob:
    """The manifest as the registry serves it, once its digest header has been found to be true."""
    answer = http.get(f"/v2/{repository}/manifests/{reference}", headers={"Accept": ALL_TYPES})
    assert answer.status_code == 200, answer.text
    blob = Blob(answer.headers["Content-Type"], answer.content)
    assert answer.headers["Docker-Content-Digest"] == blob.digest
    return blob


def has_blob(http: httpx.Client, repository: str, digest: str) -> bool:
    """Whether the registry has the blob in *repository*."""
    return http.head(f"/v2/{repository}/blobs/{digest}").status_code == 200


def faults(server: Server, after_bytes: int = 0) -> list[str]:
    """What the server wrote of errors of its own into its log, *after_bytes* of it."""
    with server.log_path.open("rb") as log:
        log.seek(after_bytes)
        lines = log.read().decode(errors="replace").splitlines()
    return [line.replace("\\n", "\n") for line in lines if _is_fault(line)]


def _is_fault(line: str) -> bool:
    if not line.startswith("{"):
        return line.startswith("Traceback")
    return json.loads(line).get("level") in ("error", "critical")
