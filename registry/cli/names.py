"""`hythe tag` and `hythe rmi`: names come and go, and images with their last one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from registry.cli import local
from registry.client.images import chains, events, garbage, records
from registry.client.images.errors import ImageConflict, ImageUnknown
from registry.client.images.records import Image
from registry.client.images.store import Store
from registry.oci.errors import HytheError
from registry.oci.reference import ImageName


def tag(words: Sequence[str]) -> int:
    """Run `tag` and return its exit status."""
    parser = argparse.ArgumentParser(prog="hythe tag", description="Create a tag TARGET that refers to SOURCE")
    parser.add_argument("source", metavar="SOURCE_IMAGE[:TAG]")
    parser.add_argument("target", metavar="TARGET_IMAGE[:TAG]")
    options = parser.parse_args(words)
    with local.opened(files=False) as store:
        target = ImageName.parse(options.target, store.default_host)
        if target.digest is not None:
            raise HytheError("refusing to create a tag with a digest reference")
        store.tag(store.find(options.source), target)
    return 0


# --- rmi


def remove(words: Sequence[str]) -> int:
    """Run `rmi` and return its exit status: 1 when one of the images could not go."""
    parser = argparse.ArgumentParser(prog="hythe rmi", description="Remove one or more images")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "-f", "--force", action="store_true", help="remove in spite of several names or containers"
    )
    parser.add_argument("--no-prune", action="store_true", help="keep the files for the next prune")
    options = parser.parse_args(words)
    status = 0
    with local.opened() as store:
        _settle(store)
        for text in options.images:
            try:
                for line in _remove(store, text, options.force):
                    print(line)
            except (ImageUnknown, ImageConflict) as error:
                if not (options.force and isinstance(error, ImageUnknown)):
                    status = 1
                local.complain(error)
        if not options.no_prune:
            garbage.collect(store)
    return status


def _settle(store: Store) -> None:
    """Whether a container runs is asked of the machine: the records may be those of one that was killed."""
    if os.geteuid() == 0 and records.any_running(store.db):
        from registry.client.runtime.machine import Machine

        Machine(store, os.environ).every()


def _remove(store: Store, text: str, force: bool) -> list[str]:
    """Take a name away, and the image when it was the last; the lines that docker prints."""
    with records.writing(store.db):
        image = store.find(text)
        name = store.find_name(text)
        tags, digests = records.tags(store.db, image.id), records.digests(store.db, image.id)
        users = records.users(store.db, image.id)
        if name is None:
            if len({each.repository for each in (*tags, *digests)}) > 1 or len(tags) > 1:
                _refuse(force, image, "image is referenced in multiple repositories")
            _refuse_users(users, image, force)
            return delete(store, image)
        if ":" in name.reference:
            records.remove_digest(store.db, name.repository, name.reference)
            _note(store, "untag", image)
            left = len(tags) + len(digests) - 1
            said = [f"Untagged: {store.familiar(name.repository)}@{name.reference}"]
        else:
            left = len(tags) - 1 + sum(each.repository != name.repository for each in digests)
            if left <= 0 and users:
                _refuse_use(users, name.repository, name.reference, image, store, force)
            records.remove_tag(store.db, name.repository, name.reference)
            _note(store, "untag", image)
            said = [f"Untagged: {store.familiar(name.repository)}:{name.reference}"]
            if not any(each.repository == name.repository for each in tags if each != name):
                said += _remove_digests(store, image, name.repository)
        if left <= 0 and not users:
            said += delete(store, image)
        return said


def _remove_digests(store: Store, image: Image, repository: str) -> list[str]:
    said = []
    for each in records.digests(store.db, image.id):
        if each.repository == repository:
            records.remove_digest(store.db, repository, each.reference)
            said.append(f"Untagged: {store.familiar(repository)}@{each.reference}")
    return said


def delete(store: Store, image: Image) -> list[str]:
    """Take an image away with all its names, in a transaction; the lines that docker prints."""
    said = []
    for each in records.tags(store.db, image.id):
        said.append(f"Untagged: {store.familiar(each.repository)}:{each.reference}")
    for each in records.digests(store.db, image.id):
        said.append(f"Untagged: {store.familiar(each.repository)}@{each.reference}")
    gone = chains.alone(store.db, image.id)
    records.remove_image(store.db, image.id)
    for _ in range(len(said)):
        _note(store, "untag", image)
    _note(store, "delete", image)
    return [*said, f"Deleted: {image.id}", *(f"Deleted: {chain}" for chain in gone)]


def _note(store: Store, action: str, image: Image) -> None:
    events.note(store.db, "image", action, image.id, {"name": image.id})


def _refuse(force: bool, image: Image, why: str) -> None:
    if not force:
        raise ImageConflict(f"conflict: unable to delete {image.id.encoded[:12]} (must be forced) - {why}")


def _refuse_users(users: list[tuple[str, bool]], image: Image, force: bool) -> None:
    """A running container keeps its image whatever is asked; a stopped one until it is forced."""
    for holder, running in users:
        state, must = ("running", "cannot be forced") if running else ("stopped", "must be forced")
        raise ImageConflict(
            f"conflict: unable to delete {image.id.encoded[:12]} ({must}) - "
            f"image is being used by {state} container {holder[:12]}"
        )


def _refuse_use(
    users: list[tuple[str, bool]], repository: str, tag: str, image: Image, store: Store, force: bool
) -> None:
    if not force:
        raise ImageConflict(
            f'conflict: unable to remove repository reference "{store.familiar(repository)}:{tag}" (must force) - '
            f"container {users[0][0][:12]} is using its referenced image {image.id.encoded[:12]}"
        )
