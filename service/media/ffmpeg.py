"""Sound as phones and browsers record it, decoded by FFmpeg's libraries through PyAV: the extra `phone`.

FFmpeg reads far more than is let in here. The demuxer is named rather than guessed, so no playlist is ever opened; the
file is bytes in memory, and no protocol is allowed by which a demuxer could open another one; only the decoders below
are started.
"""

import ctypes
import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.errors import Unusable, WrongMedia
from service.media.native import SharedSetting
from service.media.signatures import TO_WAV

if TYPE_CHECKING:
    from av.audio import AudioStream
    from av.container import InputContainer

CODECS = (  # by the names of FFmpeg's decoders
    "aac", "alac", "opus", "vorbis", "flac", "mp3", "mp3float", "amrnb", "amrwb", "adpcm_ima_qt", "pcm_alaw",
    "pcm_mulaw", "pcm_u8", "pcm_s8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be",
    "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be",
)  # fmt: skip
OPTIONS = {"codec_whitelist": ",".join(CODECS), "protocol_whitelist": "none", "max_streams": "16"}
MAX_FRAME = 1 << 16  # samples that a frame of ALAC may claim to hold; 4096 are usual
MAX_ALLOCATION = 1 << 24  # bytes: room for the index of 700,000 frames, of which a few bytes could promise 4 billion


def is_installed() -> bool:
    """Whether PyAV is here; it is imported only when a file needs it, since that takes 0.1 s."""
    return find_spec("av") is not None


def _allow(n_bytes: int) -> None:
    """Set the most that FFmpeg may allocate at once; the symbol is found through a module that is linked with it."""
    import av._core

    ctypes.CDLL(av._core.__file__).av_max_alloc(ctypes.c_size_t(n_bytes))


_little_memory = SharedSetting(lambda: _allow(MAX_ALLOCATION), lambda: _allow(2**31 - 1))  # which is the default


@contextmanager
def recording(data: bytes, demuxer: str) -> Iterator["Recording"]:
    """The sound in `data`, which is of the kind that FFmpeg's `demuxer` reads.

    Raises MediaError if there is none that can be decoded, and what PyAV raises for a file that is damaged.
    """
    import av

    with _little_memory, av.open(io.BytesIO(data), mode="r", format=demuxer, container_options=OPTIONS) as container:
        yield Recording(container)


class Recording:
    """The first track that can be decoded, read from its beginning in the way of a soundfile.SoundFile.

    samplerate : Hz
    channels : of every frame
    frames : a number for an unknown length, since that which a header tells need not be true
    """

    format, subtype, frames = "FFmpeg", "", 2**63 - 1

    def __init__(self, container: "InputContainer") -> None:
        self._container = container
        self._intact = True  # no packet was damaged
        self._frames = self._decoded()
        self._next = next(self._frames, None)
        if self._next is None:
            raise Unusable("the audio is empty") if self._intact else EOFError("no packet can be decoded")

    def read(self, n: int, **_: object) -> NDArray[np.float32]:
        """The next samples, float32 (T, channels) in [-1, 1] unless they clip: at least `n`, or the last ones."""
        frames, total = [], 0
        while self._next is not None and total < n:
            frames.append(self._next)
            total += len(self._next)
            self._next = next(self._frames, None)
        return np.concatenate(frames) if frames else np.empty((0, self.channels), np.float32)

    def _decoded(self) -> Iterator[NDArray[np.float32]]:
        """The frames of the track; a damaged packet is left out, as players do."""
        from av.error import InvalidDataError

        stream = self._track()
        stream.codec_context.thread_count = 1
        form = None
        for packet in self._container.demux(stream):
            try:
                frames = packet.decode()
            except InvalidDataError:
                self._intact = False
                continue
            for frame in frames:
                found = frame.sample_rate, frame.layout.nb_channels
                if form is None:
                    form = self.samplerate, self.channels = found
                elif form != found:
                    raise Unusable("the sample rate or the number of channels changes within the audio")
                yield _samples(frame.to_ndarray(), frame.format.is_planar, self.channels)

    def _track(self) -> "AudioStream":
        tracks = self._container.streams.audio
        if not tracks:
            raise Unusable("there is no sound in this file")
        for stream in tracks:
            codec = stream.codec_context
            if codec is not None and codec.name in CODECS:
                if codec.name == "alac" and _alac_frame(codec) > MAX_FRAME:
                    raise Unusable(f"a frame of the audio holds more than {MAX_FRAME} samples")
                return stream
        named = tracks[0].codec_context.name if tracks[0].codec_context else "an unknown code"
        raise WrongMedia(f"the sound in this file is {named}, which is not read; convert it: {TO_WAV}")


def _alac_frame(codec: Any) -> int:
    """Samples of a frame, by the ALAC magic cookie, which follows a header of 12 bytes."""
    return int.from_bytes((codec.extradata or b"")[12:16], "big")


def _samples(frame: NDArray[Any], planar: bool, channels: int) -> NDArray[np.float32]:
    """A frame as PyAV gives it, (channels, T) or (1, T × channels) of any type, as float32 (T, channels)."""
    samples = frame.T if planar else frame.reshape(-1, channels)
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    zero = 128 if samples.dtype == np.uint8 else 0
    return (samples.astype(np.float32) - zero) * np.float32(2.0 ** (1 - 8 * samples.itemsize))
