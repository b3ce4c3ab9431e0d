"""What glibc's allocator does with memory that is free: by default it gives it back, so that the next request faults in
every page again, which takes longer than to parse the JSON of 64 pictures."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEPT = 64 * 2**20  # bytes at the heap's end that a worker may hold free
LARGE = 4 * 2**20  # bytes of a block that is given back at once


def keep() -> None:
    """Let this process keep up to `KEPT` bytes for requests to come; nothing where there is no glibc."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(TRIM_THRESHOLD, KEPT)
        mallopt(MMAP_THRESHOLD, LARGE)
