"""What the verbs for local images share: where the store is, and how errors are said."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from registry.client.images import records
from registry.client.images.store import Store
from registry.oci.errors import HytheError
from registry.oci.reference import DOCKER_HUB

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine


def store_root(environment: Mapping[str, str]) -> Path:
    """HYTHE_CLIENT_ROOT, else root's in /var/lib, else the user's in the directory for data."""
    if chosen := environment.get("HYTHE_CLIENT_ROOT"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/hythe/client")
    home = environment.get("HOME") or str(Path("~").expanduser())
    return Path(environment.get("XDG_DATA_HOME") or Path(home, ".local/share"), "hythe/client")


def default_host(environment: Mapping[str, str]) -> str:
    """The registry that is meant where none is named. Without a file of settings nothing else is read."""
    home = environment.get("HOME") or str(Path("~").expanduser())
    config = Path(environment.get("XDG_CONFIG_HOME") or Path(home, ".config"), "hythe/client.yaml")
    if not (environment.get("HYTHE_CLIENT_CONFIG") or config.exists()):
        return DOCKER_HUB
    from registry.cli import reach

    return reach.registries(environment).default_host


@contextmanager
def opened(files: bool = True, containers: bool = False, telling: bool = False) -> Iterator[Store]:
    """This user's store. What goes wrong with it or with a file is one sentence: HytheError.

    An ordinary user becomes root of an own namespace, unless the images' *files* are not looked at; *containers*
    cannot be without. With *telling*, what that user lacks for it is said.
    """
    root = store_root(os.environ)
    if os.geteuid() != 0 and (files or containers):
        _become_root(root, containers, telling)
    try:
        store = Store(root, default_host(os.environ))
        try:
            yield store
            sys.stdout.flush()
        finally:
            store.close()
    except BrokenPipeError:  # whoever read what is printed has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except records.Error as error:
        raise HytheError(f"the image store {root} cannot be used: {error}") from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise HytheError(f"{where}{error.strerror or error}") from None


def _become_root(root: Path, needed: bool, telling: bool) -> None:
    """Enter this user's namespace; what is started from there finds the same directories by the environment."""
    from registry.client.runtime import place, userns
    from registry.client.runtime.errors import Missing

    run = place.run_root(root, os.environ)
    try:
        warning = userns.enter(run)
    except Missing as error:
        if needed:
            raise
        warning = f"owners of files in images are not kept: {error}"
    else:
        os.environ.update(HYTHE_CLIENT_ROOT=str(root), HYTHE_RUN_ROOT=str(run))
    if telling and warning:
        print(f"hythe: warning: {warning}", file=sys.stderr)


def machine(store: Store) -> Machine | None:
    """The containers of a store; None where there were never any, or they are not this user's to touch."""
    there = store.db.execute("SELECT 1 FROM sqlite_master WHERE name = 'containers'").fetchone()
    if there is None or os.geteuid() != 0:
        return None
    from registry.client.runtime.machine import Machine

    return Machine(store, os.environ)


def complain(error: object) -> None:
    """Say an error that does not end the command, as docker does."""
    print(f"Error: {error}", file=sys.stderr)


def each(
    names: Sequence[str], action: Callable[[str], object], forgiven: tuple[type[HytheError], ...] = ()
) -> list[str]:
    """Do something for each name, and say what went wrong; the names that failed, but for what is *forgiven*."""
    failed = []
    for name in names:
        try:
            action(name)
        except HytheError as error:
            complain(error)
            if not isinstance(error, forgiven):
                failed.append(name)
    return failed


def confirmed(question: str) -> bool:
    """Ask a person; anything but yes is no."""
    print(f"{question}\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
