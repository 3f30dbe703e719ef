"""`python -m tests.support.debian` installs the programs that the peer tests need, where it may.

It acts as root on a machine with apt and says one line about each thing that it does; anywhere else it only says
what is missing. It ends with 0 either way: the tests themselves skip, or fail where `CI` is set, for what is not
there. No service that a package brings is started or enabled.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

PACKAGES = (
    "aardvark-dns",
    "busybox-static",
    "buildah",
    "ceph-common",
    "ceph-mon",
    "ceph-osd",
    "conmon",
    "containerd",
    "docker-registry",
    "docker.io",
    "fuse-overlayfs",
    "iproute2",
    "iptables",
    "netavark",
    "nginx",
    "passt",
    "podman",
    "postgresql",
    "radosgw",
    "runc",
    "skopeo",
    "slirp4netns",
    "tini",
    "uidmap",
    "umoci",
    "wrk",
)
POLICY = Path("/usr/sbin/policy-rc.d")
# Source: invoke-rc.d(8); 101 means "action forbidden by policy".
NOTHING_STARTS = "#!/bin/sh\nexit 101\n"
UNITS = ("/lib/systemd/system/", "/usr/lib/systemd/system/")
WANTED = Path("/etc/systemd/system")
UNIT_KINDS = (".service", ".socket", ".timer")


def main() -> None:
    """Install what is missing, or say that it is missing."""
    missing = missing_packages()
    if not missing:
        say(f"all {len(PACKAGES)} packages are there")
    elif reason := why_not():
        say(f"{reason}; without {', '.join(missing)} the tests that need them are skipped")
    else:
        install(missing)


def say(line: str) -> None:
    """Print *line* at once, as one of this command's."""
    print(f"peers: {line}", flush=True)


def why_not() -> str:
    """Why nothing can be installed here, or nothing."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-query") is None:
        return "this is no Debian"
    return "" if os.geteuid() == 0 else "only root can install"


def missing_packages() -> list[str]:
    """Those of PACKAGES that are not installed."""
    there = installed_packages()
    return [package for package in PACKAGES if package not in there]


def installed_packages() -> set[str]:
    """All installed packages; none where there is no dpkg."""
    if shutil.which("dpkg-query") is None:
        return set()
    lines = run("dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package}\n").splitlines()
    return {name for status, _, name in (line.partition(" ") for line in lines) if status == "installed"}


def install(missing: list[str]) -> None:
    """Install *missing*, one by one if they will not go together, and keep their services off."""
    before = installed_packages()
    say("fetching the lists of packages")
    if not apt("update"):
        say("the lists of packages could not be fetched; trying with those that are there")
    with services_kept_off():
        say(f"installing {', '.join(missing)}")
        if not apt_install(*missing):
            for package in missing:
                apt_install(package)
    disable_services(installed_packages() - before)
    for package in missing_packages():
        say(f"{package} could not be installed; the tests that need it are skipped")


def apt_install(*packages: str) -> bool:
    """Whether apt installed *packages*; it takes nothing away for them, such as another vendor's docker."""
    return apt("install", "--yes", "--no-remove", "--no-install-recommends", *packages)


def apt(*arguments: str) -> bool:
    """Run apt-get without questions; when it fails, say why in its own words."""
    done = subprocess.run(
        ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        errors = [line for line in done.stdout.splitlines() if line.startswith("E: ")]
        say(f"apt-get {arguments[0]}: {errors[0] if errors else f'ended with {done.returncode}'}")
    return done.returncode == 0


@contextlib.contextmanager
def services_kept_off() -> Iterator[None]:
    """While this lasts, no package starts a service; the machine's own policy is put back afterwards."""
    aside = POLICY.with_name("policy-rc.d.hythe")
    if POLICY.exists() and not aside.exists():  # an aside of a run that was killed is still the machine's own
        POLICY.rename(aside)
    POLICY.write_text(NOTHING_STARTS)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
        if aside.exists():
            aside.rename(POLICY)


def disable_services(packages: set[str]) -> None:
    """Keep the services of *packages*, which are new here, from starting with the machine."""
    files = [line for package in sorted(packages) for line in run("dpkg", "--listfiles", package).splitlines()]
    units = [os.path.basename(file) for file in files if file.startswith(UNITS) and file.endswith(UNIT_KINDS)]
    for unit in units:
        # What `systemctl disable` does, which is not there where systemd is not.
        for link in WANTED.glob(f"*.wants/{unit}"):
            link.unlink()
    for script in (os.path.basename(file) for file in files if file.startswith("/etc/init.d/")):
        run("update-rc.d", script, "disable")


def run(*command: str) -> str:
    """What *command* prints; its failures are its own affair."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    main()
