"""WAV as nearly every program writes it: samples of 16 bits behind a header of 44 bytes."""

import struct

import numpy as np
from numpy.typing import NDArray

HEADER = struct.Struct("<4sI8sIHHIIHH4sI")
PCM = 1  # format tag


class Plain:
    """Such a file, read in the way of a soundfile.SoundFile, which would call Python for every piece, and copy it.

    samplerate : Hz
    frames : samples of each channel
    """

    format, subtype = "WAV", "PCM_16"

    def __init__(self, samples: NDArray[np.int16], samplerate: int) -> None:
        self._samples, self.samplerate = samples, samplerate
        self.frames, self.channels = samples.shape

    def read(self, n: int, **_: object) -> NDArray[np.int16]:
        """The next n samples, int16 (T, channels), where they lie in the file; or as many as are left."""
        block, self._samples = self._samples[:n], self._samples[n:]
        return block

    def __enter__(self) -> "Plain":
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to close."""


def plain(data: bytes) -> Plain | None:
    """The recording in `data`, in mono or stereo; None if anything in its header is otherwise, or more follows.

    >>> data = _header(1, 8000, 4) + bytes(4)
    >>> plain(data).frames, plain(data + b"LIST")
    (2, None)
    """
    if not data.startswith(b"RIFF") or len(data) <= HEADER.size:
        return None
    channels, rate = struct.unpack_from("<HI", data, 22)
    size = len(data) - HEADER.size
    is_usual = channels in (1, 2) and 0 < rate < 2**30 and not size % (2 * channels) and size < 2**32 - 36
    if not is_usual or not data.startswith(_header(channels, rate, size)):
        return None
    return Plain(np.frombuffer(data, "<i2", offset=HEADER.size).reshape(-1, channels), rate)


def _header(channels: int, rate: int, size: int) -> bytes:
    """The header of a file with `size` bytes of samples."""
    frame = 2 * channels
    return HEADER.pack(b"RIFF", 36 + size, b"WAVEfmt ", 16, PCM, channels, rate, frame * rate, frame, 16, b"data", size)
