"""What can go wrong with the containers of this machine; each knows the exit status that docker's users expect.

HytheError
├── ContainerError       125: Hythe could not do it
│   ├── OptionInvalid    125: a word that means nothing, or two that contradict
│   ├── NotExecutable    126: the command is there and cannot be run
│   └── CommandNotFound  127: there is no such command in the container
├── ContainerUnknown     1: no such container here
├── ContainerConflict    1: its state, or another's name, forbids it
└── Missing              125: a program or a right that this machine lacks; the text says how to get it
"""

from __future__ import annotations

from registry.oci.errors import HytheError


class ContainerError(HytheError):
    """A container could not be made or run."""

    status = 125


class OptionInvalid(ContainerError):
    """An option that cannot be used; the text says what is allowed."""


class NotExecutable(ContainerError):
    """The container's command is there, but cannot be executed."""

    status = 126


class CommandNotFound(ContainerError):
    """The container has no such command."""

    status = 127


class ContainerUnknown(HytheError):
    """No container of this machine has this name or id."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No such container: {name}")
        self.name = name


class ContainerConflict(HytheError):
    """The container's state, or another container, does not allow it."""


class Missing(ContainerError):
    """Something that this machine lacks; the text names it, and what brings it."""
