"""What Pillow leaves to us of a JPEG: how much work its header announces, and what is left of one that was cut off."""

from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from service.errors import TooLarge, Unreadable
from service.media.containers import find
from service.media.limits import Limits
from service.media.work import START_OF_SCAN

START, END = b"\xff\xd8", b"\xff\xd9"  # the first and the last two bytes
SEGMENTS = 2000  # that are looked at, at most: a header has 10 to 200
NOT_DECODED = 128  # grey level with which libjpeg fills what is missing
# A large JPEG is decoded at a fraction of its size, so that it may have more pixels than other images,
PIXELS = 8  # times as many: the decoder still reads all of their codes
HELD = 6  # samples of two bytes, for each pixel allowed, that the decoder of a progressive JPEG may hold
MAX_SCANS = 100  # of a progressive JPEG as large as other images: 10 are usual, and each takes as long as decoding all
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)  # markers of a progressive frame


def is_cut(data: bytes) -> bool:
    """Whether `data` is a JPEG without its end."""
    return data.startswith(START) and not data.endswith(END) and not _ends_within(data)


def check(image: JpegImageFile, data: bytes, limits: Limits) -> None:
    """Raises TooLarge if decoding at a fraction of the size would still take long, or much memory."""
    pixels = image.width * image.height
    allowed = PIXELS * limits.pixels
    if pixels > allowed:
        raise TooLarge(f"the JPEG has {image.width} × {image.height} pixels; at most {allowed} in all are allowed")
    scans = data.count(b"\xff\xda")
    if scans > MAX_SCANS or scans * pixels > MAX_SCANS * limits.pixels:
        raise TooLarge(f"the JPEG has too many scans: {scans} of {image.width} × {image.height} pixels")
    sampling = [(across, down) for _, across, down, _ in image.layer]
    whole = max(across for across, _ in sampling) * max(down for _, down in sampling)
    held = pixels * sum(across * down for across, down in sampling) // whole
    if held > HELD * limits.pixels and _in_several_scans(data, image.layers):
        raise TooLarge(
            f"the progressive JPEG has {image.width} × {image.height} pixels, all of which must be held while it is "
            "decoded; save it without progressive encoding, or smaller"
        )


def decoded_rows(image: Image.Image) -> Image.Image:
    """The rows of a JPEG up to the last one that was decoded to its right end."""
    differs = np.asarray(image.convert("L")) != NOT_DECODED
    decoded = differs[:, -1] if differs[:, -1].any() else differs.any(axis=1)  # the ground may be of that grey itself
    if not decoded.any():
        raise Unreadable("the JPEG is cut off before its first rows of pixels")
    return image.crop((0, 0, image.width, int(decoded.nonzero()[0][-1]) + 1))


def _in_several_scans(data: bytes, components: int) -> bool:
    """Whether the first scan of a JPEG leaves something to others, so that the decoder holds all coefficients."""
    for at, marker in _markers(data):
        if marker in PROGRESSIVE:
            return True
        if marker == START_OF_SCAN:
            return data[at + 4] < components
    return True


def _ends_within(data: bytes) -> bool:
    """Whether a JPEG ends before the file does: cameras append videos, second pictures and notes of their own. A
    thumbnail in front of the first scan has an end too."""
    scan = next((at for at, marker in _markers(data) if marker == START_OF_SCAN), len(data))
    return find(data, END, scan) >= 0


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the segments of a JPEG begin, and their markers, up to the first scan; of few pieces, as in a header."""
    at = 2
    for _ in range(SEGMENTS):
        if data[at : at + 1] != b"\xff" or at + 1 == len(data):
            return
        marker = data[at + 1]
        yield at, marker
        if marker == START_OF_SCAN:
            return
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
