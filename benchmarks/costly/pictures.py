"""Pictures: every format that Pillow writes, in many sizes, modes and codings; and files of many small parts."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.costly.kind import MANY, Kind, closing, repeated, unknown

PATH = "/digits"
Picture = NDArray[np.uint8]

SIDES = (28, 80, 250, 1000, 1500, 2047, 3000, 4000, 4096)
SHAPES = (1, 4, 64)  # width ÷ height
MODES = ("RGB", "L", "RGBA", "P", "1", "LA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F")
TIFF = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "group3", "group4", "jpeg", "lzma", "zstd", "webp")
CODINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "PNG": ("PNG", {}),
    "PNG, stored": ("PNG", {"compress_level": 0}),
    "JPEG": ("JPEG", {}),
    "JPEG, 4:4:4": ("JPEG", {"quality": 100, "subsampling": 0}),
    "JPEG, progressive": ("JPEG", {"progressive": True}),
    "WebP": ("WEBP", {"method": 0}),
    "WebP, lossless": ("WEBP", {"lossless": True, "method": 0}),
    "GIF": ("GIF", {}),
    "BMP": ("BMP", {}),
    "AVIF": ("AVIF", {"speed": 10}),
    "AVIF, 4:4:4": ("AVIF", {"speed": 10, "subsampling": "4:4:4", "quality": 100}),
    "JPEG 2000": ("JPEG2000", {}),
    "JPEG 2000, rates": ("JPEG2000", {"irreversible": True, "quality_layers": [500], "num_resolutions": 6}),
    "JPEG 2000, tiles": ("JPEG2000", {"tile_size": (64, 64), "num_resolutions": 1}),
    "JPEG 2000, small tiles": ("JPEG2000", {"tile_size": (16, 16), "num_resolutions": 1}),
    "JPEG 2000, blocks": ("JPEG2000", {"codeblock_size": (4, 4)}),
    "PCX": ("PCX", {}),
    "PPM": ("PPM", {}),
    "SGI": ("SGI", {}),
    "SGI, 16 bits": ("SGI", {"bpc": 2}),
    "TGA": ("TGA", {}),
    "TGA, run lengths": ("TGA", {"compression": "tga_rle"}),
    "QOI": ("QOI", {}),
    **{f"TIFF, {name}": ("TIFF", {"compression": name}) for name in TIFF},
    "TIFF, strips": ("TIFF", {"compression": "tiff_adobe_deflate", "strip_size": 1}),
}


def flat(height: int, width: int) -> Picture:
    """A page of one grey, but for one stroke."""
    page = np.full((height, width), 255, np.uint8)
    page[height // 4 : 3 * height // 4, width // 2 : width // 2 + max(1, width // 16)] = 0
    return page


def noise(height: int, width: int) -> Picture:
    """Every pixel is another grey."""
    return np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)


def dots(height: int, width: int) -> Picture:
    """A speck in every third row and column."""
    page = np.full((height, width), 255, np.uint8)
    page[1:-1:3, 1:-1:3] = 0
    return page


def snake(height: int, width: int) -> Picture:
    """One line that winds over the whole page."""
    page = np.full((height, width), 255, np.uint8)
    page[1:-1:4, 1:-1] = 0
    page[1:-1, 1][np.arange(height - 2) % 8 < 4] = 0
    page[1:-1, -2][np.arange(height - 2) % 8 >= 4] = 0
    return page


def paper(height: int, width: int) -> Picture:
    """Ruled paper under a lamp, with a digit, specks and the grain of a photo."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    page = 150 + 90 * rows / height - 40 * columns / width
    page[:: max(2, height // 12)] -= 60
    page[height // 4 : 3 * height // 4, width // 2 : width // 2 + max(1, width // 16)] = 30
    page += np.random.default_rng(0).normal(0, 4, page.shape).astype(np.float32)
    return page.clip(0, 255).astype(np.uint8)


CONTENTS: dict[str, Callable[[int, int], Picture]] = {
    function.__name__: function for function in (flat, noise, dots, snake, paper)
}


def picture(coding: str, side: int, shape: int, mode: str, content: str) -> bytes:
    """A picture of about side × side pixels. Raises OSError, ValueError or KeyError where Pillow does not write it."""
    width, height = min(16_000, round(side * shape**0.5)), max(1, round(side / shape**0.5))
    gray = Image.fromarray(CONTENTS[content](height, width))
    if mode == "LAB":
        image = Image.merge("LAB", [gray] * 3)
    elif mode in ("I;16", "I", "F"):
        numbers = np.asarray(gray).astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]) * 257
        image = Image.fromarray(numbers)
    else:
        image = gray.convert(mode)
    name, options = CODINGS[coding]
    file = io.BytesIO()
    image.save(file, name, **options)
    return closing(PATH, file.getvalue())


def jpeg_scans(side: int, scans: int, content: str) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    file = io.BytesIO()
    Image.fromarray(CONTENTS[content](side, side)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return closing(PATH, data[:-2] + data[last:-2] * scans + data[-2:])


def bmp_runs(side: int, run: int) -> bytes:
    """A BMP of 8 bits in run lengths."""
    row, stroke = bytes([run, 7]) * (side // run), bytes([run, 7]) * (side // run // 2) + bytes([run, 200])
    pixels = (row + b"\0\0") * (side - side // 3) + (stroke + b"\0\0") * (side // 3) + b"\0\1"
    palette = bytes(range(256)) * 4
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    start = 14 + len(head) + len(palette)
    return closing(PATH, b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + palette + pixels)


def qoi(side: int, code: str) -> bytes:
    """A QOI of nothing but runs, colours seen before, or small differences."""
    n = side * side
    pixels = {"run": b"\xfd" * (n // 62 + 1), "index": b"\0\1" * (n // 2), "difference": b"\x6b\x69" * (n // 2)}[code]
    half, white = len(pixels) // 2, b"\xfe\xff\xff\xff"
    stroke = pixels[:half] + white + pixels[half:]
    return closing(PATH, b"qoif" + struct.pack(">IIBB", side, side, 3, 0) + stroke + bytes(7) + b"\1")


def plain_pnm(side: int, magic: str, number: str) -> bytes:
    """A PBM, PGM or PPM whose numbers are text."""
    n = side * side * (3 if magic == "P3" else 1)
    return closing(PATH, f"{magic}\n{side} {side}\n{'' if magic == 'P1' else '255'}\n".encode() + (number * n).encode())


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_chunks(size: int, chunk: str, length: int) -> bytes:
    """A PNG with many small chunks before, or as, its pixels."""
    file = io.BytesIO()
    Image.fromarray(flat(80, 80)).save(file, "PNG")
    data = file.getvalue()
    start = data.index(b"IDAT") - 4
    content = b"a\0" + b"b" * length
    match chunk:
        case "IDAT":
            squeezed = zlib.compress(bytes(81 * 80), 0)
            empty = repeated(_chunk(b"IDAT", b""), size)
            return closing(PATH, data[:start] + empty + _chunk(b"IDAT", squeezed) + data[-12:])
        case "zTXt":
            content = b"a\0\0" + zlib.compress(bytes(length))
        case "iTXt":
            content = b"a\0\0\0\0\0" + b"b" * length
    return closing(PATH, data[:start] + repeated(_chunk(chunk.encode(), content), size) + data[start:])


def gif_blocks(size: int, block: str, length: int) -> bytes:
    """A GIF with many extensions, or blocks of one, before its picture, or many blocks of pixels."""
    file = io.BytesIO()
    Image.fromarray(flat(80, 80)).save(file, "GIF")
    data = file.getvalue()
    start = data.index(b",\0\0\0\0")
    piece = bytes([length]) + b"a" * length
    match block:
        case "comments":
            filling = repeated(b"!\xfe" + piece + b"\0", size)
        case "a comment":
            filling = b"!\xfe" + repeated(piece, size) + b"\0"
        case "applications":
            filling = repeated(b"!\xff" + piece + b"\0", size)
        case _:
            filling = repeated(b"!\xf9\4\0\0\0\0\0", size)
    return closing(PATH, data[:start] + filling + data[start:])


def jpeg_segments(size: int, marker: int, length: int) -> bytes:
    """A JPEG with many small segments before its picture; marker 0xFF is padding."""
    file = io.BytesIO()
    Image.fromarray(flat(80, 80)).save(file, "JPEG")
    data = file.getvalue()
    segment = b"\xff" if marker == 0xFF else struct.pack(">BBH", 0xFF, marker, length + 2) + b"a" * length
    return closing(PATH, data[:2] + repeated(segment, size) + data[2:])


def tiff_tags(size: int, kind: int, count: int) -> bytes:
    """A TIFF with as many tags of its own as fit, which all point to the same values."""
    n = min(size // 12, 65_000)
    first = 8 + 2 + 12 * n + 4
    own = ((256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, first))
    own = (*own, (277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64))
    more = ((1000 + i % 64_000, kind, count, first) for i in range(n - len(own)))
    tags = b"".join(struct.pack("<HHII", *tag) for tag in (*own, *more))
    return closing(PATH, b"II*\0\x08\0\0\0" + struct.pack("<H", n) + tags + bytes(4) + noise(256, 256).tobytes())


def psd_layers(size: int) -> bytes:
    """A Photoshop document with as many empty layers as fit."""
    n = min(size // 60, 32_000)
    layer = struct.pack(">IIIIH", 0, 0, 0, 0, 0) + b"8BIMnorm" + struct.pack(">BBBBI", 255, 0, 0, 0, 12) + bytes(12)
    layers = struct.pack(">h", n) + layer * n
    head = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 1, 80, 80, 8, 1) + bytes(8)
    section = struct.pack(">II", len(layers) + 4, len(layers)) + layers
    return closing(PATH, head + section + b"\0\0" + flat(80, 80).tobytes())


def psd_resources(size: int) -> bytes:
    """A Photoshop document with as many empty resources as fit."""
    resources = repeated(b"8BIM\x04\x00\0\0\0\0\0\0", size)
    head = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 1, 80, 80, 8, 1) + bytes(4)
    return closing(PATH, head + struct.pack(">I", len(resources)) + resources + bytes(6) + flat(80, 80).tobytes())


STARTS = {  # of files; what follows is no picture
    "": b"",
    "zeros": bytes(64),
    "GIF": b"GIF89a",
    "BMP": b"BM",
    "JPEG": b"\xff\xd8\xff\xe0",
    "PPM": b"P6 ",
    "TIFF": b"II*\0\x08\0\0\0",
    "AVIF": b"\0\0\0\x20ftypavif",
    "J2K": b"\xff\x4f\xff\x51",
    "SGI": b"\x01\xda\1\1",
}
_SMALL = (1, 0, 4, 100)
PICTURES = [
    *(
        Kind(
            f"picture {name}",
            picture,
            {
                "coding": tuple(coding for coding, (format_, _) in CODINGS.items() if format_ == name),
                "side": (1500, *SIDES),
                "shape": SHAPES,
                "mode": MODES,
                "content": tuple(CONTENTS),
            },
        )
        for name in dict.fromkeys(format_ for format_, _ in CODINGS.values())
    ),
    Kind(
        "picture JPEG, large",
        picture,
        {
            "coding": ("JPEG", "JPEG, 4:4:4", "JPEG, progressive"),
            "side": (5000, 8000, 11_000),
            "shape": SHAPES,
            "mode": ("L", "RGB"),
            "content": ("flat", "dots"),
        },
    ),
    Kind(
        "picture JPEG scans",
        jpeg_scans,
        {"side": (1000, 250, 4000), "scans": (10, 50, 90), "content": ("flat", "noise")},
    ),
    Kind("picture BMP run lengths", bmp_runs, {"side": (1000, 250, 4000), "run": (1, 16, 250)}),
    Kind("picture QOI codes", qoi, {"side": (1000, 250, 4000), "code": ("run", "index", "difference")}),
    Kind(
        "picture PNM as text",
        plain_pnm,
        {"side": (500, 100, 2000), "magic": ("P2", "P1", "P3"), "number": ("1 ", "0 ", "255 ", "1\n")},
    ),
    Kind(
        "picture PNG chunks",
        png_chunks,
        {"size": MANY, "chunk": ("tEXt", "IDAT", "zTXt", "iTXt", "abCd"), "length": _SMALL},
    ),
    Kind(
        "picture GIF blocks",
        gif_blocks,
        {"size": MANY, "block": ("comments", "a comment", "applications", "controls"), "length": (1, 4, 100)},
    ),
    Kind(
        "picture JPEG segments",
        jpeg_segments,
        {"size": MANY, "marker": (0xFE, 0xE1, 0xE2, 0xED, 0xFF), "length": _SMALL},
    ),
    Kind("picture TIFF tags", tiff_tags, {"size": MANY[:3], "kind": (2, 3, 5, 7, 12), "count": (1, 100, 8000)}),
    Kind("picture PSD layers", psd_layers, {"size": MANY}),
    Kind("picture PSD resources", psd_resources, {"size": MANY}),
    unknown("picture unknown", PATH, STARTS),
]
