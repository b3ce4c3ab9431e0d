"""Audio files → mono waveforms, in the form that the models take."""

import io
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from service.errors import MediaError, TooLarge, Unusable, WrongMedia
from service.media import ffmpeg
from service.media.limits import Limits, check_bytes
from service.media.native import quiet
from service.media.signatures import EXPECTED, TO_WAV, announced, damaged, undecodable

SILENCE = 1e-4  # peak amplitude: -80 dB relative to full scale
BLOCK = 1 << 16  # samples read at a time, over all channels
BLOCK_CODES = ("GSM610", "IMA_ADPCM", "MS_ADPCM", "G721_32", "NMS_ADPCM_16", "NMS_ADPCM_24", "NMS_ADPCM_32")
GSM_BLOCK = 320  # samples
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_CHANNELS = 32
MAX_SAMPLES = 1 << 28  # over all channels, 11 minutes of 192 kHz stereo: silence compresses to a few bytes
CANCELLED = 0.25  # energy of the channels' sum; 1 where they are unrelated. At equal levels their mean is 9 dB lower
AUDIO_FORMATS = ("AIFF", "AU", "CAF", "FLAC", "MP3", "OGG", "RF64", "W64", "WAV", "WAVEX")


def decode_audio(data: bytes, sample_rate: int, limits: Limits) -> NDArray[np.float32]:
    """The recording in `data` as float32 (T,), mono in [-1, 1] at `sample_rate` Hz: the mean of its channels, or, where
    they cancel each other, as in stereo with one wire swapped, the loudest.

    Raises MediaError if it cannot be read, is too long, or holds nothing but silence.
    """
    check_bytes(len(data), "audio", limits)
    waveform, balance = _read(data, sample_rate, limits)
    if (louder := balance.louder_if_cancelled()) is not None:
        waveform, _ = _read(data, sample_rate, limits, louder)
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


class _Bytes(io.BytesIO):
    """BytesIO for libsndfile, which seeks to negative positions in damaged files: an exception raised in its callback
    cannot be caught, and would be printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return -1


def _read(
    data: bytes, sample_rate: int, limits: Limits, channel: int | None = None
) -> tuple[NDArray[np.float32], "_Energies"]:
    """The recording as float32 (T,) at `sample_rate` Hz, the mean of its channels or that `channel`; and the energies
    of its channels."""
    kind = announced(data)
    demuxer = kind.reader if kind and kind.media == "audio" and ffmpeg.is_installed() else ""
    try:
        with quiet, np.errstate(all="ignore"), _opened(data, demuxer) as file:
            return _read_mono(file, _true_length(file, data), sample_rate, limits, channel)
    except MediaError:
        raise
    except Exception as error:  # errors of libsndfile, of FFmpeg, and of their Python callbacks
        raise (damaged("audio") if demuxer else undecodable(data, "audio")) from error


def _opened(data: bytes, demuxer: str) -> Any:
    """A soundfile.SoundFile; an ffmpeg.Recording, if a `demuxer` is named and libsndfile does not read the file."""
    if demuxer and demuxer != "caf":
        return ffmpeg.recording(data, demuxer)
    try:
        file = soundfile.SoundFile(_Bytes(data))
    except soundfile.LibsndfileError:  # it reads some files in CAF
        if not demuxer:
            raise
        return ffmpeg.recording(data, demuxer)
    if file.format not in AUDIO_FORMATS:
        file.close()
        raise WrongMedia(f"audio in {file.format} format; expected {EXPECTED['audio']}; convert it: {TO_WAV}")
    return file


def _true_length(file: Any, data: bytes) -> int:
    """How many samples of a channel to read, at most.

    A WAV in coded blocks tells the length in `fact`; the rest of the last block is padding. Where the blocks of GSM end
    at an odd byte, libsndfile decodes the byte that pads them as one more, which is 40 ms of noise.
    """
    frames: int = file.frames
    if file.format not in ("WAV", "WAVEX") or file.subtype not in BLOCK_CODES:
        return frames if file.seekable() else MAX_SAMPLES
    chunks, at = {}, 12
    while b"data" not in chunks and at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks[data[at : at + 4]] = (at + 8, size)
        at += 8 + size + size % 2
    if not {b"fmt ", b"data"} <= chunks.keys():
        return frames
    form, (start, size) = chunks[b"fmt "][0], chunks[b"data"]
    block = int.from_bytes(data[form + 12 : form + 14], "little")  # bytes
    n_blocks = min(size, len(data) - start) // max(block, 1)
    if file.subtype == "GSM610" and n_blocks:
        frames = min(frames, n_blocks * GSM_BLOCK)
    told = int.from_bytes(data[(fact := chunks.get(b"fact", (len(data), 0))[0]) : fact + 4], "little")
    padding = frames - told
    return told if told and 0 <= padding * max(n_blocks, 1) <= frames else frames


def _read_mono(
    file: Any, length: int, sample_rate: int, limits: Limits, channel: int | None
) -> tuple[NDArray[np.float32], "_Energies"]:
    """What `_read` gives, from an open file of at most that `length`, read and resampled block by block.

    The result grows in a bytearray, which realloc moves without a copy: a long recording is in memory once.
    """
    rate, channels = file.samplerate, file.channels
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
    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32") if rate != sample_rate else None
    samples, total, energies = bytearray(), 0, _Energies(channels)
    step = BLOCK // channels
    dtype = "int16" if file.subtype == "PCM_16" else "float32"
    while total < length and len(block := file.read(min(step, length - total), dtype=dtype, always_2d=True)):
        total += len(block)
        if total > most:  # a header can lie
            raise too_long
        if dtype == "int16":  # the same numbers as from dtype="float32", in a third of the time
            block = block.astype(np.float32)
            block *= np.float32(2**-15)
        energies.add(block)
        mono = _mono(block) if channel is None else block[:, channel]
        samples += (stream.resample_chunk(mono) if stream else np.ascontiguousarray(mono)).data
    if stream:
        samples += stream.resample_chunk(np.empty(0, np.float32), last=True).data
    return np.frombuffer(samples, np.float32), energies


class _Energies:
    """Sums over the blocks of a recording that tell whether its channels cancel each other."""

    def __init__(self, channels: int) -> None:
        self.total = 0
        self.sums = np.zeros(channels)
        self.products = np.zeros((channels, channels))  # of each channel with each

    def add(self, block: NDArray[np.float32]) -> None:
        """Count float32 (T, channels)."""
        if block.shape[1] > 1:
            self.total += len(block)
            self.sums += np.ones(len(block), np.float32) @ block
            self.products += block.T @ block

    def louder_if_cancelled(self) -> int | None:
        """The loudest channel, if the sum of all has far less energy than if they were unrelated; else None. Constant
        offsets do not count."""
        if not self.total:
            return None
        mean = self.sums / self.total
        covariance = self.products / self.total - np.outer(mean, mean)
        energies = covariance.diagonal()
        return int(energies.argmax()) if covariance.sum() < CANCELLED * energies.sum() else None


def _mono(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (T, channels) → (T,), the mean; spelled out for mono and stereo: NumPy's takes ten times as long."""
    if block.shape[1] == 1:
        return block[:, 0]
    stereo = block.shape[1] == 2
    mean: NDArray[np.float32] = np.float32(0.5) * (block[:, 0] + block[:, 1]) if stereo else block.mean(axis=1)
    return mean
