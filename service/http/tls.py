"""uvloop's TLS, with connections that are known before their handshake: else a client that never completes it would
hold a descriptor that nobody counts."""

import ssl
from collections.abc import Callable
from typing import Any

import uvloop
from uvloop.loop import SSLProtocol  # type: ignore[attr-defined]  # not in its stubs

from service.http.waiting import SECONDS

FACTORY = f"{__name__}:factory"  # as uvicorn wants it


class Loop(uvloop.Loop):
    """uvloop's loop, whose servers use `TLS`."""

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], *args: Any, ssl: ssl.SSLContext | None = None, **options: Any
    ) -> Any:
        """uvloop's server; with `ssl`, the protocols are given their socket by `accepted`."""
        factory = protocol_factory if ssl is None else lambda: TLS(self, protocol_factory(), ssl)
        return await super().create_server(factory, *args, **options)


class TLS(SSLProtocol):  # type: ignore[misc]
    """TLS in front of a `service.http.connections.Connection`."""

    def __init__(self, loop: Loop, connection: Any, context: ssl.SSLContext) -> None:
        super().__init__(loop, connection, context, None, server_side=True, ssl_handshake_timeout=SECONDS)
        self._connection = connection

    def connection_made(self, transport: Any) -> None:
        """Start the handshake."""
        self._connection.accepted(transport)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, which is told only if the handshake was completed."""
        self._connection.lost()
        super().connection_lost(exc)


def factory(use_subprocess: bool = False) -> Callable[[], Loop]:
    """What uvicorn calls for its event loop."""
    return Loop
