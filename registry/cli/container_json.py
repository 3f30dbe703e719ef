"""A container in docker's JSON, as `docker inspect` prints it."""

from __future__ import annotations

from typing import Any

from registry.cli import container_now, listing
from registry.client.images import records as images
from registry.client.runtime import bundle, limits, usage
from registry.client.runtime.machine import Machine
from registry.client.runtime.records import Container
from registry.client.runtime.spec import Mount, Spec
from registry.oci.digest import Digest


def describe(machine: Machine, container: Container, sized: bool = False) -> dict[str, Any]:
    """All that is known of a container."""
    directory = machine.place.container(container.id)
    words = container.spec.arguments
    found: dict[str, Any] = {
        "Id": container.id,
        "Created": listing.utc(container.created_ns),
        "Path": words[0] if words else "",
        "Args": list(words[1:]),
        "State": container_now.state(machine, container),
        "Image": container.image_id,
        "ResolvConfPath": str(directory / "resolv.conf"),
        "HostnamePath": str(directory / "hostname"),
        "HostsPath": str(directory / "hosts"),
        "LogPath": str(machine.place.log(container.id)),
        "Name": f"/{container.name}",
        "RestartCount": container.restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": _host_config(container.spec),
        "GraphDriver": _graph(machine, container),
        "Mounts": [_mount(machine, mount) for mount in container.spec.mounts if mount.kind != "tmpfs"],
        "Config": _config(container),
        "NetworkSettings": container_now.network(machine, container),
    }
    if sized:
        own = usage.written_bytes(machine, container)
        image = images.image(machine.db, container.image_id)
        found |= {"SizeRw": own, "SizeRootFs": own + (image.size_bytes if image else 0)}
    return found


def healthcheck(spec: Spec) -> dict[str, Any]:
    """The health check as configurations of containers and images have it; nothing without one."""
    check = spec.health
    if check is None:
        return {}
    times = {"Interval": check.interval_ns, "Timeout": check.timeout_ns, "StartPeriod": check.start_period_ns}
    known = {name: value for name, value in (*times.items(), ("Retries", check.retries)) if value}
    return {"Healthcheck": {"Test": list(check.test), **known}}


def _host_config(spec: Spec) -> dict[str, Any]:
    return {
        "Binds": [
            f"{mount.source}:{mount.target}{':ro' if mount.readonly else ''}"
            for mount in spec.mounts if mount.kind in ("bind", "volume") and not mount.anonymous
        ] or None,
        "ContainerIDFile": "",
        "LogConfig": {"Type": spec.log_driver, "Config": dict(spec.log_options)},
        "NetworkMode": spec.network,
        "PortBindings": _bindings(spec),
        "RestartPolicy": {"Name": spec.restart, "MaximumRetryCount": spec.restart_max},
        "AutoRemove": spec.auto_remove,
        "CapAdd": list(spec.cap_add) or None,
        "CapDrop": list(spec.cap_drop) or None,
        "CgroupnsMode": "private",
        "Dns": list(spec.dns),
        "DnsSearch": list(spec.dns_search),
        "ExtraHosts": list(spec.hosts) or None,
        "GroupAdd": list(spec.groups) or None,
        "IpcMode": spec.ipc or "private",
        "OomScoreAdj": spec.oom_score,
        "PidMode": spec.pid,
        "Privileged": spec.privileged,
        "PublishAllPorts": spec.publish_all,
        "ReadonlyRootfs": spec.readonly,
        "SecurityOpt": list(spec.security) or None,
        "Tmpfs": {m.target: ",".join(m.options) for m in spec.mounts if m.kind == "tmpfs"} or None,
        "UTSMode": spec.uts,
        "ShmSize": spec.shm_size,
        "Sysctls": spec.sysctls or None,
        "Runtime": spec.engine or "runc",
        "CpuShares": spec.cpu_shares,
        "Memory": spec.memory,
        "NanoCpus": spec.nano_cpus,
        "CgroupParent": spec.cgroup_parent,
        "CpusetCpus": spec.cpuset,
        "Devices": [
            {"PathOnHost": each.source, "PathInContainer": each.target, "CgroupPermissions": each.access}
            for each in spec.devices
        ],
        "MemoryReservation": spec.memory_reservation,
        "MemorySwap": spec.memory_swap or 2 * spec.memory,
        "PidsLimit": spec.pids_limit or None,
        "Ulimits": [{"Name": each.name, "Hard": each.hard, "Soft": each.soft} for each in spec.ulimits] or None,
        "Init": spec.init,
        "MaskedPaths": None if spec.privileged else list(limits.MASKED_PATHS),
        "ReadonlyPaths": None if spec.privileged else list(limits.READONLY_PATHS),
    }  # fmt: skip


def _bindings(spec: Spec) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for port in spec.ports:
        entry = {"HostIp": port.host_address, "HostPort": str(port.host or "")}
        found.setdefault(f"{port.container}/{port.protocol}", []).append(entry)
    return found


def _graph(machine: Machine, container: Container) -> dict[str, Any]:
    layers = [
        str(machine.store.place.layer(each.diff_id))
        for each in images.layers_of(machine.db, Digest(container.image_id))
    ]
    directory = machine.place.container(container.id)
    return {
        "Data": {
            "LowerDir": ":".join([str(directory / "init"), *reversed(layers)]),
            "UpperDir": str(directory / "upper"),
            "WorkDir": str(directory / "work"),
        },
        "Name": "overlay2",
    }


def _mount(machine: Machine, mount: Mount) -> dict[str, Any]:
    propagation = next((option for option in mount.options if option != "nocopy"), "rprivate")
    common = {"Destination": mount.target, "RW": not mount.readonly}
    if mount.kind == "volume":
        source = str(machine.place.volume(mount.source))
        return {
            "Type": "volume",
            "Name": mount.source,
            "Source": source,
            "Driver": "local",
            "Mode": "",
            "Propagation": "",
            **common,
        }
    return {
        "Type": "bind",
        "Source": mount.source,
        "Mode": "ro" if mount.readonly else "",
        "Propagation": propagation,
        **common,
    }


def _config(container: Container) -> dict[str, Any]:
    spec = container.spec
    attached = spec.attach or ("stdout", "stderr", *(("stdin",) if spec.stdin_once else ()))
    return {
        "Hostname": bundle.hostname(spec, container.id),
        "Domainname": spec.domainname,
        "User": spec.user,
        "AttachStdin": "stdin" in attached,
        "AttachStdout": "stdout" in attached,
        "AttachStderr": "stderr" in attached,
        **({"ExposedPorts": {each: {} for each in spec.exposed}} if spec.exposed else {}),
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "StdinOnce": spec.stdin_once,
        "Env": list(spec.env),
        "Cmd": list(spec.command) or None,
        **healthcheck(spec),
        "Image": spec.image,
        "Volumes": {mount.target: {} for mount in spec.mounts if mount.anonymous} or None,
        "WorkingDir": spec.workdir,
        "Entrypoint": list(spec.entrypoint) or None,
        "OnBuild": None,
        "Labels": dict(spec.labels),
        **({"StopSignal": spec.stop_signal} if spec.stop_signal != "SIGTERM" else {}),
        **({"StopTimeout": spec.stop_timeout} if spec.stop_timeout != 10 else {}),
    }
