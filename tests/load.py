"""Load on a service: raw HTTP over many connections at once, since a client library takes longer for a request than the
service does for a digit."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field

import uvloop

TICK = 0.002  # seconds between two checks for requests of an open loop that are due


@dataclass
class Outcome:
    """Counts and times of requests and their answers."""

    sent: int = 0
    lost: int = 0  # connections that were closed while waiting for an answer
    seconds: float = 0  # from the first request to the last answer
    statuses: Counter[int] = field(default_factory=Counter)
    waited: dict[int, list[float]] = field(default_factory=dict)  # status → seconds until each answer
    bodies: Counter[bytes] = field(default_factory=Counter)  # of answers with 200
    refusals: Counter[bytes] = field(default_factory=Counter)  # whole answers with another status, without their ids

    def rate(self, status: int = 200) -> float:
        """Answers a second."""
        return self.statuses[status] / self.seconds


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A request with a body."""
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str) -> bytes:
    """A request without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


class Connection(asyncio.Protocol):
    """One request at a time; `done` is called after each answer, and `ended` is set when the connection closes."""

    transport: asyncio.Transport

    def __init__(self, outcome: Outcome, done: Callable[["Connection"], None]) -> None:
        self.outcome, self.done = outcome, done
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received, self.start = bytearray(), 0.0

    def send(self, request: bytes) -> None:
        """Send a request."""
        self.start = time.perf_counter()
        self.outcome.sent += 1
        self.transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready to send."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        self.received += data
        head = self.received.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self.received.index(b"content-length: ") + 16
        length = int(self.received[at : self.received.index(b"\r", at)])
        if len(self.received) < head + 4 + length:
            return
        answer = bytes(self.received)
        self.received.clear()
        status, outcome = int(answer[9:12]), self.outcome
        outcome.statuses[status] += 1
        outcome.waited.setdefault(status, []).append(time.perf_counter() - self.start)
        self.start = 0.0
        if status == 200:
            outcome.bodies[answer[head + 4 :]] += 1
        else:
            known = [line for line in answer[:head].split(b"\r\n") if not line.startswith((b"date:", b"x-request-id:"))]
            outcome.refusals[b"\r\n".join([*known, b"", answer[head + 4 :]])] += 1
        self.done(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has closed it, or this one."""
        self.outcome.lost += self.start > 0
        if not self.ended.done():
            self.ended.set_result(None)


def closed_loop(url: str, requests: Sequence[bytes], connections: int, seconds: float = 0, n: int = 0) -> Outcome:
    """Each connection sends its next request once the last one is answered, for `seconds` or until there are `n`
    answers in all. A connection that ends is opened again."""

    async def run(outcome: Outcome) -> None:
        loop, supply, start = asyncio.get_running_loop(), itertools.cycle(requests), time.perf_counter()
        until = loop.time() + seconds

        def more() -> bool:
            return loop.time() < until or sum(outcome.statuses.values()) < n

        def again(connection: Connection) -> None:
            if more():
                connection.send(next(supply))
            else:
                connection.transport.close()

        async def keep_going() -> None:
            while more():
                connection = await _connect(url, outcome, again)
                if connection is not None:
                    connection.send(next(supply))
                    await connection.ended

        await asyncio.gather(*(keep_going() for _ in range(connections)))
        outcome.seconds = time.perf_counter() - start

    return _run(run)


def open_loop(url: str, request: bytes, connections: int, rate: float, seconds: float) -> Outcome:
    """`rate` requests per second, however long the answers take, as long as there is an idle connection. All
    connections are accepted before the first request."""

    async def run(outcome: Outcome) -> None:
        idle: list[Connection] = []

        async def all_answered() -> None:
            deadline = time.perf_counter() + 60
            while len(idle) < len(every) and time.perf_counter() < deadline:
                await asyncio.sleep(TICK)

        made = [await _connect(url, Outcome(), idle.append) for _ in range(connections)]
        every = [connection for connection in made if connection is not None]
        for connection in every:  # open for the kernel, but libuv accepts one per iteration of the loop
            connection.send(get("/livez"))
        await all_answered()
        for connection in every:
            connection.outcome = outcome
        start = time.perf_counter()
        while (now := time.perf_counter() - start) < seconds:
            for _ in range(min(int(now * rate) - outcome.sent, len(idle))):
                idle.pop(0).send(request)
            await asyncio.sleep(TICK)
        await all_answered()
        outcome.seconds = time.perf_counter() - start
        for connection in every:
            connection.transport.close()

    return _run(run)


async def _connect(url: str, outcome: Outcome, done: Callable[[Connection], None]) -> Connection | None:
    host, _, port = url.removeprefix("http://").partition(":")
    try:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(outcome, done), host, int(port)
        )
    except OSError:
        await asyncio.sleep(0.05)
        return None
    return connection


def _run(main: Callable[[Outcome], Coroutine[None, None, None]]) -> Outcome:
    outcome = Outcome()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(outcome))
    return outcome
