"""Memory that this process gives back to the system, or does not take.

`import torch` alone takes half a gigabyte, so what a stage leaves behind for the next one counts. glibc keeps freed
blocks that it may need again, in a heap of its own for each thread; see mallopt(3) and malloc_trim(3).
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ARENA_MAX = -8  # the parameter of mallopt


def one_heap() -> None:
    """Let all threads take their memory from one heap, where the C library is glibc: what one has freed, another uses
    again."""
    _glibc("mallopt")(ARENA_MAX, 1)


def give_back() -> None:
    """Give all free pages back to the system, where the C library is glibc; it takes some milliseconds."""
    _glibc("malloc_trim")(ctypes.c_size_t(0))


def _glibc(function: str) -> Any:
    return getattr(ctypes.CDLL(None), function, lambda *_: None) if sys.platform == "linux" else lambda *_: None


@contextmanager
def without(name: str) -> Iterator[None]:
    """Let imports in the block fail for a library that others use only where it happens to be installed.

    Example
    -------
    >>> with without("tabnanny"):
    ...     import tabnanny
    Traceback (most recent call last):
    ModuleNotFoundError: import of tabnanny halted; None in sys.modules
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
