"""How a response is written to its connection."""

import logging
from collections.abc import Iterable
from typing import Any

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle


def send_whole(send: Send, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
    """Write a whole response of status 200, whose Content-Length is among its headers, to uvicorn's connection; False,
    and nothing is written, where uvicorn's `send` has to do it, since it waits for the client, closes the connection,
    or refuses a header. It looks at each header several times, which takes a third as long as decoding a small picture.
    """
    cycle: Any = getattr(send, "__self__", None)
    if (
        type(cycle) is not RequestResponseCycle
        or cycle.more_body
        or cycle.response_started
        or cycle.disconnected
        or not cycle.keep_alive
        or cycle.flow.write_paused
        or (cycle.access_log and cycle.access_logger.isEnabledFor(logging.INFO))
    ):
        return False
    lines = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]
    head = b"".join([STATUS_LINE[200], *lines, b"\r\n"])
    if head.count(b"\n") != len(lines) + 2:
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.writelines((head, body))
    cycle.message_event.set()
    cycle.on_response()
    return True
