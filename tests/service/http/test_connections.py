"""What percept relies on in uvicorn, and what it changes."""

import asyncio
import gc
import inspect
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
import uvicorn.config
import uvicorn.protocols.http.auto
import uvloop
from packaging.version import Version
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.http import connection_limits, connections, listening
from service.http.connection_limits import KEEP_ALIVE, MANY, Connections
from service.http.connections import AHEAD, FIELDS, HEAD, URL, Connection, close_after, has_arrived, patch_uvicorn
from service.http.request import Response
from tests.serving import until

# This version and later, but below that one.
CHECKED = Version("0.54"), Version("0.55")
CHECKED_UVLOOP = Version("0.23"), Version("0.24")


def test_the_patches_were_checked_for_these_versions():
    """Others may work too: compare service/http/connections.py with uvicorn's httptools_impl.py, and listening.py with
    uvloop's sslproto.pyx and handles/streamserver.pyx, then update this."""
    assert CHECKED[0] <= Version(uvicorn.__version__) < CHECKED[1]
    assert CHECKED_UVLOOP[0] <= Version(uvloop.__version__) < CHECKED_UVLOOP[1]


def test_attributes_of_uvicorn():
    for method in (
        "connection_made",
        "data_received",
        "on_headers_complete",
        "on_body",
        "on_message_complete",
        "on_response_complete",
        "pause_writing",
        "resume_writing",
        "connection_lost",
    ):
        assert callable(getattr(HttpToolsProtocol, method))
    protocol, cycle = inspect.getsource(HttpToolsProtocol), inspect.getsource(RequestResponseCycle)
    for attribute in (
        "self.timeout_keep_alive = ",
        "self.ws_protocol_class = ",
        "self.cycle: ",
        "self.cycle.body += ",
        "self.flow = FlowControl(transport)",
        "self.flow.pause_reading()",
        "self.headers = []",
        '"headers": self.headers,',
        "self.pipeline.appendleft((self.cycle, app))",
        "self._start_asgi_task(self.cycle, app)",
        "self.transport",
    ):
        assert attribute in protocol
    for attribute in (
        "self.body",
        "self.more_body = ",
        "self.disconnected",
        "self.message_event",
        "self.response_started = ",
        "self.response_complete = ",
        "def receive(",
        "self.transport.write(",
        "self.transport.is_closing()",
        "self.transport.close()",
        "self.flow.write_paused",
        "self.default_headers + list(",
        "if self.access_log:\n                self.access_logger.info(",
        "self.keep_alive",
        "self.waiting_for_100_continue = ",
        "self.on_response()",
    ):
        assert attribute in cycle
    assert "HIGH_WATER_LIMIT" in protocol


def test_patches(monkeypatch):
    monkeypatch.setattr(uvicorn.protocols.http.auto, "AutoHTTPProtocol", uvicorn.protocols.http.auto.AutoHTTPProtocol)
    monkeypatch.setattr(httptools_impl, "HIGH_WATER_LIMIT", httptools_impl.HIGH_WATER_LIMIT)
    monkeypatch.setitem(uvicorn.config.LOOP_FACTORIES, "auto", None)
    patch_uvicorn()
    assert uvicorn.Config(refuse).get_loop_factory() is listening.Loop
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
def refusing(app: Any = refuse, **options: Any) -> Iterator[tuple[tuple[str, int], asyncio.AbstractEventLoop]]:
    """The address of a server of that application, and its event loop."""
    loop = listening.Loop()
    config, state = uvicorn.Config(app, log_config=None), ServerState()
    listener = socket.create_server(("127.0.0.1", 0))
    create = loop.create_server(lambda: Connection(config, state, {}, loop), sock=listener, **options)
    server = loop.run_until_complete(create)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield listener.getsockname(), loop
    finally:
        loop.call_soon_threadsafe(server.close)
        until(lambda: not state.connections, 10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Connections:
    """No connections so far."""
    monkeypatch.setattr(connections, "registry", Connections())
    return connections.registry


SIZE = 2**24  # more than the buffers of a connection hold
HEAD_OF_BODY = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % SIZE


def sent(connection, head, size=SIZE):
    """What comes back to a client that sends all before it reads."""
    connection.sendall(head + b"\r\n")
    for _ in range(size // 2**16):
        connection.sendall(bytes(2**16))
    return b"".join(iter(lambda: connection.recv(2**16), b""))


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HEAD_OF_BODY, b"413"),
        (HEAD_OF_BODY + b"Connection: close\r\n", b"413"),
        (HEAD_OF_BODY.replace(b"1.1", b"1.0"), b"413"),
        (HEAD_OF_BODY + b"Expect: 100-continue\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1000000", b"413"),
        (HEAD_OF_BODY + b"a b: c\r\n", b"400"),
    ],
)
def test_a_client_that_sends_all_before_it_reads(head, status):
    with refusing() as (address, _), socket.create_connection(address, 10) as connection:
        answer = sent(connection, head)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"connection: close\r\n" in answer.lower()


def test_a_client_that_waits_for_100_continue_and_then_sends_nothing():
    with refusing() as (address, _), socket.create_connection(address, 10) as connection:
        assert sent(connection, HEAD_OF_BODY + b"Expect: 100-continue\r\n", 0).startswith(b"HTTP/1.1 413 ")


def test_a_connection_is_used_again_if_the_body_had_arrived():
    with refusing() as (address, _), socket.create_connection(address, 10) as connection:
        for _ in range(2):
            connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
            answer = connection.recv(1000)
            while not answer.endswith(b"refused"):
                answer += connection.recv(1000)
            assert b"connection: close" not in answer


def test_no_more_than_the_rest_is_read(monkeypatch):
    monkeypatch.setattr(connections, "UNREAD_BYTES", SIZE // 4)
    with (
        refusing() as (address, _),
        socket.create_connection(address, 10) as connection,
        pytest.raises((ConnectionResetError, BrokenPipeError)),
    ):
        sent(connection, HEAD_OF_BODY)


def test_who_neither_sends_nor_closes_is_disconnected(registry, monkeypatch):
    with refusing() as (address, loop), socket.create_connection(address, 10) as connection:
        sent(connection, HEAD_OF_BODY, 2**16)
        assert registry.waiting
        time.sleep(0.4)  # a quarter of a second is granted for 64 KiB
        monkeypatch.setattr(connection_limits, "TIMEOUT", 0)
        loop.call_soon_threadsafe(registry.close_late)
        until(lambda: not registry.open, 10)
    assert registry.closed == {"close": 1}


async def echo(scope, receive, send):
    """An application that answers with what it understood."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    names = b",".join(name for name, _ in scope["headers"])
    await Response(b"%s|%s|%s" % (scope["path"].encode(), names, body)).send(send, ())


GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def answers(*parts: bytes, pause: float = 0.02) -> list[bytes]:
    """Statuses and bodies of the answers of `echo` to these bytes, until it closes the connection."""
    with refusing(echo) as (address, _), socket.create_connection(address, 10) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause if len(parts) > 1 else 0)
        received = b"".join(iter(lambda: connection.recv(2**16), b""))
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        found.append(head[9:12] + b" " + received[:length])
        received = received[length:]
    return found


def padded(size: int) -> bytes:
    """A header of that many bytes."""
    return GET % 1 + b"X: " + b"x" * (size - len(GET % 1) - 7) + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (padded(HEAD), b"200"),
        (padded(HEAD + 1), b"431"),
        (GET % 1 + b"X: " + bytes(8 * HEAD).replace(b"\0", b"x"), b"431"),  # refused before it ends
        (GET % 1 + b"a: b\r\n" * (FIELDS - 1) + b"\r\n", b"200"),
        (GET % 1 + b"a: b\r\n" * FIELDS + b"\r\n", b"431"),
        (GET % 1 + b"a:\r\n" * 300, b"431"),
        (b"GET /" + b"u" * (URL - 1) + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"200"),
        (b"GET /" + b"u" * URL + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"414"),
        (b"GET /?" + b"a&" * URL + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"414"),
        (b"\r\n" * HEAD, b"431"),
        (CHUNKED + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n", b"200"),
        (CHUNKED + b"1\r\nx\r\n0\r\nX: " + b"x" * (HEAD - 2**12) + b"\r\n\r\n", b"200"),
        (CHUNKED + b"1\r\nx\r\n0\r\nX: " + b"x" * 2 * HEAD + b"\r\n\r\n", b"431"),
        (CHUNKED + b"1;a=" + b"b" * 2 * HEAD + b"\r\nx\r\n0\r\n\r\n", b"431"),
        (CHUNKED + b"1;aaaaaaaaaaaaaaaaaaaa\r\nx\r\n" * 10_000 + b"0\r\n\r\n", b"431"),
        (CHUNKED + b"1\r\nx\r\nno chunk\r\n", b"400"),
        (POST + b"Transfer-Encoding: gzip\r\n\r\nx", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),  # TLS
    ],
)
def test_limits_of_a_header(request_: bytes, status: bytes) -> None:
    (answer, *rest) = answers(request_ + LAST if status == b"200" else request_)
    assert answer.startswith(status + b" ")
    assert len(rest) == (status == b"200")  # another request is read only after one that was not refused
    if status == b"431":
        assert answer == b'431 {"error":{"code":"header_too_large","message":"%s"}}' % (
            b"the header has more than 65536 bytes or 100 fields"
        )


def test_earlier_requests_are_answered_before_a_refusal() -> None:
    three = b"".join(GET % i + b"\r\n" for i in range(3))
    for wrong, status in ((b"garbage\r\n\r\n", b"400"), (padded(2 * HEAD), b"431"), (CHUNKED + b"x\r\n", b"400")):
        found = answers(three + wrong)
        assert [answer[:6] for answer in found] == [b"200 /0", b"200 /1", b"200 /2", status + b' {"']


def test_trailers_are_no_headers() -> None:
    assert answers(CHUNKED + b"3\r\nabc\r\n0\r\nX-API-Key: k\r\n\r\n" + LAST) == [
        b"200 /|host,transfer-encoding|abc",
        b"200 /last|host,connection|",
    ]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_an_upgrade_is_ignored(protocol: bytes) -> None:
    """With its body, which httptools would take for that protocol. Java's client sends such requests."""
    request = POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nContent-Length: 3\r\n\r\n" % protocol
    expected = [b"200 /|host,connection,content-length|abc", b"200 /last|host,connection|"]
    assert answers(request + b"abc" + LAST) == expected
    assert answers(request, b"a", b"bc" + LAST) == expected


def test_any_division_into_packets_is_read_the_same() -> None:
    text = GET % 1 + b"\r\n" + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + POST + b"Content-Length: 2\r\n\r\nde" + LAST
    expected = answers(text)
    assert [answer[:3] for answer in expected] == [b"200"] * 4
    for size in (1, 7, 50):
        assert answers(*(text[i : i + size] for i in range(0, len(text), size)), pause=0.0005) == expected


def test_requests_wait_unparsed_until_earlier_ones_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    start_next = Connection.start_next

    def watched(self: Connection) -> None:
        waited.append(len(self.pipeline))
        start_next(self)

    monkeypatch.setattr(Connection, "start_next", watched)
    found = answers(b"".join(GET % i + b"\r\n" for i in range(3000)) + LAST)
    assert found[:-1] == [b"200 /%d|host|" % i for i in range(3000)]
    assert max(waited) < connections.SMALL // 16


def test_bodies_in_chunks_of_one_byte_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte is a call of Python, so in an iteration of the loop no more is parsed than what takes 1.5 ms."""
    iterations, bytes_in = [0], Counter[int]()
    on_body = Connection.on_body

    def counted(self: Connection, body: bytes) -> None:
        bytes_in[iterations[0]] += len(body)
        on_body(self, body)

    monkeypatch.setattr(Connection, "on_body", counted)
    n, chunk = 2**15, b"1\r\nx\r\n"
    request = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunk * n + b"0\r\n\r\n"
    with refusing(echo) as (address, loop), ExitStack() as stack:

        def tick() -> None:
            iterations[0] += 1
            loop.call_soon(tick)

        clients = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(8)]
        loop.call_soon_threadsafe(tick)
        for client in clients:
            client.sendall(request)
        for client in clients:
            assert b"".join(iter(lambda: client.recv(2**16), b"")).endswith(b"|" + b"x" * n)  # noqa: B023
    assert bytes_in.total() == len(clients) * n
    assert max(bytes_in.values()) <= (connections.CHUNKS + len(clients) * connections.SMALL) / len(chunk)


async def large(scope: Any, receive: Any, send: Any) -> None:
    """An application whose answers fill the kernel's buffers."""
    await Response(bytes(2**17)).send(send, ())


@contextmanager
def never_reading(address: tuple[str, int], n: int) -> Iterator[list[socket.socket]]:
    """Clients that send 100 requests each, and read nothing."""
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(n)]
        for client in clients:
            client.sendall((GET % 1 + b"\r\n") * 100)
        yield clients


def is_closed(client: socket.socket) -> bool:
    """Whether the server closes or resets the connection."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def on(loop: asyncio.AbstractEventLoop, call: Callable[[], Any]) -> Any:
    """What the call returns in the loop's thread."""

    async def run() -> Any:
        return call()

    return asyncio.run_coroutine_threadsafe(run(), loop).result(10)


def test_who_does_not_read_is_disconnected(registry: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "TIMEOUT", 0.3)
    with refusing(large) as (address, loop), never_reading(address, 5) as clients:
        until(lambda: len(registry.unread) == 5, 10)
        assert on(loop, lambda: sum(size for _, size in registry.unread.values())) < 5 * 2**19
        answered = set()
        while registry.open - answered:
            on(loop, registry.close_late)
            time.sleep(0.05)
            clients[0].recv(2**20)  # one of them does read
            answered = {c for c in registry.open if c.client == clients[0].getsockname()}
            if len(registry.open) == 1:
                break
        assert registry.closed == {"unread": 4}
        assert answered == registry.open
        clients[0].close()
        until(lambda: not registry.open, 10)


def test_unread_answers_have_a_limit_in_all(registry: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "UNSENT", 2**18)
    with refusing(large) as (address, _), never_reading(address, 8):
        until(lambda: registry.closed["unread"] >= 4, 10)
        assert registry.unread


def _bodies(registry: Connections) -> int:
    return sum(connection.waits_for == "body" for connection in list(registry.waiting))


def test_unfinished_bodies_have_a_limit_in_all(registry: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "UNFINISHED", 3 * 2**16)
    with refusing(echo) as (address, loop), ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(6)]
        for i, client in enumerate(clients):
            client.sendall(POST + b"Content-Length: 100000\r\n\r\n" + bytes(2**16))
            sent = i + 1
            until(lambda sent=sent: registry.closed["body"] + _bodies(registry) == sent, 10)
        assert registry.closed == {"body": 4}
        for client in clients[:4]:
            assert is_closed(client)
        for client in clients[4:]:
            client.sendall(bytes(100_000 - 2**16))
            assert client.recv(12) == b"HTTP/1.1 200"
        until(lambda: on(loop, lambda: registry.unfinished) == 0, 10)


def test_the_oldest_connection_makes_room(registry: Connections) -> None:
    registry.most = 3
    with refusing(echo) as (address, _), ExitStack() as stack:
        clients = []
        for i in range(5):
            clients.append(stack.enter_context(socket.create_connection(address, 10)))
            clients[-1].sendall((GET % i + b"\r\n", POST + b"Content-Length: 9\r\n\r\nx", b"", b"GET", GET % i)[i])
            until(lambda i=i: len(registry.open) == min(i + 1, 3), 10)
            time.sleep(0.02)
        until(lambda: registry.closed == {"limit": 2}, 10)
        assert clients[0].recv(100).startswith(b"HTTP/1.1 200")
        assert clients[0].recv(1) == clients[1].recv(1) == b""
        clients[4].sendall(b"\r\n")
        assert clients[4].recv(12) == b"HTTP/1.1 200"


def test_where_all_are_being_answered_no_more_are_accepted(registry: Connections) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        while not over.is_set():
            await asyncio.sleep(0.005)
        await echo(scope, receive, send)

    over = threading.Event()
    registry.most = 2
    with refusing(slow) as (address, _), ExitStack() as stack:
        busy = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(2)]
        for connection in busy:
            connection.sendall(GET % 1 + b"\r\n")
        until(lambda: len(registry.open) == 2 and not registry.waiting, 10)
        with socket.create_connection(address, 10) as refused:
            assert refused.recv(1) == b""
        assert registry.closed == {"refused": 1}
        over.set()
        assert [connection.recv(12) for connection in busy] == [b"HTTP/1.1 200"] * 2
        busy[0].sendall((GET % 1 + b"\r\n") * 2)


def tls(protocol: int) -> ssl.SSLContext:
    """A context that needs no certificate."""
    context = ssl.SSLContext(protocol)
    if protocol == ssl.PROTOCOL_TLS_CLIENT:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("aNULL:@SECLEVEL=0")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def test_a_handshake_that_is_not_completed_makes_room(registry: Connections) -> None:
    """The connection is known before it."""
    registry.most = 2
    context, client = tls(ssl.PROTOCOL_TLS_SERVER), tls(ssl.PROTOCOL_TLS_CLIENT)
    with refusing(echo, ssl=context) as (address, _), ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(3)]
        assert silent[0].recv(1) == b""
        encrypted = stack.enter_context(client.wrap_socket(stack.enter_context(socket.create_connection(address, 10))))
        encrypted.sendall(GET % 1 + b"\r\n")
        assert encrypted.recv(12) == b"HTTP/1.1 200"
        assert silent[1].recv(1) == b""
        assert registry.closed == {"limit": 2}
    until(lambda: not registry.open, 10)


def test_it_is_noted_when_many_connections_have_gone(registry: Connections) -> None:
    with refusing(echo) as (address, _), ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(MANY)]
        until(lambda: len(registry.open) == MANY, 10)
        for client in clients[: MANY // 4]:
            client.close()
        until(lambda: len(registry.open) == MANY - MANY // 4, 10)
        assert not registry.emptied
        for client in clients:
            client.close()
        until(lambda: not registry.open, 10)
        assert registry.emptied


@pytest.mark.parametrize("encrypted", [False, True])
def test_what_a_connection_held_is_freed_when_it_is_closed(encrypted: bool, registry: Connections) -> None:
    """Without the garbage collector, which may not come for hours, whatever the client had sent."""
    begun = POST + b"Content-Length: 9\r\n\r\nx"
    texts = [b"", GET % 1 + b"\r\n", b"GET / HT", begun, (GET % 1 + b"\r\n") * 20 + begun, b"no HTTP\r\n\r\n"]
    left = {Connection, listening.TLS, RequestResponseCycle, ssl.SSLObject}
    gc.collect()
    gc.disable()
    try:
        with refusing(echo, ssl=tls(ssl.PROTOCOL_TLS_SERVER) if encrypted else None) as (address, _):
            for i, text in enumerate(texts * 3):
                with socket.create_connection(address, 10) as client, ExitStack() as stack:
                    if encrypted and i % 3:
                        client = stack.enter_context(tls(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(client))
                    client.sendall(text)
                    if i >= len(texts) and b"HTTP/1.1" in text:
                        client.settimeout(0.05)
                        with suppress(TimeoutError):
                            client.recv(10)
            until(lambda: not registry.open, 10)
            until(lambda: not [found for found in gc.get_objects() if type(found) in left], 2)
    finally:
        gc.enable()
