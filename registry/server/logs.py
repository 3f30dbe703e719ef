"""Log lines: JSON for machines, short text at a terminal; one line an event, fields beside it."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal, TextIO


class JsonFormatter(logging.Formatter):
    """One JSON object a line; the time is UTC in RFC 3339."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # ASCII alone: U+2028 and its like end a line for some readers, and U+009B begins a terminal's command.
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """`12:04:05 request.done method=PUT repo=team/web status=201`"""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_quoted(value)}" for name, value in getattr(record, "fields", {}).items())
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()} "
        message = record.getMessage()
        shown = message if message.isprintable() else json.dumps(message)
        text = f"{self.formatTime(record, '%H:%M:%S')} {level}{shown}{fields}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _quoted(value: Any) -> str:
    """A field that no client can break out of the line with."""
    text = str(value)
    plain = text.isprintable() and not any(character in text for character in ' "=')
    return text if plain else json.dumps(text)


class _Handler(logging.StreamHandler[TextIO]):
    """Standard error as it is now, not as it was when logging was configured."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure(level: str, style: Literal["auto", "json", "text"]) -> None:
    """Send this process's log to standard error."""
    as_text = style == "text" or (style == "auto" and sys.stderr.isatty())
    handler = _Handler()
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "asyncio", "alembic", "aiohttp"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # uvicorn reports each malformed request; that is the client's fault, and cheap to repeat.
    logging.getLogger("uvicorn.error").addFilter(_not_invalid_requests)


def _not_invalid_requests(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(
        ("Invalid HTTP request", "Unsupported upgrade", "No supported WebSocket")
    )
