"""A restore, and a deletion, that are killed at any step: done or not done, never half."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest
import yaml

from registry import failpoints
from registry.server.index import schema
from tests.gc.keeper import Keeper
from tests.support.oci import index, manifest_path, push_image, push_manifest
from tests.support.warm import Forker, WarmServer

HERE = "team/app"


def hythe(warm: Forker, registry: WarmServer, failpoint: str, *words: str) -> int:
    """`hythe admin WORDS`, killed at a failpoint; its exit status."""
    configuration = registry.directory / "admin.yaml"
    configuration.write_text(yaml.safe_dump(registry.settings))
    arguments = ["admin", "--config", str(configuration), *words]
    log = registry.directory / "log"
    return warm.start(arguments, {"HYTHE_FAILPOINT": failpoint}, log, Path(os.devnull)).wait(60)


POINTS = [*failpoints.HISTORY, "index.before-commit", "index.committed"]


@pytest.mark.parametrize("point", POINTS)
def test_one_that_is_killed_is_done_or_not_and_can_be_repeated(
    point: str, warm: Forker, registry: WarmServer, http: httpx.Client, keeper: Keeper
) -> None:
    child, old = push_image(http, HERE), push_image(http, HERE, "multi")
    top = push_manifest(http, HERE, index([child.descriptor()]), "multi")
    for content in (top, child):
        assert http.delete(manifest_path(HERE, content.digest)).status_code == 202
    push_manifest(http, HERE, old, "multi")
    words = ("restore", f"{HERE}:multi", "--to", top.digest)
    assert hythe(warm, registry, point, *words) == -signal.SIGKILL
    shown = {content.digest: _is_served(http, content.digest) for content in (top, child)}
    is_done = point in ("history.done", "index.committed")
    assert set(shown.values()) == {is_done}
    assert http.get(manifest_path(HERE, "multi")).content == (top if is_done else old).data
    assert sum(row["action"] == "tag.restore" for row in keeper.rows(schema.audit)) == is_done
    keeper.collect(delete_untagged=True)
    assert hythe(warm, registry, "", *words) == 0
    for content in (top, child):
        assert http.get(manifest_path(HERE, content.digest)).content == content.data
    keeper.check()


def _is_served(http: httpx.Client, digest: str) -> bool:
    return http.head(manifest_path(HERE, digest)).status_code == 200


@pytest.mark.parametrize("point", ["index.before-commit", "index.committed"])
def test_what_is_being_forgotten_when_it_is_killed_is_collected_later(
    point: str, warm: Forker, registry: WarmServer, http: httpx.Client, keeper: Keeper
) -> None:
    made = push_image(http, HERE, "v1")
    assert http.delete(manifest_path(HERE, made.digest)).status_code == 202
    assert hythe(warm, registry, point, "history", HERE, "--forget") == -signal.SIGKILL
    keeper.collect()
    assert bool(keeper.rows(schema.manifest)) is (point == "index.before-commit")
    assert hythe(warm, registry, "", "history", HERE, "--forget") == 0
    keeper.collect()
    keeper.check_clean()
    assert keeper.stored() == set()
