"""Content to a registry: in one request when small, else as a stream that goes on after a cut.

Source: OCI distribution-spec v1.1, "Pushing blobs".
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import quote, urljoin

from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid, HytheError
from registry.oci.reference import Repository
from registry.transfer.errors import AnswerInvalid, Cut, Unreachable, printable, refusal
from registry.transfer.host import Host
from registry.transfer.http import Response
from registry.transfer.target import Read, wrong_size

SINGLE_MAX_BYTES = 64 << 10
# Some registries, and proxies before them, refuse a request above a limit (413): then it goes in chunks.
CHUNK_BYTES = 16 << 20
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")
_OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Session:
    """Where blobs of one repository go."""

    host: Host
    repository: Repository
    scopes: frozenset[str]

    @property
    def place(self) -> str:
        """The repository with its host, for people."""
        return f"{self.host.name}/{self.repository}"

    @property
    def uploads(self) -> str:
        """The path at which uploads begin."""
        return f"/v2/{self.repository}/blobs/uploads/"


async def upload(session: Session, descriptor: Descriptor, read: Read) -> None:
    """Send a blob; returns when the registry says that it has it. Raises DigestInvalid and SizeInvalid."""
    if descriptor.size_bytes <= SINGLE_MAX_BYTES:
        data = await _whole(descriptor, read)
        location = await _single(session, descriptor, data)
        if location is not None:
            await _finish(session, location, descriptor, data)
        return
    location = await _begin(session, descriptor.digest)
    if location is None:
        return
    try:
        await _finish(session, await _send(session, location, descriptor, read), descriptor, b"")
    except BaseException:
        # Before the connections close; a registry that does not hear of it forgets the upload by itself.
        await _cancel(session, location)
        raise


async def _begin(session: Session, digest: Digest) -> str | None:
    """The address of an upload; None when the registry found the blob in another repository that we may read.

    Not to say which is the standard's way to ask for that; who does not know it begins an upload.
    """
    for query, expects in ((f"?mount={quote(digest)}", (201, 202, 400, 404, 405)), ("", (202,))):
        async with session.host.ask(
            "POST",
            session.uploads + query,
            scopes=session.scopes,
            headers={"Content-Length": "0"},
            expects=expects,
            place=session.place,
        ) as answer:
            if answer.status == 202:
                return _location(session, answer)
            if answer.status == 201:
                _check_digest(session, answer, digest)
                return None
    raise AnswerInvalid(f"{session.place}: no upload began")


async def _whole(descriptor: Descriptor, read: Read) -> bytes:
    data = bytearray()
    async with aclosing(_counted(descriptor, read, 0, descriptor.size_bytes)) as pieces:
        async for piece in pieces:
            data += piece
    return bytes(data)


async def _single(session: Session, descriptor: Descriptor, data: bytes) -> str | None:
    """Push in one request; the address of an upload that has nothing yet where the registry wants several."""
    digest, headers, body = "", {"Content-Length": "0"}, b""
    if session.host.takes_single_posts:
        digest, headers, body = f"?digest={quote(descriptor.digest)}", {"Content-Type": _OCTETS}, data
    async with session.host.ask(
        "POST",
        session.uploads + digest,
        scopes=session.scopes,
        headers=headers,
        body=body,
        expects=(201, 202),
        place=session.place,
    ) as answer:
        if answer.status == 201:
            _check_digest(session, answer, descriptor.digest)
            return None
        session.host.takes_single_posts = False
        return _location(session, answer)


async def _send(session: Session, location: str, descriptor: Descriptor, read: Read) -> str:
    """Stream all bytes to an upload and return where it is finished."""
    position, fruitless, chunk_bytes, is_certain = 0, 0, descriptor.size_bytes, True
    while position < descriptor.size_bytes:
        end = min(position + chunk_bytes, descriptor.size_bytes)
        before = position
        try:
            async with _patch(session, location, descriptor, read, position, end, is_certain) as answer:
                if answer.status == 413 and chunk_bytes > CHUNK_BYTES:
                    chunk_bytes = CHUNK_BYTES
                    continue
                if answer.status == 401:
                    # The token ran out, or was never asked for: once asked for the status, we have another.
                    raise Cut(f"{session.place}: the registry wants to know who we are")
                if answer.status >= 500 or answer.status in (408, 409, 416, 429):
                    raise Cut(f"{session.place}: the registry answered {answer.status} to an upload")
                if answer.status not in (201, 202, 204):
                    raise await session.host.error(answer, session.place)
                location, position = _location(session, answer, location), end
        except (Cut, Unreachable):
            # The registry may still be busy with what came before the cut: the next piece says where it belongs.
            is_certain = False
            location, position = await _status(session, location)
        fruitless = 0 if position > before else fruitless + 1
        if fruitless >= session.host.patience.attempts:
            raise Cut(
                f"{session.place}: the upload of {descriptor.digest} breaks off again and again; it was given up"
            )
        if fruitless:
            await asyncio.sleep(session.host.patience.seconds(fruitless - 1))
    return location


@contextlib.asynccontextmanager
async def _patch(
    session: Session,
    location: str,
    descriptor: Descriptor,
    read: Read,
    start: int,
    end: int,
    is_certain: bool,
) -> AsyncGenerator[Response, None]:
    headers = {"Content-Type": _OCTETS, "Content-Length": str(end - start)}
    if not is_certain or (start, end) != (0, descriptor.size_bytes):
        headers["Content-Range"] = f"{start}-{end - 1}"
    sending = Sending(_counted(descriptor, read, start, end))
    try:
        async with session.host.once("PATCH", location, session.scopes, headers, sending.pieces) as answer:
            yield answer
    except Cut:
        if sending.failure is not None:
            raise sending.failure from None
        raise
    finally:
        await sending.close()


class Sending:
    """Pieces on their way into a request, and why they ended, which the HTTP library does not tell."""

    def __init__(self, source: AsyncGenerator[bytes, None]) -> None:
        self.failure: Exception | None = None
        self.pieces = self._pass(source)

    async def _pass(self, source: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(source):
                async for piece in source:
                    yield piece
        except Exception as error:
            self.failure = error
            raise

    async def close(self) -> None:
        """Close the source; the library's task, which may still be in it, was told to end."""
        while True:
            try:
                return await self.pieces.aclose()
            except RuntimeError:  # already running
                await asyncio.sleep(0)


async def _counted(descriptor: Descriptor, read: Read, start: int, end: int) -> AsyncGenerator[bytes, None]:
    """The bytes from *start* to before *end*. Raises SizeInvalid for a source of another length."""
    position = start
    async with aclosing(read(start)) as pieces:
        async for piece in pieces:
            position += len(piece)
            if position > descriptor.size_bytes:
                raise wrong_size(descriptor, position, "at least ")
            if position >= end < descriptor.size_bytes:
                yield piece[: len(piece) - (position - end)]
                return
            yield piece
    if position != end:
        raise wrong_size(descriptor, position)


async def _status(session: Session, location: str) -> tuple[str, int]:
    """Where an upload goes on: its address and its length; another upload when it is no longer known."""
    async with session.host.ask(
        "GET", location, scopes=session.scopes, expects=(200, 202, 204, 404), place=session.place
    ) as answer:
        if answer.status != 404:
            match = _RANGE.fullmatch(answer.headers.get("Range", ""))
            last = int(match[1]) if match else 0
            return _location(session, answer, location), last + 1 if last else 0  # 0-0 is said of no bytes too
    async with session.host.ask(
        "POST", session.uploads, scopes=session.scopes, expects=(202,), place=session.place
    ) as answer:
        return _location(session, answer), 0


async def _finish(session: Session, location: str, descriptor: Descriptor, data: bytes) -> None:
    joined = f"{location}{'&' if '?' in location else '?'}digest={quote(descriptor.digest)}"
    headers = {"Content-Type": _OCTETS, "Content-Length": str(len(data))}
    async with session.host.ask(
        "PUT",
        joined,
        scopes=session.scopes,
        headers=headers,
        body=data,
        expects=(201, 204, 404),
        place=session.place,
    ) as answer:
        if answer.status != 404:
            _check_digest(session, answer, descriptor.digest)
            return
        error = refusal(session.place, 404, await answer.read())
    # The answer to an earlier try may be what was lost.
    if not await has_blob(session, descriptor.digest):
        raise error


async def has_blob(session: Session, digest: Digest) -> bool:
    """Whether the repository has a blob."""
    path = f"/v2/{session.repository}/blobs/{digest}"
    async with session.host.ask(
        "HEAD", path, scopes=session.scopes, expects=(200, 404), place=session.place
    ) as answer:
        return answer.status == 200


async def mount(session: Session, digest: Digest, origin: Repository) -> bool:
    """Take a blob over from another repository of the host; False when the registry wants its bytes."""
    path = f"{session.uploads}?mount={quote(digest)}&from={quote(origin, safe='')}"
    scopes = session.scopes | {f"repository:{origin}:pull"}
    async with session.host.ask(
        "POST", path, scopes=scopes, headers={"Content-Length": "0"}, expects=(201, 202, 401, 403, 404, 405)
    ) as answer:
        if answer.status != 202:
            return answer.status == 201
        location = _location(session, answer)
    await _cancel(session, location)
    return False


async def _cancel(session: Session, location: str) -> None:
    with contextlib.suppress(HytheError):
        async with session.host.once("DELETE", location, session.scopes, {}):
            pass


def _location(session: Session, answer: Response, usual: str = "") -> str:
    found = answer.headers.get("Location", usual)
    if not found:
        raise AnswerInvalid(f"{session.host.name}: an upload without an address")
    return session.host.url(urljoin(answer.url, found))


def _check_digest(session: Session, answer: Response, digest: Digest) -> None:
    stated = answer.headers.get("Docker-Content-Digest", digest)
    if stated != digest and stated.partition(":")[0] == digest.algorithm:
        raise DigestInvalid(f"{session.place}: the registry stored {digest} as {printable(stated)}")
