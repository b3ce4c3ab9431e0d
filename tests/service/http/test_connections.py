"""What percept relies on in uvicorn, and what it changes."""

import asyncio
import inspect
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn.protocols.http.auto
from packaging.version import Version
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.http import connections
from service.http.connections import AHEAD, KEEP_ALIVE, Connection, close_after, has_arrived, patch_uvicorn
from service.http.request import Response
from tests.serving import until

CHECKED = Version("0.54"), Version("0.55")  # of uvicorn: this version and later, but below that one


def test_the_patches_were_checked_for_this_uvicorn():
    """Another may work too: compare service/http/connections.py with its httptools_impl.py, then update CHECKED."""
    assert CHECKED[0] <= Version(uvicorn.__version__) < CHECKED[1]


def test_attributes_of_uvicorn():
    for method in (
        "connection_made",
        "data_received",
        "on_headers_complete",
        "on_response_complete",
        "connection_lost",
    ):
        assert callable(getattr(HttpToolsProtocol, method))
    protocol, cycle = inspect.getsource(HttpToolsProtocol), inspect.getsource(RequestResponseCycle)
    for attribute in (
        "self.timeout_keep_alive = ",
        "self.cycle: ",
        "self.cycle.body += ",
        "self.transport",
    ):
        assert attribute in protocol
    for attribute in (
        "self.body",
        "self.more_body = ",
        "self.response_complete = ",
        "def receive(",
        "self.transport.write(",
        "self.transport.is_closing()",
        "self.transport.close()",
    ):
        assert attribute in cycle
    assert "HIGH_WATER_LIMIT" in protocol


def test_patches(monkeypatch):
    monkeypatch.setattr(uvicorn.protocols.http.auto, "AutoHTTPProtocol", uvicorn.protocols.http.auto.AutoHTTPProtocol)
    monkeypatch.setattr(httptools_impl, "HIGH_WATER_LIMIT", httptools_impl.HIGH_WATER_LIMIT)
    patch_uvicorn()
    assert uvicorn.protocols.http.auto.AutoHTTPProtocol is Connection
    assert httptools_impl.HIGH_WATER_LIMIT == AHEAD
    assert KEEP_ALIVE > 60


def test_whether_a_body_has_arrived():
    class Cycle:
        more_body = False

        async def receive(self):
            return {}

    cycle = Cycle()
    assert has_arrived(cycle.receive)
    cycle.more_body = True
    assert not has_arrived(cycle.receive)
    assert not has_arrived(test_patches)


async def refuse(scope, receive, send):
    """An application that reads no body."""
    await Response(b"refused", 413).send(send, close_after(receive))


@contextmanager
def refusing():
    """The address of a server of that application, and its event loop."""
    loop = asyncio.new_event_loop()
    config, state = uvicorn.Config(refuse, log_config=None), ServerState()
    create = loop.create_server(lambda: Connection(config, state, {}, loop), "127.0.0.1", 0)
    server = loop.run_until_complete(create)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname(), loop
    finally:
        loop.call_soon_threadsafe(server.close)
        until(lambda: not state.connections, 10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


SIZE = 2**24  # more than the buffers of a connection hold
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % SIZE


def sent(connection, head, size=SIZE):
    """What comes back to a client that sends all before it reads."""
    connection.sendall(head + b"\r\n")
    for _ in range(size // 2**16):
        connection.sendall(bytes(2**16))
    return b"".join(iter(lambda: connection.recv(2**16), b""))


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HEAD, b"413"),
        (HEAD + b"Connection: close\r\n", b"413"),
        (HEAD.replace(b"1.1", b"1.0"), b"413"),
        (HEAD + b"Expect: 100-continue\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1000000", b"413"),
        (HEAD + b"a b: c\r\n", b"400"),
    ],
)
def test_a_client_that_sends_all_before_it_reads(head, status):
    with refusing() as (address, _), socket.create_connection(address, 10) as connection:
        answer = sent(connection, head)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"connection: close\r\n" in answer.lower()


def test_a_client_that_waits_for_100_continue_and_then_sends_nothing():
    with refusing() as (address, _), socket.create_connection(address, 10) as connection:
        assert sent(connection, HEAD + b"Expect: 100-continue\r\n", 0).startswith(b"HTTP/1.1 413 ")


def test_a_connection_is_used_again_if_the_body_had_arrived():
    with refusing() as (address, _), socket.create_connection(address, 10) as connection:
        for _ in range(2):
            connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
            answer = connection.recv(1000)
            while not answer.endswith(b"refused"):
                answer += connection.recv(1000)
            assert b"connection: close" not in answer


def test_no_more_than_the_rest_is_read(monkeypatch):
    monkeypatch.setattr(connections, "REST", SIZE // 4)
    with (
        refusing() as (address, _),
        socket.create_connection(address, 10) as connection,
        pytest.raises((ConnectionResetError, BrokenPipeError)),
    ):
        sent(connection, HEAD)


def test_who_neither_sends_nor_closes_is_disconnected():
    with refusing() as (address, loop), socket.create_connection(address, 10) as connection:
        sent(connection, HEAD, 2**16)
        assert Connection.waiting
        time.sleep(0.4)  # a quarter of a second is granted for 64 KiB
        loop.call_soon_threadsafe(connections.close_waiting, 0)
        until(lambda: not Connection.waiting, 10)
