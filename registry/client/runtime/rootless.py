"""What an ordinary user's container cannot have, and what stands in for it: changes to the engine's configuration.

Source: user_namespaces(7), cgroups(7); podman's rootless documentation, whose warnings these are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from registry.client.runtime.errors import ContainerError
from registry.client.runtime.spec import Spec

_CGROUPS = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpu", "memory", "pids")
# A file system of the kernel's needs the namespace that it shows: what is the machine's own is bound.
_BOUND = {"/sys": "network", "/proc": "pid", "/dev/mqueue": "ipc"}


def delegated() -> frozenset[str]:
    """The controllers that this user may limit containers with: of cgroup v2, in the group above our own.

    The engine makes containers' groups there, as our own has processes. Source: cgroup-v2.rst, "Delegation".
    """
    if not (_CGROUPS / "cgroup.controllers").exists():
        return frozenset()
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    parent = (_CGROUPS / own.lstrip("/")).parent
    try:
        given = (parent / "cgroup.subtree_control").read_text().split()
    except OSError:
        return frozenset()
    return frozenset(given) if os.access(parent / "cgroup.procs", os.W_OK) else frozenset()


def how_to_delegate() -> str:
    """The command that gives a user's containers controllers. Source: systemd.resource-control(5), Delegate=."""
    if not (_CGROUPS / "cgroup.controllers").exists():
        return "boot with systemd.unified_cgroup_hierarchy=1: cgroup v1 cannot be given to users"
    return "systemd-run --user --scope -p Delegate=yes hythe …"


def without_limits(spec: Spec) -> list[str]:
    """The options of *spec* that limit nothing here, as they are written."""
    given = delegated()
    wanted = {
        "--memory": spec.memory or spec.memory_swap or spec.memory_reservation,
        "--cpus": spec.nano_cpus,
        "--cpu-shares": spec.cpu_shares,
        "--cpuset-cpus": spec.cpuset,
        "--pids-limit": spec.pids_limit > 0,
    }
    controllers = {"--memory": "memory", "--pids-limit": "pids", "--cpuset-cpus": "cpuset"}
    return [name for name, value in wanted.items() if value and controllers.get(name, "cpu") not in given]


def adapt(document: dict[str, Any], ids: int) -> dict[str, Any]:
    """The engine's configuration for root of a namespace that has *ids* ids. Raises ContainerError for others.

    The engine chooses the cgroup itself, and goes without where it may make none.
    """
    linux = document["linux"]
    given = delegated()
    kept = {"devices", *given}
    private = {each["type"] for each in linux["namespaces"] if "path" not in each}
    changed = {key: value for key, value in linux.items() if key != "cgroupsPath"}
    changed["resources"] = {key: value for key, value in linux["resources"].items() if key in kept}
    return {
        **document,
        "process": adapt_process(document["process"], ids),
        "mounts": [_mount(each, private, ids) for each in document["mounts"] if _is_there(each, private)],
        "linux": changed,
    }


def adapt_process(process: dict[str, Any], ids: int) -> dict[str, Any]:
    """A process for a namespace that has *ids* ids."""
    user = process["user"]
    highest = max(user["uid"], user["gid"], *user["additionalGids"], 0)
    if ids == 1 and not (user["uid"] or user["gid"]):
        user = {**user, "additionalGids": []}  # with one id, groups cannot be changed
    elif highest >= ids:
        raise ContainerError(
            f"the container's user has the id {highest}, and you have {'one id' if ids == 1 else f'{ids} ids'}: "
            "`hythe doctor` says how to get more; or --user root"
        )
    # Nobody but root may lower it, and a session's own may be above 0.
    lowest = int(Path("/proc/self/oom_score_adj").read_text())
    return {**process, "user": user, "oomScoreAdj": max(lowest, process.get("oomScoreAdj", 0))}


def _is_bound(mount: dict[str, Any], private: set[str]) -> bool:
    kind = _BOUND.get(mount["destination"])
    return kind is not None and mount["type"] != "bind" and kind not in private


def _is_there(mount: dict[str, Any], private: set[str]) -> bool:
    return not _is_bound(mount, private) or os.path.isdir(mount["destination"])


def _mount(mount: dict[str, Any], private: set[str], ids: int) -> dict[str, Any]:
    target = mount["destination"]
    if _is_bound(mount, private):
        readonly = ["ro"] if target == "/sys" and "ro" in mount["options"] else []
        options = ["rbind", "nosuid", "noexec", "nodev", *readonly]
        return {**mount, "type": "bind", "source": target, "options": options}
    if target == "/dev/pts" and ids <= 5:
        return {**mount, "options": [each for each in mount["options"] if each != "gid=5"]}
    return mount
