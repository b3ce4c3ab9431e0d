"""Files below a folder, and their sizes and times, which tell whether they have changed without reading them."""

import os
from collections.abc import Iterator
from pathlib import Path

Stat = tuple[str, int, int]  # path, bytes, time of the last change in ns; -1 and 0 for a file that is not there


def walk(folder: Path) -> list[Path]:
    """The files below a folder in the order of their paths, those whose name starts with a dot left out."""
    return sorted(Path(entry) for entry in _entries(folder) if entry.is_file())


def stats(folder: Path) -> list[Stat]:
    """Path, size and time of the files that `walk` lists."""
    return sorted(stat(entry) for entry in _entries(folder))


def stat(file: Path | os.DirEntry[str]) -> Stat:
    """Path, size and time of one file."""
    path = readable(file)
    try:
        status = file.stat()
    except OSError:
        return path, -1, 0
    return path, status.st_size, status.st_mtime_ns


def readable(path: Path | os.DirEntry[str]) -> str:
    """The path as text that any report can hold, even if its bytes are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _entries(folder: Path | os.DirEntry[str]) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(entry)
            elif not entry.name.startswith("."):
                yield entry
