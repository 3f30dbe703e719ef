"""Running a program as an ordinary user who has an entry in passwd and ranges of sub-ids, without making one.

`python ordinary.py UID FIRST COUNT HOME MODE COMMAND…`, called by root, becomes COMMAND as that user in mounts of
its own: /etc/passwd, /etc/subuid and /etc/subgid have lines for it, /dev/net/tun and /dev/fuse have this MODE, 666
as on most machines, and this interpreter can be reached wherever root has it. The machine is not changed. A COUNT
of 0 gives no sub-ids.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys
from pathlib import Path

_MS_BIND, _MS_REC, _MS_PRIVATE, _CLONE_NEWNS = 4096, 16384, 1 << 18, 0x00020000
_DEVICES = {"/dev/net/tun": (10, 200), "/dev/fuse": (10, 229)}
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Become the user, and the command."""
    uid, first, count = (int(word) for word in sys.argv[1:4])
    home, mode, command = sys.argv[4], int(sys.argv[5], 8), sys.argv[6:]
    if _libc.unshare(_CLONE_NEWNS) < 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _open_the_way(home)
    scratch = Path(home, ".etc")
    scratch.mkdir(exist_ok=True)
    mount("tmpfs", str(scratch), "tmpfs", 0)
    _user_files(scratch, uid, first, count, home)
    for name, number in _DEVICES.items():
        if os.path.exists(name):
            node = scratch / os.path.basename(name)
            os.mknod(node, stat.S_IFCHR | mode, os.makedev(*number))
            node.chmod(mode)
            mount(str(node), name, None, _MS_BIND)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # else it stays ignored in all that is started
    os.execvp(command[0], command)


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    """mount(2)."""
    if _libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def _user_files(scratch: Path, uid: int, first: int, count: int, home: str) -> None:
    ranges = f"hythe-user:{first}:{count}\n" if count else ""
    line = f"hythe-user:x:{uid}:{uid}::{home}:/bin/sh\n"
    for name, text in (("passwd", Path("/etc/passwd").read_text() + line), ("subuid", ranges), ("subgid", ranges)):
        (scratch / name).write_text(text)
        (scratch / name).chmod(0o644)
        if os.path.exists(f"/etc/{name}"):
            mount(str(scratch / name), f"/etc/{name}", None, _MS_BIND)


def _open_the_way(home: str) -> None:
    """Put directories that anyone may enter in the place of root's own on the way to Python and us."""
    os.umask(0o022)
    needed = sorted({str(Path(__file__).resolve().parents[2]), sys.prefix, sys.base_prefix, os.path.dirname(home)})
    for path in needed:
        closed = next((each for each in reversed(Path(path).parents) if not each.stat().st_mode & 0o001), None)
        if closed is not None:
            _replace(str(closed), [each for each in needed if Path(each).is_relative_to(closed)])
        if not os.stat(path).st_mode & 0o001:
            _replace(path, [os.path.join(path, name) for name in os.listdir(path)])


def _replace(directory: str, kept: list[str]) -> None:
    """Mount an empty directory over one, and bind what is *kept* of it to its old name."""
    found = {each: os.open(each, os.O_PATH | os.O_NOFOLLOW) for each in kept}
    mount("tmpfs", directory, "tmpfs", 0)
    os.chmod(directory, 0o755)
    for path, fd in found.items():
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink("", dir_fd=fd), path)
        else:
            if kind == stat.S_IFDIR:
                os.makedirs(path, exist_ok=True)
            else:
                Path(path).touch()
            mount(f"/proc/self/fd/{fd}", path, None, _MS_BIND | _MS_REC)
        os.close(fd)


if __name__ == "__main__":
    main()
