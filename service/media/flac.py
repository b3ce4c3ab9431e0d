"""FLAC streams (RFC 9639): the number of samples in the header of a file that was written to a pipe or cut short."""

from collections.abc import Iterator

MAX_CANDIDATES = 1000  # places at which the last frame is looked for
MAX_BLOCKS = 1000  # of metadata


def with_length(data: bytes) -> bytes:
    """The FLAC file with the number of samples up to its last frame, where the header has 0, or more than there are."""
    frames = _first_and_last(data)
    if frames is None:
        return data
    (start, _), (end, size) = frames
    samples = end + size - start
    return data if 0 < _total(data) <= samples else _with_total(data, samples)


def without_last_frame(data: bytes) -> bytes | None:
    """The FLAC file with the number of samples before its last frame, which may be cut; None if there are none."""
    frames = _first_and_last(data)
    if frames is None or frames[0] == frames[1]:
        return None
    return _with_total(data, frames[1][0] - frames[0][0])


def _total(data: bytes) -> int:
    """36 bits of STREAMINFO before its MD5."""
    return int.from_bytes(data[21:26]) & 0xF_FFFF_FFFF


def _with_total(data: bytes, samples: int) -> bytes:
    return data[:21] + bytes([data[21] & 0xF0 | samples >> 32 & 15]) + (samples & 0xFFFF_FFFF).to_bytes(4) + data[26:]


def after_metadata(data: bytes, start: int) -> int:
    """Where the metadata blocks of the FLAC file at `start` end."""
    position = start + 4
    for _ in range(MAX_BLOCKS):
        block = data[position : position + 4]
        position += 4 + int.from_bytes(block[1:])
        if not block or block[0] & 0x80:
            break
    return position


def _first_and_last(data: bytes) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Number of the first sample, and of samples, of the first frame and of the last one in `data`."""
    if len(data) < 42 or data[:4] != b"fLaC":
        return None
    position = after_metadata(data, 0)
    first = _frame(data, position)
    if first is None:
        return None
    # What all frames of one stream have in common: sync and strategy; sample rate; depth.
    sync, rate, depth = data[position : position + 2], data[position + 2] & 15, data[position + 3] & 15
    for candidate in _backwards(data, sync, position):
        if data[candidate + 2] & 15 == rate and data[candidate + 3] & 15 == depth:
            last = _frame(data, candidate)
            if last is not None and last[0] >= first[0]:
                return first, last
    return None


def _backwards(data: bytes, sync: bytes, start: int) -> Iterator[int]:
    """Where `sync` stands in data[start:], from the end."""
    end = len(data) - 4
    for _ in range(MAX_CANDIDATES):
        end = data.rfind(sync, start, end + 1)
        if end < 0:
            return
        yield end


def _frame(data: bytes, position: int) -> tuple[int, int] | None:
    """Number of the first sample, and of samples, of the frame at `position`; None if no frame begins there."""
    header = data[position : position + 16]  # the longest
    if len(header) < 6 or header[:2] not in (b"\xff\xf8", b"\xff\xf9"):
        return None
    size_code, rate_code = header[2] >> 4, header[2] & 15
    ones = 8 - (header[4] ^ 0xFF).bit_length()  # the number is coded as in UTF-8: so many bytes, or 1 if there are none
    at = 4 + max(1, ones)
    if ones in (1, 8) or size_code == 0:
        return None
    number = header[4] & (0x7F >> ones)
    for byte in header[5:at]:
        number = number << 6 | byte & 0x3F
    if size_code in (6, 7):  # in one byte or two after the number
        size, at = int.from_bytes(header[at : at + size_code - 5]) + 1, at + size_code - 5
    else:
        size = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    at += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if at >= len(header) or _crc8(header[:at]) != header[at]:
        return None
    fixed = header[1] == 0xF8  # frames are numbered, not samples
    return number * (int.from_bytes(data[10:12]) if fixed else 1), size


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = CRC8[crc ^ byte]
    return crc


def _crc8_of(byte: int) -> int:
    for _ in range(8):
        byte = byte << 1 ^ (0x107 if byte & 0x80 else 0)
    return byte


CRC8 = bytes(_crc8_of(byte) for byte in range(256))  # x⁸ + x² + x + 1
