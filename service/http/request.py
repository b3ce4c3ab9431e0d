"""A request and a response, as thin over ASGI as they can be: a digit is answered in less time than a framework takes
to route it."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON = b"application/json"
REQUEST_ID = re.compile(rb"[\w.:-]{1,64}")


class Disconnected(Exception):
    """The client has gone before its request was complete; nobody reads an answer."""


class Request:
    """One HTTP request: an ASGI scope, and where its body comes from."""

    __slots__ = ("_headers", "after", "method", "path", "receive", "scope", "told")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope, self.receive = scope, receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self._headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # of a name that comes twice, the first
        self.told: dict[str, Any] = {}  # what a handler tells the log of requests
        self.after: Callable[[], None] | None = None  # what is done once the client has its answer

    def header(self, name: bytes) -> bytes:
        """The value of a header, its name in lower case; empty where there is none."""
        return self._headers.get(name, b"")

    def query(self, name: str) -> str | None:
        """The last value of a query parameter, None where there is none."""
        text = self.scope["query_string"]
        return parse_qs(text.decode("latin-1"), keep_blank_values=True).get(name, [None])[-1] if text else None

    def content_length(self) -> int | None:
        """What Content-Length announces, None where it does not."""
        text = self.header(b"content-length")
        return int(text) if text.isdigit() else None

    async def piece(self) -> tuple[bytes, bool]:
        """The next piece of the body, and whether there are more. Raises Disconnected."""
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        return message.get("body", b""), message.get("more_body", False)


@dataclass(slots=True)
class Response:
    """What is sent back."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: Headers = ()

    async def send(self, send: Send, headers: Headers, without_body: bool = False) -> None:
        """Send it, `headers` added; `without_body` answers a HEAD."""
        content = [(b"content-type", self.content_type), (b"content-length", b"%d" % len(self.body))]
        if self.status == 304:
            content = []
        start = {"type": "http.response.start", "status": self.status, "headers": [*content, *self.headers, *headers]}
        await send(start)
        await send({"type": "http.response.body", "body": b"" if without_body else self.body})
