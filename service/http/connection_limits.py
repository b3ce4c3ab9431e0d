"""The open connections of a worker: how many there may be, which of them wait for their client, and which are closed
because they have waited too long, or because another one needs their place.

Whether a client sends or reads too slowly is judged by the same rule: it may take `TIMEOUT`, and a second more for each
`SLOWEST` bytes.
"""

import sys
import time
from collections import Counter, deque
from typing import Any, Protocol

TIMEOUT = 20.0  # for a header to arrive, for a client to read what is sent, or to close a connection
SLOWEST = 256 * 2**10  # bytes a second, at least, at which a body arrives and an answer is read
# Seconds that a connection may be idle between two requests. Clients and load balancers close theirs after 60 at most,
# and must be the first to do so: a request sent while the server closes the connection is lost.
KEEP_ALIVE = 65.0
MOST = 4096  # connections of a worker
RESERVE = 96  # file descriptors for everything else: a worker has 28 open, and a connection that is closed has its own
# until the next iteration of the loop
MANY = 64  # open connections, from which on the memory that they held goes back to the system
UNSENT = 128 * 2**20  # bytes of answers that all clients together may leave unread
UNFINISHED = 128 * 2**20  # bytes of bodies that are still arriving and hold no slot yet

HEADER, IDLE, BODY, CLOSE = "header", "idle", "body", "close"  # what a connection waits for; IDLE: another request
REASONS = (HEADER, IDLE, BODY, CLOSE, "limit", "refused", "unread", "too_large", "invalid")  # why one may be closed


class Connection(Protocol):
    """What this module knows of a connection."""

    socket: Any  # the transport of the socket itself, which TLS hides behind its own
    transport: Any
    timeout_keep_alive: int  # uvicorn's option
    waits_for: str  # one of the four, while it is in `waiting`
    unfinished: int  # bytes of an incomplete body, as far as they hold no slot


class Connections:
    """All connections of this worker.

    Attributes
    ----------
    waiting : since when a connection waits for its client, by time.monotonic(), moved on by what arrives
    unread : the same for those whose answers are not read, and how many bytes of them are left
    queue : those with a request that arrived before an earlier one was answered, and whose turn comes next
    turns : those of whose chunked bodies more has arrived, and whose turn comes next
    closed : how many connections were closed, or refused, by reason
    emptied : when half of many connections had been closed, by time.monotonic()
    """

    def __init__(self) -> None:
        self.most = _most()
        self.open: set[Connection] = set()
        self.waiting: dict[Connection, float] = {}
        self.unread: dict[Connection, tuple[float, int]] = {}
        self.queue: deque[Any] = deque()
        self.turns: deque[Any] = deque()
        self.closed: Counter[str] = Counter()
        self.unfinished = 0  # bytes of all incomplete bodies, as far as they hold no slot
        self.emptied, self._peak = 0.0, 0

    def add(self, connection: Connection) -> None:
        """A connection that was accepted, and waits for its first header. Where there are as many as may be, the one
        that has waited longest for its client, whatever for, is closed; if none waits, one that sent further requests
        before it had an answer; or else this one."""
        if len(self.open) >= self.most and not self._close_oldest():
            return self._abort(connection, "refused")
        self.open.add(connection)
        self._peak = max(self._peak, len(self.open))
        self.wait(connection, HEADER)

    def remove(self, connection: Connection) -> None:
        """A connection that is closed."""
        self.open.discard(connection)
        self.unread.pop(connection, None)
        self.stop(connection)
        if self._peak >= MANY and len(self.open) <= self._peak // 2:
            self.emptied, self._peak = time.monotonic(), len(self.open)

    def wait(self, connection: Connection, what: str) -> None:
        """It waits for its client from now on."""
        connection.waits_for = what
        self.waiting[connection] = time.monotonic()

    def stop(self, connection: Connection) -> None:
        """What it waited for has arrived."""
        self.waiting.pop(connection, None)
        if connection.unfinished:
            self.unfinished -= connection.unfinished
            connection.unfinished = 0

    def arrived(self, connection: Connection, size: int) -> None:
        """So many bytes of what it waits for have arrived."""
        if connection in self.waiting:
            self.waiting[connection] = min(self.waiting[connection] + size / SLOWEST, time.monotonic())

    def part_arrived(self, connection: Connection, size: int, ahead: int) -> None:
        """So many bytes of an incomplete body have arrived; from its `ahead`th on, they hold a slot. Too many bytes
        without one cost the slowest of these clients its connection."""
        if connection.waits_for == BODY and connection in self.waiting:
            self.arrived(connection, size)
        else:
            self.wait(connection, BODY)
        new = min(size, ahead - connection.unfinished)
        connection.unfinished += new
        self.unfinished += new
        if self.unfinished > UNFINISHED:
            bodies = [connection for connection in self.waiting if connection.unfinished]
            self._abort(min(bodies, key=self.waiting.__getitem__), BODY)

    def not_sent(self, connection: Connection, size: int) -> None:
        """So many bytes of answers wait for the client to read. Too many in all cost the slowest client its
        connection."""
        self.unread[connection] = time.monotonic(), size
        while len(self.unread) > 1 and sum(size for _, size in self.unread.values()) > UNSENT:
            self._abort(min(self.unread, key=lambda connection: self.unread[connection][0]), "unread")

    def close_late(self) -> None:
        """Close the connections whose clients have neither sent nor read for too long."""
        now = time.monotonic()
        for connection, since in list(self.waiting.items()):
            what = connection.waits_for
            if what == IDLE and now - since > max(KEEP_ALIVE, connection.timeout_keep_alive):
                self._close(connection)
            elif what in (HEADER, CLOSE) and now - since > TIMEOUT:
                self._abort(connection, what)
        for connection in list(self.open):
            self._look_at_answers(connection, now)

    def _look_at_answers(self, connection: Connection, now: float) -> None:
        size = connection.socket.get_write_buffer_size()
        if not size:
            self.unread.pop(connection, None)
            return
        since, before = self.unread.get(connection, (now, size))
        since = min(since + max(before - size, 0) / SLOWEST, now)
        self.unread[connection] = since, size
        if now - since > TIMEOUT:
            self._abort(connection, "unread")

    def _close_oldest(self) -> bool:
        since = self.waiting | {connection: since for connection, (since, _) in self.unread.items()}
        sends_too_much = next((connection for connection in self.queue if connection in self.open), None)
        oldest = min(since, key=since.__getitem__) if since else sends_too_much
        if oldest is None:
            return False
        self._abort(oldest, "limit")
        return True

    def _close(self, connection: Connection) -> None:
        """Close an idle connection, as a client expects it."""
        self.closed[IDLE] += 1
        self.waiting.pop(connection)
        connection.transport.close()

    def _abort(self, connection: Connection, reason: str) -> None:
        self.closed[reason] += 1
        self.remove(connection)
        connection.socket.abort()


def _most() -> int:
    """How many connections there may be: MOST, or as many as the limit of file descriptors leaves."""
    if sys.platform == "win32":
        return MOST
    import resource

    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if descriptors == resource.RLIM_INFINITY else min(MOST, max(descriptors - RESERVE, descriptors // 2))
