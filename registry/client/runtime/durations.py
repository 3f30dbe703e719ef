"""Durations as Go writes them: `1m30s`, `500ms`. Pure. Source: Go's time.ParseDuration and Duration.String."""

from __future__ import annotations

import re

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")


def parse(text: str) -> int:
    """Nanoseconds. Raises ValueError."""
    sign = -1 if text.startswith("-") else 1
    rest = text.lstrip("+-")
    if rest == "0":
        return 0
    parts = _PART.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * round(sum(float(number) * _UNITS[unit] for number, unit in parts))


def shown(nanoseconds: int) -> str:
    """`1m30s`; below a second in the largest unit that fits."""
    if abs(nanoseconds) < 10**9:
        unit = next((each for each in ("ms", "µs") if abs(nanoseconds) >= _UNITS[each]), "ns")
        return f"{nanoseconds / _UNITS[unit]:.9g}{unit}" if nanoseconds else "0s"
    sign = "-" if nanoseconds < 0 else ""
    minutes, rest = divmod(abs(nanoseconds), _UNITS["m"])
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest // 10**9}" + (f".{rest % 10**9:09d}".rstrip("0") if rest % 10**9 else "")
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{head}{seconds}s"
