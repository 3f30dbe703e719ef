"""From the name of an image to the place that holds it: settings, credentials and connections put together."""

from __future__ import annotations

from dataclasses import replace

from registry.content import threads
from registry.oci.reference import ImageName
from registry.transfer.bearer import Credentials, Lookup
from registry.transfer.credentials import CredentialFile
from registry.transfer.download import USUAL_RANGING, Ranging
from registry.transfer.host import USUAL_PATIENCE, Host, Patience
from registry.transfer.hosts import Endpoint, Registries
from registry.transfer.http import Http
from registry.transfer.mirrored import Copy, Mirrored
from registry.transfer.remote import Remote

# A mirror that does not answer costs little time: the registry itself is there.
_MIRROR_ATTEMPTS = 2


class Reach:
    """Opens repositories for reading and writing. Use it as `async with`; connections last as long."""

    def __init__(
        self,
        registries: Registries,
        credentials: CredentialFile,
        http: Http | None = None,
        patience: Patience = USUAL_PATIENCE,
        ranging: Ranging = USUAL_RANGING,
    ) -> None:
        self.registries = registries
        self._credentials = credentials
        self._http = http or Http()
        self._patience = patience
        self._ranging = ranging
        self._hosts: dict[Endpoint, Host] = {}

    async def __aenter__(self) -> Reach:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._http.close()

    def host(self, endpoint: Endpoint, patience: Patience | None = None) -> Host:
        """The host of an endpoint; the same object, with its tokens, for all of its repositories."""
        found = self._hosts.get(endpoint)
        if found is None:
            lookup = _lookup(self._credentials, endpoint.host)
            found = self._hosts[endpoint] = Host(self._http, endpoint, lookup, patience or self._patience)
        return found

    def registry(self, host: str) -> Host:
        """A registry by its host."""
        return self.host(self.registries.endpoint(host))

    def source(self, name: ImageName) -> Remote | Mirrored:
        """The repository to read *name* from: the registry's, with its mirrors before it if it has any."""
        *mirrors, origin = self.registries.pull_places(name)
        remote = Remote(self.host(origin.endpoint), origin.repository, self._ranging)
        if not mirrors:
            return remote
        patience = replace(self._patience, attempts=min(_MIRROR_ATTEMPTS, self._patience.attempts))
        copies = [
            Copy(
                Remote(self.host(each.endpoint, patience), each.repository, self._ranging),
                each.uses,
                each.can_resolve,
            )
            for each in mirrors
        ]
        return Mirrored(copies, remote)

    def target(self, name: ImageName) -> Remote:
        """The repository to write *name* to: the registry's own."""
        origin = self.registries.origin(name)
        return Remote(self.host(origin.endpoint), origin.repository, self._ranging)


def _lookup(file: CredentialFile, host: str) -> Lookup:
    known: list[Credentials | None] = []

    async def look_up() -> Credentials | None:
        if not known:
            known.append(await threads.aside(file.get, host))  # a helper may take seconds
        return known[0]

    return look_up
