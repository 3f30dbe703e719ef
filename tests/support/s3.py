"""S3 stores for tests: a real one, Ceph's object gateway over one disk of its own, and a quick stand-in, moto.

Both listen on the loopback address, keep everything in a directory that the caller names, and are ended by their
process ids. The real one checks signatures and survives `kill -9`; moto accepts any key and forgets all.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.config import Config

from tests.support.peers import unavailable
from tests.support.server import Settings, free_port

ACCESS_KEY = "HYTHETESTS"
SECRET_KEY = "only-for-stores-that-tests-start"
# Smaller parts than any real store takes, so that small tests have many of them.
PART_BYTES_MIN = 1
PACKAGES = ("ceph-mon", "ceph-osd", "radosgw", "ceph-common")
_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

# One monitor, one disk, one gateway, without passwords among themselves. What is left out has Ceph's default;
# the short intervals make it start in seconds, which it was not made for.
_CEPH = """\
[global]
fsid = {fsid}
mon_host = {monitor}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
keyring = {home}/keyring
run_dir = {home}
admin_socket = ""
log_file = {home}/$name.log
log_to_syslog = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_max_pg_per_osd = 2000
mon_allow_pool_size_one = true
mon_client_hunt_interval = 0.5
objecter_tick_interval = 0.5
paxos_propose_interval = 0.02
paxos_min_wait = 0.01

[mon]
mon_data = {home}/mon
mon_data_avail_crit = 1
mon_data_avail_warn = 2

[osd]
osd_data = {home}/osd
osd_objectstore = bluestore
bluestore_block_size = 10737418240
osd_memory_target = 939524096

[client.gateway]
rgw_data = {home}/gateway
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw_multipart_min_part_size = {part_bytes_min}
"""


_PR_SET_PDEATHSIG = 1


class Store:
    """An S3 store that runs, with one bucket; tests share it by prefixes of their own."""

    name = "S3"
    bucket = "hythe-tests"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()

    @classmethod
    def missing(cls) -> str:
        """Why it cannot run here, or nothing."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, with the bucket."""
        raise NotImplementedError

    def stop(self) -> None:
        """End it, and delete what it kept."""
        raise NotImplementedError

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, **over: Any) -> Any:
        """A plain client, to look at the store behind the registry's back."""
        options = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, **over}
        config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
        return boto3.session.Session().client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", config=config, **options
        )

    def keys(self, prefix: str) -> list[str]:
        """Every key under *prefix*, without it."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", [])]

    def multiparts(self, prefix: str) -> list[str]:
        """The keys of multipart uploads under way under *prefix*, without it."""
        pages = self.client().get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"].removeprefix(prefix) for page in pages for item in page.get("Uploads", [])]

    def settings(self, prefix: str = "", **over: Any) -> Settings:
        """The section `storage` of a server that keeps its blobs here; no prefix means a new one."""
        s3 = {
            "endpoint": self.endpoint,
            "bucket": self.bucket,
            "prefix": prefix or new_prefix(),
            "access_key": ACCESS_KEY,
            "secret_key": SECRET_KEY,
            **over,
        }
        return {"kind": "s3", "s3": s3}


AnyStore = TypeVar("AnyStore", bound=Store)


def new_prefix() -> str:
    """A prefix that belongs to one test alone."""
    return f"{uuid.uuid4()}/"


class Ceph(Store):
    """One-node Ceph with its object gateway."""

    name = "Ceph"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @classmethod
    def missing(cls) -> str:
        """Why it cannot run here, or nothing."""
        absent = [program for program in _PROGRAMS if shutil.which(program) is None]
        if absent:
            return f"{', '.join(absent)} not installed (Debian has them in {' '.join(PACKAGES)})"
        return "" if os.geteuid() == 0 else "Ceph needs root here"

    def start(self) -> None:
        """Make a new cluster and return when its gateway has the bucket."""
        for name in ("mon", "osd", "gateway"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "keyring").touch()
        cluster = str(uuid.uuid4())
        monitor = f"[v2:127.0.0.1:{free_port()}]"
        values = {"fsid": cluster, "monitor": monitor, "home": self.directory, "port": self.port}
        text = _CEPH.format(**values, part_bytes_min=PART_BYTES_MIN)
        (self.directory / "ceph.conf").write_text(text)
        self._start_monitor(cluster, monitor)
        self._start_disk()
        self._run("radosgw-admin", "user", "create", "--uid=tests", "--display-name=tests", *_key_options())
        self.start_gateway()
        self.client().create_bucket(Bucket=self.bucket)

    def _start_monitor(self, cluster: str, monitor: str) -> None:
        known = str(self.directory / "monmap")
        self._run("monmaptool", "--create", "--fsid", cluster, "--addv", "one", monitor, known)
        self._run("ceph-mon", "--mkfs", "--id", "one", "--monmap", known)
        self._spawn("monitor", "ceph-mon", "--foreground", "--id", "one")

    def _start_disk(self) -> None:
        disk = str(uuid.uuid4())
        self._run("ceph", "--connect-timeout", "30", "osd", "new", disk)
        self._run("ceph-osd", "--id", "0", "--mkfs", "--osd-uuid", disk)
        self._spawn("disk", "ceph-osd", "--foreground", "--id", "0")
        wait_for(lambda: " 1 up" in self._run("ceph", "osd", "stat"), "Ceph's disk")

    def start_gateway(self) -> None:
        """Start the part that speaks S3, again if it was killed."""
        self._spawn("gateway", "radosgw", "--foreground", "--name", "client.gateway")
        wait_for(lambda: is_listening(self.port), "Ceph's gateway", self._processes["gateway"])

    @property
    def pids(self) -> list[int]:
        """The processes of which it consists."""
        return [process.pid for process in self._processes.values()]

    def kill_gateway(self) -> None:
        """`kill -9` the part that speaks S3; what it acknowledged is with the disk."""
        self._end("gateway")

    def collect_garbage(self) -> None:
        """Free now what the store itself would free hours later."""
        self._run("radosgw-admin", "gc", "process", "--include-all")

    def make_bucket_with_quota(self, bucket: str, size_bytes: int) -> None:
        """A bucket that is full when it has so many bytes."""
        self.client().create_bucket(Bucket=bucket)
        where = ["--quota-scope=bucket", f"--bucket={bucket}"]
        self._run("radosgw-admin", "quota", "set", *where, f"--max-size={size_bytes}")
        self._run("radosgw-admin", "quota", "enable", *where)

    def stop(self) -> None:
        """End everything and delete it."""
        for name in list(self._processes)[::-1]:
            self._end(name)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait(30)

    def _run(self, program: str, *arguments: str) -> str:
        command = _with_configuration(program, self.directory / "ceph.conf", arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def _spawn(self, name: str, program: str, *arguments: str) -> None:
        command = _with_configuration(program, self.directory / "ceph.conf", arguments)
        self._processes[name] = spawn(command, self.directory / f"{name}.out")


def _with_configuration(program: str, path: Path, arguments: Sequence[str]) -> list[str]:
    return [program, *([] if program == "monmaptool" else ["--conf", str(path)]), *arguments]


def _key_options() -> list[str]:
    return [f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}"]


class Moto(Store):
    """moto's server: all of S3's words in half a second, nothing on disk, signatures not looked at."""

    name = "moto"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> str:
        """Why it cannot run here, or nothing."""
        with contextlib.suppress(ImportError):
            import moto  # noqa: F401

            return ""
        return "moto is not installed (pip install 'moto[server]')"

    def start(self) -> None:
        """Start it and make the bucket."""
        self.directory.mkdir(parents=True, exist_ok=True)
        environment = {"S3_UPLOAD_PART_MIN_SIZE": str(PART_BYTES_MIN)}
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = spawn(command, self.directory / "moto.out", environment)
        wait_for(lambda: is_listening(self.port), "moto", self._process)
        self.client().create_bucket(Bucket=self.bucket)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)


def spawn(
    command: Sequence[str], output: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that is ended by its pid, or dies with the tests."""
    with output.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            preexec_fn=_die_with_parent,
        )


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections at a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_for(condition: Callable[[], bool], what: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until *condition* holds; fail after a minute, or when the process that shall make it true is dead."""
    deadline = time.monotonic() + 60
    while not condition():
        assert process is None or process.poll() is None, f"{what} ended with {process.poll()}"
        assert time.monotonic() < deadline, f"{what} did not come up"
        time.sleep(0.05)


@functools.cache
def shared(kind: type[AnyStore]) -> AnyStore:
    """The store of *kind* that all tests share. Without one the test is skipped, or fails if `CI` is set."""
    if reason := kind.missing():
        unavailable(reason)
    directory = Path(tempfile.mkdtemp(prefix="hythe-s3-"))
    store = kind(directory / "store")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    atexit.register(store.stop)
    store.start()
    return store


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
