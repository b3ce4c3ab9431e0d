"""Connections that say nothing: uvicorn waits for a request's header for ever, which few clients need in order to hold
many connections ("slow loris")."""

import asyncio
import time
from typing import Any, ClassVar

import uvicorn.protocols.http.auto
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http.request import Receive

AHEAD = 2**19  # bytes of a body that are taken in unasked: uvicorn's 64 KiB halt every short recording
SECONDS = 20.0  # for the header of a request to arrive
# Between two requests. Clients and load balancers give a connection up after 60 at most, and they have to be first:
# a request that meets a connection as it is closed is lost.
REST = 65


class Connection(HttpToolsProtocol):
    """A connection that knows since when it has been waiting for a header."""

    waiting: ClassVar[dict["Connection", float]] = {}  # since when, by time.monotonic(); at rest, since its end

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.timeout_keep_alive = max(self.timeout_keep_alive, REST)

    def connection_made(self, transport: Any) -> None:
        """It waits for its first request."""
        super().connection_made(transport)
        self.waiting[self] = time.monotonic()

    def data_received(self, data: bytes) -> None:
        """If it was at rest, a header begins."""
        if self.waiting.get(self, 0.0) > (now := time.monotonic()):
            self.waiting[self] = now
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """It has a request."""
        self.waiting.pop(self, None)
        super().on_headers_complete()
        if self.cycle and not self.cycle.body:
            self.cycle.body = b""  # type: ignore[assignment]  # bytes + the first piece is that piece: not copied twice

    def on_response_complete(self) -> None:
        """It rests until its next request, unless that has come already."""
        if self.cycle.response_complete:
            self.waiting[self] = time.monotonic() + self.timeout_keep_alive
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """It waits no more."""
        self.waiting.pop(self, None)
        super().connection_lost(exc)


def has_arrived(receive: Receive) -> bool:
    """Whether a request's body is there already, and nothing will have to be waited for; False where nobody knows."""
    cycle = getattr(receive, "__self__", None)  # uvicorn's, whose method it is
    return getattr(cycle, "more_body", True) is False


def watch() -> None:
    """Let uvicorn's workers speak through `Connection`, where they choose a protocol by themselves."""
    uvicorn.protocols.http.auto.AutoHTTPProtocol = Connection
    httptools_impl.HIGH_WATER_LIMIT = AHEAD  # type: ignore[attr-defined]


def close_waiting(seconds: float = SECONDS) -> None:
    """Close the connections that have waited for longer."""
    late = time.monotonic() - seconds
    for connection in [c for c, since in Connection.waiting.items() if since < late]:
        Connection.waiting.pop(connection, None)
        connection.transport.abort()


async def close_late(every: float = 1.0) -> None:
    """Go on doing so."""
    while True:
        await asyncio.sleep(every)
        close_waiting()
