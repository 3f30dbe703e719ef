"""Retention: which tags stay by which rule, and that the others go with a line in the audit log."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.cli import admin
from registry.oci.digest import Digest
from registry.oci.errors import ConfigurationError
from registry.oci.reference import Repository, Tag
from registry.server.index import names, pulled, schema
from registry.server.index.engine import EmbeddedIndex
from registry.server.index.pulled import TagFacts
from registry.server.service import lease
from registry.server.service.immutable import TagPattern
from registry.server.service.pulls import Pulls
from registry.server.service.retain import Retention
from registry.server.service.retention_plan import Moment, Rule, plan
from tests.gc.conftest import StartServer
from tests.gc.keeper import Keeper
from tests.support.oci import manifest_path, push_image, push_manifest, tags_path

DAY_MS = 86_400_000
NOW = Moment(100 * DAY_MS, 0)
REPOSITORY = "team/app"


def facts(name: str, days: float, pulled_days: float | None = None) -> TagFacts:
    """A tag that was pushed, and perhaps pulled, so many days ago."""
    moment = None if pulled_days is None else NOW.now_ms - int(pulled_days * DAY_MS)
    return TagFacts(Tag(name), Digest.of(name.encode()), NOW.now_ms - int(days * DAY_MS), moment)


def stays(tags: list[TagFacts], *rules: Rule, immutable: str = "", moment: Moment = NOW) -> set[str]:
    fixed = [TagPattern.parse(immutable)] if immutable else []
    return {str(each.tag.name) for each in plan(REPOSITORY, tags, rules, fixed, moment) if each.stays}


AGES = [facts("a", 1), facts("b", 2), facts("c", 30), facts("d", 40, 1), facts("e", 50, 20)]


class TestPlan:
    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            (Rule("*", keep_last=2), "ab"),
            (Rule("*", keep_younger_days=31), "abc"),
            (Rule("*", keep_pulled_days=10), "abd"),  # pushed lately counts as used
            (Rule("*", keep_matching=("c", "e*")), "ce"),
            (Rule("*", keep_last=1, keep_matching=("e",)), "ae"),
            (Rule("*", keep_last=1, protect=("a",)), "ab"),  # what is protected does not count
            (Rule("*", protect=("a",)), "abcde"),
            (Rule("team/*", keep_last=1), "a"),
            (Rule("other/*", keep_last=1), "abcde"),
            (Rule("*", keep_last=100), "abcde"),
        ],
    )
    def test_one_rule(self, rule: Rule, expected: str) -> None:
        assert stays(AGES, rule) == set(expected)

    def test_what_any_rule_keeps_stays(self) -> None:
        assert stays(AGES, Rule("*", keep_last=1), Rule("team/*", keep_matching=("d",))) == {"a", "d"}

    def test_a_rule_of_other_repositories_keeps_nothing_here(self) -> None:
        assert stays(AGES, Rule("*", keep_last=1), Rule("other/*", keep_matching=("*",))) == {"a"}

    def test_immutable_tags_stay_and_do_not_count(self) -> None:
        assert stays(AGES, Rule("*", keep_last=1), immutable="team/*:a") == {"a", "b"}

    def test_what_was_pulled_before_pulls_were_recorded_is_not_taken_for_unused(self) -> None:
        rule = Rule("*", keep_pulled_days=10)
        assert stays(AGES, rule, moment=Moment(NOW.now_ms, NOW.now_ms - 9 * DAY_MS)) == set("abcde")
        assert stays(AGES, rule, moment=Moment(NOW.now_ms, NOW.now_ms - 11 * DAY_MS)) == set("abd")

    def test_every_decision_says_why(self) -> None:
        rules = [Rule("*", keep_last=1, keep_younger_days=3, keep_matching=("c",), protect=("e",))]
        found = {str(each.tag.name): each.reason for each in plan(REPOSITORY, AGES, rules, [], NOW)}
        assert found == {
            "a": "one of the last 1",
            "b": "younger than 3 days",
            "c": "matches c",
            "d": "no rule keeps it: *",
            "e": "protected: e",
        }

    @given(
        ages=st.lists(st.tuples(st.integers(0, 60), st.none() | st.integers(0, 60)), max_size=8),
        rules=st.lists(
            st.builds(
                Rule,
                st.sampled_from(["*", "team/*", "other/*"]),
                keep_last=st.integers(0, 3),
                keep_younger_days=st.integers(0, 30).map(float),
                keep_pulled_days=st.integers(0, 30).map(float),
                keep_matching=st.sampled_from([(), ("t1",), ("t*",)]),
                protect=st.sampled_from([(), ("t2",)]),
            ),
            max_size=3,
        ),
    )
    def test_more_rules_never_keep_less(self, ages: list[tuple[int, int | None]], rules: list[Rule]) -> None:
        """Each limiting rule keeps for itself what it keeps among others, and nobody else's."""
        tags = [facts(f"t{number}", *age) for number, age in enumerate(ages)]
        together = stays(tags, *rules)
        speaking = [rule for rule in rules if rule.covers(REPOSITORY)]
        if not any(rule.is_limiting() for rule in speaking):
            assert together == {str(tag.name) for tag in tags}
            return
        protected = tuple(pattern for rule in speaking for pattern in rule.protect)
        alone = set()
        for rule in speaking:
            if rule.is_limiting():
                alone |= stays(tags, rule, Rule("*", protect=protected)) if protected else stays(tags, rule)
        assert together == alone


class TestRules:
    @pytest.mark.parametrize(
        ("rule", "words"),
        [
            (Rule("*"), "keeps nothing and protects nothing"),
            (Rule("Team/*", keep_last=1), "no repository pattern"),
            (Rule("*", keep_matching=("v 1",)), "no pattern of tags"),
            (Rule("*", protect=("",)), "no pattern of tags"),
        ],
    )
    def test_one_that_cannot_be_used_is_told_in_a_sentence(self, rule: Rule, words: str) -> None:
        with pytest.raises(ConfigurationError, match=words):
            rule.check()


Admin = Callable[..., Any]


@pytest.fixture
def hythe(registry: Any, capsys: pytest.CaptureFixture[str]) -> Admin:
    """Run `hythe admin --json …` beside the registry, with settings of its own."""

    def run(*words: str, **sections: Any) -> Any:
        config = registry.directory / "admin.yaml"
        config.write_text(json.dumps({**registry.settings, **sections}))
        capsys.readouterr()
        assert admin.run(["--config", str(config), *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out or "null")

    return run


class TestRuns:
    RULES = ({"repositories": "team/*", "keep_last": 2, "protect": ["latest"]},)

    def test_tags_that_no_rule_keeps_go_and_the_log_says_why(
        self, http: httpx.Client, keeper: Keeper, hythe: Admin
    ) -> None:
        manifests = {}
        for name in ("latest", "one", "two", "three"):
            manifests[name] = push_image(http, REPOSITORY, name)
            time.sleep(0.002)  # tags are told apart by their milliseconds
        push_image(http, "other/app", "one")
        planned = hythe("retention", "--dry-run", retention=self.RULES)
        assert {each["tag"]: each["action"] for each in planned} == {
            f"{REPOSITORY}:latest": "keep",
            f"{REPOSITORY}:one": "remove",
            f"{REPOSITORY}:two": "keep",
            f"{REPOSITORY}:three": "keep",
        }
        assert http.get(tags_path(REPOSITORY)).json()["tags"] == ["latest", "one", "three", "two"]
        assert hythe("retention", retention=self.RULES) == {"repositories": 1, "kept": 3, "removed": 1}
        assert http.get(tags_path(REPOSITORY)).json()["tags"] == ["latest", "three", "two"]
        assert http.get(tags_path("other/app")).json()["tags"] == ["one"]
        [entry] = [row for row in keeper.rows(schema.audit) if row["action"] == "tag.delete"]
        assert (entry["actor"], entry["target"]) == ("retention", f"{REPOSITORY}:one")
        assert json.loads(entry["detail"]) == {
            "digest": manifests["one"].digest,
            "reason": "no rule keeps it: team/*",
        }
        assert keeper.collect(delete_untagged=True).removed == 1

    def test_a_tag_that_moves_meanwhile_stays(self, http: httpx.Client, keeper: Keeper) -> None:
        push_image(http, REPOSITORY, "old")
        time.sleep(0.002)
        push_image(http, REPOSITORY, "new")

        class Slow(Retention):
            async def plan(self) -> Any:
                async for each in super().plan():
                    push_image(http, REPOSITORY, "old")
                    yield each

        async def run(index: Any, store: Any) -> Any:
            async with lease.take(index, "retention") as taken:
                return await Slow(index, [Rule("*", keep_last=1)], [], 0).apply(taken)

        assert keeper.run(run).removed == 0
        assert http.get(tags_path(REPOSITORY)).json()["tags"] == ["new", "old"]

    def test_pulls_by_tag_and_by_digest_keep_a_tag(
        self, http: httpx.Client, keeper: Keeper, registry: Any, hythe: Admin
    ) -> None:
        names = ("by-tag", "by-digest", "by-head", "unused")
        manifests = {name: push_image(http, REPOSITORY, name) for name in names}
        http.get(manifest_path(REPOSITORY, "by-tag"))
        http.get(manifest_path(REPOSITORY, manifests["by-digest"].digest))
        http.head(manifest_path(REPOSITORY, "by-head"))
        assert registry.stop() == 0  # which writes down what was pulled
        keeper.execute(f"UPDATE tag SET moved_ms = moved_ms - {20 * DAY_MS}")
        keeper.execute(f"UPDATE job SET started_ms = started_ms - {30 * DAY_MS} WHERE name = 'pulls'")
        rules = ({"repositories": "*", "keep_pulled_days": 10},)
        planned = hythe("retention", "--dry-run", retention=rules)
        removed = [each["tag"] for each in planned if each["action"] == "remove"]
        assert removed == [f"{REPOSITORY}:unused"]

    def test_it_can_be_paused(self, http: httpx.Client, hythe: Admin) -> None:
        for name in ("one", "two", "three"):
            push_image(http, REPOSITORY, name)
        hythe("retention", "pause")
        assert hythe("retention", "status")["paused"] is True
        with pytest.raises(Exception, match="retention is paused"):
            hythe("retention", retention=self.RULES)
        assert len(http.get(tags_path(REPOSITORY)).json()["tags"]) == 3
        hythe("retention", "resume")
        assert hythe("retention", retention=self.RULES)["removed"] == 1

    def test_immutable_tags_are_never_taken(self, http: httpx.Client, hythe: Admin) -> None:
        for name in ("v1", "v2", "v3"):
            push_image(http, REPOSITORY, name)
        policy = {"immutable_tags": ["team/*:v*"]}
        assert hythe("retention", retention=self.RULES, policy=policy)["removed"] == 0


@pytest.mark.anyio
class TestPulls:
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    async def test_they_are_written_in_batches_and_each_once_an_hour(self, migrated: Path, tmp_path: Path) -> None:
        index = EmbeddedIndex(Path(shutil.copy(migrated, tmp_path / "index.sqlite3")))
        try:
            repository = Repository(REPOSITORY)
            await index.write(names.find_or_add, repository)
            pulls = Pulls(index)
            for number in range(1200):
                pulls.record(repository, f"t{number}", "sha256:x")
            pulls.record(Repository("not/there"), "t")
            await pulls.flush()
            count = "SELECT count(*), min(at_ms), max(at_ms) FROM pulled"
            rows, first, last = await index.read(lambda tx: tx.exec_driver_sql(count).one())
            assert rows == 1201
            assert abs(last - time.time() * 1000) < 60_000
            assert last - first < 60_000
            pulls.record(repository, "t1")
            assert pulls._waiting == {}
            assert await index.read(pulled.known_since_ms) <= last + 1000
        finally:
            index.close()


def test_what_was_pulled_goes_with_its_name(http: httpx.Client, keeper: Keeper, registry: Any) -> None:
    manifest = push_image(http, REPOSITORY, "v1")
    push_manifest(http, REPOSITORY, manifest, "v2")
    http.get(manifest_path(REPOSITORY, "v1"))
    http.get(manifest_path(REPOSITORY, "v2"))
    assert registry.stop() == 0
    assert {row["name"] for row in keeper.rows(schema.pulled)} == {"v1", "v2", manifest.digest}
    keeper.execute("DELETE FROM tag WHERE name = 'v1'")
    assert {row["name"] for row in keeper.rows(schema.pulled)} == {"v2", manifest.digest}
    keeper.execute("DELETE FROM manifest")
    assert {row["name"] for row in keeper.rows(schema.pulled)} == {"v2"}


def test_the_server_refuses_rules_that_cannot_be_used(start: StartServer) -> None:
    with pytest.raises(AssertionError, match="keeps nothing and protects nothing"):
        start(retention=[{"repositories": "*"}])
    with pytest.raises(AssertionError, match="no pattern of tags"):
        start(policy={"immutable_tags": ["team/app"]})
