"""Responses that are written without uvicorn's `send` are those that it would have written."""

import logging
import socket
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from service.http.request import Response
from tests.service.http.test_connections import refusing

ways: list[bool] = []  # of the last requests: whether uvicorn's `send` has not looked at the headers


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers /uvicorn through another function, so that uvicorn's `send` has to do it."""

    async def through(message: Any) -> None:
        await send(message)

    while (await receive()).get("more_body"):
        pass
    value = b"a\r\nb: c" if scope["query_string"] else b"a"
    response = Response(b"x" * 100_000, headers=((b"x-request-id", value),))
    await response.send(through if scope["path"] == "/uvicorn" else send, (), scope["method"] == "HEAD")
    ways.append(send.__self__.chunked_encoding is None)  # type: ignore[attr-defined]


def answers(request: bytes) -> bytes:
    """What comes back until the connection is closed."""
    ways.clear()
    with refusing(application) as (address, _), socket.create_connection(address, 10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(2**16), b""))


GET = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
LAST = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "way"),
    [
        (GET, [True]),
        (POST, [True]),
        (POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"), [True]),
        (b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", [True]),
        (GET.replace(b"GET", b"HEAD"), [False]),
        (GET.replace(b"%b", b"%b?split"), []),  # uvicorn raises an error, and closes the connection
        (b"", []),
    ],
)
def test_both_write_the_same(request_: bytes, way: list[bool], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "uvicorn.access")  # another test may have turned uvicorn's own log on
    request_ += LAST
    in_parts = answers(request_.replace(b"%b", b"/uvicorn"))
    assert not any(ways)
    assert answers(request_.replace(b"%b", b"/")) == in_parts
    assert ways == ([] if b"split" in request_ else [*way, False])
    assert in_parts.count(b"HTTP/1.1 200 ") == len(ways)


def test_uvicorns_log_of_requests_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "uvicorn.access")
    answers((GET + LAST).replace(b"%b", b"/logged"))
    assert sum("GET /logged" in record.getMessage() for record in caplog.records) == len(ways) == 2
    assert not any(ways)
