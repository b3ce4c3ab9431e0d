"""A long recording, mixed and resampled in parts that threads share while it is decoded."""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.media.channels import Mix, as_floats, mean
from service.media.parallel import MapParts
from service.media.resampling import HELD, Resampler, resampled_length

LONG = 60  # seconds; what is no longer is resampled as one stream
# Samples on either side of a part that are resampled with it: two of the blocks that soxr transforms at a time from
# 44,100 to 22,050 Hz. Parts of a CD begin where such a block does, and equal one stream bit for bit; at other rates
# they differ from it by rounding.
MARGIN = 2 * 1_660
SIZE = 200  # margins in a part of mono; in one of n channels, an nth
CHUNK = 1 << 17  # samples mixed at a time, over all channels: with less, threads wait for Python's lock more often
RESAMPLED = 1 << 16  # samples resampled at a time; a whole part at once would take twice as long

Samples = NDArray[Any]  # int16 or float32 (T, channels)


class Part(NamedTuple):
    """A part of a recording, and the samples before and after it."""

    start: int  # of `block` in the recording, in samples
    before: Samples
    block: Samples
    after: Samples
    first: np.float32  # sample of the recording, in mono


def margin_between(rate: int, new_rate: int) -> int | None:
    """How many samples on either side of a part are resampled with it: more than the resampler's filter has, and a
    whole number at the new rate too. None where that would be far more, or nothing is to be resampled.

    >>> margin_between(44_100, 22_050), margin_between(48_000, 22_050), margin_between(44_101, 22_050)
    (3320, 3520, None)
    """
    period = rate // math.gcd(rate, new_rate)
    if rate == new_rate or period > MARGIN:
        return None
    return period * math.ceil(max(MARGIN, HELD * rate) / period)


def part_size(margin: int, channels: int) -> int:
    """How many samples of each channel a part has: a few megabytes over all of them."""
    return margin * max(SIZE // channels, 10)


def mix_in_parts(
    blocks: Iterable[Samples], length: int, rate: int, new_rate: int, margin: int, map_parts: MapParts
) -> tuple[NDArray[np.float32], Mix]:
    """A recording of at most `length` samples in mono, float32 (T,) at `new_rate` instead of `rate` Hz; and the mix.

    Parameters
    ----------
    blocks : of `part_size` samples each, but for the last
    """

    def resampled(n: int) -> int:
        return resampled_length(n, rate, new_rate)

    waveform = np.empty(resampled(length), np.float32)  # takes memory where it is written to
    unused: list[NDArray[np.float32]] = []  # memory: to allocate it anew for each part would take longer

    def compute(part: Part) -> tuple[int, Mix]:
        begin, end = len(part.before), len(part.before) + len(part.block)
        room = CHUNK + part_size(margin, part.block.shape[1]) + 2 * margin
        memory = unused.pop() if unused else np.empty(room, np.float32)
        chunk, sound = memory[:CHUNK], memory[CHUNK : CHUNK + end + len(part.after)]
        mix = Mix()
        with np.errstate(all="ignore"):  # a setting of the thread
            _mix(part.before, mean, chunk, sound[:begin])
            _mix(part.block, mix, chunk, sound[begin:end])
            _mix(part.after, mean, chunk, sound[end:])
            stream = Resampler(rate, new_rate, part.first)
            starts = range(0, len(sound), RESAMPLED)
            results = [stream.resample_chunk(sound[i : i + RESAMPLED], last=i == starts[-1]) for i in starts]
            place = waveform[resampled(part.start) : resampled(part.start + len(part.block))]
            place[:] = np.concatenate(results)[resampled(begin) :][: len(place)]
        unused.append(memory)
        return len(place), mix

    mix, end = Mix(), 0
    for n, of_part in map_parts(compute, _parts(blocks, margin)):
        mix.add(of_part)
        end += n
    return waveform[:end], mix


def _parts(blocks: Iterable[Samples], margin: int) -> Iterator[Part]:
    start, before = 0, None
    for block, after in pairwise(chain(blocks, [None])):
        assert block is not None
        if before is None:
            with np.errstate(all="ignore"):
                before, first = block[:0], mean(as_floats(block[:1]))[0]
        yield Part(start, before, block, block[:0] if after is None else after[:margin], first)
        start, before = start + len(block), block[-margin:].copy()  # a view would keep all of it in memory


def _mix(
    samples: Samples,
    mono: Callable[[NDArray[np.float32], NDArray[np.float32]], object],
    memory: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Put what `mono` makes of the samples into `out`, float32 (T,), with room for a chunk of them in `memory`."""
    channels = samples.shape[1]
    size = len(memory) // channels
    for start in range(0, len(samples), size):
        chunk = samples[start : start + size]
        floats = as_floats(chunk, memory[: chunk.size].reshape(chunk.shape))
        mono(floats, out[start : start + len(chunk)])
