"""What containers and volumes take, and what goes when nothing needs it."""

from __future__ import annotations

from tests.client.conftest import needs_root
from tests.support.hythe import Hythe

pytestmark = needs_root
NONE = ("--network", "none")


def filled(hythe: Hythe) -> None:
    """One container runs and has a volume, one has ended and wrote; two volumes are nobody's."""
    hythe("run", "-d", "--name", "up", "-v", "data:/data", *NONE, "busybox", "sh", "-c", "echo 123 >/a; sleep 600")
    hythe("exec", "up", "sh", "-c", "echo 1234567 > /data/file")
    hythe("run", "--name", "old", "-l", "keep", *NONE, "busybox", "sh", "-c", "echo 1234567 > /a")
    hythe("volume", "create", "--label", "keep", "spare")
    hythe("volume", "create")


def table(hythe: Hythe) -> dict[str, list[str]]:
    rows = hythe("df", "--format", "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}")
    return {line.split("\t")[0]: line.split("\t")[1:] for line in rows.splitlines()}


def test_containers_and_volumes_are_counted_as_docker_does(hythe: Hythe) -> None:
    filled(hythe)
    found = table(hythe)
    assert found["Containers"] == ["2", "1", "12B", "8B (66%)"]
    assert found["Local Volumes"] == ["3", "1", "8B", "0B (0%)"]
    assert found["Build Cache"] == ["0", "0", "0B", "0B"]
    said = hythe("system", "df", "-v")
    containers = said.partition("Containers space usage:")[2].partition("Local Volumes")[0].split("\n")[3:5]
    assert [line.split()[-1] for line in containers] == ["old", "up"]
    assert ["data", "1", "8B"] in [line.split() for line in said.splitlines()]


def test_what_is_pruned_is_what_the_filters_leave(hythe: Hythe) -> None:
    filled(hythe)
    hythe("network", "create", "lonely")
    hythe("network", "create", "--label", "keep", "kept")
    assert hythe("container", "prune", "-f", "--filter", "label!=keep") == "Total reclaimed space: 0B\n"
    assert hythe("container", "prune", "-f", "--filter", "until=1h") == "Total reclaimed space: 0B\n"
    assert hythe("volume", "prune", "-f", "-a", "--filter", "label!=keep").count("\n") == 4
    assert hythe("network", "prune", "-f", "--filter", "label!=keep") == "Deleted Networks:\nlonely\n\n"
    assert "invalid filter 'colour'" in hythe.refused("network", "prune", "-f", "--filter", "colour=red")
    assert hythe("volume", "ls", "-q") == "data\nspare\n"


def test_a_system_prune_takes_all_that_nothing_needs(hythe: Hythe) -> None:
    filled(hythe)
    hythe("network", "create", "lonely")
    old = hythe("ps", "-aq", "--no-trunc", "-f", "name=old").strip()
    question = hythe.fed(b"n\n", "system", "prune", "-a", "--volumes")
    assert question.splitlines()[1:5] == [
        "  - all stopped containers",
        "  - all networks not used by at least one container",
        "  - all anonymous volumes not used by at least one container",
        "  - all images without at least one container associated to them",
    ]
    said = hythe("system", "prune", "-f", "--volumes")
    assert f"Deleted Containers:\n{old}\n\nDeleted Networks:\nlonely\n\nDeleted Volumes:\n" in said
    assert said.endswith("Total reclaimed space: 8B\n")
    assert hythe("ps", "-a", "--format", "{{.Names}}") == "up\n"
    assert hythe("volume", "ls", "-q") == "data\nspare\n"
    assert hythe("images", "--format", "{{.Repository}}") == "busybox\n"
