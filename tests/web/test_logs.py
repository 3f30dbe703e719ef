"""Log lines: one for each event, which nothing that a client wrote can break or forge."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry.oci.digest import Digest
from registry.server import logs
from registry.server.logs import JsonFormatter, TextFormatter

HOSTILE = [
    "a\nb",
    "a\r\nb",
    '"',
    '", "level": "error',
    "\\",
    "\\n",
    "\x1b[2J",
    "\x9b2J",
    "\x00",
    "\x85",
    "\u2028",
    "\u2029",
    "\u202e",
    "\ud800",
    "\x0b\x0c\x1c\x1d\x1e",
    "a b",
    " status=200",
    "=",
    "",
    "'",
    "\x7f",
    "\ufeff",
]
TEXTS = st.text(st.characters(exclude_categories=())) | st.sampled_from(HOSTILE)
NAMES = st.from_regex("[a-z]{1,8}", fullmatch=True)

# `name=value`, where a value is plain or a JSON string.
FIELD = re.compile(r' ([a-z]+)=("(?:[^"\\]|\\.)*"|[^ "=]*)')


def record(message: str = "request.done", level: int = logging.INFO, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("hythe", level, __file__, 1, message, (), None)
    made.__dict__["fields"] = fields
    made.created, made.msecs = 1_600_000_000.25, 250.0
    return made


def is_one_line(text: str) -> bool:
    return len(f"{text}|".splitlines()) == 1 and text.isprintable()


def fields_of(line: str, message: str = "request.done") -> dict[str, str]:
    """The fields of a text line, read as a person or a script reads them."""
    head, _, rest = line.partition(f" {message}")
    assert head
    found: dict[str, str] = {}
    place = 0
    while place < len(rest):
        match = FIELD.match(rest, place)
        assert match, rest[place:]
        found[match[1]] = json.loads(match[2]) if match[2].startswith('"') else match[2]
        place = match.end()
    return found


class TestJson:
    def test_a_line_has_time_level_event_and_fields(self) -> None:
        line = JsonFormatter().format(record(method="GET", status=200, ms=1.5, sent=None))
        assert line.startswith("{")
        assert json.loads(line) == {
            "time": "2020-09-13T12:26:40.250Z",
            "level": "info",
            "event": "request.done",
            "method": "GET",
            "status": 200,
            "ms": 1.5,
            "sent": None,
        }

    def test_a_record_of_others_has_no_fields_and_its_arguments_filled_in(self) -> None:
        made = logging.LogRecord("uvicorn", logging.WARNING, __file__, 1, "port %d is %s", (80, "taken"), None)
        line = json.loads(JsonFormatter().format(made))
        assert (line["level"], line["event"]) == ("warning", "port 80 is taken")

    @given(TEXTS, TEXTS)
    @example("a\u2028b", "\x85")
    def test_any_value_stays_in_its_line_and_comes_back(self, message: str, value: str) -> None:
        line = JsonFormatter().format(record(message.replace("%", "%%"), path=value, repo=f"{value}{value}"))
        assert is_one_line(line)
        found = json.loads(line)
        assert (found["path"], found["repo"]) == (value, f"{value}{value}")
        assert set(found) == {"time", "level", "event", "path", "repo"}

    def test_values_that_json_does_not_know_are_shown_as_text(self) -> None:
        line = JsonFormatter().format(
            record(raw=b"x\n", digest=Digest.of(b""), error=ValueError("a\nb"), many={1})
        )
        found = json.loads(line)
        assert (found["raw"], found["digest"], found["error"]) == ("b'x\\n'", Digest.of(b""), "a\nb")

    def test_a_traceback_is_inside_the_line(self) -> None:
        line = JsonFormatter().format(self._failed("first\nsecond\u2028third"))
        assert is_one_line(line)
        assert "second\u2028third" in json.loads(line)["traceback"]

    @staticmethod
    def _failed(text: str) -> logging.LogRecord:
        try:
            raise ValueError(text)
        except ValueError:
            made = record("request.failed", logging.ERROR)
            made.exc_info = sys.exc_info()
            return made


class TestText:
    def test_a_line_has_the_event_and_its_fields(self) -> None:
        line = TextFormatter().format(record(method="PUT", repo="team/web", status=201))
        assert re.fullmatch(r"\d\d:\d\d:\d\d request\.done method=PUT repo=team/web status=201", line)

    @pytest.mark.parametrize(("level", "shown"), [(logging.WARNING, "warning "), (logging.ERROR, "error ")])
    def test_what_is_worse_than_usual_says_so(self, level: int, shown: str) -> None:
        assert f" {shown}request.done" in TextFormatter().format(record(level=level))

    @pytest.mark.parametrize("value", ["team/web", "sha256:abc", "ä", "200", "1.5", "-", "a,b", "'"])
    def test_an_ordinary_value_is_shown_as_it_is(self, value: str) -> None:
        assert TextFormatter().format(record(path=value)).endswith(f" path={value}")

    @given(st.dictionaries(NAMES, TEXTS, max_size=4))
    @example({"path": "x status=200", "status": "500"})
    @example({"path": 'a" status="200'})
    def test_any_value_stays_in_its_line_and_its_field(self, values: dict[str, str]) -> None:
        line = TextFormatter().format(record("request.done", logging.INFO, **values))
        assert is_one_line(line)
        assert fields_of(line) == values

    @given(TEXTS)
    @example("done\n12:00:00 request.done status=200")
    def test_any_message_of_others_stays_in_its_line(self, message: str) -> None:
        assert is_one_line(TextFormatter().format(record(message.replace("%", "%%"))))

    def test_a_traceback_follows_below_for_a_person_to_read(self) -> None:
        try:
            raise ValueError("why")
        except ValueError:
            made = record("request.failed", logging.ERROR)
            made.exc_info = sys.exc_info()
        first, *below = TextFormatter().format(made).splitlines()
        assert first.endswith("error request.failed")
        assert below[0].startswith("Traceback")
        assert below[-1] == "ValueError: why"


class TestConfigure:
    @pytest.fixture(autouse=True)
    def _as_before(self) -> Any:
        root = logging.getLogger()
        before = root.handlers[:], root.level
        others = {name: logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "asyncio", "alembic")}
        levels = {name: (logger.level, logger.filters[:]) for name, logger in others.items()}
        yield
        root.handlers[:], root.level = before
        for name, logger in others.items():
            logger.setLevel(levels[name][0])
            logger.filters[:] = levels[name][1]
        root.setLevel(before[1])

    @pytest.mark.parametrize(("style", "begins"), [("json", "{"), ("auto", "{"), ("text", "")])
    def test_lines_go_to_standard_error_as_it_is_now(
        self, monkeypatch: pytest.MonkeyPatch, style: Any, begins: str
    ) -> None:
        logs.configure("info", style)
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        logging.getLogger("hythe.request").info("request.done", extra={"fields": {"status": 200}})
        logging.getLogger("hythe.request").debug("not shown")
        [line] = stream.getvalue().splitlines()
        assert line.startswith(begins)
        assert "request.done" in line
        assert (line.startswith("{")) is (style != "text")

    def test_what_any_client_can_repeat_for_nothing_is_not_logged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        logs.configure("info", "json")
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
        logging.getLogger("uvicorn.error").warning("Unsupported upgrade request.")
        assert stream.getvalue() == ""
        logging.getLogger("uvicorn.error").error("Something else")
        assert "Something else" in stream.getvalue()
