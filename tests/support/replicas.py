"""Several servers on one database and one store behind nginx, as one: with TEST_REPLICAS=3 tests meet these.

Every request lands on another one. They share nothing else, neither a directory nor a settings file.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.nginx import Nginx
from tests.support.server import Server, Settings, merged


def serving(
    directory: Path, settings: Settings | None = None, environment: dict[str, str] | None = None
) -> Server:
    """What a test meets that asks for a server: one, or with TEST_REPLICAS as many behind nginx."""
    count = int(os.environ.get("TEST_REPLICAS", "1"))
    if count == 1:
        return Server(directory, settings, environment)
    return Replicas(directory, settings, environment, count)


class Replicas(Server):
    """A `Server` that is several; they write into one log."""

    def __init__(
        self,
        directory: Path,
        settings: Settings | None = None,
        environment: dict[str, str] | None = None,
        count: int = 3,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        super().__init__(directory, settings, environment)
        assert "index" in self.settings, "replicas need a database for all: TEST_INDEX=postgres"
        self.each = [self._replica(number) for number in range(count)]
        self.nginx = Nginx(directory / "nginx", [replica.port for replica in self.each], self.port, tls)

    def _replica(self, number: int) -> Server:
        own = self.directory / f"replica{number}"
        # With a store, nothing on the disk is shared.
        shares_directory = self.settings["storage"].get("kind", "directory") == "directory"
        storage = {} if shares_directory else {"directory": str(own / "data")}
        settings = merged(self.settings, {"storage": storage, "server": {"trusted_proxies": ["127.0.0.1"]}})
        del settings["server"]["port"]
        replica = Server(own, settings, self.environment)
        replica.log_path = self.log_path
        return replica

    @property
    def pid(self) -> int:
        """There is no single one."""
        raise AssertionError("replicas have a pid each")

    def start(self, timeout: float = 30.0) -> Server:
        """Start all of them, at once, and nginx."""
        for replica in self.each:
            replica.launch()
        for replica in self.each:
            replica.wait_until_ready(timeout)
        self.nginx.start()
        return self

    def stop(self, timeout: float = 30.0) -> int:
        """End them as an operator does; returns the worst exit status."""
        self.nginx.stop()
        return max(replica.stop(timeout) for replica in self.each)

    def kill(self) -> None:
        """`kill -9` for all of them."""
        self.nginx.stop()
        for replica in self.each:
            replica.kill()

    def restart(self) -> Server:
        """Stop all that run, and start them again on the same ports and data."""
        self.stop()
        return self.start()
