"""`hythe generate-unit`: a systemd unit that starts, after a boot, what its restart policy wants to run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from registry.cli import local
from registry.cli.flags import Stop, Words
from registry.client.runtime.errors import OptionInvalid

_UNIT = Words(
    "generate-unit",
    "",
    "Print a systemd unit that starts containers with a restart policy when the machine starts",
    (),
    0,
    0,
)
_TEXT = """\
# Made by `hythe generate-unit`. {place}
[Unit]
Description=Containers of Hythe that have a restart policy
{after}RequiresMountsFor={root}

[Service]
Type=oneshot
RemainAfterExit=yes
# The monitors of running containers are nobody's to kill.
KillMode=process
TimeoutStartSec=infinity
TimeoutStopSec=infinity
{environment}ExecStart={program} start --all-restarting
ExecStop={program} stop --all-restarting

[Install]
WantedBy={target}
"""
_SYSTEM = (
    "Then: write it to /etc/systemd/system/hythe.service, and\n"
    "# systemctl daemon-reload && systemctl enable --now hythe.service"
)
_USER = (
    "Then: write it to ~/.config/systemd/user/hythe.service, and\n"
    "# systemctl --user daemon-reload && systemctl --user enable --now hythe.service && loginctl enable-linger"
)
_AFTER = "Wants=network-online.target\nAfter=network-online.target\n"
_KEPT = ("HYTHE_CLIENT_ROOT", "HYTHE_RUN_ROOT", "HYTHE_ENGINE", "PYTHONPATH")


def run(words: Sequence[str]) -> int:
    """Run `generate-unit` and return its exit status."""
    try:
        _UNIT.read(words)
    except Stop as stop:
        return stop.status
    root = os.geteuid() == 0
    kept = [f"{name}={os.environ[name]}" for name in _KEPT if os.environ.get(name)]
    text = _TEXT.format(
        place=_SYSTEM if root else _USER,
        after=_AFTER if root else "",
        root=_word(os.path.abspath(local.store_root(os.environ))),
        environment="".join(f"Environment={_word(each)}\n" for each in kept),
        program=" ".join(_word(each, command=True) for each in _program()),
        target="multi-user.target" if root else "default.target",
    )
    print(text, end="")
    return 0


def _program() -> list[str]:
    """How we were called, so that it works without anybody's PATH."""
    own = os.path.abspath(sys.argv[0])
    return [own] if os.access(own, os.X_OK) and own.endswith("/hythe") else [sys.executable, "-m", "registry"]


def _word(text: str, command: bool = False) -> str:
    """A word as systemd reads it. Source: systemd.syntax(7), systemd.service(5), "Command lines"."""
    if "\n" in text:
        raise OptionInvalid(f"{text!r}: no unit can name this")
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    plain = plain.replace("$", "$$") if command else plain
    return f'"{plain}"' if any(character in plain for character in " \t'\"\\;") else plain
