"""What must be there before a container's first process: its files in /etc, its configuration, its network.

`plan` reads the records; the function that it returns runs in the container's own mount namespace (`stage`).
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.client.images.unpack import rights
from registry.client.runtime import bundle as bundles
from registry.client.runtime import engine as engines
from registry.client.runtime import (
    kernel,
    limits,
    netavark,
    networks,
    overlay,
    records,
    rootfs,
    rootless,
    usernet,
    users,
    volumes,
)  # fmt: skip
from registry.client.runtime.bundle import Facts
from registry.client.runtime.errors import CommandNotFound, ContainerError, Missing
from registry.client.runtime.records import Container
from registry.client.runtime.spec import Spec
from registry.client.runtime.usernet import Plan

if TYPE_CHECKING:
    from registry.client.images.store import Store
    from registry.client.runtime.machine import Machine

# Those that are linked statically: the image has no libraries for another.
_INITS = ("docker-init", "catatonit", "tini-static", "podman-init")


def plan(machine: Machine, container: Container, bundle: Path) -> Callable[[], None]:
    """All that is needed of the records and the machine, bound to the function that prepares the root."""
    spec = container.spec
    if not spec.arguments:
        raise CommandNotFound("No command specified")
    directory = machine.place.container(container.id)
    target = bundle / "rootfs"
    target.mkdir(mode=0o700)
    front = usernet.provide(machine, container) if machine.is_rootless else None
    network = None if machine.is_rootless else networks.provide(machine, container)
    if network is not None:
        networks.keep(bundle, "network", network)
    _write_files(machine, container, directory, _front_facts(front) if front else _network_facts(network))
    plans = [network] if network else []
    if network and spec.others:
        from registry.client.runtime import joining  # for the few that have several networks

        plans += joining.begin(machine, container, bundle)
    facts = Facts(
        id=container.id,
        rootfs=str(target),
        files=str(directory),
        machine=os.uname().machine,
        held=held_capabilities(),
        unified=not os.path.isdir("/sys/fs/cgroup/pids"),
        init=_find_init() if spec.init else "",
        sources=_sources(machine, spec),
        devices=_devices(spec),
        joined=_joined(machine, spec) | ({"network": str(bundle / "netns")} if network or front else {}),
        seccomp=_own_profile(spec),
    )
    options = overlay.options(machine.store, container.image_id, container.id, spec.auto_remove)
    fresh = frozenset(
        mount.target for mount in spec.mounts
        if mount.kind == "volume" and "nocopy" not in mount.options and not os.listdir(facts.sources[mount.target])
    )  # fmt: skip
    connect = partial(_connect, bundle, plans, machine.place.run / "network", front)
    return partial(_prepare, machine.store, options, spec, facts, fresh, bundle, connect)


def _prepare(
    store: Store,
    options: str,
    spec: Spec,
    facts: Facts,
    fresh: frozenset[str],
    bundle: Path,
    connect: Callable[[], None],
) -> None:
    target = Path(facts.rootfs)
    overlay.mount(store, options, target, bundle / "fuse-overlayfs.pid")
    with rootfs.opened(facts.rootfs) as root:
        passwd, group = (rootfs.read_text(root, f"etc/{name}") for name in ("passwd", "group"))
        user = users.resolve(spec.user, passwd, group, spec.groups)
        workdir = rootfs.resolve_workdir(root, spec.workdir or "/")
        for place in fresh:
            _fill(root, place, facts.sources[place])
    document = bundles.configuration(spec, user, workdir, facts)
    if rights.is_mapped():
        document = rootless.adapt(document, rights.mapped_ids())
    (bundle / "config.json").write_text(json.dumps(document))
    connect()


def _connect(bundle: Path, plans: list[dict[str, Any]], state: Path, front: Plan | None) -> None:
    if plans:
        netavark.make_namespace(bundle / "netns")
    for network in plans:
        netavark.call("setup", network, str(bundle / "netns"), state)
    if len(plans) > 1:
        netavark.choose_gateway(plans, str(bundle / "netns"))
    if front is not None:
        usernet.connect(front, bundle)


def _fill(root: int, place: str, source: str) -> None:
    try:
        fd = kernel.open_in(root, place, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    target = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    volumes.fill(target, fd)
    os.close(target)
    os.close(fd)


def held_capabilities() -> frozenset[str]:
    """The capabilities that this process may hand on: its bounding set."""
    with open("/proc/self/status") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith("CapBnd:"))
    return frozenset(name for number, name in enumerate(limits.ALL_CAPABILITIES) if mask >> number & 1)


def _find_init() -> str:
    found = next((path for name in _INITS if (path := engines.program(name))), None)
    if found is None:
        raise Missing("--init needs a small init: apt-get install tini")
    return found


def _sources(machine: Machine, spec: Spec) -> dict[str, str]:
    return {
        mount.target: str(machine.place.volume(mount.source)) if mount.kind == "volume" else mount.source
        for mount in spec.mounts
        if mount.kind != "tmpfs"
    }


def _devices(spec: Spec) -> tuple[dict[str, Any], ...]:
    """The devices that are asked for; a privileged container has all that the machine has, as with docker."""
    asked = [_device(each.source, each.target) for each in spec.devices]
    if not spec.privileged or rights.is_mapped():  # an ordinary user may make no node
        return tuple(asked)
    known = {each["path"] for each in asked}
    return (*asked, *(_device(path, path) for path in _machines_devices("/dev") if path not in known))


def _machines_devices(directory: str) -> Iterator[str]:
    for entry in sorted(os.scandir(directory), key=lambda each: each.name):
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in ("pts", "shm", "fd", "mqueue"):
                yield from _machines_devices(entry.path)
        elif entry.name != "console" and not entry.is_symlink():
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                yield entry.path


def _device(source: str, target: str) -> dict[str, Any]:
    try:
        status = os.stat(source)
    except OSError:
        raise ContainerError(f'error gathering device information while adding custom device "{source}"') from None
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
    if not kind:
        raise ContainerError(f"{source} is not a device node")
    return {
        "path": target, "type": kind, "major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode), "uid": status.st_uid, "gid": status.st_gid,
    }  # fmt: skip


def _joined(machine: Machine, spec: Spec) -> dict[str, str]:
    found = {}
    for kind, file, text in (("network", "net", spec.network), ("pid", "pid", spec.pid), ("ipc", "ipc", spec.ipc)):
        if text.startswith("container:"):
            other = machine.find(text.partition(":")[2])
            if other.state != records.RUNNING or other.process is None:
                raise ContainerError(f"cannot join {kind} namespace of a non running container: {other.id}")
            found[kind] = f"/proc/{other.process.pid}/ns/{file}"
    return found


def _own_profile(spec: Spec) -> dict[str, Any] | None:
    for text in spec.security:
        name, _, path = text.partition("=")
        if name == "seccomp" and path not in ("unconfined", "builtin"):
            try:
                found: dict[str, Any] = json.loads(Path(path).read_text())
            except (OSError, ValueError) as error:
                raise ContainerError(f"opening seccomp profile ({path}) failed: {error}") from None
            return {key: value for key, value in found.items() if key != "archMap"}
    return None


# --- the files of our own in /etc


def _write_files(machine: Machine, container: Container, directory: Path, facts: tuple[str, str, str]) -> None:
    spec = container.spec
    name = bundles.hostname(spec, container.id) if spec.uts != "host" else os.uname().nodename
    (directory / "hostname").write_text(f"{name}\n")
    own = _host_text("/etc/hosts") if spec.network == "host" else ""
    address, server, gateway = facts
    (directory / "hosts").write_text(hosts(spec, name, own, address, gateway))
    (directory / "resolv.conf").write_text(resolv(spec, _host_text("/etc/resolv.conf"), server))
    for file in ("hostname", "hosts", "resolv.conf"):
        (directory / file).chmod(0o644)


def _network_facts(network: dict[str, Any] | None) -> tuple[str, str, str]:
    """Address, name server and gateway of a container on a bridge."""
    if network is None:
        return "", "", ""
    [(name, mine)] = network["networks"].items()
    info = network["network_info"][name]
    gateway = info["subnets"][0]["gateway"]
    return mine["static_ips"][0], gateway if info["dns_enabled"] else "", gateway


def _front_facts(front: Plan) -> tuple[str, str, str]:
    """The same of one with a process in front of it, which asks this machine's name server where that is local."""
    servers = re.findall(r"^\s*nameserver\s+(\S+)", _host_text("/etc/resolv.conf"), re.MULTILINE)
    local = all(each.startswith("127.") or each == "::1" for each in servers)
    return front.address, usernet.name_server(front) if local else "", front.gateway


def _host_text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def hosts(spec: Spec, name: str, given: str = "", address: str = "", gateway: str = "127.0.0.1") -> str:
    """/etc/hosts; *given* is the machine's own for a container in its network."""
    lines = [given.rstrip("\n")] if given else [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::\tip6-localnet", "ff00::\tip6-mcastprefix", "ff02::1\tip6-allnodes", "ff02::2\tip6-allrouters",
    ]  # fmt: skip
    for text in spec.hosts:
        host, _, target = text.partition(":")
        lines.append(f"{gateway if target == 'host-gateway' else target}\t{host}")
    if address:
        lines.append(f"{address}\t{name}")
    return "\n".join(lines) + "\n"


def resolv(spec: Spec, given: str, server: str = "") -> str:
    """/etc/resolv.conf: what was asked for, else the machine's without servers that only the machine can reach."""
    if spec.dns:
        kept = [line for line in given.splitlines() if not re.match(r"\s*nameserver\b", line)]
        lines = [*(f"nameserver {each}" for each in spec.dns), *kept]
    else:
        lines = given.splitlines()
        if spec.network != "host":
            lines = [line for line in lines if not re.match(r"\s*nameserver\s+(127\.|::1)", line)]
        if server:  # it asks the machine's servers for what it does not know
            lines = [f"nameserver {server}", *(line for line in lines if "nameserver" not in line)]
    if spec.dns_search:
        lines = [line for line in lines if not re.match(r"\s*search\b", line)]
        lines.append("search " + " ".join(spec.dns_search))
    return "\n".join(lines) + "\n"
