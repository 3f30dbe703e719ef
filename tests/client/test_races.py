"""Pulls, removals and prunes of many processes on one store, and a store of somebody who is not root."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from registry.client.images import garbage, records
from registry.client.images.store import Store
from registry.oci.digest import Digest
from tests.client.conftest import needs_root
from tests.client.places import NAME, Memory, pull
from tests.client.test_store import image
from tests.support.trees import snapshot

_PULLER = """
    import random, sys
    from pathlib import Path
    from registry.client.images.store import Store
    from registry.oci.errors import ManifestUnknown
    from tests.client.places import Memory, pull
    from tests.client.test_store import image
    store, rand = Store(Path(sys.argv[1])), random.Random(int(sys.argv[2]))
    for _ in range(12):
        words = rand.sample(["one", "two", "three", "four"], 2)
        try:
            pull(store, Memory(image(*words)), tag="-".join(words))
        except ManifestUnknown:
            continue  # it was removed before it got its name
"""
_REMOVER = """
    import random, sys
    from pathlib import Path
    from registry.client.images import garbage, records
    from registry.client.images.store import Store
    store, rand = Store(Path(sys.argv[1])), random.Random(int(sys.argv[2]))
    for turn in range(40):
        with records.writing(store.db):
            images = records.images(store.db)
            if images:
                records.remove_image(store.db, rand.choice(images).id)
        garbage.collect(store, everything=turn % 8 == 7)
"""


def run(script: str, root: Path, seed: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), root, str(seed)], stderr=subprocess.PIPE
    )


@needs_root
def test_pulls_beside_removals_and_prunes_leave_whole_images_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "store"
    Store(root).close()
    running = [run(_PULLER, root, 1), run(_PULLER, root, 2), run(_REMOVER, root, 3), run(_REMOVER, root, 4)]
    for process in running:
        said = process.communicate(timeout=120)[1].decode()
        assert process.returncode == 0, said
    store = Store(root)
    for found in records.images(store.db):
        for path in store.layer_paths(found):
            assert any(snapshot(path))
        for stored in records.manifests_of(store.db, found.id):
            document = store.manifest_document(stored.digest)
            for blob in (document["config"], *document["layers"]):
                assert Digest.of(store.place.blob(Digest(blob["digest"])).read_bytes()) == blob["digest"]
        with records.writing(store.db):
            records.remove_image(store.db, found.id)
    garbage.collect(store, everything=True)
    left = [
        path
        for name in ("blobs", "layers", "l", "staging", "trash", "locks")
        for path in store.place.sub(name).rglob("*")
    ]
    assert [path for path in left if path.name != "sha256"] == []
    store.close()


_USER = """
    import os, stat, sys
    from pathlib import Path
    from registry.client.images.store import Store
    from tests.client.places import Memory, pull
    from tests.support import images
    from tests.support.tars import archive, d, f
    import tarfile
    import isal.igzip_lib
    from registry.client.images import garbage, ingest, records, target
    from registry.client.images.unpack import limits
    from tests.support.tars import E
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    store = Store(Path(sys.argv[1]))
    made = images.make_image([archive([
        d("closed", 0o500), f("closed/in", uid=5), E("null", tarfile.CHRTYPE, device=(1, 3)),
        f(".wh.gone"), d("new"), f("new/.wh..wh..opq"), f("set", mode=0o4755),
    ])])
    pull(store, Memory(made))
    [layer] = store.layer_paths(store.find("app:v1"))
    assert (layer / "closed/in").read_bytes() == b"x"
    assert stat.S_IMODE((layer / "closed").stat().st_mode) == 0o500
    assert not (layer / "null").exists()
    gone = (layer / "gone").lstat()
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    assert os.getxattr(layer / "new", "user.overlay.opaque") == b"y"
    with records.writing(store.db):
        records.remove_image(store.db, store.find("app:v1").id)
    garbage.collect(store)
    assert not list((Path(sys.argv[1]) / "layers").iterdir())
"""


@needs_root
def test_a_user_without_roots_rights_has_a_store_of_their_own() -> None:
    with tempfile.TemporaryDirectory(prefix="hythe-user-") as name:  # pytest's own are root's alone
        os.chown(name, 65534, 65534)
        script = [sys.executable, "-c", textwrap.dedent(_USER), Path(name, "store")]
        done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_root
def test_an_image_that_is_removed_while_it_is_pulled_again_is_pulled_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = image("one")
    pull(store, Memory(made))
    with store.works():
        with records.writing(store.db):
            records.remove_image(store.db, store.find("app:v1").id)
        garbage.collect(store)
        source = Memory(made)
        pull(store, source, tag="v2")  # the files wait for us: nothing of the layers is fetched
        assert made.layers[0].digest not in source.sent
    assert store.find(f"{NAME}:v2").id == made.config.digest
    assert (store.layer_paths(store.find("app:v2"))[0] / "words/one").exists()
    store.close()
