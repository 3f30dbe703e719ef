"""The client's own settings: one small YAML file, ~/.config/hythe/client.yaml, and nothing that must be set.

default_registry: docker.io          # what a name without a host means
insecure_registries: [10.0.0.0/8]    # hosts, host:port or ranges that may speak plain HTTP
mirrors:                             # by registry, or host/path; asked in order, the registry itself last
  docker.io: [https://mirror.example]
"""

from __future__ import annotations

import msgspec
import yaml
from msgspec import Struct

from registry.oci.errors import ConfigurationError


class ClientSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What client.yaml has."""

    default_registry: str = "docker.io"
    insecure_registries: tuple[str, ...] = ()
    mirrors: dict[str, tuple[str, ...]] = {}


def parse(text: str, path: str) -> ClientSettings:
    """Read the file's text. Raises ConfigurationError, which names the setting."""
    try:
        return msgspec.convert(yaml.safe_load(text) or {}, ClientSettings)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not YAML: {error}") from None
    except (msgspec.ValidationError, RecursionError) as error:
        raise ConfigurationError(f"{path}: {error}") from None
