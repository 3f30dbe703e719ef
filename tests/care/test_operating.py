"""docs/operating.md, word for word: each command of the page is run as an operator runs it, in its order."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from registry.cli import admin
from tests.care.conftest import Admin, StartServer, client
from tests.support.oci import Content, blob, config, image, manifest_path, push_blob, push_manifest
from tests.support.warm import WarmServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operating.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BACKUP = "/backups/2026-07-01T020000Z.hythe-backup.gz"


def commands(heading: str) -> list[list[str]]:
    """The words of each `hythe admin` in the blocks under a heading of the page."""
    [under] = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return list(words_of(under))


def words_of(text: str) -> Iterator[list[str]]:
    for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            for command in re.split(r" && ", line):
                if command.startswith("hythe admin "):
                    yield shlex.split(command, comments=True)[2:]


def spoken_of(text: str) -> Iterator[list[str]]:
    """The words of each `hythe admin` within a sentence; some leave out what it is about."""
    for command in re.findall(r"`hythe admin ([^`|]+)[`|]", text):
        yield shlex.split(command)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_there_is_every_command_that_a_document_names(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = document.read_text()
    for words in [*words_of(text), *spoken_of(text)]:
        with contextlib.suppress(SystemExit):
            admin.parser().parse_args(words)
        said = capsys.readouterr().err
        assert not said or "arguments are required" in said, f"hythe admin {' '.join(words)}"


class Operator:
    """Runs the page's commands beside a registry, with real places in place of the page's."""

    def __init__(self, hythe: Admin, server: WarmServer, places: Mapping[str, str | Path]) -> None:
        self._hythe = hythe
        self.server = server
        self.places = dict(places)
        self.said: dict[str, str] = {}

    def follow(self, heading: str) -> None:
        """Run all that is under a heading. `said` has what each command printed."""
        found = commands(heading)
        assert found
        for words in found:
            self.run(words)

    def run(self, words: list[str]) -> None:
        """Run one, with its words as the page has them."""
        status, out, err = self._hythe(self.server, *(str(self.places.get(word, word)) for word in words))
        command = " ".join(words)
        assert status == 0, f"hythe admin {command}: {out}{err}"
        self.said[command] = out


def push(http: httpx.Client, repository: str, tag: str) -> Content:
    layer, made = push_blob(http, repository, blob(70_000)), push_blob(http, repository, config())
    return push_manifest(http, repository, image(made, [layer]), tag)


def now() -> str:
    return datetime.now(UTC).isoformat()


def test_the_page_is_right_from_the_first_account_to_the_way_out(
    start: StartServer, hythe: Admin, tmp_path: Path
) -> None:
    rule = {"repositories": "team/*", "keep_last": 20, "protect": ["latest"]}
    server = start(retention=[rule], gc={"enabled": False, "untagged": "delete"})
    operator = Operator(hythe, server, {})
    operator.follow("Who may come in")
    assert operator.said["may anna delete web/site"].startswith("yes")
    operator.run(["may", "ci", "push", "web/site"])
    with client(server) as http:
        first = push(http, "team/web", "1.4")
        time.sleep(0.002)  # the clock goes on
        at_first = now()
        time.sleep(0.002)
        second = push(http, "team/web", "1.4")
        operator.follow("What is deleted, and when")
        operator.places |= {"2026-11-20T12:00:00Z": at_first, "sha256:…": second.digest}
        gone = push(http, "team/web", "gone")
        http.delete(manifest_path("team/web", gone.digest))
        operator.places["team/web@sha256:…"] = f"team/web@{gone.digest}"
        operator.follow("How do I get it back")
        assert first.digest in operator.said["restore team/web:1.4"]
        assert "nothing to do" in operator.said["restore team/web:1.4 --at 2026-11-20T12:00:00Z"]
        assert http.get(manifest_path("team/web", "1.4")).content == second.data
        assert http.get(manifest_path("team/web", gone.digest)).content == gone.data
    operator.run(["quota"])
    operator.follow("How do I know that it is right")
    assert " 0 wrong" in operator.said["verify --all"]
    out, other = tmp_path / "out", tmp_path / "other"
    operator.places = {"DIRECTORY": out, "/srv/hythe": server.data, "s3://images/hythe": other}
    operator.places["/var/lib/docker-registry"] = out
    moving = commands("Moving in and out")
    for words in sorted(moving, key=lambda words: words[0] == "import"):  # what is written out is what comes in
        operator.run(words)
    assert any((out / "docker/registry/v2/repositories/team/web").iterdir())
    assert any((other / "blobs").rglob("*"))


def test_the_drill_brings_everything_back(start: StartServer, hythe: Admin, tmp_path: Path) -> None:
    server, backups = start(), tmp_path / "backups"
    backups.mkdir()
    with client(server) as http:
        pushed = push(http, "team/web", "1.4")
        operator = Operator(hythe, server, {"/backups/": f"{backups}/"})
        operator.follow("Backup and recovery")
        late = push(http, "team/web", "late")
    shutil.copytree(server.data / "blobs", backups / "blobs")
    [written] = backups.glob("*.hythe-backup.gz")
    for heading, has_names in (("The drill", True), ("The index is lost, and there is no backup", False)):
        elsewhere = start(go=False)
        shutil.copytree(backups / "blobs", elsewhere.data / "blobs")
        Operator(hythe, elsewhere, {BACKUP: written}).follow(heading)
        elsewhere.start()
        with client(elsewhere) as http:
            repository = "team/web" if has_names else "recovered"
            assert http.get(manifest_path(repository, pushed.digest)).content == pushed.data
            assert http.get(manifest_path("recovered", late.digest)).content == late.data
            assert http.get(manifest_path("team/web", "1.4")).status_code == (200 if has_names else 404)
