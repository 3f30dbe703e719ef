"""`--user` and an image's User: names and numbers, by the texts of /etc/passwd and /etc/group. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from registry.client.runtime.errors import ContainerError

_ID_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class User:
    """Who a process runs as."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"
    name: str = ""


def resolve(wanted: str, passwd: str, group: str, extra: tuple[str, ...] = ()) -> User:
    """The user meant by `name`, `uid`, `name:group`, … as docker reads them. Raises ContainerError.

    A name must be in the texts; a number need not. Without a group, the user's own and its other groups count.
    """
    user_text, colon, group_text = wanted.partition(":")
    row = _passwd(user_text or "0", passwd)
    if row is None and user_text and not _is_id(user_text):
        raise ContainerError(f"unable to find user {user_text}: no matching entries in passwd file")
    uid = int(row[2]) if row else int(user_text or 0)
    gid = int(row[3]) if row else 0
    name = row[0] if row else ""
    home = (row[5] if row else "") or "/"
    groups: list[int] = []
    if colon and group_text:
        gid = _group(group_text, group)
    elif name:
        groups = [
            int(each[2]) for each in _rows(group, 4, (2,)) if name in each[3].split(",") and int(each[2]) != gid
        ]
    groups += [_group(each, group) for each in extra]
    return User(uid, gid, tuple(dict.fromkeys(groups)), home, name)


def _group(text: str, group: str) -> int:
    for row in _rows(group, 3, (2,)):
        if text in (row[0], row[2]):
            return int(row[2])
    if not _is_id(text):
        raise ContainerError(f"unable to find group {text}: no matching entries in group file")
    return int(text)


def _passwd(text: str, passwd: str) -> list[str] | None:
    rows = _rows(passwd, 6, (2, 3))
    by_name = next((row for row in rows if row[0] == text), None)
    return by_name or next((row for row in rows if row[2] == text), None)


def _rows(text: str, fields: int, numbers: tuple[int, ...]) -> list[list[str]]:
    """The well-formed lines; what a stranger wrote otherwise is passed over."""
    rows = [line.strip().split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) >= fields and all(_is_id(row[place]) for place in numbers)]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _ID_MAX
