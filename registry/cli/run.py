"""`hythe run` and `hythe create`: from an image to a container."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from types import SimpleNamespace

from registry.cli import attached, container_options, containers, output
from registry.cli.flags import BOOL, TEXT, USAGE, Flag, Stop, Words, flags
from registry.client.images.errors import ImageUnknown
from registry.client.images.records import Image
from registry.client.runtime import lifecycle, parse, records, rootless
from registry.client.runtime.errors import ContainerConflict, ContainerError, ContainerUnknown, OptionInvalid
from registry.client.runtime.machine import Machine
from registry.client.runtime.records import Container
from registry.client.runtime.spec import Spec
from registry.oci.errors import HytheError

_RUN = Words(
    "run", "[OPTIONS] IMAGE [COMMAND] [ARG...]", "Create and run a new container from an image",
    flags(
        container_options.FLAGS,
        Flag("detach", "d", BOOL, "Run container in background and print container ID"),
        Flag("detach-keys", "", TEXT, "Override the key sequence for detaching a container"),
        Flag("sig-proxy", "", BOOL, "Proxy received signals to the process", True),
    ),
    least=1, opaque=True,
)  # fmt: skip
_CREATE = Words(
    "create", "[OPTIONS] IMAGE [COMMAND] [ARG...]", "Create a new container", container_options.FLAGS, least=1,
    opaque=True,
)  # fmt: skip


def create(words: Sequence[str]) -> int:
    """Run `create` and return its exit status: 125 for words that mean nothing, else 1, as docker has it."""
    return _guarded(lambda: _create(_CREATE.read(words)), 1)


def run(words: Sequence[str]) -> int:
    """Run `run` and return its exit status: the container's own, or 125, 126, 127."""
    return _guarded(lambda: _run(_RUN.read(words)))


def _guarded(work: object, otherwise: int = USAGE) -> int:
    try:
        return work()  # type: ignore[operator,no-any-return]
    except Stop as stop:
        return stop.status
    except ContainerError as error:
        attached.fail(error)
        return error.status
    except HytheError as error:
        attached.fail(error)
        if isinstance(error, OptionInvalid):
            return USAGE
        return 1 if str(error).startswith("the input device") else otherwise


def _create(options: SimpleNamespace) -> int:
    with containers.opened(telling=True) as machine:
        print(_make(machine, options).id)
    return 0


def _run(options: SimpleNamespace) -> int:
    if options.detach and options.rm and options.restart != "no":
        raise OptionInvalid("Conflicting options: --restart and --rm")
    with containers.opened(telling=True) as machine:
        if not options.detach and options.tty and (options.interactive or "stdin" in options.attach):
            attached.check_terminal(Spec("", tty=True, open_stdin=True))
        container = _make(machine, options)
        try:
            return _go(machine, container, options)
        except ContainerError:
            if container.spec.auto_remove:
                with contextlib.suppress(ContainerConflict, ContainerUnknown):
                    lifecycle.remove(machine, machine.find(container.id), force=True, with_volumes=True)
            raise


def _go(machine: Machine, container: Container, options: SimpleNamespace) -> int:
    if options.detach:
        lifecycle.start(machine, container.id, lambda _: None)
        print(container.id)
        return 0
    streams = attached.streams_for(container.spec, True, options.detach_keys)
    connection = lifecycle.start(machine, container.id, attached.join)
    started = records.get(machine.db, container.id) or container
    if not attached.carry(machine, started, connection, streams, options.sig_proxy):
        return 0
    return attached.end(machine, started)


def _make(machine: Machine, options: SimpleNamespace) -> Container:
    name = parse.name(options.name) if options.name else ""
    if options.pull not in ("always", "missing", "never"):
        raise OptionInvalid(
            f'invalid pull option: \'{options.pull}\': must be one of "always", "missing" or "never"'
        )
    text, *words = options.words
    with _cidfile(options.cidfile) as write:
        image = _image(machine, text, options)
        config = machine.store.config(image.id).document.get("config") or {}
        spec = container_options.specification(options, text, words, config, os.environ)
        if not spec.arguments:
            raise OptionInvalid("No command specified")
        for option in rootless.without_limits(spec) if machine.is_rootless else ():
            output.note(f"WARNING: {option} limits nothing here: `hythe doctor` says what users need for it")
        container = lifecycle.create(machine, image, spec, name)
        write(container.id)
    return container


@contextlib.contextmanager
def _cidfile(path: str):  # type: ignore[no-untyped-def]
    """The file for the id, made before the container, so that no id is lost; removed when there is none."""
    if not path:
        yield lambda _: None
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise ContainerError(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        ) from None
    except OSError as error:
        raise ContainerError(f"failed to create the container ID file: {path}: {error.strerror}") from None
    try:
        yield lambda identity: os.write(fd, identity.encode())
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def _image(machine: Machine, text: str, options: SimpleNamespace) -> Image:
    if options.pull != "always":
        try:
            return machine.store.find(text)
        except ImageUnknown:
            if options.pull == "never":
                raise
            from registry.oci.reference import ImageName

            shown = ImageName.parse(text, machine.store.default_host).with_default_tag()
            if not options.quiet:
                print(
                    f"Unable to find image '{shown.familiar(machine.store.default_host)}' locally", file=sys.stderr
                )
    from registry.cli import pull

    with contextlib.redirect_stdout(sys.stderr):
        pull.run([*(["-q"] if options.quiet else []), *_platform(options), text])
    return machine.store.find(text)


def _platform(options: SimpleNamespace) -> list[str]:
    return ["--platform", options.platform] if options.platform else []
