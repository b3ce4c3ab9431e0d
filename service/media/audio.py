"""Audio files → mono waveforms, in the form that the models take."""

import io

import numpy as np
import soundfile
from numpy.typing import NDArray

from service.errors import MediaError, TooLarge, Unusable, WrongMedia
from service.media.limits import Limits, check_bytes
from service.media.resampling import Resampler
from service.media.signatures import EXPECTED, undecodable
from service.media.silence import is_silent

BLOCK = 1 << 16  # samples read at a time, over all channels
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_CHANNELS = 32
MAX_SAMPLES = 1 << 28  # over all channels, 11 minutes of 192 kHz stereo: silence compresses to a few bytes
AUDIO_FORMATS = ("AIFF", "AU", "CAF", "FLAC", "MP3", "OGG", "RF64", "W64", "WAV", "WAVEX")


def decode_audio(data: bytes, sample_rate: int, limits: Limits) -> NDArray[np.float32]:
    """The recording in `data` as float32 (T,): the mean of its channels, in [-1, 1], at `sample_rate` Hz.

    Raises MediaError if it cannot be read, is too long, or holds nothing but silence.
    """
    check_bytes(len(data), "audio", limits)
    try:
        with soundfile.SoundFile(_Bytes(data)) as file:
            waveform, coding = _read_mono(file, sample_rate, limits), file.subtype
    except MediaError:
        raise
    except Exception as error:  # libsndfile's errors, and those of its Python callbacks
        raise undecodable(data, "audio") from error
    if not waveform.size:
        raise Unusable("the audio is empty")
    loudest = float(peak(waveform))
    if not np.isfinite(loudest):
        raise Unusable("the audio holds samples that are not finite numbers")
    if is_silent(waveform, sample_rate, coding):
        raise Unusable("the audio is silent")
    if loudest > 1:
        waveform /= np.float32(loudest)
    return waveform


def peak(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (…, T) → (…), the largest amplitude; NaN if any sample is NaN. Unlike np.abs(x).max() it copies nothing.

    >>> float(peak(np.float32([0.25, -0.5])))
    0.5
    """
    amplitude: NDArray[np.float32] = np.maximum(waveform.max(axis=-1), -waveform.min(axis=-1))
    return amplitude


class _Bytes(io.BytesIO):
    """BytesIO for libsndfile, which seeks to negative positions in damaged files: an exception raised in its callback
    cannot be caught, and would be printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return -1


def _read_mono(file: soundfile.SoundFile, sample_rate: int, limits: Limits) -> NDArray[np.float32]:
    """The open file as float32 (T,) at `sample_rate` Hz, read and resampled block by block.

    The result grows in a bytearray, which realloc moves without a copy: a long recording is in memory once.
    """
    rate, channels = file.samplerate, file.channels
    if file.format not in AUDIO_FORMATS:
        raise WrongMedia(f"audio in {file.format} format; expected {EXPECTED['audio']}")
    if not MIN_RATE <= rate <= MAX_RATE or not 1 <= channels <= MAX_CHANNELS:
        raise Unusable(f"audio of {rate} Hz and {channels} channels cannot be used")
    most = int(limits.seconds * rate)
    too_long = TooLarge(f"the audio is longer than the {limits.seconds:g} seconds allowed")
    if most * channels > MAX_SAMPLES:
        most = MAX_SAMPLES // channels
        too_long = TooLarge(f"the audio holds more than {MAX_SAMPLES} samples over its {channels} channels")
    if file.frames > 2**62:  # libsndfile: a stream of unknown length, which it cannot read to the end
        raise Unusable("the header of the audio does not tell its length")
    if file.frames > most:
        raise too_long
    stream = Resampler(rate, sample_rate) if rate != sample_rate else None
    samples, total = bytearray(), 0
    length = file.frames if file.seekable() else MAX_SAMPLES
    dtype = "int16" if file.subtype == "PCM_16" else "float32"
    while total < length and len(block := file.read(BLOCK // channels, dtype=dtype, always_2d=True)):
        total += len(block)
        if total > most:  # a header can lie
            raise too_long
        if dtype == "int16":  # the same numbers as from dtype="float32", in a third of the time
            block = block.astype(np.float32)
            block *= np.float32(2**-15)
        mono = _mono(block)
        samples += (stream.resample_chunk(mono) if stream else mono).data
    if stream:
        samples += stream.resample_chunk(np.empty(0, np.float32), last=True).data
    return np.frombuffer(samples, np.float32)


def _mono(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (T, channels) → (T,), the mean; spelled out for mono and stereo: NumPy's takes ten times as long."""
    if block.shape[1] == 1:
        return block[:, 0]
    stereo = block.shape[1] == 2
    mean: NDArray[np.float32] = np.float32(0.5) * (block[:, 0] + block[:, 1]) if stereo else block.mean(axis=1)
    return mean
