"""Audio files → mono waveforms, in the form that the models take."""

import io

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from service.errors import EXPECTED, MediaError, unreadable
from service.media.limits import Limits, check_bytes

SILENCE = 1e-4  # peak amplitude: -80 dB relative to full scale
BLOCK = 1 << 16  # samples read at a time, over all channels
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_CHANNELS = 32
MAX_SAMPLES = 1 << 28  # over all channels, 11 minutes of 192 kHz in stereo: silence packs into a few bytes
AUDIO_FORMATS = ("AIFF", "AU", "CAF", "FLAC", "MP3", "OGG", "RF64", "W64", "WAV", "WAVEX")


def decode_audio(data: bytes, sample_rate: int, limits: Limits) -> NDArray[np.float32]:
    """The recording in `data` as float32 (T,): the mean of its channels, in [-1, 1], at `sample_rate` Hz.

    Raises MediaError.
    """
    check_bytes(len(data), "audio", limits)
    try:
        with soundfile.SoundFile(_Bytes(data)) as file:
            waveform = _read_mono(file, sample_rate, limits)
    except MediaError:
        raise
    except Exception as error:  # libsndfile's errors, and those of its Python callbacks
        raise unreadable(data, "audio") from error
    if not waveform.size:
        raise MediaError(422, "the audio is empty")
    loudest = float(peak(waveform))
    if not np.isfinite(loudest):
        raise MediaError(422, "the audio holds samples that are not finite numbers")
    if loudest < SILENCE:
        raise MediaError(422, "the audio is silent")
    if loudest > 1:
        waveform /= np.float32(loudest)
    return waveform


def peak(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (…, T) → (…), the largest amplitude: NaN where a sample is NaN. Takes no memory, as np.abs would."""
    amplitude: NDArray[np.float32] = np.maximum(waveform.max(axis=-1), -waveform.min(axis=-1))
    return amplitude


class _Bytes(io.BytesIO):
    """BytesIO for libsndfile, which sends damaged files to negative positions: an exception in its callback cannot be
    caught and would be printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return -1


def _read_mono(file: soundfile.SoundFile, sample_rate: int, limits: Limits) -> NDArray[np.float32]:
    """The opened file as float32 (T,) at `sample_rate` Hz, read and resampled block by block.

    It grows in a bytearray: the system moves large ones without a copy, so that a long recording is in memory once.
    """
    rate, channels = file.samplerate, file.channels
    if file.format not in AUDIO_FORMATS:
        raise MediaError(415, f"audio in {file.format} format; expected {EXPECTED['audio']}")
    if not MIN_RATE <= rate <= MAX_RATE or not 1 <= channels <= MAX_CHANNELS:
        raise MediaError(422, f"audio of {rate} Hz and {channels} channels cannot be used")
    most = int(limits.seconds * rate)
    too_long = MediaError(413, f"the audio is longer than the {limits.seconds:g} seconds allowed")
    if most * channels > MAX_SAMPLES:
        most = MAX_SAMPLES // channels
        too_long = MediaError(413, f"the audio holds more than {MAX_SAMPLES} samples over its {channels} channels")
    if file.frames > 2**62:  # what libsndfile says of a stream of unknown length, which it cannot read to its end
        raise MediaError(422, "the header of the audio does not tell its length")
    if file.frames > most:
        raise too_long
    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32") if rate != sample_rate else None
    samples, total = bytearray(), 0
    length = file.frames if file.seekable() else MAX_SAMPLES  # of which libsndfile reads no more
    dtype = "int16" if file.subtype == "PCM_16" else "float32"
    while total < length and len(block := file.read(BLOCK // channels, dtype=dtype, always_2d=True)):
        total += len(block)
        if total > most:  # a header can lie
            raise too_long
        if dtype == "int16":  # the same numbers as float32's, which libsndfile takes three times as long to make
            block = block.astype(np.float32)
            block *= np.float32(2**-15)
        mono = _mono(block)
        samples += (stream.resample_chunk(mono) if stream else mono).data
    if stream:
        samples += stream.resample_chunk(np.empty(0, np.float32), last=True).data
    return np.frombuffer(samples, np.float32)


def _mono(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (T, channels) → (T,), their mean; of one and of two written out: NumPy's takes ten times as long."""
    if block.shape[1] == 1:
        return block[:, 0]
    stereo = block.shape[1] == 2
    mean: NDArray[np.float32] = np.float32(0.5) * (block[:, 0] + block[:, 1]) if stereo else block.mean(axis=1)
    return mean
