"""An ordinary user's own user namespace: in it the user is root, and has the ids of /etc/subuid and /etc/subgid.

Every command that works on files of images or on containers enters it, so that owners are kept, overlays can be
mounted and the engine runs. All commands and containers of one run directory are in one namespace: it lives as
long as one of its processes does, whoever finds one alive joins it, and only who finds none makes another. No
process does nothing but keep it.

Source: user_namespaces(7), newuidmap(1), subuid(5).
"""

from __future__ import annotations

import fcntl
import os
import pwd
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.client.runtime import engine as engines
from registry.client.runtime import kernel, processes
from registry.client.runtime.errors import ContainerError, Missing
from registry.client.runtime.processes import Process

Ranges = tuple[tuple[int, int], ...]  # first id, count
_SWITCHES = (  # what administrators forbid it by, and the command that allows it
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=16384"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
     "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Person:
    """Who uses this machine, and the ids that were given to that user beside the own one."""

    uid: int
    gid: int
    name: str
    uids: Ranges
    gids: Ranges

    @property
    def has_ranges(self) -> bool:
        """Whether there are any ids of both kinds."""
        return bool(self.uids and self.gids)


def find_person() -> Person:
    """The user of this process."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    uids, gids = (read_ranges(_text(f"/etc/{file}"), (name, str(uid))) for file in ("subuid", "subgid"))
    return Person(uid, os.getegid(), name, uids, gids)


def read_ranges(text: str, names: Sequence[str]) -> Ranges:
    """The ranges of a user in the text of /etc/subuid or /etc/subgid; lines that are none are passed over."""
    found = []
    for line in text.splitlines():
        name, _, rest = line.strip().partition(":")
        first, _, count = rest.partition(":")
        if name in names and first.isdecimal() and count.isdecimal() and int(count):
            found.append((int(first), int(count)))
    return tuple(found)


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def why_single(person: Person) -> str:
    """Why a user has a single id only, and the command that mends it; empty when there are ranges."""
    if not person.has_ranges:
        return (
            f"{person.name} has no ranges in /etc/subuid and /etc/subgid, so all files belong to one user: "
            f"sudo usermod --add-subuids {_free_range()} --add-subgids {_free_range()} {person.name}"
        )
    if engines.program("newuidmap") is None or engines.program("newgidmap") is None:
        return "newuidmap is missing, so all files of images belong to one user: sudo apt-get install uidmap"
    return ""


def _free_range() -> str:
    """Ids that no user has yet, as usermod wants them."""
    used = [0]
    for line in (_text("/etc/subuid") + "\n" + _text("/etc/subgid")).splitlines():
        words = line.split(":")
        if len(words) == 3 and words[1].isdecimal() and words[2].isdecimal():
            used.append(int(words[1]) + int(words[2]))
    first = max(100_000, *used)
    return f"{first}-{first + 65535}"


def why_not() -> tuple[str, str]:
    """What forbids user namespaces on this machine, and the command that allows them; empty when not known."""
    for path, value, command in _SWITCHES:
        if _text(path).strip() == value:
            return f"{path.removeprefix('/proc/sys/').replace('/', '.')} is {value}", f"sudo {command}"
    return "", ""


# --- going in


def enter(run: Path) -> str:
    """Become root of this user's namespace for *run*; a warning, or nothing.

    Raises Missing, which names what forbids it. For a process of one thread, and before anything is opened.
    """
    person = find_person()
    warning = why_single(person)
    single = bool(warning)
    with _known(run, person.uid) as known:
        alive = [each for each in known if processes.is_alive(each)]
        candidates = [*(each.pid for each in alive), *_noted_pids(run)]
        if not any(_join(pid, person.uid) for pid in candidates):
            alive = []
            warning = _create(person, single) or warning
        me = processes.identify(os.getpid())
        known[:] = [*alive, *([me] if me else [])]
    return warning


@contextmanager
def _known(run: Path, uid: int) -> Iterator[list[Process]]:
    """The processes that were seen in the namespace; what is changed is written. One at a time."""
    try:
        run.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owners(run, uid)
        fd = os.open(run / "namespace", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ContainerError(f"{error.filename}: {error.strerror}; HYTHE_RUN_ROOT names another place") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        lines = os.pread(fd, 1 << 20, 0).decode("utf-8", "replace").splitlines()
        words = [line.split(" ") for line in lines]
        found = [Process(int(w[0]), int(w[1]), w[2]) for w in words if len(w) == 3 and w[0].isdecimal()]
        yield found
        text = "".join(f"{each.pid} {each.start} {each.boot}\n" for each in found)
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode(), 0)
    finally:
        os.close(fd)


def _check_owners(run: Path, uid: int) -> None:
    """Refuse a directory that somebody else could put another in the place of, as in /tmp."""
    real = run.resolve()
    for path in (run, *run.absolute().parents, real, *real.parents):
        status = path.lstat()
        plain = not stat.S_ISLNK(status.st_mode)  # of a link, the mode says nothing
        open_to_all = plain and status.st_mode & 0o002 and not status.st_mode & stat.S_ISVTX
        if open_to_all or status.st_uid not in ((uid,) if path == real else (uid, 0)):
            raise ContainerError(f"{path} is open to others; HYTHE_RUN_ROOT names another directory")


def _noted_pids(run: Path) -> Iterator[int]:
    """Monitors and first processes of containers, who may outlive the commands that were seen."""
    for path in [*run.glob("*/conmon.pid"), *run.glob("*/pid")]:
        text = _text(str(path)).strip()
        if text.isdecimal():
            yield int(text)


def _join(pid: int, uid: int) -> bool:
    """Go into a process's user namespace, if it is one of ours in which we are root."""
    try:
        first = _text(f"/proc/{pid}/uid_map").split()[:2]
        if first != ["0", str(uid)] or os.path.samefile(f"/proc/{pid}/ns/user", "/proc/self/ns/user"):
            return False
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.enter(fd, kernel.CLONE_NEWUSER)
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


def _create(person: Person, single: bool) -> str:
    """Make a namespace; why its ids could not be mapped. Raises Missing, and then nothing has changed.

    A helper that stays outside has the ids mapped, as only there the ranges are ours.
    """
    go_read, go_write = os.pipe()
    said_read, said_write = os.pipe()
    us = os.getpid()
    helper = os.fork()
    if helper == 0:
        try:
            os.close(go_write)
            if os.read(go_read, 1):
                os.write(said_write, _map(us, person).encode())
        finally:
            os._exit(0)
    os.close(said_write)
    os.close(go_read)
    try:
        kernel.unshare(kernel.CLONE_NEWUSER)
        if not single:
            os.write(go_write, b"x")
    except OSError as error:
        why, command = why_not()
        text = f"{why}: {command}" if why else "hythe doctor says more"
        raise Missing(f"containers of a user need a user namespace ({error.strerror}); {text}") from None
    finally:
        os.close(go_write)
        with os.fdopen(said_read, "rb") as file:
            complaint = file.read().decode("utf-8", "replace")
        os.waitpid(helper, 0)
    if single or complaint:
        _map_one(person)
    return f"{complaint}; so all files of images belong to one user" if complaint else ""


def _map(pid: int, person: Person) -> str:
    """Give a process's namespace the user's id as 0 and the ranges from 1 on; what went wrong."""
    for program, own, ranges in (("newuidmap", person.uid, person.uids), ("newgidmap", person.gid, person.gids)):
        words = [engines.program(program) or program, str(pid), "0", str(own), "1"]
        inside = 1
        for first, count in ranges:
            words += [str(inside), str(first), str(count)]
            inside += count
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"{program}: {done.stderr.strip() or f'ended with {done.returncode}'}"
    return ""


def _map_one(person: Person) -> None:
    """Our own id alone, which needs nobody's leave; then groups cannot be changed."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {person.uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {person.gid} 1")
