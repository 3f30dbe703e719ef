"""`--health-cmd` and its relatives, laid over the image's HEALTHCHECK."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from registry.cli.flags import BOOL, INT, TEXT, Flag
from registry.client.runtime import durations
from registry.client.runtime.errors import OptionInvalid
from registry.client.runtime.spec import Health

FLAGS = (
    Flag("health-cmd", "", TEXT, "Command to run to check health", ""),
    Flag("health-interval", "", TEXT, "Time between running the check (ms|s|m|h) (default 0s)", ""),
    Flag("health-retries", "", INT, "Consecutive failures needed to report unhealthy", 0),
    Flag("health-start-period", "", TEXT, "Start period before retries count (ms|s|m|h) (default 0s)", ""),
    Flag("health-timeout", "", TEXT, "Maximum time to allow one check to run (ms|s|m|h) (default 0s)", ""),
    Flag("no-healthcheck", "", BOOL, "Disable any container-specified HEALTHCHECK"),
)
_SECONDS = 10**9
_SHORTEST_NS = 10**6
_LONGEST_NS = 10**6 * _SECONDS


def health(options: SimpleNamespace, config: Mapping[str, Any]) -> Health | None:
    """What is asked for; what is not said is the image's, else docker's default. Raises OptionInvalid."""
    image = config.get("Healthcheck") or {}
    times = {
        name: _time(getattr(options, name), name)
        for name in ("health_interval", "health_timeout", "health_start_period")
    }
    if options.health_retries < 0:
        raise OptionInvalid("--health-retries cannot be negative")
    if options.no_healthcheck:
        if options.health_cmd or any(times.values()) or options.health_retries:
            raise OptionInvalid("--no-healthcheck conflicts with --health-* options")
        return None
    test = ("CMD-SHELL", options.health_cmd) if options.health_cmd else tuple(map(str, image.get("Test") or ()))
    if not test or test[0] == "NONE":
        return None
    if test[0] not in ("CMD", "CMD-SHELL") or len(test) < 2:
        raise OptionInvalid(f"the image's health check {list(test)} is none; use --health-cmd or --no-healthcheck")
    return Health(
        test,
        times["health_interval"] or _number(image, "Interval"),
        times["health_timeout"] or _number(image, "Timeout"),
        times["health_start_period"] or _number(image, "StartPeriod"),
        options.health_retries or _number(image, "Retries"),
        tuple(config.get("Shell") or Health(()).shell),
    )


def _number(image: Mapping[str, Any], name: str) -> int:
    value = image.get(name)
    return min(value, _LONGEST_NS) if isinstance(value, int) and value > 0 else 0


def _time(text: str, attribute: str) -> int:
    name = attribute.replace("_", "-")
    if not text:
        return 0
    try:
        found = durations.parse(text)
    except ValueError as error:
        raise OptionInvalid(f'invalid argument "{text}" for "--{name}" flag: {error}') from None
    if found < 0:
        raise OptionInvalid(f"--{name} cannot be negative")
    if 0 < found < _SHORTEST_NS:
        raise OptionInvalid(f"--{name} cannot be less than 1ms")
    return min(found, _LONGEST_NS)
