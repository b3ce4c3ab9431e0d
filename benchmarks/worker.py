"""What a request costs the worker of a running service: its processor time, its memory, and how long others wait."""

import multiprocessing
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

EVERY = 0.005  # seconds between an answer to the other client and its next request
PATIENCE = 120  # seconds for an answer


class Worker:
    """Counters of a worker process; the event loop runs in its main thread."""

    def __init__(self, pid: int) -> None:
        self.pid, self._proc = pid, Path(f"/proc/{pid}")

    def loop_seconds(self) -> float:
        """Processor time of the event loop's thread."""
        return int((self._proc / f"task/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    def seconds(self) -> float:
        """Processor time of all threads, also of those that have ended."""
        return time.clock_gettime(~self.pid << 3 | 2)  # CPUCLOCK_SCHED of a process, as clock_getcpuclockid(3) makes it

    def resident_mb(self) -> float:
        """Resident memory in MB."""
        return self._mb("VmRSS")

    def peak_mb(self) -> float:
        """The most resident memory in MB since `forget_peak`."""
        return self._mb("VmHWM")

    def forget_peak(self) -> None:
        """Let `peak_mb` begin anew."""
        (self._proc / "clear_refs").write_text("5")

    def _mb(self, key: str) -> float:
        lines = (self._proc / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024 / 1e6


class Other:
    """Another client, in a process of its own, which posts one small picture after another and notes its waits."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def waited(self) -> list[float]:
        """Milliseconds that each request since the last call has waited."""
        self._pipe.send(None)
        waited: list[float] = self._pipe.recv()
        return waited


@contextmanager
def another_client(address: tuple[str, int], request: bytes) -> Iterator[Other]:
    """A client that posts `request` to `address` until the block ends."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_post, args=(theirs, address, request), daemon=True)
    process.start()
    ours.recv()
    try:
        yield Other(ours)
    finally:
        process.terminate()
        process.join()


def _post(pipe: Connection, address: tuple[str, int], request: bytes) -> None:
    waited: list[float] = []
    connection: socket.socket | None = None
    pipe.send(None)
    while True:
        if pipe.poll(EVERY):
            pipe.recv()
            pipe.send(waited)
            waited = []
        start = time.perf_counter()
        try:
            connection = connection or socket.create_connection(address, PATIENCE)
            connection.sendall(request)
            answered = _answer(connection).startswith(b"HTTP/1.1 200")
        except OSError:
            answered = False
        if not answered and connection:
            connection.close()
            connection = None
        waited.append((time.perf_counter() - start) * 1000 if answered else np.inf)


def _answer(connection: socket.socket) -> bytes:
    """The next answer, whole; empty if the connection has been closed."""
    answer = b""
    while part := connection.recv(2**16):
        answer += part
        head, blank, body = answer.partition(b"\r\n\r\n")
        if blank and len(body) >= int(head.partition(b"content-length: ")[2].partition(b"\r")[0]):
            return answer
    return b""


def exchange(address: tuple[str, int], request: bytes) -> int:
    """Send a request and read until the other side closes the connection: the status of the first answer, 0 if there is
    none."""
    head = b""
    with socket.create_connection(address, PATIENCE) as connection, selectors.DefaultSelector() as selector:
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        rest, deadline = memoryview(request), time.monotonic() + PATIENCE
        with suppress(ConnectionError):
            while time.monotonic() < deadline and (events := selector.select(PATIENCE)):
                if events[0][1] & selectors.EVENT_READ:
                    part = connection.recv(2**20)
                    if not part:
                        break
                    head = head or part
                elif rest:
                    rest = rest[connection.send(rest[: 2**20]) :]
                    if not rest:
                        selector.modify(connection, selectors.EVENT_READ)
    return int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else 0
