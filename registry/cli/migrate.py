"""`hythe admin migrate`: bring the index to the schema of this release."""

from __future__ import annotations

from registry.cli import output
from registry.config import Settings
from registry.server import wiring

HELP = "create or upgrade the index's tables; safe to repeat, also at the same time elsewhere"


def migrate(settings: Settings, as_json: bool) -> int:
    """Migrate, and say from what to what."""
    before, after = wiring.migrate_index(settings)
    if as_json:
        output.as_json({"before": before, "after": after})
    elif before == after:
        print(f"The index has schema {after} already.")
    else:
        print(f"The index had {f'schema {before}' if before else 'no tables'} and now has schema {after}.")
    return 0
