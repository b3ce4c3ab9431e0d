"""MP3 streams (ISO/IEC 11172-3, 13818-3) → MP3 files whose first frame tells how many frames follow.

libsndfile takes the number of frames from a Xing or Info frame. Without one it estimates the length from the size of
the file and the bit rate of the first frame, and reads no further, so most of a file with a variable bit rate (VBR) may
be lost. It also stops where junk or another kind of frame stands between frames.
"""

import re
import struct
from itertools import groupby, product
from typing import NamedTuple

SEARCH = 1 << 16  # bytes in which the first frame must begin
HEADERS = 3  # in a row make a frame: three bytes alone are often found in other data
MAX_CANDIDATES = 100_000  # places at which a frame is looked for
MARGIN = 16  # frames counted beyond the limit: of an encoder's delay, up to 4095 samples, mpg123 returns nothing
SAMPLE_RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG-1; halved for MPEG-2, and once more for MPEG-2.5
BIT_RATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # kbit/s, of MPEG-1
LOW_BIT_RATES = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # of MPEG-2 and 2.5
XING_BIT_RATE = 8  # its index for the frame that is put in front: 112 or 64 kbit/s leave room for what it must tell
HEADER = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\x1b\x20-\x2b\x30-\x3b\x40-\x4b\x50-\x5b\x60-\x6b\x70-\x7b"
                    rb"\x80-\x8b\x90-\x9b\xa0-\xab\xb0-\xbb\xc0-\xcb\xd0-\xdb\xe0-\xeb]")  # fmt: skip


class _Kind(NamedTuple):
    """What the frames of one stream have in common."""

    version: int  # bits 3 and 4 of the second byte: 3 = MPEG-1, 2 = MPEG-2, 0 = MPEG-2.5
    rate: int  # index of the sample rate
    mono: bool

    @property
    def seconds(self) -> float:
        """Length of a frame: 1152 samples in MPEG-1, else 576."""
        return (1152 if self.version == 3 else 576) / _sample_rate(self.version, self.rate)

    @property
    def tag(self) -> int:
        """Where Xing or Info stands in a frame: after the header and the side information."""
        return 4 + ((17 if self.mono else 32) if self.version == 3 else (9 if self.mono else 17))


class _Run(NamedTuple):
    """Frames of one kind without a gap: `frames` of them at data[start:end]."""

    kind: _Kind
    start: int
    end: int
    frames: int


def recordings(data: bytes, start: int, seconds: float) -> list[bytes]:
    """The MP3 stream in `data` as files that libsndfile reads whole: one, or one for each change of sample rate or of
    the number of channels. It is `data` itself where the length is right; an empty list if there are no frames.

    Frames are searched for from `start` on, and no more are counted than make the stream longer than `seconds`.
    """
    runs = _runs(data, start, seconds)
    streams = [list(group) for _, group in groupby(runs, key=lambda run: run.kind)]
    if len(runs) == 1 and runs[0].start == start and _is_read_whole(data, runs[0], seconds):
        return [data]
    return [_with_length(data, stream) for stream in streams]


def _runs(data: bytes, start: int, seconds: float) -> list[_Run]:
    runs: list[_Run] = []
    matches = HEADER.finditer(data, start, start + SEARCH)
    for _ in range(MAX_CANDIDATES):
        match = next(matches, None)
        if match is None or seconds < 0:
            break
        if _is_frame(data, match.start()):
            run = _run(data, match.start(), seconds)
            runs.append(run)
            seconds -= run.frames * run.kind.seconds
            matches = HEADER.finditer(data, run.end)
    return runs


def _run(data: bytes, start: int, seconds: float) -> _Run:
    """The frames from `start` on that follow one another; one that the end of `data` cuts is left out."""
    kind = _kind(data, start)
    sizes, mono = SIZES[kind.version, kind.rate], kind.mono
    position = previous = start
    count, most = 0, int(seconds / kind.seconds) + MARGIN
    while (size := sizes.get(data[position : position + 3])) and count < most:
        if (data[position + 3 : position + 4] >= b"\xc0") != mono:
            break
        previous = position
        position += size
        count += 1
    cut = position > len(data)
    return _Run(kind, start, previous if cut else position, count - cut)


def _is_frame(data: bytes, position: int) -> bool:
    """Whether a frame begins at `position`: after it come others of its kind, or the end of `data`."""
    sizes = SIZES[_kind(data, position)[:2]]
    for seen in range(HEADERS):
        size = sizes.get(data[position : position + 3])
        if size is None:
            return position == len(data) or (seen > 1 and position > len(data))  # the last one may be cut
        position += size
    return True


def _kind(data: bytes, position: int) -> _Kind:
    return _Kind(data[position + 1] >> 3 & 3, data[position + 2] >> 2 & 3, data[position + 3 : position + 4] >= b"\xc0")


def _is_read_whole(data: bytes, run: _Run, seconds: float) -> bool:
    """Whether libsndfile finds all of these frames, and does not take them for more than `seconds`: the first tells
    their number, with or without itself, or tells nothing and the mean size is not less than its own."""
    kind, start = run.kind, run.start
    tag = start + kind.tag
    if data[tag : tag + 4] in (b"Xing", b"Info") and data[tag + 7] & 1:
        return int.from_bytes(data[tag + 8 : tag + 12]) in (run.frames - 1, run.frames)
    bytes_per_frame = _bytes_per_frame(kind.version, kind.rate, data[start + 2] >> 4)
    estimate = len(data) / bytes_per_frame * kind.seconds
    return run.frames * bytes_per_frame <= run.end - start + 1 and estimate <= seconds


def _with_length(data: bytes, runs: list[_Run]) -> bytes:
    """The frames of `runs` after one that tells their number. Of a first frame that told it wrongly, the rest is kept:
    mpg123 learns from it how many samples the encoder added in front."""
    kind, start = runs[0].kind, runs[0].start
    first = data[start : start + SIZES[kind.version, kind.rate][data[start : start + 3]]]
    is_xing = first[kind.tag : kind.tag + 4] in (b"Xing", b"Info")
    is_info = is_xing or first[36:40] == b"VBRI"  # Fraunhofer's, which mpg123 does not read
    frame = bytearray(first if is_xing and first[kind.tag + 7] & 1 else _xing_frame(first, kind))
    body = [data[start + len(first) * is_info : runs[0].end], *(data[run.start : run.end] for run in runs[1:])]
    position, flags = kind.tag + 8, frame[kind.tag + 7]
    struct.pack_into(">I", frame, position, sum(run.frames for run in runs) - is_info)
    if flags & 2:
        struct.pack_into(">I", frame, position + 4, len(frame) + sum(map(len, body)))
    position += 4 + 4 * bool(flags & 2) + 100 * bool(flags & 4) + 4 * bool(flags & 8)
    if position + 24 <= len(frame):  # LAME's: 12 bits for the samples that it added in front, 12 for those at the end
        frame[position + 22] &= 0xF0
        frame[position + 23] = 0
    return b"".join([frame, *body])


def _xing_frame(first: bytes, kind: _Kind) -> bytes:
    """A frame like `first`, without a checksum, that holds nothing but room for the number of frames."""
    header = bytes([255, first[1] | 1, XING_BIT_RATE << 4 | kind.rate << 2, first[3]])
    frame = bytearray(SIZES[kind.version, kind.rate][header[:3]])
    frame[:4] = header
    struct.pack_into(">4sI", frame, kind.tag, b"Xing", 1)
    return bytes(frame)


def _sample_rate(version: int, rate: int) -> int:
    return SAMPLE_RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]


def _bytes_per_frame(version: int, rate: int, bit_rate: int) -> float:
    """The mean: padding makes some frames one byte longer. `bit_rate` is the index in the header, from 1."""
    kilobits = (BIT_RATES if version == 3 else LOW_BIT_RATES)[bit_rate - 1]
    return (144 if version == 3 else 72) * kilobits * 1000 / _sample_rate(version, rate)


def _sizes(version: int, rate: int) -> dict[bytes, int]:
    """The first three bytes of each Layer III frame of that version and sample rate → its size in bytes."""
    return {
        bytes([255, 0xE2 | version << 3 | no_checksum, bit_rate << 4 | rate << 2 | padding << 1 | private]): (
            int(_bytes_per_frame(version, rate, bit_rate)) + padding
        )
        for bit_rate, no_checksum, padding, private in product(range(1, 15), (0, 1), (0, 1), (0, 1))
    }


SIZES = {(version, rate): _sizes(version, rate) for version in (0, 2, 3) for rate in range(3)}
