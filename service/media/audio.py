"""Audio files → mono waveforms, in the form that the models take."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from service.errors import MediaError, TooLarge, Unusable, WrongMedia
from service.media import coded, ffmpeg, libsndfile, parts, wav
from service.media.channels import Mix, as_floats, loudest_if_cancelled
from service.media.containers import joined_media, recordings
from service.media.flac import without_last_frame
from service.media.limits import Limits, check_bytes
from service.media.native import quiet
from service.media.parallel import MapParts, one_by_one
from service.media.resampling import Resampler
from service.media.signatures import EXPECTED, TO_WAV, announced, damaged, undecodable, without_front
from service.media.silence import is_silent

BLOCK = 1 << 16  # samples read at a time, over all channels
PART = 1 << 15  # samples resampled at a time, which stay in the cache; how many does not change the result
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_CHANNELS = 32
UNKNOWN = 2**62  # samples; more are told by libsndfile, and by ffmpeg.Recording, where the length is not known
MAX_SAMPLES = 1 << 28  # over all channels, 11 minutes of 192 kHz stereo: silence compresses to a few bytes
AUDIO_FORMATS = ("AIFF", "AU", "CAF", "FLAC", "MP3", "OGG", "RF64", "W64", "WAV", "WAVEX")


def decode_audio(
    data: bytes, sample_rate: int, limits: Limits, map_parts: MapParts = one_by_one
) -> NDArray[np.float32]:
    """The recording in `data` as float32 (T,), mono in [-1, 1] at `sample_rate` Hz: the mean of its channels, or, where
    they cancel each other, as in stereo with one wire swapped, the loudest. `map_parts` mixes and resamples a long one.

    Raises MediaError if it cannot be read, is too long, or holds nothing but silence.
    """
    check_bytes(len(data), "audio", limits)
    data = without_front(data)
    kind = announced(data)
    demuxer = kind.reader if kind and kind.media == "audio" else ""
    try:
        with quiet, np.errstate(all="ignore"):
            waveform, coding = _joined(data, demuxer, sample_rate, limits, map_parts)
    except MediaError:
        raise
    except Exception as error:  # errors of libsndfile, of FFmpeg, and of their Python callbacks
        raise (damaged("audio", kind) if demuxer and ffmpeg.is_installed() else undecodable(data, "audio")) from error
    if not waveform.size:
        raise Unusable("the audio is empty")
    loudest = float(peak(waveform))
    if not np.isfinite(loudest):
        raise Unusable("the audio holds samples that are not finite numbers")
    if loudest > 1:
        waveform /= np.float32(loudest)
    if is_silent(waveform, sample_rate, coding):
        raise Unusable("the audio is silent")
    return waveform


def peak(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (…, T) → (…), the largest amplitude; NaN if any sample is NaN. Unlike np.abs(x).max() it copies nothing.

    >>> float(peak(np.float32([0.25, -0.5])))
    0.5
    """
    amplitude: NDArray[np.float32] = np.maximum(waveform.max(axis=-1), -waveform.min(axis=-1))
    return amplitude


def _joined(
    data: bytes, demuxer: str, sample_rate: int, limits: Limits, map_parts: MapParts
) -> tuple[NDArray[np.float32], str]:
    """The recordings in a file one after another, float32 (T,) at `sample_rate` Hz; and the coding of the last."""
    joined = joined_media(data, demuxer) if _needs_ffmpeg(demuxer) else recordings(data, limits.seconds)
    waveforms: list[NDArray[np.float32]] = []
    samples, coding = 0, ""
    for part in joined:
        try:
            waveform, coding = _read(part, demuxer, sample_rate, limits, map_parts)
        except soundfile.LibsndfileError:
            cut = without_last_frame(part)
            if cut is None:
                raise
            waveform, coding = _read(cut, demuxer, sample_rate, limits, map_parts)
        waveforms.append(waveform)
        samples += len(waveform)
        if len(joined) > 1 and samples > limits.seconds * sample_rate:
            raise TooLarge(f"the audio is longer than the {limits.seconds:g} seconds allowed")
    return (waveforms[0] if len(waveforms) == 1 else np.concatenate(waveforms)), coding


def _read(
    data: bytes, demuxer: str, sample_rate: int, limits: Limits, map_parts: MapParts
) -> tuple[NDArray[np.float32], str]:
    """The recording as float32 (T,) at `sample_rate` Hz, the mean of its channels or one of them; and its coding."""
    with _opened(data, demuxer) as file:
        rate, length, coding = file.samplerate, coded.length(file, data) or file.frames, file.subtype
        margin = parts.margin_between(rate, sample_rate)
        if margin and parts.LONG * rate < length <= limits.seconds * rate:
            blocks = _blocks(file, length, limits, parts.part_size(margin, file.channels))
            waveform, mix = parts.mix_in_parts(blocks, length, rate, sample_rate, margin, map_parts)
        else:
            mix = Mix()
            waveform = _whole(_resampled(_floats(file, length, limits), mix, rate, sample_rate))
    if not mix.may_be_cancelled():
        return waveform, coding
    with _opened(data, demuxer) as file:
        channel = loudest_if_cancelled(_floats(file, length, limits))
    if channel is None:
        return waveform, coding
    with _opened(data, demuxer) as file:
        one = _floats(file, length, limits)
        return _whole(_resampled(one, lambda block: block[:, channel].copy(), rate, sample_rate)), coding


def _needs_ffmpeg(demuxer: str) -> bool:
    """Whether libsndfile reads none of the files that need this demuxer; it reads some in CAF."""
    return demuxer not in ("", "caf")


def _opened(data: bytes, demuxer: str) -> Any:
    """A soundfile.SoundFile; a wav.Plain, which needs none; an ffmpeg.Recording, if a `demuxer` is named and libsndfile
    does not read the file."""
    if _needs_ffmpeg(demuxer):
        return ffmpeg.recording(data, demuxer)
    if plain := wav.plain(data):
        return plain
    try:
        file = libsndfile.open_sound(data)
    except soundfile.LibsndfileError:
        if not demuxer:
            raise
        return ffmpeg.recording(data, demuxer)
    if file.format not in AUDIO_FORMATS:
        file.close()
        raise WrongMedia(f"audio in {file.format} format; expected {EXPECTED['audio']}; convert it: {TO_WAV}")
    return file


def _floats(file: Any, length: int, limits: Limits) -> Iterator[NDArray[np.float32]]:
    """The samples of the open file, `length` of each channel, float32 (T, channels), block by block. Raises
    MediaError."""
    return map(as_floats, _blocks(file, length, limits, BLOCK // max(file.channels, 1)))


def _blocks(file: Any, length: int, limits: Limits, size: int) -> Iterator[NDArray[Any]]:
    """The same as int16 where the file has 16 bits, and in blocks of `size` samples of each channel."""
    rate, channels = file.samplerate, file.channels
    if not MIN_RATE <= rate <= MAX_RATE or not 1 <= channels <= MAX_CHANNELS:
        raise Unusable(f"audio of {rate} Hz and {channels} channels cannot be used")
    most = int(limits.seconds * rate)
    too_long = TooLarge(f"the audio is longer than the {limits.seconds:g} seconds allowed")
    if most * channels > MAX_SAMPLES:
        most = MAX_SAMPLES // channels
        too_long = TooLarge(f"the audio holds more than {MAX_SAMPLES} samples over its {channels} channels")
    if most < file.frames < UNKNOWN:
        raise too_long
    total, dtype = 0, "int16" if file.subtype == "PCM_16" else "float32"
    # No more is asked for than there is: libFLAC would go on to the next frame, which may be damaged.
    while (n := min(size, length - total)) > 0:
        block = file.read(n, dtype=dtype, always_2d=True)
        if not len(block):
            break
        total += len(block)
        if total > most:  # a header can lie
            raise too_long
        yield block


def _resampled(
    blocks: Iterable[NDArray[np.float32]],
    mono: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    rate: int,
    sample_rate: int,
) -> Iterator[NDArray[np.float32]]:
    """What `mono` makes of the blocks, float32 (T,), at `sample_rate` instead of `rate` Hz, in parts."""
    if rate == sample_rate:
        yield from map(mono, blocks)
        return
    stream = None
    for block in blocks:
        stream = stream or Resampler(rate, sample_rate)
        sound = mono(block)
        for start in range(0, len(sound), PART):
            yield stream.resample_chunk(sound[start : start + PART])
    if stream:
        yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _whole(chunks: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The chunks one after another, float32 (T,). One alone, as of a short recording, is not copied: that takes longer
    than the rest where what is copied has left the cache.

    Several grow in a bytearray, which realloc moves without a copy: a long recording is in memory once.
    """
    first = next(chunks, np.empty(0, np.float32))
    samples = bytearray()
    for chunk in chunks:
        samples = samples or bytearray(first.data)
        samples += chunk.data
    return np.frombuffer(samples, np.float32) if samples else first
