"""How uvloop listens for connections, with two differences. With TLS, connections are known before their handshake: a
client that never completes it would otherwise hold a descriptor that nobody counts. And a client that does not read
leaves 128 KiB of its answers in the kernel, not 4 MB, before it is noticed.
"""

import socket
import ssl
from collections.abc import Callable
from typing import Any

import uvloop
from uvloop.loop import SSLProtocol  # type: ignore[attr-defined]  # not in its stubs

from service.http.connection_limits import TIMEOUT

FACTORY = f"{__name__}:factory"  # as uvicorn wants it
NOT_SENT = 2**17  # bytes of a connection's answers that the kernel keeps, besides those on their way


class Loop(uvloop.Loop):
    """uvloop's loop, with our way to listen."""

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], *args: Any, ssl: ssl.SSLContext | None = None, **options: Any
    ) -> Any:
        """uvloop's server; with `ssl`, its protocols are told of their socket by `accepted`."""
        listener = options.get("sock")
        if listener is not None and listener.family != socket.AF_UNIX and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)  # connections inherit it
        factory = protocol_factory if ssl is None else lambda: TLS(self, protocol_factory(), ssl)
        return await super().create_server(factory, *args, **options)


class TLS(SSLProtocol):  # type: ignore[misc]
    """TLS in front of a `service.http.connections.Connection`."""

    def __init__(self, loop: Loop, connection: Any, context: ssl.SSLContext) -> None:
        super().__init__(loop, connection, context, None, server_side=True, ssl_handshake_timeout=TIMEOUT)
        self._connection = connection

    def connection_made(self, transport: Any) -> None:
        """Start the handshake."""
        self._connection.accepted(transport)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, which is told only if the handshake was completed."""
        self._connection.lost()
        self._connection = None  # its transport refers to this object
        super().connection_lost(exc)


def factory(use_subprocess: bool = False) -> Callable[[], Loop]:
    """What uvicorn calls for its event loop."""
    return Loop
