"""A docker beginner's course, from pull to prune, with both clients: the same words, output and statuses."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import images, peers
from tests.support.hythe import Hythe
from tests.support.peers import Client
from tests.support.server import Server

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of both clients need root"),
]
NONE = ("--network", "none")


def busybox() -> images.Image:
    entries = images.busybox_entries()
    program = next(entry for entry in entries if entry.name == "bin/busybox")
    names = "id env ps ls mkdir rm touch wc hostname pwd tail kill"
    links = [images.hardlink(f"bin/{name}", program) for name in names.split()]
    return images.make_image([images.layer([*entries, *links])], command=("echo", "hello from the image"))


class Both:
    """Runs words on both clients, and compares what came of it."""

    def __init__(self, hythe: Client, docker: Client) -> None:
        self.hythe, self.docker = hythe, docker
        self.differences: list[object] = []

    def __call__(self, *words: str, data: str | None = None) -> str:
        ours, theirs = (self._run(client, words, data) for client in (self.hythe, self.docker))
        if ours != theirs:
            self.differences.append((words, ours, theirs))
        return theirs[1]

    def only_status(self, *words: str) -> int:
        """For what is complained of in other words: the same exit status, and a complaint of one line."""
        ours, theirs = (self._run(client, words, None) for client in (self.hythe, self.docker))
        if ours[0] != theirs[0] or len(ours[2].splitlines()) != 1:
            self.differences.append((words, ours, theirs))
        return theirs[0]

    @staticmethod
    def _run(client: Client, words: tuple[str, ...], data: str | None) -> tuple[int, str, str]:
        done = subprocess.run(
            [*client.command, *words],
            input="" if data is None else data,
            capture_output=True,
            text=True,
            env=client.environment,
            check=False,
            timeout=120,
        )
        said = plain(done.stdout)
        if words[0] == "diff":  # docker has no order there
            said = "".join(sorted(said.splitlines(True)))
        return done.returncode, said, complaint(done.stderr)


def plain(text: str) -> str:
    """Without what is another each time: ids, ages, times; columns one space apart."""
    text = re.sub(r"\b[0-9a-f]{64}\b", "ID", text)
    text = re.sub(r"\b[0-9a-f]{12}\b", "ID", text)
    text = re.sub(
        r"\b(Up )?(About an? \w+|Less than a second|\d+ \w+)( ago)?(?=$| )", r"\1AGE\3", text, flags=re.M
    )
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    return re.sub(r" {2,}", " ", text)


def complaint(text: str) -> str:
    """Without the client's name, and the pointer to its help."""
    lines = [line for line in plain(text).splitlines() if line and not re.match(r"(See|Run) '", line)]
    return "\n".join(
        re.sub(r"^(docker|hythe): |Error response from daemon: |^Error: ", "", line) for line in lines
    )


@pytest.fixture
def both(tmp_path: Path, docker: Client, server: Server, http: httpx.Client, repository: str) -> Iterator[Both]:
    peers.program("conmon")
    hythe = Hythe(tmp_path / "client", HYTHE_RUN_ROOT=str(tmp_path / "run"))
    peers.upload(http, repository, busybox(), "v1")
    for client in (hythe, docker):
        client("pull", f"{server.host}/{repository}:v1")
        client("tag", f"{server.host}/{repository}:v1", "course")
    made = Both(hythe, docker)
    yield made
    for client in (hythe, docker):
        if left := client("ps", "-aq").split():
            client("rm", "-fv", *left)
    assert made.differences == []


def test_a_beginners_course_reads_the_same(both: Both) -> None:
    assert both("run", "--name", "first", *NONE, "course") == "hello from the image\n"
    assert both("run", "--rm", "-i", *NONE, "course", "cat", data="piped") == "piped"
    both("run", "-d", "--name", "web", *NONE, "-e", "A=b", "-l", "team=web", "course", "sleep", "600")
    both("ps")
    both("ps", "-a", "--format", "{{.Names}} {{.Image}} {{.Command}} {{.Labels}} {{.Networks}} {{.State}}")
    both("ps", "-aq", "-f", "status=exited")
    both("exec", "web", "sh", "-c", "echo $A; pwd; hostname | wc -c")
    both("exec", "-w", "/etc", "-u", "web", "-e", "C=d", "web", "sh", "-c", "pwd; id -u; echo $C")
    both("logs", "first")
    both("logs", "-t", "first")
    both("logs", "--tail", "1", "first")
    both("exec", "web", "sh", "-c", "echo x > /made; rm /etc/passwd; mkdir /dir")
    both("diff", "web")
    both(
        "inspect",
        "-f",
        "{{.State.Status}} {{.State.Running}} {{.State.ExitCode}} {{.Name}} {{.Path}} {{.Args}}",
        "web",
    )
    both(
        "inspect",
        "-f",
        "{{.Config.Env}} {{.Config.Cmd}} {{.Config.Labels}} {{json .HostConfig.RestartPolicy}}",
        "web",
    )
    both(
        "inspect", "-f", "{{.HostConfig.NetworkMode}} {{.HostConfig.Memory}} {{.Config.Image}} {{.Mounts}}", "web"
    )
    both("inspect", "-f", "{{len .Id}} {{.HostConfig.LogConfig.Type}} {{.RestartCount}} {{.Driver}}", "web")
    both("port", "web")
    both("pause", "web")
    both("ps")
    both("unpause", "web")
    both("stop", "-t", "0", "web")
    both("ps", "-a", "--format", "table {{.Names}}\t{{.Status}}\t{{.Ports}}")
    both("start", "web")
    both("restart", "-t", "0", "web")
    both("rename", "web", "page")
    both("update", "--restart", "unless-stopped", "page")
    both("kill", "page")
    both("wait", "page", "first")
    both("start", "-a", "first")
    both("rm", "page")
    both("container", "prune", "-f")
    both("ps", "-a")


def test_statuses_and_complaints_are_the_same(both: Both) -> None:
    for words in (
        ("run", "--rm", *NONE, "course", "sh", "-c", "exit 7"),
        ("run", "--rm", *NONE, "course", "sh", "-c", "kill -9 $$"),
        ("stop", "nobody"),
        ("rm", "nobody"),
        ("start", "nobody"),
        ("logs", "nobody"),
        ("create", "--name", "a/b", "course"),
    ):
        both(*words)
    for words, status in (
        (("run", "--rm", *NONE, "course", "nosuch"), 127),
        (("run", "--rm", *NONE, "course", "/etc"), 126),
        (("run", "--rm", "--nosuch", "course"), 125),
        (("run", "--rm", "--restart", "always", *NONE, "course"), 125),
        (("run", "--rm", "-m", "1m", *NONE, "course"), 125),
        (("inspect", "nobody"), 1),
        (("exec", "nobody", "true"), 1),
    ):
        assert both.only_status(*words) == status
    both("run", "-d", "--name", "one", *NONE, "course", "sleep", "600")
    both("rm", "one")
    both("start", "one")
    both("exec", "one", "sh", "-c", "exit 9")
    both("rm", "-f", "one")


def test_a_health_check_is_shown_the_same(both: Both) -> None:
    both(
        "run",
        "-d",
        "--name",
        "one",
        *NONE,
        "--health-cmd",
        "test -e /well",
        "--health-interval",
        "1s",
        "course",
        "sleep",
        "600",
    )
    both("ps")
    both(
        "inspect",
        "-f",
        "{{.State.Health.Status}} {{.State.Health.FailingStreak}} {{json .Config.Healthcheck}}",
        "one",
    )
    both("rm", "-f", "one")
