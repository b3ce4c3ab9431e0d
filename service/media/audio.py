"""Audio files → mono waveforms, in the form that the models take."""

import io

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from service.errors import MediaError, TooLarge, Unusable, WrongMedia
from service.media.containers import recordings
from service.media.flac import without_last_frame
from service.media.limits import Limits, check_bytes
from service.media.signatures import EXPECTED, undecodable

SILENCE = 1e-4  # peak amplitude: -80 dB relative to full scale
BLOCK = 1 << 16  # samples read at a time, over all channels
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_CHANNELS = 32
UNKNOWN = 2**62  # samples; libsndfile tells more where it does not know the length
MAX_SAMPLES = 1 << 28  # over all channels, 11 minutes of 192 kHz stereo: silence compresses to a few bytes
AUDIO_FORMATS = ("AIFF", "AU", "CAF", "FLAC", "MP3", "OGG", "RF64", "W64", "WAV", "WAVEX")


def decode_audio(data: bytes, sample_rate: int, limits: Limits) -> NDArray[np.float32]:
    """The recording in `data` as float32 (T,): the mean of its channels, in [-1, 1], at `sample_rate` Hz.

    Raises MediaError if it cannot be read, is too long, or holds nothing but silence.
    """
    check_bytes(len(data), "audio", limits)
    try:
        waveform = _joined(recordings(data, limits.seconds), sample_rate, limits)
    except MediaError:
        raise
    except Exception as error:  # libsndfile's errors, and those of its Python callbacks
        raise undecodable(data, "audio") from error
    if not waveform.size:
        raise Unusable("the audio is empty")
    loudest = float(peak(waveform))
    if not np.isfinite(loudest):
        raise Unusable("the audio holds samples that are not finite numbers")
    if loudest < SILENCE:
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


def _joined(parts: list[bytes], sample_rate: int, limits: Limits) -> NDArray[np.float32]:
    """The recordings one after another, float32 (T,)."""
    waveforms: list[NDArray[np.float32]] = []
    samples = 0
    for part in parts:
        try:
            waveform = _read(part, sample_rate, limits)
        except soundfile.LibsndfileError:
            cut = without_last_frame(part)
            if cut is None:
                raise
            waveform = _read(cut, sample_rate, limits)
        waveforms.append(waveform)
        samples += len(waveform)
        if len(parts) > 1 and samples > limits.seconds * sample_rate:
            raise TooLarge(f"the audio is longer than the {limits.seconds:g} seconds allowed")
    return waveforms[0] if len(waveforms) == 1 else np.concatenate(waveforms)


def _read(data: bytes, sample_rate: int, limits: Limits) -> NDArray[np.float32]:
    """One recording, float32 (T,)."""
    with (_Forward if data.startswith(b"fLaC") else soundfile.SoundFile)(_Bytes(data)) as file:
        return _read_mono(file, sample_rate, limits)


class _Forward(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """SoundFile seeks after each block to where it is already, which fails in FLAC whose frames are not numbered from
    0, as in segments of a longer recording. Reading from beginning to end needs no seeking."""

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
    if most < file.frames < UNKNOWN:
        raise too_long
    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32") if rate != sample_rate else None
    samples, total = bytearray(), 0
    dtype = "int16" if file.subtype == "PCM_16" else "float32"
    # No more is asked for than there is: libFLAC would go on to the next frame, which may be damaged.
    while (size := min(BLOCK // channels, file.frames - total)) > 0:
        block = file.read(size, dtype=dtype, always_2d=True)
        if not len(block):
            break
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
