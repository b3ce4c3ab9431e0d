"""Sound files in memory, opened by libsndfile."""

import io
import os

import soundfile

from service.media.containers import LAYOUTS
from service.media.work import COPIED

UNCOMPRESSED = {*LAYOUTS, b".snd"}  # how files begin that mostly hold samples as they are


class _Forward(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """SoundFile seeks after each block to where it is already. That fails in FLAC whose frames are not numbered from 0,
    as in segments of a longer recording; and in MP3 libsndfile goes on elsewhere where frames borrow bits from many
    before them. Reading from beginning to end needs no seeking."""

    def seekable(self) -> bool:
        return False


class _Bytes(io.BytesIO):
    """BytesIO for libsndfile, which seeks to negative positions in damaged files: an exception raised in its callback
    cannot be caught, and would be printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return -1


def open_sound(data: bytes) -> soundfile.SoundFile:
    """The sound file with this content, to be read from its beginning to its end, and then closed.

    Raises soundfile.LibsndfileError if libsndfile cannot open it.
    """
    descriptor = _descriptor(data)
    return _Forward(_Bytes(data) if descriptor is None else descriptor)


def _descriptor(data: bytes) -> int | None:
    """A file descriptor, which whoever opens it closes, of a file in memory that holds a copy of `data`; None where
    reading from Python is better, or there is no such descriptor.

    libsndfile asks for each frame of an MP3 twice. Each time it asks Python, the thread waits for Python's lock: two
    threads would take longer than one. Where samples are not compressed, it asks so seldom that the copy takes longer.
    """
    if data[:4] in UNCOMPRESSED or len(data) > COPIED or not hasattr(os, "memfd_create"):
        return None
    try:
        descriptor = os.memfd_create("sound")
    except OSError:  # as many are open as the process may have
        return None
    try:
        is_whole = os.write(descriptor, data) == len(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:  # no memory is left for it
        is_whole = False
    if is_whole:
        return descriptor
    os.close(descriptor)
    return None
