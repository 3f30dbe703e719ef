"""`hythe commit`: a container's own layer, above those of its image, as a new image."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from registry.cli import container_json, containers, image_changes
from registry.cli.flags import BOOL, LIST, TEXT, Flag, Words
from registry.client.images import author, changes
from registry.client.images import records as images
from registry.client.runtime import ending, telling
from registry.client.runtime.errors import ContainerConflict
from registry.client.runtime.machine import Machine
from registry.client.runtime.records import RUNNING, Container
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import HytheError
from registry.oci.reference import ImageName

_COMMIT = Words(
    "commit",
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    "Create a new image from a container's changes",
    (
        Flag("author", "a", TEXT, 'Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")', ""),
        Flag("change", "c", LIST, "Apply Dockerfile instruction to the created image"),
        Flag("message", "m", TEXT, "Commit message", ""),
        Flag("pause", "p", BOOL, "Pause container during commit", True),
    ),
    1,
    2,
)
_NO_NAME = "localhost/unnamed"


def run(words: Sequence[str]) -> int:
    """Run `commit` and return its exit status."""
    return containers.execute(_COMMIT, words, _run)


def _run(machine: Machine, options: SimpleNamespace) -> int:
    container = machine.find(options.words[0])
    name = None
    if len(options.words) > 1:
        name = ImageName.parse(options.words[1], machine.store.default_host).with_default_tag()
        if name.digest is not None:
            raise HytheError("refusing to create a tag with a digest reference")
    config = _configuration(machine, container, options)
    with machine.store.works() as works:
        with _still(machine, container, options.pause):
            layer = author.pack(works, changes.tar_of(*_layer(machine, container), _epoch_ns()))
        if layer.diff_id == _EMPTY:
            os.unlink(layer.path)
            config["history"][-1]["empty_layer"] = True
        root = asyncio.run(
            author.extend(
                works,
                name.name if name else _NO_NAME,
                _base(machine, container),
                config,
                None if layer.diff_id == _EMPTY else layer,
                name.tag if name else None,
            )
        )
    stored = images.manifest(machine.db, root.digest)
    assert stored is not None
    telling.tell(machine.db, container, "commit", imageID=stored.image_id, comment=options.message)
    print(stored.image_id)
    return 0


_EMPTY = Digest("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef")  # of 1024 zeros


@contextlib.contextmanager
def _still(machine: Machine, container: Container, pause: bool) -> Iterator[None]:
    """Keep a running container from changing its files meanwhile."""
    if not pause or container.state != RUNNING or container.paused:
        yield
        return
    ending.pause(machine, container)
    try:
        yield
    finally:
        with contextlib.suppress(ContainerConflict):  # somebody else let it go on
            ending.unpause(machine, ending.there(machine, container.id))


def _layer(machine: Machine, container: Container) -> tuple[Any, list[Any]]:
    lowers = images.layers_of(machine.db, Digest(container.image_id))
    upper = machine.place.container(container.id) / "upper"
    return upper, [machine.store.place.layer(each.diff_id) for each in lowers]


def _base(machine: Machine, container: Container) -> Descriptor:
    found = images.manifests_of(machine.db, Digest(container.image_id))[0]
    return Descriptor(found.media_type, found.digest, found.size_bytes)


def _epoch_ns() -> int | None:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return int(epoch) * 10**9 if epoch else None


def _configuration(machine: Machine, container: Container, options: SimpleNamespace) -> dict[str, Any]:
    """The image's configuration, with what the container was made with and the changes laid over it."""
    spec = container.spec
    found: dict[str, Any] = copy.deepcopy(machine.store.config(Digest(container.image_id)).document)
    config = found.get("config") or {}
    config |= {
        "Env": list(spec.env),
        "Cmd": list(spec.command) or None,
        "Entrypoint": list(spec.entrypoint) or None,
        "User": spec.user,
        "WorkingDir": spec.workdir,
        "Labels": dict(spec.labels) or None,
    }
    config |= container_json.healthcheck(spec)
    if spec.exposed:
        config["ExposedPorts"] = {each: {} for each in spec.exposed}
    if spec.stop_signal != "SIGTERM":
        config["StopSignal"] = spec.stop_signal
    for text in options.change:
        image_changes.apply(config, text)
    epoch = _epoch_ns()
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() if epoch is None else epoch // 10**9))
    step = {"created": created, "created_by": " ".join(spec.arguments), "comment": options.message}
    step |= {"author": options.author} if options.author else {}
    found |= {
        "created": created,
        "author": options.author,
        "config": {key: value for key, value in config.items() if value not in (None, "")},
        "history": [*(found.get("history") or ()), {key: value for key, value in step.items() if value}],
    }
    for name in ("container", "container_config", "docker_version", "rootfs"):
        found.pop(name, None)
    return found
