"""What a request costs the worker of a running service: its processor time and its memory."""

import selectors
import socket
import time
from contextlib import suppress
from pathlib import Path

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
