"""Admission control: how many requests are answered at once. Further ones are refused immediately, so that those in
flight do not wait long."""

import math
import time

from starlette.exceptions import HTTPException

SLOT = 16 * 2**20  # bytes of a body per slot, since a few long recordings fill the memory too
RETRY = {"retry-after": "1"}  # seconds


class Admission:
    """`capacity` slots for requests in flight. Large ones, whose bodies are still arriving or whose answers take a
    thread, may hold half of them, so that neither slow clients nor long recordings lock out the others."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.in_flight, self.large = capacity, 0, 0
        self.emptied = 0.0  # when a large one ended

    def slots(self, length: int | None, max_bytes: int) -> "Slots":
        """The slots for a request whose body has `length` bytes (None: unknown), of which at most `max_bytes` are read.

        Raises HTTPException 503 if there is no room, before the body is read.
        """
        length = max_bytes if length is None else min(length, max_bytes)
        slots = Slots(self, 1 if length <= SLOT else min(math.ceil(length / SLOT), self.capacity))
        self.check(slots.n)
        return slots

    def check(self, n: int) -> None:
        """Raises HTTPException 503 if fewer than n slots are free."""
        if self.in_flight + n > self.capacity:
            raise HTTPException(503, "too many requests are in flight; try again", RETRY)

    def check_large(self, n: int) -> None:
        """Raises HTTPException 503 if n more slots for large requests would make more than half of all; the first such
        request is always admitted."""
        if self.large and self.large + n > self.capacity // 2:
            raise HTTPException(503, "too many large requests are in flight; try again", RETRY)


class Slots:
    """A request's n slots, held until the end of the `with` block. They are acquired once the body, or enough of it to
    matter for memory, has arrived, so that a client holds slots only for what it has sent."""

    def __init__(self, admission: Admission, n: int) -> None:
        self.admission, self.n, self.acquired, self.large = admission, n, False, False

    def acquire(self, complete: bool = True) -> None:
        """Acquire the slots unless they are held already; `complete` says whether the whole body has arrived. Raises
        HTTPException 503 if too few are free."""
        if not self.acquired:
            self.admission.check(self.n)
            if not complete:
                self.count_as_large()
            self.admission.in_flight += self.n
            self.acquired = True

    def count_as_large(self, large: bool = True) -> None:
        """Whether the request is large: known as it arrives, and again once it is known what it takes. Raises
        HTTPException 503 if it is and there is no room for one more."""
        if large == self.large:
            return
        if large:
            self.admission.check_large(self.n)
        self.admission.large += self.n * (large - self.large)
        if not large:
            self.admission.emptied = time.monotonic()
        self.large = large

    def __enter__(self) -> "Slots":
        return self

    def __exit__(self, *_: object) -> None:
        self.count_as_large(False)
        if self.acquired:
            self.admission.in_flight -= self.n
