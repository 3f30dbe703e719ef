"""A container as the engine's configuration: a pure function of the specification and a few facts of the machine.

Source: OCI runtime-spec 1.0; docker's defaults, of which nothing is loosened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from registry.client.runtime import limits, seccomp
from registry.client.runtime.spec import Mount, Spec
from registry.client.runtime.users import User

OCI_VERSION = "1.0.2"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT_PATH = "/sbin/hythe-init"
_SAFE = ["nosuid", "noexec", "nodev"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the plan needs to know of the machine and of what was prepared for the container."""

    id: str
    rootfs: str
    files: str  # the directory of hosts, hostname and resolv.conf
    machine: str
    held: frozenset[str] = frozenset(limits.ALL_CAPABILITIES)
    unified: bool = False  # cgroup v2 alone
    init: str = ""  # the program of --init
    sources: dict[str, str] = field(default_factory=dict)  # what each mount's target is bound to
    devices: tuple[dict[str, Any], ...] = ()
    joined: dict[str, str] = field(default_factory=dict)  # namespaces of others, by kind
    seccomp: dict[str, Any] | None = None  # a profile of the user's
    directories: frozenset[str] = frozenset()  # mounts whose source is a directory


def configuration(spec: Spec, user: User, workdir: str, facts: Facts) -> dict[str, Any]:
    """The engine's config.json."""
    devices = list(facts.devices)
    linux: dict[str, Any] = {
        "namespaces": _namespaces(spec, facts),
        "cgroupsPath": f"{spec.cgroup_parent or '/hythe'}/{facts.id}",
        "resources": limits.resources(spec, devices),
        "devices": devices,
        "sysctl": dict(spec.sysctls),
    }
    if not spec.privileged:
        if "systempaths=unconfined" not in spec.security:
            linux["maskedPaths"] = list(limits.MASKED_PATHS)
            linux["readonlyPaths"] = list(limits.READONLY_PATHS)
        if "seccomp=unconfined" not in spec.security:
            chosen = facts.seccomp or seccomp.profile(limits.capabilities(spec, facts.held), facts.machine)
            linux["seccomp"] = chosen
    return {
        "ociVersion": OCI_VERSION,
        "process": process(spec, user, workdir, facts),
        "root": {"path": facts.rootfs, "readonly": spec.readonly},
        **({} if spec.uts == "host" else {"hostname": hostname(spec, facts.id)}),
        "mounts": mounts(spec, facts),
        "linux": linux,
        "annotations": {"org.opencontainers.image.ref.name": spec.image},
    }


def hostname(spec: Spec, identity: str) -> str:
    """What the container calls itself."""
    return spec.hostname or identity[:12]


def process(spec: Spec, user: User, workdir: str, facts: Facts) -> dict[str, Any]:
    """The first process."""
    held = list(limits.capabilities(spec, facts.held))
    arguments = list(spec.arguments)
    effective = held if user.uid == 0 else []
    return {
        "terminal": spec.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": [INIT_PATH, "--", *arguments] if spec.init else arguments,
        "env": environment(spec, user, facts.id),
        "cwd": workdir,
        "capabilities": {"bounding": held, "effective": effective, "permitted": effective},
        "rlimits": limits.rlimits(spec),
        "noNewPrivileges": bool({"no-new-privileges", "no-new-privileges=true"} & set(spec.security)),
        "oomScoreAdj": spec.oom_score,
    }


def environment(spec: Spec, user: User, identity: str) -> list[str]:
    """PATH, HOSTNAME, TERM and HOME where nothing else says otherwise; a name's last value counts."""
    found: dict[str, str] = {}
    for text in (
        _PATH,
        f"HOSTNAME={hostname(spec, identity)}",
        *(("TERM=xterm",) if spec.tty else ()),
        *spec.env,
    ):
        name = text.partition("=")[0]
        if "=" in text:
            found[name] = text
        else:
            found.pop(name, None)
    found.setdefault("HOME", f"HOME={user.home}")
    return list(found.values())


def _namespaces(spec: Spec, facts: Facts) -> list[dict[str, str]]:
    kinds = ["mount"]
    kinds += [] if spec.network == "host" and "network" not in facts.joined else ["network"]
    kinds += [] if spec.uts == "host" else ["uts"]
    kinds += [] if spec.pid == "host" else ["pid"]
    kinds += [] if spec.ipc == "host" else ["ipc"]
    kinds += ["cgroup"]
    return [{"type": kind, **({"path": facts.joined[kind]} if kind in facts.joined else {})} for kind in kinds]


def mounts(spec: Spec, facts: Facts) -> list[dict[str, Any]]:
    """What is mounted over the image: the kernel's file systems, our files in /etc, then what was asked for.

    Shallow targets come first, so that none hides another; of one target only the last counts.
    """
    writable = "rw" if spec.privileged else "ro"
    found = {
        each["destination"]: each
        for each in (
            _mount("/proc", "proc", "proc", _SAFE),
            _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
            _mount("/dev/pts", "devpts", "devpts",
                   ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            _mount("/sys", "sysfs", "sysfs", [*_SAFE, writable]),
            _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*_SAFE, "relatime", writable]),
            _mount("/dev/mqueue", "mqueue", "mqueue", _SAFE),
            _mount("/dev/shm", "tmpfs", "shm", [*_SAFE, "mode=1777", f"size={spec.shm_size}"]),  # noqa: S108
            *(_mount(f"/etc/{name}", "bind", f"{facts.files}/{name}", ["rbind", "rprivate"])
              for name in ("resolv.conf", "hostname", "hosts")),
        )
    }  # fmt: skip
    if spec.init:
        found[INIT_PATH] = _mount(INIT_PATH, "bind", facts.init, ["bind", "ro"])
    for mount in sorted(spec.mounts, key=lambda each: each.target.count("/")):
        found.pop(mount.target, None)
        found[mount.target] = _asked(mount, facts)
    return list(found.values())


def _asked(mount: Mount, facts: Facts) -> dict[str, Any]:
    if mount.kind == "tmpfs":
        options = [*_SAFE, *mount.options]
        return _mount(mount.target, "tmpfs", "tmpfs", [*options, "ro"] if mount.readonly else options)
    propagation = [option for option in mount.options if option.lstrip("r") in ("private", "shared", "slave")]
    options = ["rbind", *(propagation or ["rprivate"]), "ro" if mount.readonly else "rw"]
    return _mount(mount.target, "bind", facts.sources[mount.target], options)


def _mount(target: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}
