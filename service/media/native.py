"""Settings of libraries in C that hold for the whole process, changed only while a file is decoded."""

import ctypes
import platform
import sys
import threading
from collections.abc import Callable
from typing import Any


def glibc(function: str) -> Any:
    """A function of the C library by its name; one that does nothing where it has none of that name."""
    return getattr(ctypes.CDLL(None), function, lambda *_: None) if sys.platform == "linux" else lambda *_: None


def trim() -> None:
    """Give all free pages back to the system, where the C library is glibc; it takes some milliseconds. See
    malloc_trim(3)."""
    glibc("malloc_trim")(ctypes.c_size_t(0))


class SharedSetting:
    """A context manager that several threads may be in: the first that enters calls `change`, the last that leaves
    `restore`.

    >>> with SharedSetting(lambda: print("on"), lambda: print("off")) as shared, shared:
    ...     print("decoding")
    on
    decoding
    off
    """

    def __init__(self, change: Callable[[], object], restore: Callable[[], object]) -> None:
        self._change, self._restore = change, restore
        self._lock, self._n = threading.Lock(), 0

    def __enter__(self) -> "SharedSetting":
        with self._lock:
            if not self._n:
                self._change()
            self._n += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n -= 1
            if not self._n:
                self._restore()


def _quiet() -> SharedSetting:
    """See `quiet`. Only glibc documents that stderr may be assigned to; elsewhere nothing is changed."""
    if platform.libc_ver()[0] != "glibc":
        return SharedSetting(lambda: None, lambda: None)
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    stderr, nowhere = ctypes.c_void_p.in_dll(libc, "stderr"), libc.fopen(b"/dev/null", b"w")
    terminal = stderr.value

    def point_to(stream: int | None) -> None:
        stderr.value = stream

    return SharedSetting(lambda: point_to(nowhere), lambda: point_to(terminal))


# Where C code prints to stderr, it prints nowhere: mpg123, inside libsndfile, comments on every damaged MP3, and
# libtiff, inside Pillow, on every damaged TIFF; neither lets that be turned off from Python. Python's sys.stderr writes
# to the file descriptor, and is not affected.
quiet = _quiet()
