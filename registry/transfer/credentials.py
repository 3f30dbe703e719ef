"""Docker's config.json and credential helpers: where names and passwords of registries are kept.

The file is shared with docker, podman and others, so whatever it has that is not ours stays as it is. What podman
alone was told is read too, and never written. Sources: docker's CLI reference, "docker login", "Credential
stores"; the protocol of docker-credential-helpers; containers/image, containers-auth.json(5).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.oci.errors import ConfigurationError
from registry.oci.reference import DOCKER_HUB
from registry.transfer.bearer import Credentials

HUB_KEY = "https://index.docker.io/v1/"
_HELPER_SECONDS = 60.0
_HELPER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_TOKEN_USER = "<token>"  # noqa: S105 (how helpers mark what is no password)
_NOT_FOUND = "credentials not found"


def usual_file(environment: Mapping[str, str]) -> CredentialFile:
    """Docker's file of this user, and podman's where that knows nothing."""
    return CredentialFile(config_path(environment), environment, podman_paths(environment))


def config_path(environment: Mapping[str, str]) -> Path:
    """Where docker's config.json is: in DOCKER_CONFIG, or ~/.docker."""
    chosen = environment.get("DOCKER_CONFIG")
    home = environment.get("HOME") or str(Path("~").expanduser())
    return (Path(chosen) if chosen else Path(home, ".docker")) / "config.json"


def podman_paths(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where podman, buildah and skopeo keep theirs: REGISTRY_AUTH_FILE alone if it is set, else two places."""
    if chosen := environment.get("REGISTRY_AUTH_FILE"):
        return (Path(chosen),)
    runtime = environment.get("XDG_RUNTIME_DIR")
    usual = Path(runtime, "containers") if runtime else Path(f"/run/containers/{os.getuid()}")
    home = environment.get("HOME") or str(Path("~").expanduser())
    config = Path(environment.get("XDG_CONFIG_HOME") or Path(home, ".config"), "containers")
    return (usual / "auth.json", config / "auth.json")


def key_of(host: str) -> str:
    """The name under which docker keeps a host's credentials."""
    return HUB_KEY if host == DOCKER_HUB else host


class CredentialFile:
    """Credentials by host. Every method blocks, for a helper as long as that takes to ask a person.

    *others* are files of podman's kind, read where this one knows nothing. With *whole_hosts*, as those are read,
    what is for a part of a host (`quay.io/team`) is for nobody: it must not be sent for another part.
    """

    def __init__(
        self,
        path: Path,
        environment: Mapping[str, str] = os.environ,
        others: Sequence[Path] = (),
        whole_hosts: bool = False,
    ) -> None:
        self.path = path
        self._environment = environment
        self._others = [CredentialFile(each, environment, whole_hosts=True) for each in others]
        self._whole_hosts = whole_hosts

    def get(self, host: str) -> Credentials | None:
        """What is known for a host. Raises ConfigurationError for a broken file or helper."""
        found = self._get(host)
        if found is None and (other := self._other(host)) is not None:
            return other._get(host)
        return found

    def elsewhere(self, host: str) -> Path | None:
        """The file of the others that knows the host."""
        found = self._other(host)
        return found.path if found is not None else None

    def _other(self, host: str) -> CredentialFile | None:
        readable = (each for each in self._others if os.access(each.path, os.R_OK))
        return next((each for each in readable if each._get(host) is not None), None)

    def _get(self, host: str) -> Credentials | None:
        document = self._read()
        helper = self._helper(document, host)
        if helper:
            return self._ask_helper(helper, host)
        auths = _object(document, "auths")
        keys = [key for key in auths if _host_of(key) == host]
        exact = [key for key in keys if key == key_of(host)]
        if self._whole_hosts:
            keys = [key for key in keys if "://" in key or "/" not in key]
        return _decode(self.path, auths[(exact or keys)[0]]) if keys else None

    def store(self, host: str, credentials: Credentials) -> bool:
        """Keep credentials; whether a helper has them now, and not the file in plain text."""
        document = self._read()
        helper = self._helper(document, host) or self._default_helper(document)
        if helper:
            token = credentials.identity_token
            user, secret = (_TOKEN_USER, token) if token else (credentials.username, credentials.password)
            said = {"ServerURL": key_of(host), "Username": user, "Secret": secret}
            self._run_helper(helper, "store", json.dumps(said))
            entry: dict[str, str] = {}  # as docker does: the host stays listed, its secret is elsewhere
        else:
            pair = f"{credentials.username}:{credentials.password}"
            entry = {"auth": base64.b64encode(pair.encode()).decode()}
            if credentials.identity_token:
                entry["identitytoken"] = credentials.identity_token
        if helper and not _object(document, "credHelpers").get(host) and not document.get("credsStore"):
            document["credsStore"] = helper
        document["auths"] = {**_object(document, "auths"), key_of(host): entry}
        self._write(document)
        return bool(helper)

    def erase(self, host: str) -> bool:
        """Forget a host; whether anything was known of it."""
        document = self._read()
        auths = _object(document, "auths")
        kept = {key: entry for key, entry in auths.items() if _host_of(key) != host}
        helper = self._helper(document, host)
        known = len(kept) < len(auths)
        if helper:
            known = known or self._ask_helper(helper, host) is not None
            self._run_helper(helper, "erase", key_of(host))
        if len(kept) < len(auths):
            document["auths"] = kept
            self._write(document)
        return known

    def hosts(self) -> list[str]:
        """The hosts that the file lists."""
        return sorted({_host_of(key) for key in _object(self._read(), "auths")})

    # --- helpers

    def _helper(self, document: Mapping[str, Any], host: str) -> str:
        helpers = _object(document, "credHelpers")
        name = helpers.get(key_of(host)) or helpers.get(host) or document.get("credsStore") or ""
        if name and not (isinstance(name, str) and _HELPER_NAME.fullmatch(name)):
            raise ConfigurationError(f"{self.path}: {name!r} is no name of a credential helper")
        return str(name)

    def _default_helper(self, document: Mapping[str, Any]) -> str:
        """The helper that docker would choose where none is set and nothing is stored in the file yet."""
        if "credsStore" in document or any(_object(document, "auths").values()):
            return ""
        path = self._environment.get("PATH")
        name = "pass" if shutil.which("pass", path=path) else "secretservice"
        return name if shutil.which(f"docker-credential-{name}", path=path) else ""

    def _ask_helper(self, helper: str, host: str) -> Credentials | None:
        answer = self._run_helper(helper, "get", key_of(host))
        if answer is None:
            return None
        try:
            document = json.loads(answer)
            user, secret = document["Username"], document["Secret"]
        except (ValueError, LookupError, TypeError, RecursionError):
            user = secret = None
        if not isinstance(user, str) or not isinstance(secret, str):
            raise ConfigurationError(f"docker-credential-{helper}: its answer is not understood")
        return Credentials(identity_token=secret) if user == _TOKEN_USER else Credentials(user, secret)

    def _run_helper(self, helper: str, verb: str, said: str) -> str | None:
        """What a helper answers, None when it knows nothing of the host."""
        name = f"docker-credential-{helper}"
        try:
            done = subprocess.run(
                [shutil.which(name, path=self._environment.get("PATH")) or name, verb],
                input=said,
                capture_output=True,
                text=True,
                timeout=_HELPER_SECONDS,
                env=dict(self._environment),
                check=False,
            )
        except FileNotFoundError:
            raise ConfigurationError(f"{self.path} names {name}, which is not installed") from None
        except (OSError, subprocess.TimeoutExpired, UnicodeError) as error:
            raise ConfigurationError(f"{name} {verb}: {type(error).__name__}: {error}") from None
        if done.returncode == 0:
            return done.stdout
        words = (done.stdout + done.stderr).strip()
        if verb != "store" and _NOT_FOUND in words:
            return None
        raise ConfigurationError(f"{name} {verb} failed: {words[:300] or 'it said nothing'}")

    # --- the file

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self.path.read_bytes() or b"{}")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigurationError(f"{self.path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{self.path}: not JSON: {error}") from None
        if not isinstance(document, dict):
            raise ConfigurationError(f"{self.path}: not a JSON object")
        return document

    def _write(self, document: Mapping[str, Any]) -> None:
        """Replace the file whole, readable to its owner alone; a link stays a link."""
        target = self.path.resolve()
        try:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(prefix=".config.json.", dir=target.parent)  # 0600
            try:
                with os.fdopen(handle, "w") as file:
                    json.dump(document, file, indent="\t")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, target)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                raise
        except OSError as error:
            raise ConfigurationError(f"{target}: cannot be written: {error.strerror}") from None


def _object(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _host_of(key: str) -> str:
    """The host that an entry of `auths` is for; older dockers wrote addresses."""
    bare = key.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return DOCKER_HUB if bare in ("index.docker.io", "registry-1.docker.io", DOCKER_HUB) else bare


def _decode(path: Path, entry: Any) -> Credentials | None:
    if not isinstance(entry, dict):
        return None
    token = entry.get("identitytoken") or ""
    user, password = entry.get("username") or "", entry.get("password") or ""
    if entry.get("auth"):
        try:
            pair = base64.b64decode(entry["auth"], validate=True).decode()
        except (binascii.Error, ValueError, TypeError):
            raise ConfigurationError(f"{path}: an auth that is not base64 of NAME:PASSWORD") from None
        user, _, password = pair.partition(":")
        password = password.rstrip("\0")
    if not all(isinstance(text, str) for text in (token, user, password)):
        raise ConfigurationError(f"{path}: a name, password or token that is not text")
    return Credentials(user, password, token) if user or token else None
