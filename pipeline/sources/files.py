"""Files below a folder, and their sizes and times, which tell whether they have changed without reading them."""

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from pipeline.errors import UserError

Stat = tuple[str, int, int]  # path, bytes, time of the last change in ns; -1 and 0 for a file that is not there
Identity = tuple[int, int]  # of a folder, whatever links lead to it: device and inode

WRITTEN_OUT = re.compile(rb"\\x([89a-f][0-9a-f])")  # a byte that is no UTF-8, as `readable` has it

# What systems and programs leave in folders besides names with a dot, in lower case.
CLUTTER = frozenset((
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "@eadir",
    "#recycle", "$recycle.bin", "recycler", "system volume information", "lost+found",
))  # fmt: skip


def walk(folder: Path, others: Collection[Identity | None] = ()) -> list[Path]:
    """The files below a folder in the order of their paths, hidden files and folders left out.

    Links to folders are followed, but each folder is listed once, and none that contains `folder`. A link without a
    target and a folder that cannot be listed count as files: reading them tells what is wrong.

    Parameters
    ----------
    others : folders that no link may lead to, since they are listed on their own
    """
    return sorted(Path(entry) for entry in _files(folder, others))


def stats(folder: Path, others: Collection[Identity | None] = ()) -> list[Stat]:
    """Path, size and time of the files that `walk` lists."""
    return sorted(stat(entry) for entry in _files(folder, others))


def folders(folder: Path) -> list[Path]:
    """The visible folders in a folder in the order of their names, also links to folders that do not contain it.

    Raises
    ------
    OSError : the folder cannot be listed
    """
    above = _containing(folder)
    return [Path(entry) for entry in _visible(folder) if _is_folder(entry) and identity(entry) not in above]


def lost(folder: Path) -> list[Path]:
    """The links in a folder that may have led to folders: they have no target, and their names no suffix."""
    links = [Path(entry) for entry in _visible(folder) if entry.is_symlink()]
    return [link for link in links if not link.suffix and identity(link) is None]


def loose(folder: Path) -> list[Path]:
    """The visible files in a folder, without those in its folders, in the order of their names."""
    return [Path(entry) for entry in _visible(folder) if not _is_folder(entry)]


def identity(folder: Path | os.DirEntry[str]) -> Identity | None:
    """What tells a folder from any other; None if it is not there."""
    try:
        status = Path(folder).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def stat(file: Path | os.DirEntry[str]) -> Stat:
    """Path, size and time of one file."""
    path = readable(file)
    try:
        status = file.stat()
    except OSError:
        return path, -1, 0
    return path, status.st_size, status.st_mtime_ns


def readable(path: str | Path | os.DirEntry[str]) -> str:
    """The path as text that any report can hold, even if its bytes are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def unreadable(text: str) -> str:
    """The path of which `readable` made this text.

    >>> unreadable("/data/caf\\\\xe9.wav") == os.fsdecode(b"/data/caf\\xe9.wav")
    True
    """
    content = text.encode("utf-8", "surrogateescape")
    return os.fsdecode(WRITTEN_OUT.sub(lambda byte: bytes.fromhex(byte[1].decode()), content))


def expanded(path: str) -> Path:
    """The path with ~ replaced by the home directory, where that is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def download_folder(source: str) -> Path:
    """~/.cache/percept, which need not exist.

    Raises
    ------
    UserError : there is no home directory
    """
    try:
        return Path.home() / ".cache" / "percept"
    except RuntimeError:
        raise UserError(
            f"{source}: HOME is not set, so there is no place for downloads; set it, {_or_copy(source)}"
        ) from None


def writable(folder: Path, source: str) -> Path:
    """`folder`, which is in `download_folder`, created if necessary.

    Raises
    ------
    UserError : nothing can be written there
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK | os.X_OK) else "not writable"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise UserError(f"{source}: {folder}: {reason}; set HOME to a folder for downloads, {_or_copy(source)}")
    return folder


def _or_copy(source: str) -> str:
    return f"or give a copy as {source}:DIR"


def _files(folder: Path, others: Collection[Identity | None]) -> Iterator[Path | os.DirEntry[str]]:
    return _below(folder, _containing(folder) | set(others))


def _below(folder: Path | os.DirEntry[str], seen: set[Identity | None]) -> Iterator[Path | os.DirEntry[str]]:
    """The files below a folder; `seen` are folders that are not to be entered, to which those entered are added."""
    try:
        entries = _visible(folder)
    except OSError:
        yield folder
        return
    inner = []
    for entry in entries:
        if _is_folder(entry):
            inner.append(entry)
        else:
            yield entry
    for entry in sorted(inner, key=os.DirEntry.is_symlink):  # a folder keeps its own path where a link leads to it too
        if (itself := identity(entry)) not in seen:
            seen.add(itself)
            yield from _below(entry, seen)


def _visible(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """The entries of a folder by name, without hidden ones."""
    with os.scandir(folder) as entries:
        shown = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in CLUTTER]
    return sorted(shown, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder without permission
        return False


def _containing(folder: Path) -> set[Identity | None]:
    """A folder and all that contain it."""
    real = Path(os.path.realpath(folder))  # Path.resolve raises RuntimeError for a link to itself
    return {identity(path) for path in (real, *real.parents)}
