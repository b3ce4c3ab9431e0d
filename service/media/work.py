"""What it will take to decode a file, estimated from its header before anything is decoded.

A few kilobytes may hold ten minutes of sound or sixteen megapixels, so the size of a file says little. The constants
below were measured on one core of the machine of docs/service.md, with the files that take longest for their size. An
estimate decides where a file is decoded and what may run beside it, never the answer.
"""

import struct
from typing import NamedTuple

from service.media.containers import MARKS
from service.media.limits import Limits

# Seconds:
FILE = 2.5e-4  # to open a picture, and to bring a small one into MNIST's form
INFLATED = 6e-9  # for each byte of a PNG's rows: zlib, and the filter of the row
CODED = 1.2e-8  # for each pixel of each scan of a JPEG
SEEN = 1.2e-8  # for each pixel that is left once a large picture is averaged down: search for ink, scaling
PAPER = 1e-7  # for each of the first LEVELLED pixels, where paper may be around the ink: its unevenness, rules, grain
CHUNK, TEXT = 3e-6, 2e-3  # for each chunk of a PNG, which Pillow reads in Python; for one that is inflated to 1 MB
TAG = 2e-6 / 12  # for each byte of EXIF, whose tags of 12 bytes Pillow reads in Python
RUN = 1e-6  # for each pixel of a BMP in runs, which Pillow decodes in Python
RECORDING = 1.5e-4  # to open a recording
SAMPLE = 4e-9  # for each uncompressed sample: conversion, the mean of the channels
COMPRESSED = 1.6e-8  # for each sample of FLAC, MP3, Vorbis and Opus
RESAMPLED = 8e-9  # for each sample that soxr returns
NUMBER = 6e-8  # for each byte of a vector in JSON

SHRUNK = 2**22  # pixels, at most, that are left of a picture
LEAST_PAGE = 64  # pixels; a picture with a shorter side shows a symbol and no paper around it
LEVELLED = 2**16  # pixels of a page; of a larger one, less is looked at
PICTURE = 12  # bytes for each pixel while a picture is decoded and made grey
WAVEFORM = 6  # bytes for each sample of a waveform, which grows while it is decoded
COPIED = 2**24  # bytes of a recording; a larger one is not copied to be decoded by libsndfile
UNPACKED = 8  # bytes of memory for each byte of JSON
FEW = 50  # chunks of a PNG, or segments of a JPEG, that are looked at
TO_INFLATE = (b"iCCP", b"iTXt", b"zTXt")  # chunks of a PNG that are inflated too
WITH_EXIF = (b"eXIf", b"tEXt")  # chunks of a PNG in which EXIF may stand
APP1 = 0xE1  # the marker of the segment of a JPEG that holds EXIF
NO_SIZE = (0xC4, 0xC8, 0xCC)  # markers of a JPEG among those of its frame (0xC0 … 0xCF) that are none
START_OF_SCAN = 0xDA  # the marker of the segment of a JPEG that pixels follow
USUAL_SCANS = 10
SLOWEST_MP3 = 1000  # bytes a second of an MP3: 8 kbit/s
CODED_RATE = 48_000  # Hz and channels that are assumed where the header is not read here
TO_SEARCH = 2**19  # bytes, counted for each mark, in which another recording is looked for; this takes 0.4 ms
PCM = (1, 3, 0xFFFE)  # format tags of WAV whose samples have a fixed size


class Work(NamedTuple):
    """An estimate of what a computation takes."""

    seconds: float  # of one core
    bytes: int = 0  # of memory at its peak

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]
        return Work(self.seconds + other.seconds, self.bytes + other.bytes)


def of_image(data: bytes, limits: Limits) -> Work:
    """To decode a picture: as for the largest that is allowed, unless it is a PNG or a JPEG, or a GIF, BMP or WebP
    whose header is simple.

    >>> of_image(b"GIF89a", Limits()).seconds > 0.1
    True
    """
    size, seconds = (0, 0), 0.0
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and len(data) > 26:
        width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
        samples = 1 + (colour & 4) // 4 + (colour & 3 == 2) * 2
        size, rows = (width, height), height * (1 + width * depth * samples // 8)
        passes = 1 + (depth == 16 and samples > 2)  # where fewer bits are filled, the pixels are decoded twice
        seconds = passes * INFLATED * rows + _of_chunks(data)
    elif data.startswith(b"\xff\xd8"):
        size, seconds = _of_segments(data)
        scans = max(1, data.count(b"\xff\xda")) if len(data) < 2**16 else USUAL_SCANS  # to count takes a while too
        seconds += CODED * size[0] * size[1] * scans
    elif data.startswith((b"GIF87a", b"GIF89a")):
        size = _gif_size(data)
        seconds = CODED * size[0] * size[1]
    elif data.startswith(b"BM") and data[15:18] == bytes(3) and 40 <= data[14:15][0] <= 124 and len(data) > 34:
        width, height, coding = struct.unpack_from("<ii4xI", data, 18)
        size = abs(width), abs(height)
        seconds = (RUN if coding in (1, 2) else CODED) * size[0] * size[1]
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        size = _webp_size(data)
        seconds = 2 * CODED * size[0] * size[1]
    pixels = size[0] * size[1]
    if not pixels:
        return Work(FILE + (CODED + SEEN) * limits.pixels, PICTURE * limits.pixels + len(data))
    seconds += SEEN * min(pixels, SHRUNK) + PAPER * min(pixels, LEVELLED) * (min(size) >= LEAST_PAGE)
    return Work(FILE + seconds, PICTURE * min(pixels, limits.pixels))


def _gif_size(data: bytes) -> tuple[int, int]:
    """Width and height of the first frame of a GIF, or of its screen, whichever is more; zeros if many blocks stand
    before it."""
    width, height, flags = struct.unpack_from("<HHB", data.ljust(13, b"\0"), 6)
    at = 13 + (flags >> 7) * 3 * 2 ** (1 + (flags & 7))  # after the palette
    for _ in range(FEW):
        match data[at : at + 1]:
            case b"," if len(data) >= at + 10:
                left, top, across, down = struct.unpack_from("<4H", data, at + 1)
                return max(width, left + across), max(height, top + down)
            case b"!":
                at += 2
            case b"" | b",":
                break
            case length:  # a part of an extension; 0 ends it
                at += 1 + length[0]
    return 0, 0


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP without metadata and of one frame; zeros for others."""
    match data[12:16]:
        case b"VP8 " if len(data) >= 30:
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L" if len(data) >= 25:
            bits = int.from_bytes(data[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8X" if len(data) >= 30 and not data[20] & ~0x10:  # no flag but that of transparency
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    return 0, 0


def _of_chunks(png: bytes) -> float:
    """Seconds to walk through the chunks of a PNG; as for the most and the worst there can be, where there are many."""
    at, seconds = 8, 0.0
    for n in range(FEW):
        name = png[at + 4 : at + 8]
        if len(name) < 4 or name == b"IEND":
            return seconds
        if n and name == b"IHDR":  # Pillow takes the last one, with another size
            break
        length = int.from_bytes(png[at : at + 4])
        seconds += (TEXT if name in TO_INFLATE else CHUNK) + TAG * length * (name in WITH_EXIF)
        at += 12 + length
    return 1 + seconds + CHUNK * (len(png) // 12)


def _of_segments(jpeg: bytes) -> tuple[tuple[int, int], float]:
    """Width and height of a JPEG, by the headers of its frames, and seconds to read its EXIF; zeros if it has many
    segments before its first scan."""
    at, size, seconds = 2, (0, 0), 0.0
    for _ in range(FEW):
        segment = jpeg[at : at + 9]
        if len(segment) < 9 or segment[0] != 0xFF:
            break
        if segment[1] == START_OF_SCAN:
            return size, seconds
        if segment[1] & 0xF0 == 0xC0 and segment[1] not in NO_SIZE:
            size = max(size[0], int.from_bytes(segment[7:9])), max(size[1], int.from_bytes(segment[5:7]))
        length = int.from_bytes(segment[2:4])
        seconds += TAG * length * (segment[1] == APP1)
        at += 2 + length
    return (0, 0), 0.0


def of_audio(data: bytes, sample_rate: int, limits: Limits) -> tuple[Work, float]:
    """To decode a recording to `sample_rate` Hz, and its seconds, at most: as for the longest that is allowed, unless
    it is WAV, FLAC or MP3, and alone in the file.

    >>> of_audio(b"OggS", 22_050, Limits())[1]
    600.0
    """
    rate, channels, seconds, cost = CODED_RATE, 1, float(limits.seconds), COMPRESSED
    chunks, alone, marks = 0.0, 4, set(MARKS)  # what another recording has, after the first, which ends at `alone`
    if data.startswith(b"RIFF") and data[12:16] == b"fmt " and len(data) >= 44:
        tag, channels, rate, bits = struct.unpack_from("<HHI6xH", data, 20)
        frame = channels * bits // 8
        if tag in PCM and frame and rate:
            begin, alone = _sound_of(data)
            seconds, cost = len(data) / (frame * rate), SAMPLE
            if begin == alone:  # of unknown length: up to another WAV
                marks = {b"WAVE"}
            chunks = CHUNK * ((begin + (len(data) - alone) * (begin < alone)) // 8)
    elif data.startswith(b"fLaC") and len(data) > 26:
        told = int.from_bytes(data[18:26])  # 20 bits, 3, 5 and 36: rate, channels, depth, samples; RFC 9639
        rate, channels, samples = told >> 44, 1 + (told >> 41 & 7), told & 0xF_FFFF_FFFF
        seconds = samples / rate if rate and samples else seconds
    elif data.startswith((b"ID3", b"\xff\xf2", b"\xff\xf3", b"\xff\xfa", b"\xff\xfb")):
        seconds = len(data) / SLOWEST_MP3
    if seconds < limits.seconds and _is_followed(data, alone, marks):
        rate, channels, seconds, cost = CODED_RATE, 1, float(limits.seconds), COMPRESSED
    seconds = min(seconds, limits.seconds)
    samples = int(seconds * sample_rate)
    spent = RECORDING + chunks + cost * seconds * rate * channels + RESAMPLED * samples * (rate != sample_rate)
    return Work(spent, WAVEFORM * samples + len(data) + min(len(data), COPIED)), seconds  # mended, and for libsndfile


def _sound_of(wav: bytes) -> tuple[int, int]:
    """Where the content of a WAV's data chunk begins and ends; where it begins, twice, if it is longer than `wav` or of
    unknown length; the length of `wav` and 0 if it does not come early."""
    at = 12
    for _ in range(FEW):
        name, length = wav[at : at + 4], int.from_bytes(wav[at + 4 : at + 8], "little")
        at += 8
        if name == b"data":
            return at, at + length * (length <= len(wav) - at)
        at += length + length % 2
        if at >= len(wav):
            break
    return len(wav), 0


def _is_followed(data: bytes, start: int, marks: set[bytes]) -> bool:
    """Whether another recording may begin after data[:start], of which a kilobyte may hold ten minutes."""
    if start >= len(data):
        return False
    if (len(data) - start) * len(marks) > TO_SEARCH:
        return True
    return any(data.find(mark, start) >= 0 for mark in marks)


def of_vector(data: bytes) -> Work:
    """To decode a JSON array of numbers.

    >>> round(of_vector(b"[0.5, -2]").seconds * 1e6, 2)
    0.54
    """
    return Work(NUMBER * len(data), UNPACKED * len(data))
