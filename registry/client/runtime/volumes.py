"""Volumes: files that outlive containers. A named one is made when it is first asked for."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import sqlite3
import stat
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from registry.client.images import events
from registry.client.images import place as places
from registry.client.images.records import writing
from registry.client.runtime import processes, records
from registry.client.runtime.errors import ContainerConflict, ContainerError, OptionInvalid
from registry.client.runtime.records import Volume
from registry.client.runtime.spec import Mount, Spec
from registry.oci.errors import HytheError

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine

_NEW_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


class VolumeUnknown(HytheError):
    """No volume of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"get {name}: no such volume")


def check_name(name: str) -> str:
    """A volume's name. Raises OptionInvalid."""
    if not _NAME.fullmatch(name) or len(name) > 255:
        raise OptionInvalid(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    return name


def create(
    machine: Machine, name: str = "", labels: Mapping[str, str] | None = None, anonymous: bool = False
) -> str:
    """Make a volume, or find that it is there; its name."""
    name = check_name(name) if name else secrets.token_hex(32)
    machine.place.volume(name).mkdir(mode=0o755, parents=True, exist_ok=True)
    with writing(machine.db):
        row = Volume(name, processes.now_ns(), json.dumps(dict(labels or {})), anonymous)
        if records.add_volume(machine.db, row):
            events.note(machine.db, "volume", "create", name, {"driver": "local"})
    return name


def find(machine: Machine, name: str) -> Volume:
    """A volume by name. Raises VolumeUnknown."""
    found = next((volume for volume in records.volumes(machine.db) if volume.name == name), None)
    if found is None:
        raise VolumeUnknown(name)
    return found


def provide(machine: Machine, container: str, spec: Spec) -> Spec:
    """Make the volumes and source directories that a container's mounts name; the mounts with their names."""
    mounts = tuple(_provide(machine, container, mount) for mount in spec.mounts)
    return dataclasses.replace(spec, mounts=mounts)


def _provide(machine: Machine, container: str, mount: Mount) -> Mount:
    if mount.kind == "volume":
        name = create(machine, mount.source, anonymous=not mount.source)
        with writing(machine.db):
            records.use_volume(machine.db, name, container)
        return dataclasses.replace(mount, source=name, anonymous=not mount.source)
    if mount.kind == "bind" and not os.path.exists(mount.source):
        if not mount.make_source:
            raise ContainerError(
                f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
            )
        os.makedirs(mount.source, exist_ok=True)
    return mount


def remove(machine: Machine, name: str) -> None:
    """Remove a volume. Raises VolumeUnknown, and ContainerConflict when a container has it."""
    find(machine, name)
    try:
        with writing(machine.db):
            records.remove_volume(machine.db, name)
            events.note(machine.db, "volume", "destroy", name, {"driver": "local"})
    except sqlite3.IntegrityError:
        users = ", ".join(records.volume_users(machine.db, name))
        raise ContainerConflict(f"remove {name}: volume is in use - [{users}]") from None
    places.discard(machine.store.place, machine.place.volume(name).parent)
    places.empty(machine.store.place, "trash")


def anonymous_of(machine: Machine, container: str) -> list[str]:
    """The volumes that nobody named and this container has."""
    nameless = {volume.name for volume in records.volumes(machine.db) if volume.anonymous}
    return [name for name in records.volumes_of(machine.db, container) if name in nameless]


def remove_unused(machine: Machine, names: Iterable[str]) -> list[str]:
    """Remove those of *names* that no container has; which they were."""
    removed = []
    for name in names:
        if not records.volume_users(machine.db, name):
            try:
                remove(machine, name)
            except (VolumeUnknown, ContainerConflict):
                continue
            removed.append(name)
    return removed


def size(machine: Machine, name: str) -> int:
    """The bytes of a volume's files."""
    total = 0
    for directory, _, files in os.walk(machine.place.volume(name)):
        for file in files:
            total += os.lstat(os.path.join(directory, file)).st_size
    return total


def fill(target_fd: int, source_fd: int) -> None:
    """Copy what an image has at a new volume's place into it, with owners and modes; links stay links.

    By descriptors alone: another container may have the volume too, and change it meanwhile.
    """
    status = os.fstat(source_fd)
    os.fchown(target_fd, status.st_uid, status.st_gid)
    os.fchmod(target_fd, status.st_mode & 0o7777)
    for name in os.listdir(source_fd):
        _copy(source_fd, target_fd, name)


def _copy(source: int, target: int, name: str) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        return
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        return
    kind = os.O_DIRECTORY if stat.S_ISDIR(status.st_mode) else os.O_NONBLOCK
    inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=source)
    try:
        if kind == os.O_DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=target)
            copy = os.open(name, os.O_RDONLY | _NEW_DIRECTORY, dir_fd=target)
        else:
            copy = os.open(name, os.O_WRONLY | _NEW_FILE, 0o600, dir_fd=target)
        try:
            if kind == os.O_DIRECTORY:
                fill(copy, inner)
            else:
                _copy_bytes(copy, inner, status)
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(copy)
    finally:
        os.close(inner)


def _copy_bytes(target: int, source: int, status: os.stat_result) -> None:
    while piece := os.read(source, 1 << 20):
        while piece:
            piece = piece[os.write(target, piece) :]
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, status.st_mode & 0o7777)
