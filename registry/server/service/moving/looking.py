"""Looking at one repository as docker's registry keeps it: what can be taken over of it, and what cannot."""

from __future__ import annotations

from registry.content import docker_layout
from registry.content.docker_layout import BrokenLink, DockerLayout
from registry.oci import manifest as documents
from registry.oci.digest import Digest, Hasher
from registry.oci.errors import DigestInvalid, ManifestInvalid, RegistryError, TagInvalid
from registry.oci.manifest import Manifest
from registry.oci.reference import Repository, Tag
from registry.server.service.moving.plan import Arrival, Piece, Problem
from registry.server.service.policy import Policy


class Look:
    """One repository as it lies there; methods block. What cannot be taken over goes to `problems`."""

    def __init__(self, layout: DockerLayout, repository: Repository, policy: Policy) -> None:
        self.repository = repository
        self.problems: list[Problem] = []
        self._layout = layout
        self._policy = policy
        self._pieces: dict[Digest, Piece | str] = {}

    def problem(self, what: str, why: str) -> None:
        """Note something that is not taken over, and why."""
        self.problems.append(Problem(self.repository, what, why))

    def revisions(self) -> list[Digest]:
        """The manifests, but for those of algorithms that nobody here knows."""
        found = []
        for text in self._layout.revisions(self.repository):
            try:
                found.append(Digest.parse(text))
            except DigestInvalid as error:
                self.problem(text, str(error))
        return found

    def layers(self) -> list[Digest]:
        """The blobs that the repository may read."""
        found = []
        for text in self._layout.layers(self.repository):
            try:
                found.append(Digest.parse(text))
            except DigestInvalid:
                continue  # no manifest that is taken over names it
        return found

    def tag_names(self) -> list[str]:
        """The tags, whatever they are."""
        return self._layout.tags(self.repository)

    def tag(self, name: str) -> Digest | None:
        """Where a tag points; None when it cannot be taken over."""
        try:
            Tag.parse(name)
            return self._layout.follow(docker_layout.tag(self.repository, name))
        except FileNotFoundError:
            # Its release 2 deletes a tag by deleting its files; a crash leaves some of them.
            if name in self._layout.tags(self.repository):
                self.problem(name, "the tag is half written: it has no current/link")
        except (BrokenLink, TagInvalid) as error:
            self.problem(name, str(error))
        return None

    def arrival(self, digest: Digest) -> Arrival | None:
        """A manifest that is not here; None when it cannot be taken over."""
        try:
            stored_as = self._layout.follow(docker_layout.revision(self.repository, digest))
            size_bytes = self._layout.tree.size(docker_layout.blob(stored_as))
            if size_bytes is None:
                raise FileNotFoundError
            if size_bytes > self._policy.manifest_size_max_bytes:
                self.problem(digest, f"the manifest has {size_bytes} bytes; see limits.manifest_size_bytes")
                return None
            data = self._layout.manifest(digest, stored_as, size_bytes + 1)
            document = documents.parse(data, None, self._policy.manifest_references_max)
            return self._with_pieces(digest, stored_as, len(data), document)
        except FileNotFoundError:
            self.problem(digest, "the manifest's bytes are missing")
        except (BrokenLink, RegistryError) as error:
            self.problem(digest, f"not taken: {_old_schema(error)}")
        return None

    def _with_pieces(
        self, digest: Digest, stored_as: Digest, size_bytes: int, document: Manifest
    ) -> Arrival | None:
        pieces: dict[Digest, Piece] = {}
        needed = {each.digest: each.size_bytes for each in document.blobs()}
        lacking = []
        optional = {each.digest: each.size_bytes for each in document.layers if each.digest not in needed}
        for named, expected in {**optional, **needed}.items():
            piece = self._piece(named)
            if isinstance(piece, Piece) and (piece.size_bytes == expected or self._is_whole(piece)):
                pieces[named] = piece
            elif named in needed and not self._policy.sparse_layers:
                what = piece if isinstance(piece, str) else f"has {piece.size_bytes} bytes instead of {expected}"
                lacking.append(f"{named} {what}")
        children = []
        for child in document.children():
            blob = self._piece(child.digest) if not self._is_revision(child.digest) else None
            if isinstance(blob, Piece):  # a build cache lists its layers in an index
                pieces[child.digest] = blob
            else:
                children.append(child.digest)
        if lacking:
            self.problem(digest, "not taken: " + "; ".join(lacking[:3]) + (" …" if len(lacking) > 3 else ""))
            return None
        return Arrival(digest, stored_as, size_bytes, tuple(pieces.values()), tuple(children))

    def _is_revision(self, digest: Digest) -> bool:
        return self._layout.tree.size(docker_layout.revision(self.repository, digest)) is not None

    def _piece(self, digest: Digest) -> Piece | str:
        """A blob of the repository, or what is wrong with it. Many manifests ask for the same ones."""
        if digest not in self._pieces:
            self._pieces[digest] = self._look_for(digest)
        return self._pieces[digest]

    def _is_whole(self, piece: Piece) -> bool:
        """Whether the bytes are right, and it was the manifest that is wrong about their number."""
        hasher = Hasher(piece.digest.algorithm)
        for data in self._layout.tree.pieces(docker_layout.blob(piece.stored_as)):
            hasher.update(data)
        return hasher.digest() == piece.digest

    def _look_for(self, digest: Digest) -> Piece | str:
        try:
            stored_as = self._layout.follow(docker_layout.layer(self.repository, digest))
        except FileNotFoundError:
            return "is not in the repository"
        except BrokenLink as error:
            return f"cannot be read: {error}"
        size_bytes = self._layout.tree.size(docker_layout.blob(stored_as))
        return "has no bytes" if size_bytes is None else Piece(digest, stored_as, size_bytes)


def _old_schema(error: Exception) -> str:
    if isinstance(error, ManifestInvalid) and "schemaVersion" in str(error):
        return "docker's schema 1 manifests are not accepted; push it again with a docker of 1.10 or later"
    return str(error)
