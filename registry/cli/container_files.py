"""Verbs on a container's files: cp, diff, export, commit."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from registry.cli import containers
from registry.cli.flags import BOOL, TEXT, Flag, Words
from registry.client.images import changes
from registry.client.images import records as images
from registry.client.runtime import copying, differences, inside, overlay, rootfs, storage
from registry.client.runtime.errors import ContainerError
from registry.client.runtime.machine import Machine
from registry.oci.digest import Digest
from registry.oci.errors import HytheError

_CP = Words(
    "cp",
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\thythe cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    "Copy files/folders between a container and the local filesystem",
    (
        Flag("archive", "a", BOOL, "Archive mode (copy all uid/gid information)"),
        Flag("follow-link", "L", BOOL, "Always follow symbol link in SRC_PATH"),
        Flag("quiet", "q", BOOL, "Suppress progress output"),
    ),
    2,
    2,
)
_DIFF = Words("diff", "CONTAINER", "Inspect changes to files or directories on a container's filesystem", (), 1, 1)
_EXPORT = Words(
    "export",
    "[OPTIONS] CONTAINER",
    "Export a container's filesystem as a tar archive",
    (Flag("output", "o", TEXT, "Write to a file, instead of STDOUT", ""),),
    1,
    1,
)
_PLACES = frozenset({"docker", "oci", "oci-archive", "docker-archive"})
_SIDE = re.compile(r"([a-zA-Z0-9][a-zA-Z0-9_.-]*):(.*)", re.DOTALL)


def is_container_path(word: str) -> bool:
    """Whether a word of `cp` is a container's path rather than an image's place or a registry's host and port."""
    match = _SIDE.fullmatch(word)
    if match is None or match[1] in _PLACES or match[2].startswith("//"):
        return False
    first, slash, _ = match[2].partition("/")
    return bool(slash and not first.isdigit()) or match[2].startswith(".")


def copy(words: Sequence[str]) -> int:
    """Run `cp` and return its exit status."""
    return containers.execute(_CP, words, _copy)


def _copy(machine: Machine, options: SimpleNamespace) -> int:
    source, target = options.words
    outward, inward = (
        _SIDE.fullmatch(word) if not word.startswith((".", "/", "-")) else None for word in (source, target)
    )
    if outward and inward:
        raise HytheError("copying between containers is not supported")
    if outward:
        _out(machine, outward[1], outward[2], target, options)
    elif inward:
        _in(machine, source, inward[1], inward[2], options)
    else:
        raise HytheError("must specify at least one container source")
    return 0


def _out(machine: Machine, name: str, path: str, target: str, options: SimpleNamespace) -> None:
    container = machine.find(name)
    read, write = os.pipe()
    base = os.path.basename(path.removesuffix("/.").rstrip("/")) or ""
    contents = path.endswith("/.") or not base
    label = "" if contents else base

    def theirs(root: int) -> None:
        os.close(read)
        with os.fdopen(write, "wb") as stream:
            copying.pack(root, path, stream, label, options.follow_link)

    def ours() -> None:
        os.close(write)
        with os.fdopen(read, "rb") as stream:
            if target == "-":
                while piece := stream.read1(1 << 16):
                    sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
                return
            _unpack_here(stream, target, contents, options.archive)

    inside.run(machine, container, theirs, ours)


def _unpack_here(stream: object, target: str, contents: bool, archive: bool) -> None:
    """Into this machine's own file system: a link of the person's is followed, one of the container's never."""
    path = Path(target)
    if path.is_dir():
        directory, rename = path, None
    else:
        directory, rename = path.parent, path.name
        if contents:
            path.mkdir()
            directory, rename = path, None
        if not directory.is_dir():
            raise ContainerError(f'invalid output path: directory "{directory}" does not exist')
    me = (os.geteuid(), os.getegid())
    with rootfs.opened(str(directory.resolve())) as fd:
        copying.unpack(stream, fd, "/", rename, lambda m: (m.uid, m.gid) if archive else me)  # type: ignore[arg-type]


def _in(machine: Machine, source: str, name: str, path: str, options: SimpleNamespace) -> None:
    container = machine.find(name)
    read, write = os.pipe()
    local = Path(source)
    contents = source == "-" or source.endswith("/.")
    if source != "-" and not (local.exists() or local.is_symlink()):
        raise ContainerError(f"lstat {source}: no such file or directory")
    is_directory = source == "-" or stat.S_ISDIR(
        os.lstat(local.resolve() if options.follow_link else local).st_mode
    )
    base = os.path.basename(os.path.abspath(source)) if source != "-" else ""

    def theirs(root: int) -> None:
        os.close(write)
        directory, last = copying.destination(root, path, base, is_directory, contents)
        if contents and last:
            os.close(rootfs.make_directory(root, f"{directory}/{last}"))
            directory, last = f"{directory}/{last}", ""
        with os.fdopen(read, "rb") as stream:
            rename = last if not contents else None
            copying.unpack(
                stream,
                root,
                directory,
                rename,
                lambda m: (m.uid, m.gid) if options.archive or source == "-" else (0, 0),
            )

    def ours() -> None:
        os.close(read)
        with os.fdopen(write, "wb") as stream:
            if source == "-":
                while piece := sys.stdin.buffer.read(1 << 16):
                    stream.write(piece)
                return
            real = local.resolve() if options.follow_link or contents else local.parent.resolve() / local.name
            with rootfs.opened(str(real if contents else real.parent)) as fd:
                copying.pack(fd, "/." if contents else f"/{real.name}", stream, "" if contents else base)

    try:
        inside.run(machine, container, theirs, ours, writing=True)
    except BrokenPipeError:
        raise ContainerError("the copy was cut short") from None


def diff(words: Sequence[str]) -> int:
    """Run `diff` and return its exit status."""
    return containers.execute(_DIFF, words, _diff)


def _diff(machine: Machine, options: SimpleNamespace) -> int:
    container = machine.find(options.words[0])
    lowers = [
        str(machine.store.place.layer(each.diff_id))
        for each in reversed(images.layers_of(machine.db, Digest(container.image_id)))
    ]
    own = machine.place.container(container.id)
    if whole := overlay.whole_copy(machine.store, container.id):
        found = differences.of_copy(str(machine.store.place.root / whole), [str(own / "init"), *lowers])
    else:
        found = differences.changes(str(own / "upper"), lowers)
        if storage.driver(machine.store.place.root) == storage.FUSE:  # whose marks are files
            found = (each for each in found if not os.path.basename(each[1]).startswith(".wh."))
    for kind, path in found:
        print(f"{kind} {path}")
    return 0


def export(words: Sequence[str]) -> int:
    """Run `export` and return its exit status."""
    return containers.execute(_EXPORT, words, _export)


def _export(machine: Machine, options: SimpleNamespace) -> int:
    container = machine.find(options.words[0])
    if not options.output and os.isatty(1):
        raise HytheError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    target = (
        os.open(options.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        if options.output
        else 1
    )

    def theirs(root: int) -> None:
        os.fchdir(root)
        for piece in changes.tar_of(Path(".")):
            view = memoryview(piece)
            while view:
                view = view[os.write(target, view) :]

    inside.export(machine, container, theirs, lambda: None)
    return 0
