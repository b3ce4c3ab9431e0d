"""Timeouts for idle connections: uvicorn waits forever for a request's header, which lets a few clients hold many
connections ("slow loris"). And lingering ones: many clients send a whole body before they read the response, which is
lost to them if the connection is reset meanwhile.

Everything that percept changes in uvicorn is here. tests/service/http/test_connections.py names the versions for which
the attributes used here were checked.
"""

import asyncio
import time
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import uvicorn.protocols.http.auto
from starlette.types import Receive
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http.request import Headers

AHEAD = 2**19  # bytes of a body that uvicorn buffers; its own 64 KiB would pause the upload of every short recording
SECONDS = 20.0  # for the header of a request to arrive
# Seconds that a connection may be idle between two requests. Clients and load balancers close theirs after 60 at most,
# and must be the first to do so: a request sent while the server closes the connection is lost.
KEEP_ALIVE = 65
REST = 2**30  # bytes that are read after the response to a body that was not read to its end
SLOWEST = 256 * 2**10  # bytes a second at which a body arrives, at least; that rest too, after SECONDS


class Connection(HttpToolsProtocol):
    """A connection that knows since when it has been waiting for a header, or for the client to close it."""

    # Since when it has been waiting, by time.monotonic(); between two requests, until when it may be idle.
    waiting: ClassVar[dict["Connection", float]] = {}
    rest: int | None = None  # once it lingers, how many bytes more are read

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.timeout_keep_alive = max(self.timeout_keep_alive, KEEP_ALIVE)

    def connection_made(self, transport: Any) -> None:
        """Start waiting for the first request."""
        super().connection_made(transport)
        self.waiting[self] = time.monotonic()

    def data_received(self, data: bytes) -> None:
        """After an idle time, these bytes begin a header: the wait for it starts now."""
        if self.rest is not None:
            return self._drop(data)
        if self.waiting.get(self, 0.0) > (now := time.monotonic()):
            self.waiting[self] = now
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The header is complete: stop waiting."""
        self.waiting.pop(self, None)
        super().on_headers_complete()
        if self.cycle and not self.cycle.body:
            self.cycle.body = b""  # type: ignore[assignment]  # b"" + the first chunk is that chunk itself: no copy

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it has arrived already."""
        if self.cycle.response_complete and self.rest is None:
            self.waiting[self] = time.monotonic() + self.timeout_keep_alive
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self.waiting.pop(self, None)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are no HTTP; more of them may be on their way."""
        if self.cycle and not self.cycle.response_complete:
            return super().send_400_response(msg)
        transport, self.transport = self.transport, lingering(self.transport)
        super().send_400_response(msg)
        self.transport = transport

    def linger(self, transport: Any) -> None:
        """Say that nothing more will be sent, and drop what still arrives until the client closes the connection: if
        it were closed now, unread bytes would make the kernel reset it, and the response be lost."""
        self.rest = REST
        self.waiting[self] = time.monotonic()
        if transport.can_write_eof():  # not with TLS
            transport.write_eof()

    def _drop(self, data: bytes) -> None:
        assert self.rest is not None
        self.rest -= len(data)
        if self.rest < 0:
            self.transport.abort()
        elif self in self.waiting:
            self.waiting[self] += len(data) / SLOWEST


def has_arrived(receive: Receive) -> bool:
    """Whether the whole body of a request has arrived; False if that is not known."""
    cycle = getattr(receive, "__self__", None)  # uvicorn's RequestResponseCycle, of which `receive` is a method
    return getattr(cycle, "more_body", True) is False


def lingering(transport: Any) -> Any:
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
    if not getattr(cycle, "more_body", False):
        return ()
    cycle.transport = lingering(cycle.transport)
    return ((b"connection", b"close"),)


def patch_uvicorn() -> None:
    """Make uvicorn use `Connection` where it chooses the protocol by itself, and buffer AHEAD bytes."""
    uvicorn.protocols.http.auto.AutoHTTPProtocol = Connection
    httptools_impl.HIGH_WATER_LIMIT = AHEAD  # type: ignore[attr-defined]


def close_waiting(seconds: float = SECONDS) -> None:
    """Close the connections that have waited for a header for more than `seconds`."""
    late = time.monotonic() - seconds
    for connection in [c for c, since in Connection.waiting.items() if since < late]:
        Connection.waiting.pop(connection, None)
        connection.transport.abort()


async def close_late(every: float = 1.0) -> None:
    """Call `close_waiting` at an interval of `every` seconds."""
    while True:
        await asyncio.sleep(every)
        close_waiting()
