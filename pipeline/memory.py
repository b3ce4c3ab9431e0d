"""Less memory for a command: one heap for all threads, and no library that another one imports only if it is there.

`import torch` alone takes half a gigabyte, so what a stage leaves behind for the next one counts. glibc keeps freed
blocks that it may need again, in a heap of its own for each thread; see mallopt(3).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from service.media.native import glibc

ARENA_MAX = -8  # the parameter of mallopt


def one_heap() -> None:
    """Let all threads take their memory from one heap, where the C library is glibc: what one has freed, another uses
    again."""
    glibc("mallopt")(ARENA_MAX, 1)


@contextmanager
def block_import(name: str) -> Iterator[None]:
    """Let imports in the block fail for a library that others use only where it happens to be installed.

    Example
    -------
    >>> with block_import("tabnanny"):
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
