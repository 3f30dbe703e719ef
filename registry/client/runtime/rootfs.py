"""A container's root directory as a stranger left it.

Everything is opened inside of it, nothing of it is executed.

Links are followed as the container would follow them, `..` and absolute targets included, and never lead out:
openat2(2) with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from registry.client.runtime import kernel
from registry.client.runtime.errors import ContainerError

_TEXT_MAX_BYTES = 4 << 20
_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_LINKS_MAX = 40


@contextmanager
def opened(path: str) -> Iterator[int]:
    """The root directory as a descriptor."""
    fd = os.open(path, _DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def read_text(root_fd: int, path: str) -> str:
    """A small file of the container's; empty when it is not there, or a link leads out of the root.

    Raises ContainerError for what is no plain file: the engine reads it too, and would wait at a pipe for ever.
    """
    try:
        fd = kernel.open_in(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ContainerError(f"/{path} of the image is not a file")
        if status.st_size > _TEXT_MAX_BYTES:
            raise ContainerError(f"{path} of the image is larger than {_TEXT_MAX_BYTES} bytes")
        return os.read(fd, _TEXT_MAX_BYTES).decode("utf-8", "replace")
    finally:
        os.close(fd)


def make_directory(root_fd: int, path: str, owner: tuple[int, int] = (0, 0)) -> int:
    """See to it that *path* is a directory, all its parents too; an O_PATH descriptor of it.

    Raises ContainerError when something else is there.
    """
    done: list[str] = []
    for part in [each for each in path.split("/") if each not in ("", ".")]:
        done.append(part)
        here = "/".join(done)
        try:
            os.close(kernel.open_in(root_fd, here, _DIRECTORY))
            continue
        except FileNotFoundError:
            pass
        except NotADirectoryError:
            raise ContainerError(f"/{here} of the container is not a directory") from None
        except OSError as error:
            raise ContainerError(f"/{here} of the container: {error.strerror}") from None
        _make(root_fd, here, owner)
    return kernel.open_in(root_fd, path, _DIRECTORY)


def _make(root_fd: int, path: str, owner: tuple[int, int]) -> None:
    parent, _, name = path.rpartition("/")
    parent_fd = kernel.open_in(root_fd, parent, _DIRECTORY)
    try:
        if name == "..":
            return
        try:
            os.mkdir(name, 0o755, dir_fd=parent_fd)
        except FileExistsError:  # a link that leads to nothing
            raise ContainerError(f"/{path} of the container is a link to what is not there") from None
        os.chown(name, *owner, dir_fd=parent_fd, follow_symlinks=False)
    finally:
        os.close(parent_fd)


def path_of(root_fd: int, fd: int) -> str:
    """Where an open descriptor lies inside of the root: without links."""
    root, here = (os.readlink(f"/proc/self/fd/{each}") for each in (root_fd, fd))
    if here != root and not here.startswith(root.rstrip("/") + "/"):
        raise ContainerError("a path left the container's root while it was looked at")
    return here.removeprefix(root.rstrip("/")) or "/"


def resolve_workdir(root_fd: int, path: str) -> str:
    """The working directory without links, made when it is not there.

    In /proc there is nothing before the container runs, so nothing of it can be checked: it is refused.
    Source: CVE-2024-21626, where the working directory was /proc/self/fd/N.
    """
    if not path.startswith("/"):
        raise ContainerError(f"the working directory '{path}' is invalid, it needs to be an absolute path")
    fd = make_directory(root_fd, path)
    try:
        found = path_of(root_fd, fd)
    finally:
        os.close(fd)
    if found == "/proc" or found.startswith("/proc/"):
        raise ContainerError(f"the working directory {path} leads into /proc, where no container may start")
    return found


def check_workdir(root_fd: int, path: str) -> None:
    """Refuse a working directory that leads to a descriptor of some process: CVE-2024-21626.

    The container runs, so /proc is there and a link into it can be seen: RESOLVE_NO_MAGICLINKS refuses it.
    """
    try:
        os.close(kernel.open_in(root_fd, path, _DIRECTORY))
    except OSError as error:
        raise ContainerError(f'chdir to cwd ("{path}") set in config.json failed: {error.strerror}') from None
