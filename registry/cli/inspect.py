"""`hythe inspect` and `hythe history`: one image in detail, in docker's JSON."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from registry.cli import listing, local, templates
from registry.cli.templates import NilList, NilMap, Strict
from registry.client.images import records
from registry.client.images.records import Image
from registry.client.images.store import Store
from registry.oci.image import ImageConfig

# The fields of docker's Config in its order; those without a default are left out when the image has none.
_CONFIG: dict[str, Any] = {
    "Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "AttachStdout": False,
    "AttachStderr": False, "ExposedPorts": ..., "Tty": False, "OpenStdin": False, "StdinOnce": False, "Env": None,
    "Cmd": None, "Healthcheck": ..., "ArgsEscaped": ..., "Image": "", "Volumes": None, "WorkingDir": "",
    "Entrypoint": None, "NetworkDisabled": ..., "MacAddress": ..., "OnBuild": None, "Labels": None,
    "StopSignal": ..., "StopTimeout": ..., "Shell": ...,
}  # fmt: skip
_HISTORY = "table {{.ID}}\\t{{.CreatedSince}}\\t{{.CreatedBy}}\\t{{.Size}}\\t{{.Comment}}"
_HISTORY_HEADINGS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}


def run(words: Sequence[str]) -> int:
    """Run `inspect` and return its exit status: 1 when one of the images is not there."""
    parser = argparse.ArgumentParser(prog="hythe inspect", description="Display detailed information on images")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("-f", "--format", metavar="TEMPLATE", help="a Go template")
    parser.add_argument("-s", "--size", action="store_true", help="as with docker; sizes are always there")
    parser.add_argument("--type", choices=("image",), help="what is meant")
    options = parser.parse_args(words)
    with local.opened(files=False) as store:
        return show(options.images, options.format or "", lambda text: describe(store, store.find(text)))


def show(names: Sequence[str], format: str, describe: Callable[[str], dict[str, Any]]) -> int:
    """Print what *describe* says of each name, as a list of JSON or by a template; 1 when one is not there."""
    template = templates.parse(format) if format and format != "json" else None
    found: list[dict[str, Any]] = []

    def say(name: str) -> None:
        document = describe(name)
        if template is None:
            found.append(document)
        else:
            print(template.render(typed(document)))

    failed = local.each(names, say)
    if template is None:
        text = json.dumps(found, ensure_ascii=False, indent=None if format else 4)
        print(escaped(text))
    return 1 if failed else 0


def typed(document: dict[str, Any]) -> Strict:
    """For templates, which print a list that is not there otherwise than a map that is not."""
    maps = ("Volumes", "Labels", "ExposedPorts")
    found = Strict(document)
    for name in {"Config", "ContainerConfig"} & document.keys():
        found[name] = Strict(
            (key, (NilMap() if key in maps else NilList()) if value is None else value)
            for key, value in document[name].items()
        )
    return found


def escaped(text: str) -> str:
    """As Go's encoder has it."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def describe(store: Store, image: Image) -> dict[str, Any]:
    """An image as `docker image inspect` prints it."""
    config = store.config(image.id)
    document = config.document
    layers = store.layer_paths(image)
    upper = {"LowerDir": ":".join(str(path) for path in reversed(layers[:-1]))} if len(layers) > 1 else {}
    found = {
        "Id": image.id,
        "RepoTags": [f"{store.familiar(n.repository)}:{n.reference}" for n in records.tags(store.db, image.id)],
        "RepoDigests": [
            f"{store.familiar(n.repository)}@{n.reference}" for n in records.digests(store.db, image.id)
        ],
        "Parent": image.parent,
        "Comment": document.get("comment") or (config.history[-1].get("comment", "") if config.history else ""),
        "Created": config.created or "0001-01-01T00:00:00Z",
        "Container": document.get("container") or "",
        "ContainerConfig": _config(document.get("container_config")),
        "DockerVersion": document.get("docker_version") or "",
        "Author": document.get("author") or "",
        "Config": _config(document.get("config")),
        "Architecture": config.platform.architecture,
        **({"Variant": config.platform.variant} if config.platform.variant else {}),
        "Os": config.platform.os,
        "Size": image.size_bytes,
        "VirtualSize": image.size_bytes,
        "GraphDriver": {
            "Data": {**upper, **({"UpperDir": str(layers[-1])} if layers else {})},
            "Name": "overlay2",
        },
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
        "Metadata": {"LastTagTime": _time(image.tagged_ns)},
    }
    if not config.diff_ids:
        found["RootFS"] = {"Type": "layers"}
    return found


def _config(value: Any) -> dict[str, Any]:
    given = value if isinstance(value, dict) else {}
    found = {name: given.get(name, default) for name, default in _CONFIG.items()}
    return {
        name: each for name, each in found.items() if each is not ... and not (_CONFIG[name] is ... and not each)
    }


def _time(nanoseconds: int) -> str:
    if not nanoseconds:
        return "0001-01-01T00:00:00Z"
    seconds, rest = divmod(nanoseconds, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}".rstrip("0").rstrip(".") + "Z"


# --- history


def history(words: Sequence[str]) -> int:
    """Run `history` and return its exit status."""
    parser = argparse.ArgumentParser(prog="hythe history", description="Show the history of an image")
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("-H", "--human", nargs="?", const="true", default="true", metavar="BOOL")
    parser.add_argument("-q", "--quiet", action="store_true", help="only show image IDs")
    parser.add_argument("--no-trunc", action="store_true", help="don't truncate output")
    parser.add_argument("--format", metavar="TEMPLATE", help="table, json, or a Go template")
    options = parser.parse_args(words)
    human = options.human.lower() not in ("false", "0")
    with local.opened(files=False) as store:
        image = store.find(options.image)
        rows = _steps(store, image, store.config(image.id), human, options.no_trunc)
    if options.quiet:
        listing.show(rows, "{{.ID}}", _HISTORY_HEADINGS)
    else:
        listing.show(rows, options.format or _HISTORY, _HISTORY_HEADINGS)
    return 0


def _steps(store: Store, image: Image, config: ImageConfig, human: bool, whole: bool) -> list[dict[str, str]]:
    sizes = [layer.files_bytes for layer in records.layers_of(store.db, image.id)]
    rows: list[dict[str, str]] = []
    for step in config.history:
        size_bytes = 0 if step.get("empty_layer") or not sizes else sizes.pop(0)
        created, by = str(step.get("created") or ""), str(step.get("created_by") or "").replace("\t", " ")
        rows.insert(0, {
            "ID": "<missing>",
            "CreatedSince": listing.since(created) if human else created,
            "CreatedAt": _rfc3339(created),
            "CreatedBy": by if whole or len(by) <= 45 else by[:44] + "…",
            "Size": listing.size(size_bytes) if human else str(size_bytes),
            "Comment": str(step.get("comment") or ""),
        })  # fmt: skip
    if rows:
        rows[0]["ID"] = image.id if whole else image.id.encoded[:12]
    return rows


def _rfc3339(created: str) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(listing.parse_time(created), 0)))
