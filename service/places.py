"""How many requests are answered at once: more are turned away at once, so that those inside do not wait long."""

import asyncio
import math

from service.refusal import Refusal

PLACE = 32 * 2**20  # bytes of a body that count as a request in flight: few long recordings fill the memory too
BUSY = (b"retry-after", b"1")


class Places:
    """`most` places for requests in flight."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    async def take(self, length: int | None, max_bytes: int) -> int:
        """Places for a request with a body of `length` bytes (None: it does not tell), of which at most `max_bytes` are
        read; how many, to be given back. Raises Refusal 503 if too few are left."""
        length = max_bytes if length is None else min(length, max_bytes)
        places = 1 if length <= PLACE else min(math.ceil(length / PLACE), self.most)
        if self.taken + places > self.most:
            raise Refusal(503, "too many requests are in flight; try again", BUSY)
        self.taken += places
        await asyncio.sleep(0)  # all that have come meanwhile are counted before the first of them is answered
        return places

    def give_back(self, places: int) -> None:
        """Others may have them."""
        self.taken -= places
