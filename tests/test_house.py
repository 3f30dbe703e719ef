"""The house's rules: who imports whom, and which room an outside package may be used in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "registry"

# From the top down: a module may import from its own room and from the rooms after it that it can see.
TOWERS = [
    [
        "cli",
        "server.recovery",
        "server.wiring",
        "server.care",
        "server.federation",
        "server.storage",
        "server.web",
        "server.service",
        "server.index",
        "server.auth",
        "transfer",
        "content",
        "oci",
    ],
    ["cli", "client.build", "client.runtime", "client.images", "transfer", "content", "oci"],
]
# Modules that every room, or only the named ones, may use.
EVERYWHERE = {"registry", "registry.failpoints"}
SETTINGS_READERS = {
    "cli",
    "server.recovery",
    "server.wiring",
    "server.care",
    "server.federation",
    "server.storage",
}
LOG_WRITERS = {"cli"}

ROOM_OF_PACKAGE = {
    "starlette": {"server.web", "server.wiring", "cli"},
    "uvicorn": {"server.web", "cli"},
    "sqlalchemy": {"server.index"},
    "alembic": {"server.index"},
    "psycopg": {"server.index"},
    "boto3": {"content"},
    "botocore": {"content"},
    "jwt": {"server.auth"},
    "cryptography": {"server.auth"},
    "httpx": {"transfer"},
    "aiohttp": {"transfer"},
    "yarl": {"transfer"},
    "yaml": {"config", "client_config"},
    "msgspec": {"config", "client_config", "server.web"},
    "argparse": {"cli"},
    "isal": {"client.images"},
    "backports": {"client.images"},
    "sqlite3": {"server.index", "client.images", "client.runtime"},
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package with its syntax tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("registry", *path.relative_to(PACKAGE).with_suffix("").parts)
        name = ".".join(part for part in parts if part != "__init__")
        yield name, ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    """The modules that a tree names in its imports, wherever they stand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str:
    """The room of one of our modules, `server.web` for `registry.server.web.http`."""
    name = module.removeprefix("registry.")
    rooms = {place for tower in TOWERS for place in tower}
    found = [place for place in rooms if name == place or name.startswith(place + ".")]
    return max(found, key=len, default=name)


def may_import(source: str, target: str) -> bool:
    if source == target or f"registry.{target}" in EVERYWHERE or target in EVERYWHERE:
        return True
    if source in ("config", "client_config", "server.logs"):
        return target == "oci"
    if target == "config":
        return source in SETTINGS_READERS
    if target == "client_config":
        return source == "cli"
    if target == "server.logs":
        return source in LOG_WRITERS
    return any(
        source in tower and target in tower and tower.index(source) < tower.index(target) for tower in TOWERS
    )


ALL = list(modules())


@pytest.mark.parametrize(("name", "tree"), ALL, ids=[name for name, _ in ALL])
def test_a_module_imports_only_from_rooms_below_its_own(name: str, tree: ast.Module) -> None:
    known = {module for module, _ in ALL} - {"registry.server"}
    if name == "registry.__main__":
        return
    for target in imports(tree):
        if target in known:
            assert may_import(room(name), room(target)), f"{name} imports {target}"


@pytest.mark.parametrize(("name", "tree"), ALL, ids=[name for name, _ in ALL])
def test_an_outside_package_is_used_in_its_room_alone(name: str, tree: ast.Module) -> None:
    for target in imports(tree):
        rooms = ROOM_OF_PACKAGE.get(target.partition(".")[0])
        assert rooms is None or room(name) in rooms, f"{name} imports {target}"


def test_the_ground_floor_needs_nothing_but_the_standard_library() -> None:
    import sys

    for name, tree in ALL:
        if room(name) == "oci":
            for target in imports(tree):
                top = target.partition(".")[0]
                assert top in sys.stdlib_module_names or target.startswith("registry.oci"), f"{name}: {target}"


def test_nobody_writes_an_except_star() -> None:
    """What is raised in one comes out as a group in Python 3.11.0 to 3.11.3, Debian 12's among them."""
    assert not [name for name, tree in ALL if any(isinstance(node, ast.TryStar) for node in ast.walk(tree))]


def test_only_the_command_line_prints_or_exits() -> None:
    for name, tree in ALL:
        if room(name) == "cli":
            continue
        for node in ast.walk(tree):
            called = node.func if isinstance(node, ast.Call) else None
            assert not (isinstance(called, ast.Name) and called.id in ("print", "exit")), name
            assert not (isinstance(called, ast.Attribute) and ast.unparse(called) == "sys.exit"), name
