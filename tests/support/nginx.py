"""Debian's nginx in front of servers, with the configuration of deploy/nginx.conf, which is thereby tested.

What differs is said here, line by line: where it listens, where its own files are, who stands behind it, and
that nobody is preferred, so that the requests of a client go round all of them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.peers import unavailable
from tests.support.s3 import is_listening, spawn, wait_for
from tests.support.server import free_port

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx.conf"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Nginx:
    """One nginx; `tls` is a certificate with its key, without which it speaks plain HTTP."""

    def __init__(
        self, directory: Path, ports: Sequence[int], port: int = 0, tls: tuple[Path, Path] | None = None
    ) -> None:
        if shutil.which("nginx") is None:
            unavailable("nginx is not installed (Debian has it in nginx)")
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = port or free_port()
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self._file = directory / "nginx.conf"
        self._file.write_text(self._configuration(ports))

    def _configuration(self, ports: Sequence[int]) -> str:
        text = CONFIGURATION.read_text()
        home = self.directory
        text = replaced(text, "worker_processes auto;", f"daemon off; pid {home}/pid; error_log {home}/errors;")
        temporary = " ".join(f"{name}_temp_path {home}/{name};" for name in _TEMPORARY)
        went = f"log_format went '$upstream_addr'; access_log {home}/went went;"
        text = replaced(text, "http {", f"http {{ {went} {temporary}")
        text = replaced(text, "        least_conn;\n", "")
        for number, old in enumerate(("hythe-1", "hythe-2")):
            some = ports[number::2]
            lines = "".join(f"server 127.0.0.1:{each} max_fails=2 fail_timeout=1s;" for each in some)
            text = replaced(text, f"server {old}:5000 max_fails=2 fail_timeout=1s;", lines)
        if self._tls is not None:
            for name, path in zip(("tls.crt", "tls.key"), self._tls, strict=True):
                text = replaced(text, f"/etc/nginx/tls/{name}", str(path))
            return replaced(text, "listen 443 ssl;", f"listen 127.0.0.1:{self.port} ssl;")
        text = replaced(text, "listen 443 ssl;", f"listen 127.0.0.1:{self.port};")
        return "\n".join(line for line in text.splitlines() if not line.strip().startswith("ssl_")) + "\n"

    def start(self) -> Nginx:
        """Start it and return when it listens."""
        self._process = spawn(["nginx", "-c", str(self._file)], self.directory / "out")
        wait_for(lambda: is_listening(self.port), f"nginx {self.log()}", self._process)
        return self

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    @property
    def pid(self) -> int:
        """Its first process, which has the others."""
        assert self._process is not None
        return self._process.pid

    def went(self) -> list[str]:
        """To whom each request went so far, as host and port; several when the first did not answer."""
        return (self.directory / "went").read_text().splitlines()

    def log(self) -> str:
        """What it complains of."""
        paths = [path for path in (self.directory / "out", self.directory / "errors") if path.exists()]
        return "".join(path.read_text(errors="replace") for path in paths)


def replaced(text: str, old: str, new: str) -> str:
    """*text* with *new* for *old*, which it must have once."""
    assert text.count(old) == 1, f"deploy/nginx.conf has {text.count(old)} times {old!r}"
    return text.replace(old, new)
