"""Images made from bytes, so that a test knows every one of them: no network, no tool, standard library.

An image is layers (tars of `Entry` values), a config and a manifest, each a `Blob`. The same arguments give
the same digests on every machine with the same busybox. They are written as OCI layouts, as `docker save`
archives, or (by `tests.support.peers.upload`) straight to a registry.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import os
import platform as host
import random
import stat
import struct
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.support.tars import archive, d, f

Compression = Literal["gzip", "zstd", "none"]
Descriptor = dict[str, Any]

EPOCH_SECONDS = 1_700_000_000
CREATED = "2023-11-14T22:13:20Z"
BUSYBOX_PATHS = ("/bin/busybox", "/usr/bin/busybox")

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


@dataclass(frozen=True)
class Flavour:
    """The media types of one family of documents."""

    manifest: str
    index: str
    config: str
    layer: str
    compressed: Mapping[str, str]


OCI = Flavour(
    OCI_MANIFEST,
    OCI_INDEX,
    OCI_CONFIG,
    OCI_LAYER,
    {"gzip": OCI_LAYER + "+gzip", "zstd": OCI_LAYER + "+zstd", "none": OCI_LAYER},
)
DOCKER = Flavour(
    DOCKER_MANIFEST,
    DOCKER_LIST,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    {"gzip": DOCKER_LAYER + ".gzip", "zstd": DOCKER_LAYER + ".zstd", "none": DOCKER_LAYER},
)


# ---------------------------------------------------------------- bytes


@dataclass(frozen=True)
class Blob:
    """Bytes with the media type by which a descriptor names them."""

    media_type: str
    data: bytes

    @functools.cached_property
    def digest(self) -> str:
        """`sha256:…` of the bytes."""
        return digest_of(self.data)

    def descriptor(self, **more: Any) -> Descriptor:
        """The descriptor of these bytes, with *more* members (`platform`, `annotations`)."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data), **more}

    def document(self) -> dict[str, Any]:
        """The bytes read as a JSON object."""
        parsed: dict[str, Any] = json.loads(self.data)
        return parsed


def digest_of(data: bytes) -> str:
    """`sha256:…` of *data*."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def noise(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes that do not compress, the same for the same *seed*."""
    return random.Random(seed).randbytes(size_bytes)


def to_json(document: Mapping[str, Any]) -> bytes:
    """*document* as indented JSON: a registry that parses and writes it again is then found out."""
    return json.dumps(document, indent=3).encode()


def zstd_stored(data: bytes) -> bytes:
    """*data* as a zstd frame of raw blocks: valid for every decoder, though nothing gets smaller.

    Source: RFC 8878, sections 3.1.1.1 (an 8-byte content size, single segment) and 3.1.1.2 (raw blocks).
    """
    limit = 1 << 17
    parts = [struct.pack("<IBQ", 0xFD2FB528, 0b1110_0000, len(data))]
    for start in range(0, max(len(data), 1), limit):
        block = data[start : start + limit]
        last = start + limit >= len(data)
        parts += [struct.pack("<I", len(block) << 3 | last)[:3], block]
    return b"".join(parts)


def compressed(data: bytes, how: Compression, level: int = 1) -> bytes:
    """*data* compressed, without a time or a name in the header; *level* is gzip's."""
    if how == "gzip":
        return gzip.compress(data, compresslevel=level, mtime=0)
    return zstd_stored(data) if how == "zstd" else data


# ---------------------------------------------------------------- layers


@dataclass(frozen=True)
class Entry:
    """One member of a layer's tar."""

    name: str
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    kind: bytes = tarfile.REGTYPE
    target: str = ""


def directory(name: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Entry:
    """A directory."""
    return Entry(name, b"", mode, uid, gid, tarfile.DIRTYPE)


def symlink(name: str, target: str) -> Entry:
    """A symbolic link, which may point at nothing."""
    return Entry(name, b"", 0o777, kind=tarfile.SYMTYPE, target=target)


def hardlink(name: str, first: Entry) -> Entry:
    """A second name for the file *first* of the same layer.

    Its header repeats mode and owner, as tar does: unpackers set them once more for the second name.
    """
    return Entry(name, b"", first.mode, first.uid, first.gid, tarfile.LNKTYPE, first.name)


def whiteout(name: str) -> Entry:
    """Removes *name*, which a lower layer has."""
    path = Path(name)
    return Entry(str(path.parent / f".wh.{path.name}"))


def opaque(name: str) -> Entry:
    """Hides all that lower layers have in the directory *name*."""
    return Entry(f"{name}/.wh..wh..opq")


def layer(entries: Iterable[Entry]) -> bytes:
    """The uncompressed tar of *entries*, in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            tar.addfile(_member(entry), io.BytesIO(entry.data))
    return buffer.getvalue()


def _member(entry: Entry) -> tarfile.TarInfo:
    member = tarfile.TarInfo(entry.name)
    member.type, member.linkname = entry.kind, entry.target
    member.mode, member.uid, member.gid = entry.mode, entry.uid, entry.gid
    member.size, member.mtime = len(entry.data), EPOCH_SECONDS
    return member


def busybox_path() -> Path | None:
    """A statically linked busybox of this machine, or None."""
    return next((Path(path) for path in BUSYBOX_PATHS if Path(path).is_file()), None)


def busybox_entries() -> list[Entry]:
    """A root file system that runs: busybox, a few of its names, and where engines mount things."""
    path = busybox_path()
    if path is None:
        raise FileNotFoundError("no busybox on this machine; Debian has it in busybox-static")
    busybox = Entry("bin/busybox", path.read_bytes(), 0o755)
    names = ("cat", "echo", "sh", "sleep", "true", "uname")
    return [
        *(directory(name) for name in ("bin", "dev", "etc", "proc", "sys")),
        directory("tmp", 0o1777),
        busybox,
        *(hardlink(f"bin/{name}", busybox) for name in names),
        Entry("etc/passwd", b"root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n"),
        Entry("etc/group", b"root:x:0:\nweb:x:1000:\n"),
    ]


@functools.cache
def busybox_layer() -> bytes:
    """`busybox_entries` as a layer, which many images share."""
    return layer(busybox_entries())


def odd_layer() -> bytes:
    """What unpackers get wrong: owners, set-id bits, links of both kinds, long and non-ASCII names."""
    long_name = "srv/" + "/".join(f"{'deep' * 10}{number}" for number in range(4))
    secret = Entry("srv/secret", b"only for its owner\n", 0o600, 1000, 2000)
    return layer(
        [
            directory("srv", 0o750, 1000, 2000),
            directory("srv/shared", 0o2775, 0, 2000),
            Entry("srv/empty"),
            secret,
            Entry("srv/setuid", b"#!/bin/sh\n", 0o4755),
            Entry("srv/grüße 日本", b"a name beyond ASCII\n"),
            Entry("srv/many-owners", b"an owner of a user namespace\n", 0o644, 165536, 165537),
            symlink("srv/dangling", "/nowhere/at/all"),
            symlink("srv/relative", "../bin/busybox"),
            hardlink("srv/secret-too", secret),
            *(directory(str(parent)) for parent in reversed(list(Path(long_name).parents)[:-2])),
            Entry(long_name, b"a name longer than a ustar header holds\n"),
        ]
    )


# ---------------------------------------------------------------- images


@dataclass(frozen=True)
class Image:
    """A manifest and the blobs it names; `tars` are its layers before compression."""

    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]
    tars: tuple[bytes, ...] = ()

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return self.manifest.digest

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """What a registry must have before the manifest."""
        return (self.config, *self.layers)

    @property
    def manifests(self) -> tuple[Blob, ...]:
        """All manifests, children before parents."""
        return (self.manifest,)


@dataclass(frozen=True)
class Index:
    """An index (a manifest list) and the images it names."""

    manifest: Blob
    children: tuple[Image, ...]

    @property
    def digest(self) -> str:
        """The index's digest."""
        return self.manifest.digest

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """What a registry must have before the manifests."""
        return tuple(blob for child in self.children for blob in child.blobs)

    @property
    def manifests(self) -> tuple[Blob, ...]:
        """All manifests, children before parents."""
        return (*(child.manifest for child in self.children), self.manifest)


def host_platform() -> dict[str, str]:
    """This machine, as an index names it."""
    machine = host.machine()
    known = {"x86_64": "amd64", "aarch64": "arm64"}
    return {"architecture": known.get(machine, machine), "os": "linux"}


def foreign_platform() -> dict[str, str]:
    """A platform that no machine of ours is."""
    return {"architecture": "s390x", "os": "linux"}


def make_image(
    tars: Sequence[bytes],
    *,
    flavour: Flavour = OCI,
    compression: Compression = "gzip",
    command: Sequence[str] = ("echo", "hello from the image"),
    platform: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
    level: int = 1,
) -> Image:
    """An image of these layers, the lowest first; *more* goes into what its configuration says of containers."""
    document = _config(tars, command, platform or host_platform(), labels or {})
    document["config"] |= more or {}
    config = Blob(flavour.config, to_json(document))
    layers = tuple(Blob(flavour.compressed[compression], compressed(tar, compression, level)) for tar in tars)
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": flavour.manifest,
        "config": config.descriptor(),
        "layers": [blob.descriptor() for blob in layers],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    return Image(Blob(flavour.manifest, to_json(manifest)), config, layers, tuple(tars))


def small(*words: str, **more: Any) -> Image:
    """An image with a layer for each word, a file of that name in /etc; *more* is make_image's."""
    return make_image([archive([d("etc"), f(f"etc/{word}", word.encode())]) for word in words], **more)


def _config(
    tars: Sequence[bytes], command: Sequence[str], platform: Mapping[str, str], labels: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "created": CREATED,
        **platform,
        "config": {"Env": ["PATH=/bin"], "Cmd": list(command), "Labels": dict(labels)},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
        "history": [{"created": CREATED, "created_by": f"layer {n}"} for n in range(len(tars))],
    }


def busybox_image(
    words: str = "hello from the image", *, flavour: Flavour = OCI, compression: Compression = "gzip"
) -> Image:
    """The smallest image that runs: it prints *words*, which are also in a layer of its own."""
    return make_image(
        [busybox_layer(), layer([Entry("etc/words", words.encode())])],
        flavour=flavour,
        compression=compression,
        command=("echo", words),
    )


def rich_image(
    seed: int = 0, *, flavour: Flavour = OCI, compression: Compression = "gzip", large_bytes: int = 4 << 20
) -> Image:
    """Eight layers: busybox, odd files, a large one, some that replace and remove what lower ones have."""
    tars = [
        busybox_layer(),
        odd_layer(),
        layer([directory("data"), Entry("data/noise", noise(large_bytes, seed), 0o640, 33, 33)]),
        *(layer([Entry(f"data/part{number}", noise(1000, seed + number + 1))]) for number in range(2)),
        layer([directory("old"), Entry("old/hidden", b"by an opaque directory"), Entry("data/gone")]),
        layer([whiteout("data/gone"), directory("old"), opaque("old"), Entry("old/new", b"seen")]),
        layer([Entry("data/part0", f"replaced {seed}".encode(), 0o444)]),
    ]
    return make_image(tars, flavour=flavour, compression=compression, labels={"seed": str(seed)})


def make_index(
    children: Sequence[Image],
    *,
    flavour: Flavour = OCI,
    annotations: Mapping[str, str] | None = None,
) -> Index:
    """An index of *children*, each under the platform that its config names."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": flavour.index,
        "manifests": [child.manifest.descriptor(platform=_platform_of(child)) for child in children],
    }
    if annotations:
        document["annotations"] = dict(annotations)
    return Index(Blob(flavour.index, to_json(document)), tuple(children))


def _platform_of(image: Image) -> dict[str, str]:
    config = image.config.document()
    return {key: config[key] for key in ("architecture", "os", "variant") if key in config}


def two_platforms(words: str = "hello", *, flavour: Flavour = OCI) -> Index:
    """An index of an image for this machine, which says *words*, and one for a machine that nobody has.

    Each has one layer, which no other image shares.
    """
    children = [_spoken_for(platform, words, flavour) for platform in (foreign_platform(), host_platform())]
    return make_index(children, flavour=flavour)


def _spoken_for(platform: Mapping[str, str], words: str, flavour: Flavour) -> Image:
    said = Entry("etc/words", f"{words} for {platform['architecture']}".encode())
    return make_image(
        [layer([*busybox_entries(), said])],
        flavour=flavour,
        command=("cat", "/etc/words"),
        platform=platform,
    )


def artifact(
    subject: Image | Index | None,
    artifact_type: str,
    data: bytes,
    annotations: Mapping[str, str] | None = None,
) -> Image:
    """A document that is no image, about *subject*: a signature, a bill of materials.

    Source: OCI image-spec v1.1, "Guidelines for Artifact Usage".
    """
    config = Blob(OCI_EMPTY, b"{}")
    content = Blob("text/plain", data)
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": config.descriptor(),
        "layers": [content.descriptor()],
        "annotations": dict(annotations or {}),
    }
    if subject is not None:
        document["subject"] = subject.manifest.descriptor()
    return Image(Blob(OCI_MANIFEST, to_json(document)), config, (content,))


# ---------------------------------------------------------------- on disk


def write_layout(path: Path, items: Mapping[str, Image | Index]) -> Path:
    """Write *items* by their names as an OCI layout directory; return *path*.

    A name is what skopeo writes after the colon of `oci:DIR:NAME`, and what `ctr images import` makes of it.
    """
    for item in items.values():
        for blob in (*item.blobs, *item.manifests):
            target = path / "blobs" / blob.digest.replace(":", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(blob.data)
    (path / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
    (path / "index.json").write_bytes(to_json(_layout_index(items)))
    return path


def _layout_index(items: Mapping[str, Image | Index]) -> dict[str, Any]:
    entries = [
        item.manifest.descriptor(
            annotations={"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name}
        )
        for name, item in items.items()
    ]
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}


def write_oci_archive(path: Path, items: Mapping[str, Image | Index]) -> Path:
    """Write *items* as the tar of an OCI layout; return *path*."""
    layout = write_layout(path.with_name(path.name + ".layout"), items)
    files = sorted(file for file in layout.rglob("*") if file.is_file())
    _write_tar(path, ((str(file.relative_to(layout)), file.read_bytes()) for file in files))
    return path


def write_docker_archive(path: Path, items: Mapping[str, Image]) -> Path:
    """Write *items*, by their full names with tags, as `docker save` does; return *path*."""
    manifest = []
    files: dict[str, bytes] = {}
    for name, image in items.items():
        config = image.config.digest.removeprefix("sha256:") + ".json"
        layers = {digest_of(tar).removeprefix("sha256:") + "/layer.tar": tar for tar in image.tars}
        files |= {config: image.config.data, **layers}
        manifest.append({"Config": config, "RepoTags": [name], "Layers": list(layers)})
    files["manifest.json"] = json.dumps(manifest).encode()
    _write_tar(path, files.items())
    return path


def _write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files:
            tar.addfile(_member(Entry(name, data)), io.BytesIO(data))


# ---------------------------------------------------------------- file trees


class Node(NamedTuple):
    """What is at one path: all that two unpackers of one image must agree about."""

    kind: str
    mode: int
    uid: int
    gid: int
    content: str


Tree = dict[str, Node]


def tree_of_layers(tars: Sequence[bytes]) -> Tree:
    """The root file system of an image, worked out from its layers in memory.

    Source: OCI image-spec v1.1, "Image Layer Filesystem Changeset" (whiteouts hide lower layers only).
    """
    tree: Tree = {}
    for data in tars:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            changes = dict(_nodes_of_tar(tar))
        for path in changes:
            _hide(tree, path)
        tree |= {path: node for path, node in changes.items() if not _is_whiteout(path)}
    return tree


def _is_whiteout(path: str) -> bool:
    return os.path.basename(path).startswith(".wh.")


def _hide(tree: Tree, path: str) -> None:
    parent, name = os.path.split(path)
    if not _is_whiteout(path):
        return
    hidden = parent if name == ".wh..wh..opq" else os.path.join(parent, name.removeprefix(".wh."))
    doomed = [known for known in tree if known.startswith(hidden + "/") or (known == hidden != parent)]
    for known in doomed:
        del tree[known]


def tree_of_tar(path: Path) -> Tree:
    """The tree in a tar that has no whiteouts: what `docker export` writes."""
    with tarfile.open(path) as tar:
        return dict(_nodes_of_tar(tar))


def _nodes_of_tar(tar: tarfile.TarFile) -> Iterator[tuple[str, Node]]:
    for member in tar:
        path = os.path.normpath(member.name).lstrip("/")
        if path != ".":
            yield path, _node_of_member(tar, member)


def _node_of_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Node:
    if member.islnk():
        # A second name has its first name's mode and owner, whatever its own header says.
        return _node_of_member(tar, tar.getmember(member.linkname))
    owner = (member.uid, member.gid)
    if member.issym():
        return Node("link", 0o777, *owner, member.linkname)
    if not member.isfile():
        return Node("directory" if member.isdir() else "special", member.mode & 0o7777, *owner, "")
    file = tar.extractfile(member)
    assert file is not None
    return Node("file", member.mode & 0o7777, *owner, digest_of(file.read()))


def tree_of_directory(root: Path) -> Tree:
    """The tree under *root*, which a client unpacked as root."""
    found: Tree = {}
    for folder, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(folder, name)
            found[str(path.relative_to(root))] = _node_of_path(path)
    return found


def _node_of_path(path: Path) -> Node:
    status = path.lstat()
    owner = (status.st_uid, status.st_gid)
    if stat.S_ISLNK(status.st_mode):
        return Node("link", 0o777, *owner, os.readlink(path))
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        return Node("directory" if stat.S_ISDIR(status.st_mode) else "special", mode, *owner, "")
    return Node("file", mode, *owner, digest_of(path.read_bytes()))
