"""How a container's root is put together for an ordinary user: the kernel's overlay, fuse-overlayfs, or a copy.

What works is found out once and kept in the store's file `storage`; who removes that file has it found out anew,
who writes it chooses. Root always has the kernel's overlay.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from registry.client.images.unpack import rights
from registry.client.images.unpack.removal import remove_tree
from registry.client.runtime import engine as engines
from registry.client.runtime import kernel
from registry.client.runtime.errors import ContainerError

OVERLAY, FUSE, COPY = "overlay", "fuse-overlayfs", "copy"
_DEVICE = "/dev/fuse"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def driver(root: Path) -> str:
    """The one for the store at *root*."""
    if not rights.is_mapped():
        return OVERLAY
    kept = root / "storage"
    try:
        found = kept.read_text().strip()
    except FileNotFoundError:
        found = ""
    if found not in (OVERLAY, FUSE, COPY):
        found = _probe(root)
        made = kept.with_name(f"storage.{os.getpid()}")
        made.write_text(f"{found}\n")
        made.rename(kept)
    return found


def _probe(root: Path) -> str:
    if _overlay_works(root):
        return OVERLAY
    return FUSE if engines.program(FUSE) and os.access(_DEVICE, os.R_OK | os.W_OK) else COPY


def _overlay_works(root: Path) -> bool:
    """Whether a file of a lower layer can be deleted in a mount of this user's on the store's file system."""
    place = Path(tempfile.mkdtemp(dir=root / "staging"))
    for name in ("lower", "upper", "work", "merged"):
        (place / name).mkdir()
    (place / "lower/file").touch()

    def trial() -> None:
        os.chdir(place)
        kernel.mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work,userxattr")
        os.unlink("merged/file")

    works = can_mount(trial)
    fd = os.open(root / "staging", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(fd, place.name)
    finally:
        os.close(fd)
    return works


def can_mount(trial: Callable[[], None] = lambda: None) -> bool:
    """Whether this process may have mounts of its own, and *trial* succeeds in them."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            kernel.private_mounts()
            trial()
            code = 0
        except OSError:
            pass
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def mount_fuse(text: str, target: str, pid_file: Path | None) -> None:
    """Mount with fuse-overlayfs; *text* has overlay's options. Its pid goes to *pid_file*, or it dies with us."""
    program = engines.program(FUSE)
    if program is None:
        raise ContainerError("this store is used with fuse-overlayfs: sudo apt-get install fuse-overlayfs")
    dirs = ",".join(word for word in text.split(",") if word.partition("=")[0].endswith("dir"))
    before = os.stat(target).st_dev
    started = subprocess.Popen(
        [program, "-f", "-o", dirs, target],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent if pid_file is None else None,
    )
    if pid_file is not None:
        pid_file.write_text(str(started.pid))
    while os.stat(target).st_dev == before:
        if started.poll() is not None:
            raise ContainerError(f"fuse-overlayfs ended with {started.returncode}")
        time.sleep(0.001)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def mount_copy(source: str, target: str, readonly: bool) -> None:
    """Show a container's own copy at *target*."""
    kernel.mount(source, target, None, kernel.MS_BIND)
    if readonly:
        kernel.mount("none", target, None, kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY)
