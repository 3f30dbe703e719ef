"""`events`: what every command and monitor did, in its order, in docker's words."""

from __future__ import annotations

import json
import re
import select
import subprocess
import time

from registry.client.images import events
from registry.client.images.store import Store
from tests.client.conftest import needs_root
from tests.client.runtime.conftest import soon, status_of
from tests.support.hythe import Hythe

pytestmark = needs_root
NONE = ("--network", "none")


def actions(hythe: Hythe, *words: str) -> list[str]:
    """What has happened until now."""
    text = hythe("events", "--since", "1h", "--until", f"{time.time():.9f}", "--format", "{{.Action}}", *words)
    return text.splitlines()


def test_a_containers_life_is_told_in_its_order(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", "-l", "team=web", *NONE, "busybox", "sleep", "600")
    hythe("pause", "one")
    hythe("unpause", "one")
    hythe("exec", "one", "true")
    hythe("rename", "one", "two")
    hythe("restart", "-t", "0", "two")
    hythe("rm", "-f", "two")
    assert actions(hythe, "-f", "type=container") == [
        "create", "start", "pause", "unpause", "exec_create: true", "exec_start: true", "exec_die", "rename",
        "kill", "kill", "die", "stop", "start", "restart", "kill", "die", "destroy",
    ]  # fmt: skip
    assert actions(hythe, "-f", "container=two", "-f", "event=exec_start") == []
    assert actions(hythe, "-f", "container=one", "-f", "event=exec_start") == ["exec_start: true"]
    assert actions(hythe, "-f", "label=team=web", "-f", "event=die", "-f", "image=busybox") == ["die", "die"]
    assert actions(hythe, "-f", "label=team=api") == []
    assert "invalid filter 'colour'" in hythe.refused("events", "-f", "colour=red")


def test_an_event_is_dockers_line_and_dockers_json(hythe: Hythe) -> None:
    status_of(hythe, "run", "--name", "one", *NONE, "busybox", "sh", "-c", "exit 7")
    identity = hythe("ps", "-aq", "--no-trunc").strip()
    past = ("events", "--since", "1h", "--until", "0s", "-f", "event=die")
    line = hythe(*past)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z container die "
        + re.escape(f"{identity} (exitCode=7, image=busybox, name=one)\n"),
        line,
    )
    found = json.loads(hythe(*past, "--format", "{{json .}}"))
    assert found["Actor"] == {
        "ID": identity,
        "Attributes": {"exitCode": "7", "image": "busybox", "name": "one"},
    }
    assert [found[name] for name in ("status", "id", "from", "Type", "Action", "scope")] == [
        "die", identity, "busybox", "container", "die", "local",
    ]  # fmt: skip
    assert found["timeNano"] // 10**9 == found["time"]
    assert hythe(*past, "--format", "{{.Actor.Attributes.name}} {{.Status}}") == "one die\n"


def test_images_volumes_and_networks_have_events_too(hythe: Hythe) -> None:
    hythe("tag", "busybox", "mine:v1")
    hythe("rmi", "mine:v1")
    hythe("volume", "create", "data")
    hythe("volume", "rm", "data")
    hythe("network", "create", "net")
    hythe("network", "rm", "net")
    assert actions(hythe, "--filter", "type=image") == ["tag", "untag"]
    assert actions(hythe, "--filter", "volume=data") == ["create", "destroy"]
    assert actions(hythe, "--filter", "network=net") == ["create", "destroy"]


def test_events_are_followed_as_they_come(hythe: Hythe) -> None:
    hythe("run", "--name", "before", *NONE, "busybox", "true")
    following = subprocess.Popen(
        [*hythe.command, "events", "--format", "{{.Action}} {{.Actor.Attributes.name}}"],
        env=hythe.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    try:
        made = []

        def told() -> bool:
            made.append(hythe("volume", "create", f"v{len(made)}"))
            return bool(select_ready(following))

        assert soon(told)
        assert "before" not in following.stdout.readline()
    finally:
        following.terminate()
        following.communicate(timeout=60)


def select_ready(process: subprocess.Popen[str]) -> bool:
    """Whether it has said something."""
    return bool(select.select([process.stdout], [], [], 0)[0])


def test_only_so_many_are_kept(hythe: Hythe) -> None:
    store = Store(hythe.root)
    with events.lightly(store.db):
        for number in range(5000):
            events.note(store.db, "volume", "create", str(number))
    kept = events.after(store.db, 0)
    store.close()
    assert (len(kept), kept[-1].actor) == (4096, "4999")
