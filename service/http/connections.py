"""Connections that clients cannot abuse. uvicorn reads headers of any size, waits forever for them, and for a client to
read its answers, and queues any number of a connection's requests: here all of that has limits. And lingering ones:
many clients send a whole body before they read the response, and would lose it if the connection were reset meanwhile.

Everything that percept changes in uvicorn is here and in sending.py, with listening.py for uvloop. The versions for
which the attributes used here were checked are in tests/service/http/test_connections.py.
"""

import asyncio
import sys
from functools import partial
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import httptools
import uvicorn.config
import uvicorn.protocols.http.auto
from starlette.types import Receive
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.http import errors
from service.http.connection_limits import CLOSE, HEADER, IDLE, Connections
from service.http.request import Headers

AHEAD = 2**19  # bytes of a body that uvicorn buffers; its own 64 KiB would pause the upload of every short recording
UNREAD_BYTES = 2**30  # bytes that are read after the response to a body that was not read to its end
HEAD = 2**16  # bytes of a header; of a chunked body's trailers; of its chunks' extensions
URL = 2**13  # bytes of a URL; nginx allows as many
FIELDS = 100  # of a header; gunicorn and Apache allow as many
CHUNK_OVERHEAD = 8  # bytes around a chunk, of a byte at least, that do not count as extensions
UNREAD = 2**16  # bytes of an answer to write before the next one waits; with TLS uvloop would take eight times as many
TURNS = 8  # of those requests that are started in one iteration of the loop, so that others have their turn too
SMALL = 2**10  # bytes that are parsed at once, whatever they hold: 56 requests at most
# Bytes after which a connection waits for its next turn: of a chunked body, where chunks of one byte take 1.5 ms, and
# of anything else, since uvloop would read a fast client's connection up to 32 times in a row.
CHUNKS, TURN = 2**14, 2**18

REFUSED = {
    HTTPStatus.BAD_REQUEST: "these bytes are no HTTP/1.1 request",
    HTTPStatus.REQUEST_URI_TOO_LONG: f"the URL is longer than the {URL} bytes allowed",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"the header has more than {HEAD} bytes or {FIELDS} fields",
}

registry = Connections()  # of this worker


class Connection(HttpToolsProtocol):
    """A connection that parses no more requests than it can answer, and tells `registry` when it waits for its
    client."""

    socket: Any = None
    started: Any = None  # the request that is being answered, or was the last one
    waits_for = HEADER
    unfinished = 0
    rest: int | None = None  # once it lingers, how many bytes more are read
    refusal: HTTPStatus | None = None  # what follows the answers to earlier requests, as the last one

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ws_protocol_class = None
        self.data, self.at = b"", 0  # what has arrived, and how far it has been parsed
        self.headers = []
        self.in_head, self.head = True, 0  # whether a header is next; how long it is, or what counts as one, so far
        self.body_left = 0  # bytes of the body still to come, if the header says so
        self.waits_for_turn = False

    def accepted(self, socket: Any) -> None:
        """The connection is open; with TLS, the handshake is still to come."""
        self.socket = socket
        registry.add(self)

    def connection_made(self, transport: Any) -> None:
        """Requests may come."""
        super().connection_made(transport)
        self.flow = Flow(self)
        transport.set_write_buffer_limits(UNREAD)
        if self.socket is None:
            self.accepted(transport)

    def lost(self) -> None:
        """The connection is closed."""
        registry.remove(self)
        self.parser = None  # type: ignore[assignment]  # which refers to this object

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, after a handshake if there is TLS."""
        self.lost()
        super().connection_lost(exc)
        if self.started is not None:  # uvicorn tells only the last request, which may be waiting for this one
            self.started.disconnected = True
            self.started.message_event.set()
        # Else it would be in circles with them until the garbage collector comes, for hours, with 0.1 MB of TLS.
        self.cycle = self.started = self.flow = None  # type: ignore[assignment]
        self.pipeline.clear()

    def data_received(self, data: bytes) -> None:
        """Parse the bytes; note what the connection waits for after them."""
        if self.rest is not None:
            return self._drop(data)
        self.data, self.at = self.data[self.at :] + data if self.data else data, 0
        self._parse()
        if self.rest is not None:
            return
        if not self.in_head:
            if not self.pipeline:  # else the client waits for us
                registry.part_arrived(self, len(data), AHEAD)
        elif self.waits_for != HEADER and (self.cycle is None or self.cycle.response_complete):
            registry.wait(self, HEADER)

    def _parse(self, in_turn: bool = False) -> None:
        """Give the parser what has arrived, until requests wait for the answer to an earlier one, or the connection has
        had its turn. One chunk may be a byte, so all but a few bytes of a chunked body wait for a turn."""
        parsed = 0
        while self.at < len(self.data) and not self.pipeline and self.rest is None and self.refusal is None:
            size = len(self.data) - self.at
            is_chunked = not (self.in_head or self.body_left)
            if parsed >= (CHUNKS if is_chunked else TURN) or (is_chunked and size > SMALL and not in_turn):
                return self._wait_for_turn(is_chunked)
            if size > SMALL:
                size = self._size(size)
            if not self.body_left:
                self.head += size
            if self.in_head and (self.head > HEAD or len(self.headers) > FIELDS):
                return self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            start, self.at, parsed = self.at, self.at + size, parsed + size
            try:
                self.parser.feed_data(self.data if size == len(self.data) else memoryview(self.data)[start : self.at])
            except httptools.HttpParserUpgrade as upgrade:
                self.at = start + upgrade.args[0]
                self._ignore_upgrade()
            except httptools.HttpParserError as error:
                refused = error.__context__
                return self._refuse(refused.status if isinstance(refused, _Refused) else HTTPStatus.BAD_REQUEST)
            if self.head > HEAD:
                return self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if self.at == len(self.data):
            self.data, self.at = b"", 0
        if parsed >= TURN:
            self._wait_for_turn()

    def _wait_for_turn(self, is_chunked: bool = False) -> None:
        """Go on in the next iteration of the loop, or, with a chunked body, when it is this connection's turn."""
        if self.waits_for_turn:
            return
        self.waits_for_turn = True
        self.transport.pause_reading()
        if not is_chunked:
            self.loop.call_soon(self.take_turn)
            return
        if not registry.turns:
            self.loop.call_soon(_next_turn, self.loop)
        registry.turns.append(self)

    def take_turn(self) -> None:
        """Go on with what has arrived."""
        self.waits_for_turn = False
        if not self.transport.is_closing():
            self._parse(in_turn=True)
            if not self.waits_for_turn and not self.flow.read_paused:
                self.transport.resume_reading()

    def _size(self, size: int) -> int:
        """How many of `size` bytes, which are not few, are parsed next: no more than those of one request."""
        if self.body_left:
            return min(size, self.body_left)
        most = HEAD if self.in_head else CHUNKS
        end = self.data.find(b"\r\n\r\n", self.at, self.at + most)  # of a header, or of a chunked body
        if end < 0:
            return min(size, SMALL if self.in_head else most)
        return max(end + 4 - self.at, 64)

    def on_headers_complete(self) -> None:
        """Start the answer."""
        if self.parser.should_upgrade():
            return
        if len(self.url) > URL:
            raise _Refused(HTTPStatus.REQUEST_URI_TOO_LONG)
        if len(self.headers) > FIELDS:
            raise _Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        super().on_headers_complete()
        self.in_head, self.head = False, 0
        if not self.pipeline:
            self.started = self.cycle
        for name, value in self.headers:
            if name == b"content-length":
                self.body_left = int(value)
                self.cycle.body = b""  # type: ignore[assignment]  # b"" + the first chunk is that chunk: no copy
                break
        self.headers = []  # for the trailers of a chunked body, which are no headers (RFC 9110, 6.5.1)

    def on_body(self, body: bytes) -> None:
        """Count what is still to come, or how much of a chunked body is no content."""
        if self.body_left:
            self.body_left -= len(body)
        else:
            self.head = max(self.head - len(body) * (1 + CHUNK_OVERHEAD), 0)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A header is next."""
        if self.in_head:  # with an Upgrade, which is parsed again without it
            return
        self.in_head, self.head = True, 0
        registry.stop(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for it."""
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self.rest is not None:
            return
        if self.pipeline:
            if not registry.queue:
                self.loop.call_soon(_start_queued, self.loop)
            registry.queue.append(self)
        elif self.refusal is not None:
            self._send_refusal(self.refusal)
        else:
            registry.wait(self, IDLE)
            self.flow.resume_reading()

    def start_next(self) -> None:
        """Start to answer the next request, which has arrived already."""
        if self.pipeline and not self.transport.is_closing():
            self.started, app = self.pipeline.pop()
            self._start_asgi_task(self.started, app)
            self._parse()
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        """The client reads its answers more slowly than they are made, or not at all."""
        super().pause_writing()
        registry.not_sent(self, self.socket.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has read them."""
        super().resume_writing()
        registry.unread.pop(self, None)

    def _ignore_upgrade(self) -> None:
        """Parse the header again without its Upgrade, as RFC 9110, 7.8, allows. httptools takes what follows such a
        header for another protocol, even the body of a request that Java's client sends with `Upgrade: h2c`."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            return self._refuse(HTTPStatus.BAD_REQUEST)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        fields = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        head = b"\r\n".join([b"%b %b HTTP/%b" % (method, self.url, version), *fields, b"", b""])
        self.data, self.at, self.head = head + self.data[self.at :], 0, 0

    def _refuse(self, status: HTTPStatus) -> None:
        """Refuse what has arrived, and parse no more. Earlier requests get their answers first."""
        registry.closed["invalid" if status == HTTPStatus.BAD_REQUEST else "too_large"] += 1
        self.data, self.at = b"", 0
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return self._send_refusal(status)
        if self.in_head:
            self.refusal = status
        elif self.pipeline:  # the request whose body this is has not been started
            self.pipeline.popleft()
            self.refusal = status
        elif cycle.response_started:
            self.transport.close()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            self._send_refusal(status)
        if self.refusal is not None:
            self.flow.pause_reading()

    def _send_refusal(self, status: HTTPStatus) -> None:
        response = errors.response(status, REFUSED[status], "")
        fields = [*self.server_state.default_headers, (b"content-type", response.content_type)]
        fields += [(b"content-length", b"%d" % len(response.body)), (b"connection", b"close")]
        head = STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % field for field in fields)
        self.transport.write(head + b"\r\n" + response.body)
        self.linger(self.transport)

    def linger(self, transport: Any) -> None:
        """Say that nothing more will be sent, and drop what still arrives until the client closes the connection: if
        it were closed now, unread bytes would make the kernel reset it, and the response be lost."""
        self.rest = UNREAD_BYTES
        registry.stop(self)
        registry.wait(self, CLOSE)
        self.flow.resume_reading()
        if transport.can_write_eof():  # not with TLS
            transport.write_eof()

    def _drop(self, data: bytes) -> None:
        assert self.rest is not None
        self.rest -= len(data)
        if self.rest < 0:
            self.socket.abort()
        else:
            registry.arrived(self, len(data))


class _Refused(Exception):
    """A header exceeds a limit."""

    def __init__(self, status: HTTPStatus) -> None:
        self.status = status


class Flow(FlowControl):
    """Reads on only when no request waits for the answer to an earlier one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.transport)
        self._connection = connection

    def resume_reading(self) -> None:
        """Read on, unless requests wait, or the connection's last answer does; or from its next turn on."""
        connection = self._connection
        if self.read_paused and (connection.rest is not None or not (connection.pipeline or connection.refusal)):
            if connection.waits_for_turn:
                self.read_paused = False
            else:
                super().resume_reading()


def _start_queued(loop: asyncio.AbstractEventLoop) -> None:
    """Start the requests of the first connections in the queue, and the others in the loop's next iterations."""
    for _ in range(min(len(registry.queue), TURNS)):
        registry.queue.popleft().start_next()
    if registry.queue:
        loop.call_soon(_start_queued, loop)


def _next_turn(loop: asyncio.AbstractEventLoop) -> None:
    """One connection in each iteration of the loop goes on with a chunked body."""
    connection = registry.turns.popleft()
    if registry.turns:
        loop.call_soon(_next_turn, loop)
    connection.take_turn()


def has_arrived(receive: Receive) -> bool:
    """Whether the whole body of a request has arrived; False if that is not known."""
    cycle = getattr(receive, "__self__", None)  # uvicorn's RequestResponseCycle, of which `receive` is a method
    return getattr(cycle, "more_body", True) is False


def _lingering(transport: Any) -> Any:
    """What uvicorn writes a connection's last response to, in place of its transport: where uvicorn would close that,
    the connection lingers."""
    close = partial(transport.get_protocol().linger, transport)
    return SimpleNamespace(write=transport.write, is_closing=transport.is_closing, close=close)


def close_after(receive: Receive) -> Headers:
    """Headers for the response to a request whose body is still arriving, after which the connection lingers; none if
    the body has arrived, or that is not known.

    Such a connection cannot be used again: a client that was promised a 100 Continue need not send the body at all.
    """
    cycle: Any = getattr(receive, "__self__", None)
    if not getattr(cycle, "more_body", False) or cycle.disconnected:
        return ()
    cycle.transport = _lingering(cycle.transport)
    return ((b"connection", b"close"),)


def patch_uvicorn() -> None:
    """Make uvicorn use `Connection` where it chooses the protocol by itself, and buffer AHEAD bytes; and listen as
    uvloop is told to by listening.py."""
    uvicorn.protocols.http.auto.AutoHTTPProtocol = Connection
    httptools_impl.HIGH_WATER_LIMIT = AHEAD  # type: ignore[attr-defined]
    if sys.platform != "win32":
        from service.http import listening

        uvicorn.config.LOOP_FACTORIES["auto"] = listening.FACTORY


async def close_late() -> None:
    """Close the connections that wait too long, every second."""
    while True:
        await asyncio.sleep(1)
        registry.close_late()
