"""Published ports: what a running container has, and how docker writes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from registry.client.runtime.records import Container
from registry.client.runtime.spec import Port, Spec

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine


def published(machine: Machine, container: Container) -> list[Port]:
    """The ports by which a container is reached from outside now; none of one that does not run."""
    rows = machine.db.execute("SELECT document FROM endpoints WHERE container = ?", (container.id,))
    return [Port(**each) for row in rows for each in json.loads(row[0]).get("ports", ())]


def shown(spec: Spec, given: Sequence[Port]) -> str:
    """`0.0.0.0:8080->80/tcp, 443/tcp`."""
    texts = [f"{address(each)}:{each.host}->{each.container}/{each.protocol}" for each in given]
    open_ones = {f"{each.container}/{each.protocol}" for each in given}
    inside = [text for text in sorted(spec.exposed, key=_number) if text not in open_ones]
    return ", ".join([*texts, *inside]) if spec.network not in ("host", "none") else ""


def address(port: Port) -> str:
    """The address of the machine that a port is bound to."""
    text = port.host_address or "0.0.0.0"  # noqa: S104 -- that is what is shown
    return f"[{text}]" if ":" in text else text


def _number(text: str) -> tuple[int, str]:
    number, _, protocol = text.partition("/")
    return int(number), protocol
