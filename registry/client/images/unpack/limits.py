"""How much a layer may ask for before it is refused."""

from __future__ import annotations

from dataclasses import dataclass

NAME_MAX_BYTES = 255  # a component, as every Linux file system has it
PATH_MAX_BYTES = 4095
RECORDS_MAX_BYTES = 1 << 20  # extended headers of one entry; Go's reader has the same bound
EXTENSIONS_MAX = 16  # extended headers before one entry


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps for one layer.

    `unpacked_bytes` counts what the archive inflates to and, apart from that, the length of every file, holes
    included. `ratio` is unpacked to compressed bytes, and is looked at once `ratio_from_bytes` came out: a file
    of zeros is 1,000 to 1 in gzip and harmless while it is small. `entries` bounds directories too, also those
    that no entry is about: one name can imply 2,000. `directories_bytes` is what their paths take, in memory.
    """

    unpacked_bytes: int = 256 << 30
    entries: int = 4_000_000
    directories_bytes: int = 512 << 20
    ratio: int = 200
    ratio_from_bytes: int = 1 << 30
