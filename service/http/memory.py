"""Memory that is free again goes back to the system, but not between two requests.

By default glibc gives freed blocks back at once, and the next request faults every page in again, which takes longer
than parsing the JSON of 64 pictures; or, in the heaps of threads, not at all, so service.py lets workers have one heap.
"""

import gc
import traceback

from service.media.native import glibc, trim

# Parameters of glibc's mallopt(3).
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT = 64 * 2**20  # bytes at the end of the heap that a worker may keep free
LARGE = 4 * 2**20  # bytes; larger blocks go back to the system when they are freed, and grow without a copy


def keep_free() -> None:
    """Let malloc keep up to KEPT bytes for the next requests, where the C library is glibc."""
    mallopt = glibc("mallopt")
    mallopt(TRIM_THRESHOLD, KEPT)
    mallopt(MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """Free what only circles of references hold, and give all free pages back to the system, where the C library is
    glibc."""
    gc.collect()
    trim()


def release(error: BaseException | None) -> None:
    """Let go of what the functions that raised an error, and those before it, held: the error of a task is in a circle
    of references, with which the body of a request would wait for the garbage collector."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None  # a cleared frame still has its function, and that what it closes over
        error = error.__context__
