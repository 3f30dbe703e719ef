"""A container's file system.

The image's layers, a layer of our own above them, and the container's upper directory.

The layer of our own has what the engine mounts over (/dev, /proc, /sys, files in /etc), so that nothing that an
image puts there, a link least of all, decides where those mounts go. Source: moby's init layer; CVE-2026-41579.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from registry.client.images import records as images
from registry.client.images.store import Store
from registry.client.images.unpack import rights
from registry.client.runtime import flatten, kernel, storage
from registry.client.runtime.errors import ContainerError
from registry.oci.digest import Digest

_OPTIONS_MAX_BYTES = 4095  # one page, with the byte that ends it
_DIRECTORIES = ("dev", "dev/pts", "dev/shm", "proc", "sys", "etc")
_FILES = ("dev/console", "etc/hosts", "etc/hostname", "etc/resolv.conf")
_NAMES = ("upper", "work", "init")
_WHOLE = "whole"  # all of it, copied, where nothing can be mounted over one another
_COPY = "copy="


def prepare(store: Store, image_id: str, directory: Path) -> None:
    """Make a container's directories and its layer of our own."""
    for name in _NAMES:
        (directory / name).mkdir(mode=0o755)
    lowers = [store.place.link(layer.link) for layer in images.layers_of(store.db, Digest(image_id))]
    make_init_layer(directory / "init", [str(path) for path in reversed(lowers)])
    if storage.driver(store.place.root) == storage.COPY:
        (directory / _WHOLE).mkdir(mode=0o755)
        flatten.copy([*lowers, directory / "init"], directory / _WHOLE)


def make_init_layer(init: Path, lowers: Sequence[str]) -> None:
    """Fill the layer of our own; *lowers* are the image's layers, the uppermost first."""
    for name in _DIRECTORIES:
        os.mkdir(init / name, 0o755)
        kept = _status(name, lowers)
        if kept is not None:
            os.chown(init / name, kept.st_uid, kept.st_gid)
            os.chmod(init / name, stat.S_IMODE(kept.st_mode))
    for name in _FILES:
        os.close(os.open(init / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    os.symlink("/proc/mounts", init / "etc/mtab")


def _status(name: str, lowers: Sequence[str]) -> os.stat_result | None:
    """Owner and mode of a directory that the image has; None when it has none, or something else there."""
    top, _, below = name.partition("/")
    for lower in lowers:
        try:
            status = os.lstat(f"{lower}/{top}")
            if below and stat.S_ISDIR(status.st_mode):
                status = os.lstat(f"{lower}/{name}")
        except FileNotFoundError:
            continue
        return status if stat.S_ISDIR(status.st_mode) else None
    return None


def options(store: Store, image_id: str, identity: str, volatile: bool) -> str:
    """Overlay's options, with paths from the store's directory. Raises ContainerError for too many layers.

    *volatile* is for what is removed with its last process: nothing of it is flushed.
    """
    if whole := whole_copy(store, identity):
        return f"{_COPY}{whole}"
    lowers = [f"l/{layer.link}" for layer in reversed(images.layers_of(store.db, Digest(image_id)))]
    own = f"containers/{identity}"
    text = f"lowerdir={':'.join([f'{own}/init', *lowers])},upperdir={own}/upper,workdir={own}/work"
    text += _plain() + (",volatile" if volatile else "")
    if len(text) > _OPTIONS_MAX_BYTES:
        raise ContainerError(f"the image has {len(lowers)} layers, which are more than overlay takes (about 120)")
    return text


def view(store: Store, image_id: str, identity: str) -> str:
    """Options for looking at a container's files without being able to change them."""
    if whole := whole_copy(store, identity):
        return f"{_COPY}{whole},ro"
    lowers = [f"l/{layer.link}" for layer in reversed(images.layers_of(store.db, Digest(image_id)))]
    own = f"containers/{identity}"
    return f"lowerdir={':'.join([f'{own}/upper', f'{own}/init', *lowers])}{_plain()}"


def whole_copy(store: Store, identity: str) -> str:
    """The path of a container's own copy of everything, from the store's directory; empty when it has none."""
    path = f"containers/{identity}/{_WHOLE}"
    return path if (store.place.root / path).is_dir() else ""


def _plain() -> str:
    """Options that keep the upper directory plain; with `userxattr` directories are never redirected."""
    return ",index=off,metacopy=off" + (",userxattr" if rights.is_mapped() else ",redirect_dir=off")


def mount(store: Store, text: str, target: Path | str, pid_file: Path | None = None) -> None:
    """Mount in this process's own namespace, and change to the store's directory.

    A process that the mount needs is noted in *pid_file*; without one, it ends with this process.
    """
    os.chdir(store.place.root)
    if text.startswith(_COPY):
        source, _, readonly = text.removeprefix(_COPY).partition(",")
        storage.mount_copy(source, str(target), bool(readonly))
        return
    if storage.driver(store.place.root) == storage.FUSE:
        storage.mount_fuse(text, str(target), pid_file)
        return
    try:
        kernel.mount("overlay", str(target), "overlay", 0, text)
    except OSError as error:
        raise ContainerError(f"overlay cannot be mounted: {error.strerror}; `hythe doctor` says more") from None
