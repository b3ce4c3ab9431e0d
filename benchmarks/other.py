"""Another client of a service, in a process of its own: it sends small requests and notes how long each waits."""

import json
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

EVERY = 0.005  # seconds between an answer and the next request
PATIENCE = 120  # seconds for an answer


class Other:
    """The running client, seen from the process that started it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin
        assert process.stdout
        self._process = process
        self._ask: IO[str] = process.stdin
        self._answers: IO[str] = process.stdout

    def waited(self) -> list[float]:
        """Milliseconds that each request since the last call has waited; infinite where the answer was no 200."""
        self._ask.write("\n")
        self._ask.flush()
        waited: list[float] = json.loads(self._answers.readline())
        return waited

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Let it send nothing during the block."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)
            self.waited()


@contextmanager
def another_client(address: tuple[str, int], request: bytes) -> Iterator[Other]:
    """A client that sends `request` to `address`, again and again, until the block ends."""
    command = [sys.executable, __file__, address[0], str(address[1]), request.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Other(process)
        finally:
            process.terminate()


def main() -> None:
    """Send the request that the command line gives; for each line of standard input, write what was noted since."""
    host, port, request = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
    waited: list[float] = []
    connection: socket.socket | None = None
    while True:
        if select.select([sys.stdin], [], [], EVERY)[0]:
            if not sys.stdin.readline():
                return
            print(json.dumps(waited), flush=True)
            waited = []
        start = time.perf_counter()
        try:
            connection = connection or socket.create_connection((host, port), PATIENCE)
            connection.sendall(request)
            answered = answer(connection).startswith(b"HTTP/1.1 200")
        except OSError:
            answered = False
        if not answered and connection:
            connection.close()
            connection = None
        waited.append((time.perf_counter() - start) * 1000 if answered else float("inf"))


def answer(connection: socket.socket) -> bytes:
    """The next answer, whole; empty if the connection has been closed."""
    received = b""
    while part := connection.recv(2**16):
        received += part
        head, blank, body = received.partition(b"\r\n\r\n")
        if blank and len(body) >= int(head.partition(b"content-length: ")[2].partition(b"\r")[0]):
            return received
    return b""


if __name__ == "__main__":
    main()
