"""Capabilities, devices, paths and resources: docker's defaults, and what options change of them. Pure.

Source: docker's documentation, "Runtime privilege and Linux capabilities"; OCI runtime-spec, "Linux".
"""

from __future__ import annotations

from typing import Any

from registry.client.runtime.errors import OptionInvalid
from registry.client.runtime.spec import Spec

DEFAULT_CAPABILITIES = (
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
    "CAP_SYS_CHROOT",
)  # fmt: skip
# In the order of their numbers: capabilities(7).
_CAPABILITY_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP
MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
ALL_CAPABILITIES = tuple(f"CAP_{name}" for name in _CAPABILITY_NAMES.split())
MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
    "/sys/firmware",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_CPU_PERIOD_US = 100_000
# null, zero, full, tty, random, urandom, console, ptmx, pts/*: as the runtime makes them.
_DEVICES = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))


def capabilities(spec: Spec, held: frozenset[str]) -> tuple[str, ...]:
    """The container's capabilities. *held* are this machine's bounding set, which is all that ALL gives."""
    added = {_capability(name) for name in spec.cap_add}
    dropped = {_capability(name) for name in spec.cap_drop}
    if spec.privileged:
        return tuple(name for name in ALL_CAPABILITIES if name in held)
    base = set() if "ALL" in dropped else set(DEFAULT_CAPABILITIES)
    if "ALL" in added:
        base = set(held)
    chosen = (base | (added - {"ALL"})) - dropped
    return tuple(name for name in ALL_CAPABILITIES if name in chosen)


def _capability(text: str) -> str:
    name = text.upper()
    if name == "ALL":
        return name
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name not in ALL_CAPABILITIES:
        raise OptionInvalid(f'invalid capability: unknown capability "{name}"')
    return name


def resources(spec: Spec, devices: list[dict[str, Any]]) -> dict[str, Any]:
    """The `resources` of a runtime configuration: cgroup limits and the device list."""
    found: dict[str, Any] = {"devices": _device_rules(spec, devices)}
    memory = {
        name: value
        for name, value in (
            ("limit", spec.memory),
            ("swap", spec.memory_swap or (2 * spec.memory if spec.memory > 0 else 0)),
            ("reservation", spec.memory_reservation),
        )
        if value
    }
    if memory:
        found["memory"] = memory
    cpu: dict[str, Any] = {}
    if spec.nano_cpus:
        cpu |= {"quota": spec.nano_cpus * _CPU_PERIOD_US // 10**9, "period": _CPU_PERIOD_US}
    if spec.cpu_shares:
        cpu["shares"] = spec.cpu_shares
    if spec.cpuset:
        cpu["cpus"] = spec.cpuset
    if cpu:
        found["cpu"] = cpu
    if spec.pids_limit > 0:
        found["pids"] = {"limit": spec.pids_limit}
    return found


def _device_rules(spec: Spec, devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if spec.privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for major, minor in _DEVICES:
        rule: dict[str, Any] = {"allow": True, "type": "c", "major": major, "access": "rwm"}
        rules.append(rule if minor is None else {**rule, "minor": minor})
    # Making a node is harmless: opening it is what the list decides.
    rules += [{"allow": True, "type": kind, "access": "m"} for kind in ("c", "b")]
    for device, wanted in zip(devices, spec.devices, strict=True):
        numbers = {name: device[name] for name in ("type", "major", "minor")}
        rules.append({"allow": True, **numbers, "access": wanted.access})
    return rules


def rlimits(spec: Spec) -> list[dict[str, Any]]:
    """The limits on each process."""
    unlimited = 2**64 - 1
    return [
        {
            "type": f"RLIMIT_{limit.name.upper()}",
            "soft": limit.soft if limit.soft >= 0 else unlimited,
            "hard": limit.hard if limit.hard >= 0 else unlimited,
        }
        for limit in spec.ulimits
    ]
