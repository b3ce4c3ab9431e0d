"""How many requests are answered at once: more are turned away at once, so that those inside do not wait long."""

import math

from service.errors import Refusal

PLACE = 32 * 2**20  # bytes of a body that count as a request in flight: few long recordings fill the memory too
BUSY = (b"retry-after", b"1")


class Places:
    """`most` places for requests in flight, of which bodies that are still arriving have half: clients that send large
    ones slowly keep nobody else out."""

    def __init__(self, most: int) -> None:
        self.most, self.taken, self.arriving = most, 0, 0

    def check(self, n: int) -> None:
        """Raises Refusal 503 if fewer than n are left."""
        if self.taken + n > self.most:
            raise Refusal(503, "too many requests are in flight; try again", BUSY)

    def check_arriving(self, n: int) -> None:
        """Raises Refusal 503 if fewer than n are left for a body that is still arriving; one there may always be."""
        if self.arriving and self.arriving + n > self.most // 2:
            raise Refusal(503, "too many large bodies are arriving; try again", BUSY)

    def entry(self, length: int | None, max_bytes: int) -> "Entry":
        """For a request with a body of `length` bytes (None: it does not tell), of which at most `max_bytes` are read.
        Raises Refusal 503 if there is no room for it, before its body is read."""
        length = max_bytes if length is None else min(length, max_bytes)
        entry = Entry(self, 1 if length <= PLACE else min(math.ceil(length / PLACE), self.most))
        self.check(entry.n)
        return entry


class Entry:
    """A request's places: taken once its body has come, or so much of it that it fills memory, and given back at the
    end of the `with` block. So a client holds a place only for what it has sent."""

    def __init__(self, places: Places, n: int) -> None:
        self.places, self.n, self.inside, self.arriving = places, n, False, False

    def take(self, complete: bool = True) -> None:
        """Take the places, if it has not; `complete` tells whether the body is there. Raises Refusal 503 if too few are
        left by now."""
        if not self.inside:
            self.places.check(self.n)
            if not complete:
                self.places.check_arriving(self.n)
                self.places.arriving += self.n
                self.arriving = True
            self.places.taken += self.n
            self.inside = True
        elif complete:
            self._has_arrived()

    def _has_arrived(self) -> None:
        if self.arriving:
            self.places.arriving -= self.n
            self.arriving = False

    def __enter__(self) -> "Entry":
        return self

    def __exit__(self, *_: object) -> None:
        self._has_arrived()
        if self.inside:
            self.places.taken -= self.n
