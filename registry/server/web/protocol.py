"""uvicorn's HTTP protocol with the bounds that it lacks: on a head's time and size, and on idle clients."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from registry.server.web.sendfile import SCOPE_KEY, FileSender, FileSpan, SendFile, unread_bytes

HEAD_MAX_BYTES = 64 << 10
_files = FileSender()


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head above 64 KiB with 431, and lets go of connections on which nothing moves.

    *head_seconds* is how long a head may take, *idle_seconds* how long a client may leave unread what was
    sent. They are set on the class, in each worker: uvicorn makes the instances itself.
    """

    head_seconds = 30.0
    idle_seconds = 60.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # What requests are told of their connection, made once for all of them.
        self._is_gone = transport.is_closing
        is_plain = transport.get_extra_info("ssl_object") is None
        self._sends_files: SendFile | None = self._send_file if is_plain else None
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        # Bytes since the last one of a body that are none themselves: chunk extensions, trailers.
        self._framing_bytes = 0
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._unread_bytes = 0
        self._unread_timer: asyncio.TimerHandle | None = None
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_unread_timer()
        # uvicorn tells only the last request that its client has gone; another one may be the one in progress.
        for cycle in self._unanswered:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        else:
            self._framing_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._head_bytes > HEAD_MAX_BYTES:
            self._refuse(431)
        elif not self._in_head and self._framing_bytes > HEAD_MAX_BYTES:
            self.send_400_response("Too much between the pieces of a body.")
        elif not self._is_busy() and self._head_timer is None and self.timeout_keep_alive_task is None:
            # Empty lines between requests, or the rest of a body that nobody wants, ended the old timer.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        if self._head_timer is None:
            self._start_head_timer()
        # Applications cannot see that a client has gone while they send; a stream of gigabytes wants to.
        scope: Any = self.scope
        scope["hythe.is_gone"] = self._is_gone
        if self._sends_files is not None:
            scope[SCOPE_KEY] = self._sends_files

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers mean nothing here, and come after the gate has read the headers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._framing_bytes = 0
        self._stop_head_timer()
        if self.parser.should_upgrade() and self._has_body():
            # llhttp leaves the body of a request that asks for another protocol to that protocol.
            self._refuse(400)
            return
        super().on_headers_complete()
        while self._unanswered and self._unanswered[0].response_complete:
            self._unanswered.popleft()
        self._unanswered.append(self.cycle)

    def _being_answered(self) -> RequestResponseCycle:
        """The request whose answer goes out now; those after it wait for their turn."""
        return next(cycle for cycle in self._unanswered if not cycle.response_complete)

    def _has_body(self) -> bool:
        fields = dict(self.headers)
        return b"transfer-encoding" in fields or fields.get(b"content-length", b"0").strip() != b"0"

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        super().on_body(body)

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_seconds, self._too_slow)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._is_busy():  # this head came early; the answer before it may take its time
            self._start_head_timer()
        else:
            self._refuse(408)

    def _refuse(self, status: int) -> None:
        if not self._is_busy():
            self.transport.write(STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        if self._is_busy() and self.cycle.response_started:  # not into the middle of another answer
            self.transport.close()
        else:
            super().send_400_response(msg)

    async def _send_file(self, span: FileSpan) -> int | None:
        """Send bytes of a file as the next ones of the body that is being sent; returns how many went out.

        None when others still wait to go out before them: then they are to be sent in pieces.
        """
        await asyncio.sleep(0)  # the head goes out at the end of the loop's turn
        connection = self.transport.get_extra_info("socket")
        if self.transport.is_closing() or self.transport.get_write_buffer_size() or connection is None:
            return None
        sent = await _files.send(connection.fileno(), span, self.idle_seconds)
        self._being_answered().expected_content_length -= sent
        if sent < span.end - span.start:
            self.transport.abort()
        return sent

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._stop_unread_timer()
        super().resume_writing()

    def _watch_reader(self) -> None:
        self._unread_bytes = self._count_unread()
        self._unread_timer = self.loop.call_later(self.idle_seconds, self._check_reader)

    def _check_reader(self) -> None:
        """Drop a client that took nothing for too long; closing politely would wait for it for ever."""
        if self._count_unread() >= self._unread_bytes:
            self.transport.abort()
        else:
            self._watch_reader()

    def _count_unread(self) -> int:
        """Bytes on their way that the client has not taken: ours, and the megabytes that the kernel holds."""
        connection = self.transport.get_extra_info("socket")
        return self.transport.get_write_buffer_size() + unread_bytes(connection.fileno())

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()
