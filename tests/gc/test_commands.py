"""`hythe admin gc`: what the operator types and reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import yaml

from registry.cli import admin
from registry.content.files import FileStore
from registry.server.index import jobs, schema
from registry.server.index.jobs import Paused
from registry.server.service import lease
from registry.server.service.collect import Choices, Collector
from registry.server.service.collect_plan import Decision
from tests.gc.keeper import Keeper
from tests.support.oci import blob, manifest_path, push_blob, push_image
from tests.support.warm import WarmServer

REPOSITORY = "team/app"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gc(registry: WarmServer, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `hythe admin gc WORDS` beside the registry; status, standard output and standard error."""

    def run(*words: str, **settings: Any) -> tuple[int, str, str]:
        config = registry.directory / "admin.yaml"
        config.write_text(yaml.safe_dump({**registry.settings, **settings}))
        capsys.readouterr()
        status = admin.run(["--config", str(config), "gc", *words])
        return status, *capsys.readouterr()

    return run


def test_a_dry_run_says_what_would_go_and_why_and_leaves_it(http: httpx.Client, keeper: Keeper, gc: Run) -> None:
    loose = push_blob(http, REPOSITORY, blob(12_000))
    push_image(http, REPOSITORY, "v1")
    before = keeper.stored()
    status, out, err = gc("--dry-run")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["ACTION", "unlink", "delete"]
    assert loose.digest in out
    assert "12 kB" in out
    assert "pushed" in out
    assert err == "12 kB would be free\n"
    [unlink, delete] = json.loads(gc("--dry-run", "--json")[1])
    assert unlink == {
        "action": "unlink",
        "repository": REPOSITORY,
        "digest": loose.digest,
        "size_bytes": 12_000,
        "reason": "pushed",
    }
    assert (delete["action"], delete["repository"]) == ("delete", "")
    assert keeper.stored() == before
    assert len(keeper.rows(schema.candidate)) == 4


def test_a_dry_run_counts_bytes_that_several_repositories_let_go_once(http: httpx.Client, gc: Run) -> None:
    content = blob(5000)
    for number in range(60):  # more than are looked at in one go
        push_blob(http, f"team/app{number}", content)
    planned = json.loads(gc("--dry-run", "--json")[1])
    assert [each["action"] for each in planned].count("unlink") == 60
    assert [each["action"] for each in planned].count("delete") == 1


def test_what_it_plans_it_does(http: httpx.Client, keeper: Keeper, gc: Run) -> None:
    push_blob(http, REPOSITORY, blob(12_000))
    push_image(http, REPOSITORY, "v1")
    http.delete(manifest_path(REPOSITORY, "v1"))
    planned = json.loads(gc("--dry-run", "--json", gc={"grace_seconds": 0, "untagged": "delete"})[1])
    done = json.loads(gc("--json", gc={"grace_seconds": 0, "untagged": "delete", "deletions_per_second": 0})[1])
    counts = {name: [each["action"] for each in planned].count(name) for name in ("unlink", "remove", "delete")}
    assert counts == {"unlink": done["unlinked"], "remove": done["removed"], "delete": done["deleted"]}
    assert sum(each["size_bytes"] for each in planned if not each["repository"]) == done["freed_bytes"]


def test_a_pause_stops_it_until_it_is_resumed_and_both_are_in_the_audit_log(
    http: httpx.Client, keeper: Keeper, gc: Run
) -> None:
    push_blob(http, REPOSITORY, blob())
    assert gc("pause")[0] == 0
    with pytest.raises(Paused, match="hythe admin gc resume"):
        gc()
    assert "paused" in gc("status")[1]
    assert gc("resume")[0] == 0
    assert "1 blobs deleted" in gc()[1]
    actions = [row["action"] for row in keeper.rows(schema.audit) if row["target"] == "gc"]
    assert actions == ["gc.pause", "gc.resume"]


def test_a_pause_in_the_middle_lets_nothing_more_go(http: httpx.Client, keeper: Keeper) -> None:
    """Between two decisions: what was decided before is not done any more, and is done after."""
    for _ in range(3):
        push_blob(http, REPOSITORY, blob())

    class Interrupted(Collector):
        async def _do(self, decision: Decision, rules: Any) -> Any:
            done = await super()._do(decision, rules)
            await self._index.write(jobs.set_paused, "gc", True)
            return done

    async def run(index: Any, store: Any) -> None:
        async with lease.take(index, "gc") as taken:
            await Interrupted(index, store, Choices(0, 0)).collect(taken)

    with pytest.raises(Paused):
        keeper.run(run)
    assert len(keeper.rows(schema.blob_link)) == 2
    assert len(keeper.stored()) == 3
    keeper.pause(False)
    keeper.collect()
    keeper.check_clean()


def test_the_status_says_what_waits_and_what_the_last_one_did(http: httpx.Client, gc: Run) -> None:
    assert "never ran" in gc("status")[1]
    push_blob(http, REPOSITORY, blob(1000))
    assert json.loads(gc("status", "--json")[1])["candidates"]["due"] == 1
    gc()
    found = json.loads(gc("status", "--json")[1])
    assert found["detail"]["freed_bytes"] == 1000
    assert found["candidates"] == {"waiting": 0, "due": 0, "oldest_ms": None}
    assert found["finished_ms"] >= found["started_ms"]
    status, out, _ = gc("status")
    assert status == 0
    assert "resting" in out
    assert "freed bytes    1000" in out


def test_a_full_run_names_what_is_missing_and_fails(http: httpx.Client, keeper: Keeper, gc: Run) -> None:
    manifest = push_image(http, REPOSITORY, "v1")
    assert gc("--full")[0] == 0
    lost = manifest.document["config"]["digest"]
    (keeper.directory / "blobs" / "sha256" / lost[7:9] / lost[7:]).unlink()
    status, out, err = gc("--full")
    assert status == 1
    assert f"missing: {lost}" in err
    assert REPOSITORY in err
    assert "walked through" in out
    assert json.loads(gc("--full", "--json")[1])["walk"]["missing"][0]["digest"] == lost


def test_what_fails_is_told_and_stays_a_candidate(
    http: httpx.Client, keeper: Keeper, gc: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = push_blob(http, REPOSITORY, blob())
    with monkeypatch.context() as patch:

        def refuse(self: FileStore, digest: str) -> None:
            raise PermissionError(13, "Permission denied", str(digest))

        patch.setattr(FileStore, "take_away", refuse)
        status, _, err = gc()
        assert status == 1
        assert "Permission denied" in err
    assert loose.digest in keeper.stored()
    assert gc()[0] == 0
    keeper.check_clean()
