"""The Range header, read in one pass over a bounded text. Source: RFC 9110, section 14."""

from __future__ import annotations

_HEADER_MAX = 16 << 10
_RANGES_MAX = 1000


class Unsatisfiable(Exception):
    """No byte of the content is in the range: 416."""


def parse(header: str | None, size_bytes: int) -> list[tuple[int, int]] | None:
    """The ranges asked for as (start, end), *end* exclusive; None when the whole content is to be sent.

    A header that is malformed, overlong, or asks for more than the whole content is ignored, as the standard
    allows. A range whose end lies before its start counts as one that no byte is in. Raises Unsatisfiable.
    """
    if header is None or len(header) > _HEADER_MAX or not header.lower().startswith("bytes="):
        return None
    specs = header[6:].split(",")
    if len(specs) > _RANGES_MAX:
        return None
    ranges: list[tuple[int, int]] = []
    for spec in specs:
        found = _parse_one(spec.strip(), size_bytes)
        if found is None:
            return None
        if found[0] < found[1]:
            ranges.append(found)
    if not ranges:
        raise Unsatisfiable
    # Overlapping ranges would make a small request send the content many times over.
    return ranges if sum(end - start for start, end in ranges) <= size_bytes else None


def _parse_one(spec: str, size_bytes: int) -> tuple[int, int] | None:
    """One range, empty when no byte is in it; None when it is malformed."""
    first, dash, last = spec.partition("-")
    if not dash or not (_is_number(first) or (not first and _is_number(last))) or (last and not _is_number(last)):
        return None
    if not first:
        return max(0, size_bytes - int(last)), size_bytes
    start = int(first)
    end = min(int(last) + 1, size_bytes) if last else size_bytes
    return start, max(start, end)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19
