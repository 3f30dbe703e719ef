"""The local store: opening it, what it can be asked, and naming images in it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.client.images import events, records
from registry.client.images import place as places
from registry.client.images.errors import ImageUnknown
from registry.client.images.records import Image, Name
from registry.oci import image as configs
from registry.oci.digest import Digest
from registry.oci.errors import NameInvalid
from registry.oci.image import ImageConfig
from registry.oci.reference import DOCKER_HUB, ImageName

if TYPE_CHECKING:
    from registry.client.images.ingest import Observe, Works
    from registry.client.images.unpack.limits import Limits

_HEX = frozenset("0123456789abcdef")
_SHORT_MIN = 1


class Store:
    """The images of this machine. Any number of processes may use one store at the same time."""

    def __init__(self, root: Path, default_host: str = DOCKER_HUB) -> None:
        self.place = places.prepare(root)
        self.db = records.connect(root / "records.db")
        self.default_host = default_host

    def close(self) -> None:
        """Close the records."""
        self.db.close()

    @contextmanager
    def works(self, observe: Observe | None = None, limits: Limits | None = None) -> Iterator[Works]:
        """What `target.LocalRepository` needs to take images in; nothing is removed from the store meanwhile."""
        from concurrent.futures import ThreadPoolExecutor

        from registry.client.images import garbage, ingest, leftovers
        from registry.client.images.unpack.limits import Limits as Caps

        garbage.clean(self)
        with (
            places.making(self.place) as lock_fd,
            ThreadPoolExecutor(ingest.LAYERS_AT_ONCE, thread_name_prefix="layer") as threads,
        ):
            observe = observe or (lambda *_: None)
            yield ingest.Works(self.place, lock_fd, self.db, threads, limits or Caps(), observe)
        if leftovers.has_candidates(self.db):  # of a removal that could not be while we added
            garbage.collect(self)
        places.empty(self.place, "trash")

    # --- finding

    def find(self, text: str) -> Image:
        """The image that a person means by a name, a digest, or an id, short or whole. Raises ImageUnknown."""
        name = self.find_name(text)
        image = records.image(self.db, name.image_id) if name is not None else self._by_id(text)
        if image is None:
            raise ImageUnknown(text)
        return image

    def find_name(self, text: str) -> Name | None:
        """The tag or digest that *text* is the name of; None when there is none, or it is an id."""
        try:
            wanted = ImageName.parse(text, self.default_host)
        except NameInvalid:
            return None
        if wanted.digest is not None:
            return records.digest(self.db, wanted.name, wanted.digest)
        return records.tag(self.db, wanted.name, wanted.tag or "latest")

    def _by_id(self, text: str) -> Image | None:
        digits = text.removeprefix("sha256:")
        if not _SHORT_MIN <= len(digits) <= 64 or not _HEX.issuperset(digits):
            return None
        found = records.ids_from(self.db, digits)
        return records.image(self.db, found[0]) if len(found) == 1 else None

    def is_id(self, text: str, image: Image) -> bool:
        """Whether *text* says the image by its id, not by a name."""
        digits = text.removeprefix("sha256:")
        return self.find_name(text) is None and image.id.encoded.startswith(digits)

    def config_bytes(self, image_id: Digest) -> bytes:
        """The exact bytes of an image's configuration."""
        try:
            return self.place.blob(image_id).read_bytes()
        except FileNotFoundError:
            raise ImageUnknown(image_id) from None

    def config(self, image_id: Digest) -> ImageConfig:
        """An image's configuration."""
        return configs.parse(self.config_bytes(image_id))

    def manifest_document(self, digest: Digest) -> dict[str, Any]:
        """A manifest that is here, as JSON."""
        found: dict[str, Any] = json.loads(self.place.blob(digest).read_bytes())
        return found

    def layer_paths(self, image: Image) -> list[Path]:
        """The directories of an image's layers, the lowest first."""
        return [self.place.layer(layer.diff_id) for layer in records.layers_of(self.db, image.id)]

    # --- naming

    def familiar(self, repository: str) -> str:
        """A repository as people write it: `busybox` for `docker.io/library/busybox`."""
        return ImageName.parse(repository, self.default_host).familiar_name(self.default_host)

    def tag(self, image: Image, target: ImageName) -> None:
        """Give an image one more name."""
        source = next(iter(records.manifests_of(self.db, image.id)))
        with records.writing(self.db):
            if records.image(self.db, image.id) is None:
                raise ImageUnknown(image.id)
            name = Name(target.name, target.tag or "latest", image.id, source.digest)
            records.set_tag(self.db, name, time.time_ns())
            shown = f"{target.familiar_name(self.default_host)}:{name.reference}"
            events.note(self.db, "image", "tag", image.id, {"name": shown})

    def tell(self, action: str, actor: str, **about: str) -> None:
        """Note what happened to an image, for `events`."""
        with events.lightly(self.db):
            events.note(self.db, "image", action, actor, about)

    def note_digest(self, repository: str, digest: Digest, image: Image, manifest: Digest) -> None:
        """Remember that *repository* has this image under *digest*, as a pull or push learnt."""
        with records.writing(self.db):
            records.set_digest(self.db, Name(repository, digest, image.id, manifest))
