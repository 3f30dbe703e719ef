"""`hythe admin import`: from what a real docker-registry keeps, while it serves."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import httpx
import pytest

from registry.cli import moving
from registry.content import docker_layout
from registry.oci.digest import Digest
from registry.oci.errors import ConfigurationError
from registry.server.index import schema
from tests.gc.keeper import Keeper
from tests.moving import holdings
from tests.moving.conftest import Run, StartPeer, grow_old, put_manifest
from tests.support import images, oci, peers
from tests.support.peers import DockerRegistry
from tests.support.warm import WarmServer

pytestmark = pytest.mark.peer
SOURCE = docker_layout.REPOSITORIES


def links(peer: DockerRegistry, repository: str) -> Path:
    return peer.data / SOURCE / repository


def bytes_of(peer: DockerRegistry, digest: str) -> Path:
    return peer.data / docker_layout.blob(Digest(digest))


def test_all_that_is_pulled_there_is_pulled_here_the_same(
    peer: DockerRegistry, there: httpx.Client, here: httpx.Client, run: Run, keeper: Keeper
) -> None:
    done = run("import", peer.data)
    assert (done.status, done.err) == (0, "")
    expected = holdings.of(there)
    assert len(expected) > 30
    assert holdings.of(here) == expected
    keeper.check()
    assert "5 repositories" in done.out
    subject = expected["team/oci", "v1"]
    [referrer] = here.get(f"/v2/team/oci/referrers/{subject}").json()["manifests"]
    assert referrer["artifactType"] == "application/vnd.test.signature"


def test_what_was_imported_survives_a_collection_and_a_full_walk(
    peer: DockerRegistry, there: httpx.Client, here: httpx.Client, run: Run, keeper: Keeper
) -> None:
    assert run("import", peer.data).status == 0
    keeper.collect()
    assert keeper.walk().missing == []
    assert holdings.of(here) == holdings.of(there)
    keeper.check_clean()


def test_files_that_nobody_wrote_to_lately_are_linked_and_stay_there_when_deleted_here(
    peer: DockerRegistry, there: httpx.Client, here: httpx.Client, run: Run, keeper: Keeper
) -> None:
    grow_old(peer.data)
    report = run("import", "--json", peer.data).report
    assert set(report["blobs"]) <= {"linked", "cloned", "present", "copied"}
    assert report["blobs"].get("copied", 0) <= 1  # the sha512 one lies there under another digest
    large = there.get("/v2/team/oci/manifests/v1", headers={"Accept": peers.ALL_TYPES}).json()["layers"][2][
        "digest"
    ]
    ours = keeper.directory / "blobs" / large.replace(":", f"/{large[7:9]}/")
    if "linked" in report["blobs"]:
        assert ours.samefile(bytes_of(peer, large))
    before = holdings.of(there)
    for repository in holdings.catalogue(here):
        for tag in holdings.tags(here, repository):
            assert here.delete(oci.manifest_path(repository, tag)).status_code == 202
    keeper.collect(delete_untagged=True)
    assert keeper.stored() == set()
    assert holdings.of(there) == before


def test_what_somebody_may_still_write_to_is_not_shared(peer: DockerRegistry, run: Run, keeper: Keeper) -> None:
    assert set(run("import", "--json", "--repository", "team/oci", peer.data).report["blobs"]) == {"copied"}
    grow_old(peer.data)
    assert run("import", peer.data).status == 0
    manifests = {row["digest"] for row in keeper.rows(schema.manifest)}
    assert len(manifests) > 5
    for digest in manifests:  # which Debian's release writes in place
        ours = keeper.directory / "blobs" / digest.replace(":", f"/{digest[7:9]}/")
        assert not ours.samefile(bytes_of(peer, digest))


def test_copy_shares_nothing(peer: DockerRegistry, run: Run, keeper: Keeper) -> None:
    grow_old(peer.data)
    assert set(run("import", "--json", "--copy", peer.data).report["blobs"]) <= {"copied", "present"}
    assert all(path.stat().st_nlink == 1 for path in (keeper.directory / "blobs").rglob("*/*/*"))


def test_it_catches_up_with_what_is_pushed_meanwhile_and_only_with_that(
    peer: DockerRegistry, there: httpx.Client, here: httpx.Client, run: Run
) -> None:
    first = run("import", "--json", peer.data).report
    assert first["manifests_present"] == 0
    new = images.busybox_image("pushed later")
    peers.upload(there, "team/oci", new, "v2")
    peers.upload(there, "team/docker", new, "v1")  # moves
    peers.upload(there, "brand/new", new, "v1")
    second = run("import", "--json", peer.data).report
    assert (second["manifests"], second["manifests_present"]) == (3, first["manifests"])
    assert (second["tags_created"], second["tags_moved"]) == (2, 1)
    assert holdings.of(here) == holdings.of(there)
    third = run("import", "--json", peer.data).report
    assert (third["manifests"], third["blobs"], third["tags_created"], third["tags_moved"]) == (0, {}, 0, 0)


def test_pushes_that_go_on_all_the_time_are_caught_up_with(
    start_peer: StartPeer, here: httpx.Client, run: Run, keeper: Keeper
) -> None:
    peer = start_peer(None)
    stop = threading.Event()

    def push_on() -> None:
        with peers.http_client(peer) as http:
            for number in range(10_000):
                pushed = oci.push_image(http, f"busy/r{number % 5}", f"v{number % 7}")
                assert pushed.digest
                if stop.is_set():
                    return

    pushing = threading.Thread(target=push_on)
    pushing.start()
    try:
        taken = 0
        while taken < 30:
            if (peer.data / SOURCE).is_dir():
                done = run("import", "--json", peer.data)
                assert not done.report["conflicts"]
                taken += done.report["manifests"]
    finally:
        stop.set()
        pushing.join()
    last = run("import", "--json", peer.data)
    assert last.status == 0
    with peers.http_client(peer) as there:
        assert holdings.of(here) == holdings.of(there)
    keeper.check()


def test_a_collection_without_any_grace_beside_it_takes_nothing_away(
    peer: DockerRegistry, there: httpx.Client, here: httpx.Client, run: Run, keeper: Keeper
) -> None:
    """Walking through everything, it makes candidates of bytes that were brought and are not named yet."""
    stop = threading.Event()

    def collect_on() -> None:
        while not stop.is_set():
            keeper.walk()
            keeper.collect(until_done=False)

    collecting = threading.Thread(target=collect_on)
    collecting.start()
    try:
        for _ in range(2):
            assert run("import", peer.data).status == 0
            assert holdings.of(here) == holdings.of(there)
            for repository in holdings.catalogue(here):
                for digest in {row["digest"] for row in keeper.rows(schema.manifest)}:
                    here.delete(oci.manifest_path(repository, digest))
            keeper.execute("DELETE FROM imported_tag")
    finally:
        stop.set()
        collecting.join()
    assert run("import", peer.data).status == 0
    assert holdings.of(here) == holdings.of(there)
    keeper.collect()
    keeper.check_clean()


def test_a_tag_that_was_changed_here_stays_until_both_sides_moved_it(
    peer: DockerRegistry, there: httpx.Client, here: httpx.Client, run: Run
) -> None:
    run("import", peer.data)
    ours, theirs = images.busybox_image("ours"), images.busybox_image("theirs")
    peers.upload(here, "team/oci", ours, "v1")
    done = run("import", "--json", peer.data)
    assert done.status == 0
    assert done.report["tags_kept"] == 1
    peers.upload(there, "team/oci", theirs, "v1")
    for _ in range(2):
        done = run("import", "--json", peer.data)
        assert done.status == 1
        assert done.report["conflicts"] == [
            {"repository": "team/oci", "tag": "v1", "here": ours.digest, "there": theirs.digest}
        ]
    assert peers.stored_manifest(here, "team/oci", "v1") == ours.manifest
    assert "conflict: team/oci:v1" in run("import", peer.data).err
    assert run("import", "--overwrite", peer.data).status == 0
    assert peers.stored_manifest(here, "team/oci", "v1") == theirs.manifest
    assert run("import", peer.data).status == 0


def test_a_tag_that_was_deleted_there_is_reported_and_goes_when_asked_for(
    peer: DockerRegistry, here: httpx.Client, run: Run
) -> None:
    run("import", peer.data)
    shutil.rmtree(links(peer, "team/docker") / "_manifests/tags/v1")
    shutil.rmtree(links(peer, "strong"))
    ours = images.busybox_image("ours")
    peers.upload(here, "team/docker", ours, "other")
    done = run("import", peer.data)
    assert done.status == 0
    assert "deleted there: team/docker:v1" in done.err
    assert "deleted there: strong:v1" in done.err
    assert holdings.tags(here, "team/docker") == ["other", "v1"]
    assert run("import", "--json", "--prune", peer.data).report["tags_deleted"] == 2
    assert holdings.tags(here, "team/docker") == ["other"]
    assert run("import", "--json", peer.data).report["deleted_there"] == []


def test_an_immutable_tag_neither_moves_nor_goes(
    peer: DockerRegistry, there: httpx.Client, here: httpx.Client, run: Run
) -> None:
    rules = {"policy": {"immutable_tags": ["team/*:v*"]}}
    assert run("import", peer.data, **rules).status == 0
    before = peers.stored_manifest(here, "team/oci", "v1")
    peers.upload(there, "team/oci", images.busybox_image("moved"), "v1")
    shutil.rmtree(links(peer, "team/docker") / "_manifests/tags/v1")
    done = run("import", "--prune", peer.data, **rules)
    assert done.status == 1
    assert done.err.count("is immutable here") == 2
    assert peers.stored_manifest(here, "team/oci", "v1") == before
    assert holdings.tags(here, "team/docker") == ["v1"]


def test_a_dry_run_tells_what_would_come_and_leaves_it(
    peer: DockerRegistry, here: httpx.Client, run: Run, keeper: Keeper
) -> None:
    planned = run("import", "--json", "--dry-run", peer.data).report
    assert holdings.catalogue(here) == []
    assert keeper.stored() == set()
    assert keeper.rows(schema.audit) == []
    done = run("import", "--json", peer.data).report
    for name in ("repositories", "manifests", "tags_created"):
        assert planned[name] == done[name] > 0
    assert planned["blobs"]["wanted"] == sum(count for how, count in done["blobs"].items() if how != "present")
    assert "nothing was done" in run("import", "--dry-run", peer.data).err


def test_only_the_repositories_that_were_asked_for(peer: DockerRegistry, here: httpx.Client, run: Run) -> None:
    assert run("import", "--repository", "team/multi/*", "--repository", "strong", peer.data).status == 0
    assert holdings.catalogue(here) == ["strong", "team/multi/docker"]


# --- what is broken there


def test_what_is_broken_there_is_named_and_the_rest_is_taken(
    peer: DockerRegistry, there: httpx.Client, here: httpx.Client, run: Run, keeper: Keeper
) -> None:
    good = holdings.of(there)

    def uploaded(repository: str, words: str) -> images.Image:
        image = images.busybox_image(words)
        peers.upload(there, repository, image, "v1")
        return image

    revision = uploaded("broken/revision", "revision")
    digits = revision.digest[7:]
    (links(peer, "broken/revision") / f"_manifests/revisions/sha256/{digits}/link").write_text("")
    bytes_of(peer, uploaded("broken/manifest", "manifest").digest).unlink()
    bytes_of(peer, uploaded("broken/other", "other").digest).write_text("{}")
    (links(peer, "broken/tag")).mkdir()
    uploaded("broken/tag", "tag")
    (links(peer, "broken/tag") / "_manifests/tags/v1/current/link").write_text("sha256:12")
    uploaded("broken/half", "half")
    shutil.rmtree(links(peer, "broken/half") / "_manifests/tags/v1/current")
    lost = uploaded("broken/blob", "lost")
    bytes_of(peer, lost.layers[1].digest).unlink()
    short = uploaded("broken/short", "short")
    bytes_of(peer, short.layers[1].digest).write_bytes(b"cut o")
    unlinked = uploaded("broken/unlinked", "unlinked")
    shutil.rmtree(links(peer, "broken/unlinked") / f"_layers/sha256/{unlinked.config.digest[7:]}")
    sparse = images.two_platforms("sparse")
    peers.upload(there, "broken/index", sparse, "v1")
    shutil.rmtree(links(peer, "broken/index") / f"_manifests/revisions/sha256/{sparse.children[0].digest[7:]}")
    (links(peer, "broken/odd") / "_manifests/revisions/sha384/abc").mkdir(parents=True)
    (links(peer, "Not_A-Name_") / "_layers").mkdir(parents=True)
    old = oci.encode({"schemaVersion": 1, "name": "broken/old", "tag": "v1", "fsLayers": [], "history": []})
    store(peer, "broken/old", old)
    oci.push_blob(there, "broken/layers", oci.blob(100))
    there.post("/v2/broken/layers/blobs/uploads/")

    done = run("import", "--json", peer.data)
    assert done.status == 1
    said = {(each["repository"], each["why"]) for each in done.report["problems"]}

    def why(repository: str) -> str:
        return " | ".join(sorted(text for name, text in said if name == f"broken/{repository}"))

    assert "the link is empty" in why("revision")
    assert f"points at {revision.digest}, which is not taken over" in why("revision")
    assert "bytes are missing" in why("manifest")
    assert "do not have its digest" in why("other")
    assert "the link says" in why("tag")
    assert "half written" in why("half")
    assert f"{lost.layers[1].digest} has no bytes" in why("blob")
    assert f"{short.layers[1].digest} has 5 bytes instead of" in why("short")
    assert f"{unlinked.config.digest} is not in the repository" in why("unlinked")
    assert f"lists manifests that are not there: {sparse.children[0].digest}" in why("index")
    assert "sha384" in why("odd")
    assert "schema 1" in why("old")
    assert any(name == "Not_A-Name_" for name, _ in said)
    assert done.report["unfinished_uploads"] == 1
    assert done.report["loose_blobs"] >= 1
    assert {name for name, _ in said} == {
        "Not_A-Name_",
        *(
            f"broken/{each}"
            for each in (
                *("revision", "manifest", "other", "tag", "half", "blob", "short", "unlinked"),
                *("index", "odd", "old"),
            )
        ),
    }
    taken = holdings.of(here)
    assert {key: value for key, value in taken.items() if not key[0].startswith("broken")} == good
    assert {key for key in taken if key[0].startswith("broken")} == set()
    keeper.check()


def store(peer: DockerRegistry, repository: str, data: bytes, tag: str = "v1") -> Digest:
    """Write a manifest into docker-registry's storage by hand, as a release of old left it."""
    digest = Digest.of(data)
    texts = {
        docker_layout.blob(digest): data,
        docker_layout.revision(repository, digest): digest.encode(),
        docker_layout.tag(repository, tag): digest.encode(),
    }
    for name, text in texts.items():
        path = peer.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    return digest


def test_a_manifest_that_is_wrong_about_a_size_is_taken_when_the_bytes_are_right(
    peer: DockerRegistry, there: httpx.Client, here: httpx.Client, run: Run
) -> None:
    made, layer = oci.config(), oci.blob(1000)
    for content in (made, layer):
        oci.push_blob(there, "odd", content)
    document = oci.image(made, [layer])
    wrong = oci.manifest(
        document.media_type, config=made.descriptor(), layers=[{**layer.descriptor(), "size": 999}]
    )
    put_manifest(there, "odd", wrong, "v1")
    assert run("import", "--repository", "odd", peer.data).status == 0
    assert holdings.of(here) == holdings.of(there, ["odd"])


def test_a_flipped_bit_is_found_when_asked_for(peer: DockerRegistry, there: httpx.Client, run: Run) -> None:
    image = images.busybox_image("flipped")
    peers.upload(there, "flipped", image, "v1")
    path = bytes_of(peer, image.layers[1].digest)
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    grow_old(peer.data)
    done = run("import", "--verify", "--repository", "flipped", peer.data)
    assert done.status == 1
    assert "has the digest sha256:" in done.err


def test_a_link_that_is_being_written_is_looked_at_again(
    peer: DockerRegistry, there: httpx.Client, here: httpx.Client, run: Run
) -> None:
    """The release that Debian has writes links in place: for a moment they are empty."""
    link = links(peer, "team/oci") / "_manifests/tags/v1/current/link"
    text = link.read_bytes()
    link.write_bytes(b"")

    def finish() -> None:
        time.sleep(0.1)
        link.write_bytes(text)

    thread = threading.Thread(target=finish)
    thread.start()
    assert run("import", "--repository", "team/oci", peer.data).status == 0
    thread.join()
    assert "v1" in holdings.tags(here, "team/oci")


def test_a_directory_of_something_else_is_refused_in_a_sentence(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="docker/registry/v2/repositories"):
        run("import", tmp_path)
    with pytest.raises(ConfigurationError, match="is no directory"):
        run("import", tmp_path / "nowhere")


def test_what_lies_here_damaged_is_replaced_by_what_is_taken_over(
    peer: DockerRegistry, there: httpx.Client, here: httpx.Client, run: Run, keeper: Keeper
) -> None:
    grow_old(peer.data)
    layer = holdings.manifest(there, "team/oci", "v1")["layers"][2]["digest"]
    path = keeper.directory / "blobs" / layer.replace(":", f"/{layer[7:9]}/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"cut o")
    assert run("import", peer.data).status == 0
    assert holdings.of(here) == holdings.of(there)


def test_it_says_on_standard_error_how_far_it_is(
    peer: DockerRegistry, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_PROGRESS_SECONDS", 0)
    lines = run("import", "--json", peer.data).err.splitlines()
    assert lines[0].startswith("0 repositories: ")
    assert lines[-1].startswith("5 repositories: ")


def test_it_is_in_the_audit_log(peer: DockerRegistry, run: Run, keeper: Keeper) -> None:
    run("import", "--repository", "team/oci", peer.data)
    rows = {(row["action"], row["target"]) for row in keeper.rows(schema.audit)}
    assert ("registry.import", str(peer.data)) in rows
    assert ("tag.import", "team/oci:v1") in rows


def test_bytes_are_on_the_disk_of_a_running_registry_alone_where_they_belong(
    peer: DockerRegistry, registry: WarmServer, run: Run, keeper: Keeper
) -> None:
    run("import", peer.data)
    assert keeper.leftovers() == []
    assert keeper.stored() == keeper.needed()
