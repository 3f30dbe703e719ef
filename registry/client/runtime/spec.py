"""What a container is to be: the image's defaults with what was asked for laid over them.

Plain values, kept as JSON.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

_LISTS_OF = {"mounts": "Mount", "ports": "Port", "ulimits": "Ulimit", "devices": "Device", "others": "Joined"}


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory or file of the machine (`bind`), a volume, or memory (`tmpfs`) that a container sees."""

    kind: str
    target: str
    source: str = ""  # a path, or a volume's name; an empty name is given one
    readonly: bool = False
    options: tuple[str, ...] = ()
    anonymous: bool = False  # a volume that goes with its container when that is removed with -v or --rm
    make_source: bool = False  # -v makes the directory that is not there, --mount refuses


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a container, and where of the machine it is reached; host port 0 is any free one."""

    container: int
    protocol: str = "tcp"
    host_address: str = ""
    host: int = 0


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A limit on each process."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the machine in the container."""

    source: str
    target: str
    access: str = "rwm"


@dataclass(frozen=True, slots=True)
class Joined:
    """A further network that a container is in, its names there, and the address that was asked for."""

    network: str
    aliases: tuple[str, ...] = ()
    address: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """How a container's health is asked: `CMD` and words, or `CMD-SHELL` and a line; 0 is docker's default."""

    test: tuple[str, ...]
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    retries: int = 0
    shell: tuple[str, ...] = ("/bin/sh", "-c")

    @property
    def words(self) -> tuple[str, ...]:
        """The command that is executed in the container."""
        return (*self.shell, *self.test[1:]) if self.test[0] == "CMD-SHELL" else self.test[1:]


@dataclass(frozen=True, slots=True)
class Spec:
    """A container's specification. Sizes are in bytes, 0 or -1 is no limit; all else reads as docker's options."""

    image: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    hostname: str = ""
    domainname: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    exposed: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"
    stop_timeout: int = 10
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    attach: tuple[str, ...] = ()
    auto_remove: bool = False
    restart: str = "no"
    restart_max: int = 0
    mounts: tuple[Mount, ...] = ()
    readonly: bool = False
    network: str = "bridge"
    others: tuple[Joined, ...] = ()
    aliases: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    publish_all: bool = False
    hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    address: str = ""
    memory: int = 0
    memory_swap: int = 0
    memory_reservation: int = 0
    nano_cpus: int = 0
    cpu_shares: int = 0
    cpuset: str = ""
    pids_limit: int = 0
    shm_size: int = 64 << 20
    ulimits: tuple[Ulimit, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    devices: tuple[Device, ...] = ()
    security: tuple[str, ...] = ()
    sysctls: dict[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    pid: str = ""
    ipc: str = ""
    uts: str = ""
    init: bool = False
    cgroup_parent: str = ""
    oom_score: int = 0
    log_driver: str = "json-file"
    log_options: dict[str, str] = field(default_factory=dict)
    health: Health | None = None
    engine: str = ""

    @property
    def arguments(self) -> tuple[str, ...]:
        """The words of the container's first process."""
        return (*self.entrypoint, *self.command)

    def to_json(self) -> str:
        """As the records keep it: only what differs from the defaults."""
        default = Spec("")
        kept = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)
            if getattr(self, each.name) != getattr(default, each.name)
        }
        return json.dumps(kept, default=dataclasses.asdict, separators=(",", ":"))


def from_json(text: str) -> Spec:
    """Read what `Spec.to_json` wrote."""
    found: dict[str, Any] = {"image": "", **json.loads(text)}
    kinds: dict[str, Any] = {"Mount": _mount, "Port": Port, "Ulimit": Ulimit, "Device": Device, "Joined": _joined}
    for name, value in found.items():
        if name in _LISTS_OF:
            found[name] = tuple(kinds[_LISTS_OF[name]](**each) for each in value)
        elif isinstance(value, list):
            found[name] = tuple(value)
    if found.get("health"):
        found["health"] = _health(**found["health"])
    return Spec(**found)


def _joined(**values: Any) -> Joined:
    return Joined(**{**values, "aliases": tuple(values.get("aliases", ()))})


def _health(**values: Any) -> Health:
    lists = {name: tuple(values[name]) for name in ("test", "shell")}
    return Health(**{**values, **lists})


def _mount(**values: Any) -> Mount:
    return Mount(**{**values, "options": tuple(values.get("options", ()))})
