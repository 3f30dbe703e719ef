"""`hythe version`: docker's words and template. Client and server are one program here: there is no daemon."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Any

from registry import __version__
from registry.cli import command, templates
from registry.cli.templates import Strict
from registry.oci.platform import host_platform


def run(words: Sequence[str]) -> int:
    """Run `version` and return its exit status."""
    top = command.parser("version", "Show the version of this program")
    top.add_argument("-f", "--format", metavar="TEMPLATE", help="json, or a Go template")
    format = top.parse_args(words).format
    if format == "json":
        format = "{{json .}}"
    if format:
        print(templates.parse(format).render(_document()))
        return 0
    machine = host_platform()
    print(f"Hythe:\n Version:          {__version__}\n Python version:   {platform.python_version()}")
    print(f" OS/Arch:          {machine.os}/{machine.architecture}")
    return 0


def _document() -> Strict:
    """As docker's; what is about an API between the two is empty."""
    machine = host_platform()
    both: dict[str, Any] = {
        "Platform": Strict(Name="Hythe"),
        "Version": __version__,
        "ApiVersion": "",
        "APIVersion": "",
        "GitCommit": "",
        "GoVersion": "",
        "Os": machine.os,
        "Arch": machine.architecture,
        "BuildTime": "",
    }
    client = Strict(**both, DefaultAPIVersion="", Context="default", Experimental=False)
    more = {"MinAPIVersion": "", "KernelVersion": os.uname().release, "Experimental": False, "Components": []}
    return Strict(Client=client, Server=Strict(both | more))
