"""`hythe info` and `hythe doctor`: what containers run with here, and what is missing for it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from registry.cli import containers, info_fields, output, templates
from registry.cli.flags import BOOL, TEXT, Flag, Stop, Words
from registry.client.images import records as images
from registry.client.runtime import engine, netavark, records, storage
from registry.client.runtime.errors import Missing
from registry.client.runtime.machine import Machine

_INFO = Words(
    "info",
    "[OPTIONS]",
    "Show what containers run with on this machine",
    (
        Flag("json", "", BOOL, "Print JSON"),
        Flag("format", "f", TEXT, "json, or a Go template, of docker's fields"),
    ),
    0,
    0,
)
_DOCTOR = Words(
    "doctor",
    "[OPTIONS]",
    "Check this machine, and print the one command that mends each thing",
    (Flag("json", "", BOOL, "Print JSON"),),
    0,
    0,
)


_SHOWN = ("conmon", "netavark", "aardvark-dns", "user namespace", "ids", "network", "limits")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `mend` is the command that helps when it is not good."""

    name: str
    good: bool
    found: str
    mend: str = ""
    needed: bool = True


def checks() -> Iterator[Check]:
    """All that containers need of a machine, the needed things first."""
    yield from _everybodys()
    yield from _networks()


def _everybodys() -> Iterator[Check]:
    for name in engine.NAMES:
        path = engine.program(name)
        refused = path is not None and name == "crun" and engine.hybrid_cgroups()
        found = "does not work with hybrid cgroups" if refused else _version(path) if path else "not installed"
        yield Check(name, path is not None and not refused, found, f"apt-get install {name}", needed=False)
    path = engine.program("conmon")
    yield Check("conmon", path is not None, _version(path) if path else "not installed", "apt-get install conmon")
    yield Check(
        "overlay",
        _has_overlay(),
        "in the kernel" if _has_overlay() else "not in /proc/filesystems",
        "modprobe overlay",
    )
    yield Check(
        "seccomp",
        os.path.exists("/proc/sys/kernel/seccomp"),
        "in the kernel",
        "a kernel with CONFIG_SECCOMP_FILTER",
    )
    yield Check("cgroups", os.path.isdir("/sys/fs/cgroup"), _cgroups(), "mount -t cgroup2 none /sys/fs/cgroup")


def _networks() -> Iterator[Check]:
    try:
        yield Check("netavark", True, _version(netavark.program()), needed=False)
    except Missing:
        yield Check("netavark", False, "not installed: no bridge networks", "apt-get install netavark", False)
    dns = netavark.aardvark()
    yield Check(
        "aardvark-dns",
        dns is not None,
        _version(dns) if dns else "not installed: names do not resolve",
        "apt-get install aardvark-dns",
        False,
    )
    yield Check(
        "iptables",
        engine.program("iptables") is not None,
        engine.program("iptables") or "not installed: no ports",
        "apt-get install iptables",
        False,
    )


def _version(path: str | None) -> str:
    done = subprocess.run([path or "", "--version"], capture_output=True, text=True, check=False)
    return f"{(done.stdout or done.stderr).splitlines()[0] if done.stdout or done.stderr else '?'} ({path})"


def _has_overlay() -> bool:
    with open("/proc/filesystems") as file:
        return any(line.split()[-1] == "overlay" for line in file)


def _cgroups() -> str:
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return "v2"
    return "v1 and v2 (hybrid)" if engine.hybrid_cgroups() else "v1"


def info(words: Sequence[str]) -> int:
    """Run `info` and return its exit status."""
    return containers.execute(_INFO, words, _info)


def _info(machine: Machine, options: SimpleNamespace) -> int:
    found = machine.every()
    running = [each for each in found if each.state == records.RUNNING]
    parts = {
        "Containers": len(found),
        "Running": sum(not each.paused for each in running),
        "Paused": sum(each.paused for each in running),
        "Stopped": len(found) - len(running),
        "Images": len(images.images(machine.db)),
        "Storage Driver": storage.driver(machine.store.place.root),
        "Engine": _version(machine.engine.path),
        "Cgroups": _cgroups(),
        **{check.name: check.found for check in _of_this_user(machine) if check.name in _SHOWN},
        "Kernel Version": platform.release(),
        "Architecture": platform.machine(),
        "CPUs": os.cpu_count(),
        "Root Dir": str(machine.store.place.root),
        "Run Dir": str(machine.place.run),
    }
    if options.json:
        output.as_json(parts)
        return 0
    if options.format:
        text = "{{json .}}" if options.format == "json" else options.format
        print(templates.parse(text).render(info_fields.of(parts, machine)))
        return 0
    for name, value in parts.items():
        print(f"{name}: {value}")
    return 0


def _of_this_user(machine: Machine) -> Iterator[Check]:
    if not machine.is_rootless:
        yield from checks()
        return
    yield from _everybodys()
    from registry.cli import doctor_user

    yield from (Check(*values) for values in doctor_user.inside(machine.environment))


def doctor(words: Sequence[str]) -> int:
    """Run `doctor` and return its exit status: 1 when something is missing that containers need."""
    if os.geteuid() == 0:
        return containers.execute(_DOCTOR, words, lambda _, options: _say(list(checks()), options))
    try:
        options = _DOCTOR.read(words)
    except Stop as stop:
        return stop.status
    from registry.cli import doctor_user

    return _say([*_everybodys(), *(Check(*values) for values in doctor_user.every(os.environ))], options)


def _say(found: list[Check], options: SimpleNamespace) -> int:
    works = any(check.good for check in found if check.name in engine.NAMES) and all(
        check.good for check in found if check.needed
    )
    if options.json:
        output.as_json({"works": works, "checks": [_plain(check) for check in found]})
        return 0 if works else 1
    for check in found:
        print(
            f"{'ok     ' if check.good else 'MISSING' if check.needed else 'absent '}  {check.name}: {check.found}"
        )
        if not check.good and check.mend:
            print(f"         mend it with: {check.mend}")
    print("Containers can run here." if works else "Containers cannot run here until that is mended.")
    return 0 if works else 1


def _plain(check: Check) -> dict[str, object]:
    return {"name": check.name, "ok": check.good, "found": check.found, "needed": check.needed, "mend": check.mend}
