"""What `hythe info --format` has: the fields of docker's that mean something here, by docker's names."""

from __future__ import annotations

import os
import platform
from typing import Any

from registry import __version__
from registry.cli.templates import Strict
from registry.client.runtime.machine import Machine


def of(parts: dict[str, Any], machine: Machine) -> Strict:
    """The fields; *parts* is what `hythe info` prints."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = os.path.basename(machine.engine.path)
    return Strict(
        Containers=parts["Containers"],
        ContainersRunning=parts["Running"],
        ContainersPaused=parts["Paused"],
        ContainersStopped=parts["Stopped"],
        Images=parts["Images"],
        Driver=parts["Storage Driver"],
        CgroupDriver="cgroupfs",
        CgroupVersion="2" if parts["Cgroups"] == "v2" else "1",
        KernelVersion=parts["Kernel Version"],
        OperatingSystem=_system(),
        OSType="linux",
        Architecture=parts["Architecture"],
        NCPU=parts["CPUs"],
        MemTotal=memory,
        DockerRootDir=parts["Root Dir"],
        Name=os.uname().nodename,
        ServerVersion=__version__,
        DefaultRuntime=name,
        Runtimes={name: {"path": machine.engine.path}},
        SecurityOptions=["name=seccomp,profile=default", *(["name=rootless"] if machine.is_rootless else [])],
        IndexServerAddress="https://index.docker.io/v1/",
        Swarm={"LocalNodeState": "inactive"},
        Debug=False,
        Labels=[],
        Warnings=None,
    )


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
