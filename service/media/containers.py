"""Audio files whose headers say too little → files that libsndfile reads whole.

A recorder that loses power and a program that writes to a pipe leave the length 0, or the largest number, in the
header; a file that was cut short has less than its header says; and files that were joined (`cat`, radio streams,
chained Ogg) hold several recordings, of which libsndfile reads the first.
"""

import re
import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, NamedTuple

from service.errors import Unreadable, Unusable
from service.media import flac, mpeg

MAX_RECORDINGS = 1000  # in one file
MAX_CHUNKS = 10_000  # of one recording
NOT_ZERO = re.compile(rb"[^\0]")
ZEROS = bytes(2**18)
MAX_TAGS = 100  # ID3v2 tags in front of it
MP3_IN_WAV = 0x55  # format tag
BLOCKS = (0x02, 0x11, 0x31)  # format tags of ADPCM and GSM, which libsndfile does not read in RF64
STEP = 2**22  # bytes that are searched at once
UNKNOWN = 2**64 - 1  # a length that no file has
STREAMINFO = b"fLaC\0\0\0\x22"  # how a FLAC file begins
EBML = b"\x1aE\xdf\xa3"  # how a Matroska file begins
BOS = b"OggS\0\2"  # a page of Ogg that begins a logical stream


class _Layout(NamedTuple):
    """How a file is divided into chunks."""

    start: int  # of the first chunk
    header: struct.Struct  # of a chunk: identifier, length
    counts_header: bool  # whether the length counts the chunk's header too
    align: int  # bytes: the length of a chunk in the file is a multiple


RIFF = _Layout(12, struct.Struct("<4sI"), counts_header=False, align=2)
LAYOUTS = {
    b"RIFF": RIFF,
    b"RF64": RIFF,  # EBU Tech 3306: lengths of 64 bits stand in a chunk of their own, ds64
    b"BW64": RIFF,  # its successor, ITU-R BS.2088
    b"RIFX": _Layout(12, struct.Struct(">4sI"), counts_header=False, align=2),
    b"FORM": _Layout(12, struct.Struct(">4sI"), counts_header=False, align=2),
    b"caff": _Layout(8, struct.Struct(">4sq"), counts_header=False, align=1),
    b"riff": _Layout(40, struct.Struct("<4s12xq"), counts_header=True, align=8),  # Sony Wave64: identifiers of 16 bytes
}


MARKS = {  # in a file that `_reader` knows → their offset; by chance they do not occur
    b"WAVE": 8, b"AIFF": 8, b"AIFC": 8, b"wave\xf3\xac\xd3\x11": 24, b"caff\0\1\0\0desc": 0, b".snd\0\0\0": 0,
    STREAMINFO: 0, BOS: 0,
}  # fmt: skip
MAGICS = {*LAYOUTS, b".snd", b"fLaC", b"OggS"}  # how files begin


class _Chunk(NamedTuple):
    name: bytes
    start: int  # of its content
    length: int


def recordings(data: bytes, seconds: float) -> list[bytes]:
    """The recordings in the audio file `data`, one after another, each as a file whose header tells its true length.

    It is [data] itself, not a copy, where nothing is to be mended, or `data` is something else. Frames of MP3 are not
    counted beyond `seconds`.

    Raises Unusable if there are more than MAX_RECORDINGS, or one has more than MAX_CHUNKS.
    """
    found: list[bytes] = []
    reserved = 0
    while data.startswith(ZEROS, reserved):  # the search alone would hold up other threads, for 0.7 s with 128 MiB
        reserved += len(ZEROS)
    if data.startswith(b"\0") and (sound := NOT_ZERO.search(data, reserved)):  # what a recorder did not fill
        data = data[sound.start() :]
    position = after_tags(data)
    while position < len(data) and len(found) <= MAX_RECORDINGS:
        parts, position = (_reader(data, position) or _mp3)(data, position, seconds)
        if not parts:
            break
        found += parts
    found = found or [data]
    if len(found) > MAX_RECORDINGS:
        raise Unusable(f"the file joins more than {MAX_RECORDINGS} recordings")
    return found


def joined_media(data: bytes, demuxer: str) -> list[bytes]:
    """The files of MPEG-4 or Matroska that are joined in `data`: FFmpeg's `demuxer` would read the first alone."""
    starts = [0]
    if demuxer == "mov":
        seen, position = set[bytes](), 0
        for _ in range(MAX_CHUNKS):
            length, name = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
            if length == 1:
                length = int.from_bytes(data[position + 8 : position + 16])
            if length < 8 or length > len(data) - position:  # the last one, or damaged
                break
            if name == b"ftyp" and b"moov" in seen:
                starts, seen = [*starts, position], set()
            seen.add(name)
            position += length
    elif demuxer == "matroska":
        while (start := data.find(EBML, starts[-1] + 4)) >= 0 and b"\x42\x82" in data[start : start + 64]:
            starts.append(start)
    if len(starts) > MAX_RECORDINGS:
        raise Unusable(f"the file joins more than {MAX_RECORDINGS} recordings")
    return [data[a:b] for a, b in pairwise([*starts, len(data)])] if len(starts) > 1 else [data]


# (data, start, seconds) → the recordings from there on, where they end
Reader = Callable[[bytes, int, float], tuple[list[bytes], int]]


def _reader(data: bytes, start: int) -> Reader | None:
    """What reads the recording that begins at `start`, None if none does."""
    kind = data[start + 8 : start + 12]
    match data[start : start + 4]:
        case b"RIFF" | b"RIFX" | b"RF64" | b"BW64" if kind == b"WAVE":
            return _wave
        case b"riff" if data[start + 24 : start + 28] == b"wave":
            return _wave
        case b"FORM" if kind in (b"AIFF", b"AIFC"):
            return _aiff
        case b"caff":
            return _caf
        case b".snd":
            return _au
        case b"fLaC":
            return _flac
        case b"OggS":
            return _ogg
    return None


def after_tags(data: bytes) -> int:
    """Where the ID3v2 tags in front end."""
    position = 0
    for _ in range(MAX_TAGS):
        tag = data[position : position + 10]
        if len(tag) < 10 or tag[:3] != b"ID3":
            break
        length = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]
        position += 10 + length + 10 * (tag[5] >> 4 & 1)  # a footer repeats the header
    return position


def chunks_of(data: bytes, start: int) -> tuple[list[_Chunk], int, bool]:
    """The chunks of the file at `start`; where it ends; and whether the chunks lead there, to the end of `data` or to
    another file. If not, a length is wrong, or something else follows, and the file is taken to be all of `data`."""
    first, header, counts_header, align = LAYOUTS[data[start : start + 4]]
    chunks: list[_Chunk] = []
    position = start + first
    for _ in range(MAX_CHUNKS):
        if position + header.size > len(data):
            return chunks, len(data), True
        if chunks and chunks[-1].length % 2 and data[position - 1 : position + 3] in (b"fmt ", b"data"):
            position -= 1  # some programs leave out the padding
        name, length = header.unpack_from(data, position)
        if name in MAGICS and _reader(data, position):
            return chunks, position, True
        if not name.isascii() or not name.decode().isprintable():
            break
        position += header.size
        length -= header.size * counts_header
        if length == 0xFFFF_FFFF and name == b"data":
            length = _ds64(data, chunks)
        chunks.append(_Chunk(name, position, length))
        if not 0 <= length <= len(data) - position:
            break
        position += length
        if data[position : position + 4] not in MAGICS:  # the last chunk may have no padding
            position += -length % align
    else:
        raise Unusable(f"the file has more than {MAX_CHUNKS} chunks")
    return chunks, len(data), False


def _ds64(data: bytes, chunks: list[_Chunk]) -> int:
    """The length of the data chunk of RF64; of one that stands in plain RIFF, more than there can be."""
    for chunk in chunks:
        if chunk.name == b"ds64":
            return int.from_bytes(data[chunk.start + 8 : chunk.start + 16], "little")
    return UNKNOWN


def _wave(data: bytes, start: int, seconds: float) -> tuple[list[bytes], int]:
    """WAV in RIFF, RIFX, RF64, BW64 or Wave64; written anew, as RIFF, where libsndfile would not find all the sound."""
    magic = data[start : start + 4]
    chunks, end, complete = chunks_of(data, start)
    fmt, sounds, readable = b"", [], magic != b"BW64"
    for name, begin, length in chunks:
        if name == b"fmt ":
            fmt = fmt or data[begin : begin + length]
        elif name == b"data" and not (length == 0 and complete):
            stop = begin + length
            if not begin < stop <= end:
                stop = end = _next(data, begin, b"WAVEfmt ", 8)
                readable = readable and length > 0 and magic in (b"RIFF", b"RIFX")
            readable = readable and (begin - start) % 2 == 0
            if magic == b"RF64":  # libsndfile looks for the length in ds64 alone
                readable = readable and data[begin - 4 : begin] == b"\xff\xff\xff\xff"
            sounds.append(slice(begin, stop))
    order: Literal["big", "little"] = "big" if magic == b"RIFX" else "little"
    tag = int.from_bytes(fmt[:2], order)
    readable = readable and not (magic == b"RF64" and tag in BLOCKS)
    if tag == MP3_IN_WAV:
        parts = mpeg.recordings(b"".join(data[sound] for sound in sounds), 0, seconds)
        if parts:
            return parts, end
    if not fmt or not sounds or (readable and len(sounds) == 1):
        return [data[start:end]], end
    return [_riff(fmt, [data[sound] for sound in sounds], order)], end


def _riff(fmt: bytes, sounds: list[bytes], order: Literal["big", "little"]) -> bytes:
    """A WAV file with the content of a format chunk and of one or more data chunks."""
    length = sum(map(len, sounds))
    sizes = [size.to_bytes(4, order) for size in (20 + len(fmt) + length, len(fmt), length)]
    magic = b"RIFX" if order == "big" else b"RIFF"
    return b"".join([magic, sizes[0], b"WAVEfmt ", sizes[1], fmt, b"data", sizes[2], *sounds])


def _next(data: bytes, start: int, mark: bytes, offset: int) -> int:
    """Where another file begins, which has `mark` at `offset`, or else the end of `data`."""
    position = find(data, mark, start) - offset
    return position if position >= start and _reader(data, position) else len(data)


def _next_file(data: bytes, start: int) -> int:
    """Where the first file after data[:start] begins that has a mark, or else the end of `data`.

    The search goes on in steps that grow, so that a thousand short files are not each searched for to the end.
    """
    size = 2**12
    while start < len(data):
        end = start + size
        for mark, offset in MARKS.items():
            at = start + offset
            while (at := data.find(mark, at, end + offset + len(mark) - 1)) >= 0:
                if _reader(data, at - offset):
                    end = at - offset
                    break
                at += 1
        if end < start + size:
            return end
        start, size = end, min(2 * size, STEP)
    return len(data)


def find(data: bytes, mark: bytes, start: int) -> int:
    """`data.find(mark, start)`, in steps between which other threads run: 128 MiB take 0.1 s."""
    for at in range(start, len(data), STEP):
        if (found := data.find(mark, at, at + STEP + len(mark) - 1)) >= 0:
            return found
    return -1


def _aiff(data: bytes, start: int, seconds: float) -> tuple[list[bytes], int]:
    """AIFF, whose lengths libsndfile mends itself."""
    end = chunks_of(data, start)[1]
    return [data[start:end]], end


def _caf(data: bytes, start: int, seconds: float) -> tuple[list[bytes], int]:
    """Core Audio Format: its data may have the length −1 if they end the file, which libsndfile does not know.

    A cut file is mended unless its packets vary in size: for those that are missing libsndfile repeats the last one.
    MP3 that was cut needs no table of its packets.

    Raises Unreadable if a table is needed that was cut off.
    """
    chunks, end, complete = chunks_of(data, start)
    desc = next((data[chunk.start : chunk.start + 32] for chunk in chunks if chunk.name == b"desc"), b"")
    tables = [chunk for chunk in chunks if chunk.name == b"pakt" and chunk.start + chunk.length <= len(data)]
    if len(desc) == 32 and not tables and bytes(4) in (desc[16:20], desc[20:24]):
        sound = next((chunk.start + 4 for chunk in chunks if chunk.name == b"data"), len(data))
        end = _next(data, sound, b"caff\0\1\0\0desc", 0)
        found = mpeg.recordings(data[sound:end], 0, seconds) if desc[8:12] == b".mp3" else []
        if not found:
            raise Unreadable("the file is cut off: the table that tells where its packets begin is missing")
        return found, end
    for name, begin, length in chunks:
        is_cut = length > len(data) - begin and desc[16:20] != bytes(4)
        if name == b"data" and not complete and (is_cut or length <= 4):
            end = _next(data, begin, b"caff\0\1\0\0desc", 0)
            packet = max(1, int.from_bytes(desc[16:20]))  # bytes; a part of one would be an error to FFmpeg
            stop = end - (end - begin - 4) % packet
            return [b"".join([data[start : begin - 8], struct.pack(">q", stop - begin), data[begin:stop]])], end
    return [data[start:end]], end


def _au(data: bytes, start: int, seconds: float) -> tuple[list[bytes], int]:
    """Sun's AU."""
    offset, length = struct.unpack_from(">II", data.ljust(start + 12, b"\0"), start + 4)
    rest = len(data) - start - offset
    if 0 < length < rest and _reader(data, start + offset + length):
        end = start + offset + length
        return [data[start:end]], end
    if rest > 0 and (length == 0 or rest < length < 0xFFFF_FFFF):
        return [b"".join([data[start : start + 8], struct.pack(">I", rest), data[start + 12 :]])], len(data)
    return [data[start:]], len(data)


def _mp3(data: bytes, start: int, seconds: float) -> tuple[list[bytes], int]:
    """MP3, up to where another file begins; nothing if there are no frames."""
    end = _next_file(data, start)
    return mpeg.recordings(data if end == len(data) else data[:end], start, seconds), end


def _flac(data: bytes, start: int, seconds: float) -> tuple[list[bytes], int]:
    """FLAC, up to where another file begins. Its metadata may hold the header of a WAV file."""
    end = _next_file(data, flac.after_metadata(data, start))
    return [flac.with_length(data[start:end])], end


def _ogg(data: bytes, start: int, seconds: float) -> tuple[list[bytes], int]:
    """One link of chained Ogg (RFC 3533): the first pages of its logical streams, and all up to the next first page or
    another file."""
    position, first = start, True
    while data.startswith(b"OggS", position):
        is_first = data.startswith(BOS, position)
        if is_first and not first:
            break
        first = first and is_first
        segments = data[position + 27 : position + 27 + (data[position + 26 : position + 27] or b"\0")[0]]
        position += 27 + len(segments) + sum(segments)
    end = _next_file(data, position)
    return [data[start:end]], end
