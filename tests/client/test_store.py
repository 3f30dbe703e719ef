"""The local store: what is visible when, what a crash leaves, what removal takes."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry import failpoints
from registry.client.images import garbage, place, records
from registry.client.images.errors import LayerRefused, Mismatch, StoreFull
from registry.client.images.store import Store
from registry.client.images.target import LocalRepository
from registry.client.images.unpack.limits import Limits
from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid, SizeInvalid
from registry.oci.reference import ImageName, Tag
from tests.client.conftest import needs_root
from tests.client.places import NAME, Memory, pull
from tests.support import images
from tests.support.images import Blob, Entry, Image
from tests.support.processes import wait_until
from tests.support.tars import archive, d, f
from tests.support.trees import snapshot

pytestmark = needs_root


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "store")
    yield opened
    opened.close()


def image(*words: str, seed: int = 0, **more: object) -> Image:
    """An image of a layer for each word, large enough to be cut."""
    tars = [
        images.layer(
            [Entry(f"words/{word}", word.encode()), Entry(f"noise-{word}", images.noise(60_000, seed + n))]
        )
        for n, word in enumerate(words)
    ]
    return images.make_image(tars, **more)  # type: ignore[arg-type]


def files(store: Store, *names: str) -> list[str]:
    """What lies in directories of the store."""
    return sorted(path.name for name in names for path in (store.place.root / name).rglob("*") if path.is_file())


def test_a_pulled_image_is_named_unpacked_and_kept_as_it_came(store: Store) -> None:
    made = image("one", "two")
    pull(store, Memory(made))
    found = store.find("app:v1")
    assert found.id == made.config.digest
    assert found.size_bytes == 2 * 60_003
    below, above = store.layer_paths(found)
    assert (below / "words/one").read_text() == "one"
    assert (above / "words/two").read_text() == "two"
    for blob in (*made.blobs, made.manifest):
        assert store.place.blob(Digest(blob.digest)).read_bytes() == blob.data
    for layer in records.layers_of(store.db, found.id):
        assert len(layer.link) == 26
        assert (store.place.link(layer.link)).resolve() == store.place.layer(layer.diff_id)
    assert files(store, "staging", "trash", "ingest", "locks") == []


def test_what_is_here_is_not_fetched_again(store: Store) -> None:
    first, second = image("one", "two"), image("one", "other")
    pull(store, Memory(first))
    source = Memory(second)
    pull(store, source, tag="v2")
    assert first.layers[0].digest not in source.sent
    again = Memory(second)
    pull(store, again, tag="v3")
    assert again.sent == {}
    assert store.find("app:v3").id == second.config.digest


def test_a_cut_download_goes_on_where_it_was_cut(store: Store) -> None:
    made = image("one", "two")
    big = made.layers[0].digest
    source = Memory(made)
    source.cut[big] = 30_000
    with pytest.raises(ConnectionResetError):
        pull(store, source)
    assert store.find_name("app:v1") is None
    source = Memory(made)
    pull(store, source)
    assert source.starts[big] == 30_000
    assert store.find("app:v1").id == made.config.digest


def test_a_damaged_part_of_an_earlier_download_is_fetched_anew(store: Store) -> None:
    made = image("one")
    digest = Digest(made.layers[0].digest)
    store.place.part(digest).write_bytes(b"this is not the beginning" * 100)
    pull(store, Memory(made))
    assert store.place.blob(digest).read_bytes() == made.layers[0].data


def wrong(change: str) -> Memory:
    made = image("one")
    layer = made.layers[0]
    source = Memory(made)
    if change == "digest":
        source.blobs[layer.digest] = gzip.compress(archive([f("evil", b"!" * 100)]))[:-1].ljust(
            len(layer.data), b"\0"
        )
    elif change == "short":
        source.blobs[layer.digest] = layer.data[:-10]
    elif change == "long":
        source.blobs[layer.digest] = layer.data + b"x"
    elif change == "config":
        source.blobs[made.config.digest] = made.config.data.replace(b"amd64", b"arm64")
    elif change == "diff id":
        liar = images.make_image([images.layer([Entry("other")])])
        config = Blob(made.config.media_type, liar.config.data)
        document = made.manifest.document() | {"config": config.descriptor()}
        source = Memory(Image(Blob(made.manifest.media_type, images.to_json(document)), config, made.layers))
    return source


@pytest.mark.parametrize("change", ["digest", "short", "long", "config", "diff id"])
def test_nothing_of_an_image_that_is_not_what_it_says_becomes_visible(change: str, store: Store) -> None:
    with pytest.raises((DigestInvalid, SizeInvalid, Mismatch, LayerRefused)):
        pull(store, wrong(change))
    assert records.images(store.db) == []
    assert records.tags(store.db) == []
    if change != "diff id":
        assert len(list((store.place.root / "layers").iterdir())) <= (change == "config")
    pull(store, Memory(image("one")))
    assert store.find("app:v1").size_bytes == 60_003


def test_a_hostile_layer_leaves_nothing_behind(store: Store) -> None:
    made = images.make_image([archive([d("a"), f("a/../../x")])])
    with pytest.raises(LayerRefused):
        pull(store, Memory(made))
    with pytest.raises(LayerRefused):
        pull(store, Memory(image("one")), limits=Limits(unpacked_bytes=1000))
    with store.works():
        assert files(store, "staging", "trash", "layers") == []


def test_two_names_for_one_layer_in_other_compressions_share_its_directory(store: Store) -> None:
    tars = [images.layer([Entry("same", b"bytes")])]
    pull(store, Memory(images.make_image(tars, compression="gzip")))
    pull(store, Memory(images.make_image(tars, compression="zstd", flavour=images.DOCKER)), tag="v2")
    assert len(list((store.place.root / "layers").iterdir())) == 1
    assert store.find("app:v1").id == store.find("app:v2").id
    assert len(records.manifests_of(store.db, store.find("app:v1").id)) == 2


def test_two_pulls_at_once_fetch_each_layer_once(tmp_path: Path) -> None:
    source = Memory(image("one", "two", "three"))

    def run() -> None:
        opened = Store(tmp_path / "store")
        pull(opened, source)
        opened.close()

    Store(tmp_path / "store").close()
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for layer in source.image.layers:
        assert source.sent[layer.digest] == len(layer.data)


def test_removal_takes_what_no_other_image_has(store: Store) -> None:
    first, second = image("one", "two"), image("one", "other")
    pull(store, Memory(first))
    pull(store, Memory(second), tag="v2")
    with records.writing(store.db):
        records.remove_image(store.db, store.find("app:v1").id)
    removed = garbage.collect(store)
    assert removed.layers == (Digest.of(first.tars[1]),)
    assert files(store, "blobs") == sorted(
        blob.digest.partition(":")[2] for blob in (*second.blobs, second.manifest)
    )
    assert snapshot(store.layer_paths(store.find("app:v2"))[0])["words/one"]["size"] == 3
    assert len(list((store.place.root / "l").iterdir())) == 2


def test_while_somebody_adds_nothing_is_removed_and_afterwards_it_is(store: Store) -> None:
    made = image("one")
    pull(store, Memory(made))
    with store.works():
        with records.writing(store.db):
            records.remove_image(store.db, store.find("app:v1").id)
        assert garbage.collect(store).layers == ()
        assert len(files(store, "blobs")) == 3
    assert files(store, "blobs", "layers", "l") == []


def test_removal_leaves_what_an_unfinished_pull_has_until_everything_is_asked_for(store: Store) -> None:
    made = image("one", "two")
    source = Memory(made)
    source.cut[made.layers[1].digest] = 100
    with pytest.raises(ConnectionResetError):
        pull(store, source)
    garbage.collect(store)
    assert len(files(store, "ingest")) >= 1
    garbage.collect(store, everything=True)
    assert files(store, "blobs", "ingest", "layers", "l") == []


PULL = """
import sys
from pathlib import Path
from registry.client.images.store import Store
from tests.client.places import Memory, pull
from tests.client.test_store import image
pull(Store(Path(sys.argv[1])), Memory(image("one", "two")))
"""


@pytest.mark.parametrize(
    ("point", "time"),
    [(point, time) for point in failpoints.CLIENT for time in (1, 2) if time == 1 or point.startswith("ingest.")],
)
def test_a_pull_that_was_killed_anywhere_is_done_by_the_next_without_fetching_again(
    point: str, time: int, tmp_path: Path
) -> None:
    environment = os.environ | {"HYTHE_FAILPOINT": f"{point}:{time}"}
    died = subprocess.run([sys.executable, "-c", PULL, tmp_path / "store"], env=environment, check=False)
    assert died.returncode == -signal.SIGKILL
    store = Store(tmp_path / "store")
    made = image("one", "two")
    parts = {path.name: path.stat().st_size for path in store.place.sub("ingest").iterdir()}
    whole = {path.name for path in store.place.sub("blobs").rglob("*") if path.is_file()}
    source = Memory(made)
    pull(store, source)
    assert store.find("app:v1").id == made.config.digest
    assert [path.name for path in store.layer_paths(store.find("app:v1"))] == [
        Digest.of(tar).encoded for tar in made.tars
    ]
    for blob in made.blobs:
        digest = Digest(blob.digest)
        had = parts.get(store.place.part(digest).name, 0)
        assert source.sent.get(digest, 0) == (0 if digest.encoded in whole else len(blob.data) - had)
    assert files(store, "staging", "trash", "ingest", "locks") == []
    garbage.collect(store, everything=True)
    assert len(files(store, "blobs")) == 4
    store.close()


def test_a_full_disk_is_said_and_the_next_pull_goes_on(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", disk], check=True)
    try:
        store = Store(disk / "store")
        with pytest.raises(StoreFull, match="free some"):
            pull(store, Memory(image("one", "two", "three", "four")))
        subprocess.run(["mount", "-o", "remount,size=9M", disk], check=True)
        pull(store, Memory(image("one", "two", "three", "four")))
        assert len(store.layer_paths(store.find("app:v1"))) == 4
        store.close()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_names_ids_and_digests_find_the_image(store: Store) -> None:
    made = image("one")
    pull(store, Memory(made))
    found = store.find("app:v1")
    store.note_digest(NAME, Digest(made.digest), found, Digest(made.digest))
    store.tag(found, ImageName.parse("127.0.0.1:5000/team/web:v9"))
    for text in (
        "docker.io/library/app:v1",
        f"app@{made.digest}",
        found.id,
        found.id[7:19],
        found.id[7:],
        "127.0.0.1:5000/team/web:v9",
    ):
        assert store.find(text).id == found.id


def test_what_the_store_holds_is_copied_out_unchanged(store: Store, tmp_path: Path) -> None:
    made = image("one", "two")
    pull(store, Memory(made))
    other = Store(tmp_path / "other")

    async def run() -> None:
        from registry.transfer.copy import copy

        with store.works() as here, other.works() as there:
            await copy(LocalRepository(here, NAME), Tag("v1"), LocalRepository(there, NAME), Tag("v1"))

    asyncio.run(run())
    assert other.place.blob(Digest(made.digest)).read_bytes() == made.manifest.data
    other.close()


def test_locks_are_held_by_one_at_a_time_though_their_files_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = place.take_lock(path)
    assert first is not None
    assert place.take_lock(path) is None
    place.drop_lock(path, first)
    second = place.take_lock(path)
    assert second is not None
    assert wait_until(lambda: path.exists())
    place.drop_lock(path, second)
