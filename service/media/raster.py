"""Image files as Pillow opens them: which formats, within which limits, upright, and without a word on the terminal."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from service.errors import MediaError, TooLarge, Unusable
from service.media import depth, heif, jpeg
from service.media.limits import Limits, check_bytes
from service.media.native import quiet
from service.media.signatures import announced, damaged, undecodable, without_front

WORKING_SIZE = 1024  # pixels; larger images are averaged down to about this size first
WHITE = 255

# The raster formats that Pillow decodes in this process. EPS is left out because it starts Ghostscript, ICO and ICNS
# because their headers do not give the sizes of the images inside, JPEG 2000 because its decoder lets no other thread
# run meanwhile, not even the event loop: for 1.6 s with 16 megapixels, which may be a file of 15 kB.
IMAGE_FORMATS = (  # in the order in which they are tried: common ones first, TGA, which has no signature, last
    "PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "AVIF", "PCX", "PPM", "PSD", "QOI", "SGI", "TIFF", "TGA",
)  # fmt: skip
COPIED = {"WEBP": 4, "AVIF": 4}  # their pixels are copied at once while other threads wait: so many times fewer
PYTHON_PIXELS = 2**18  # 512 × 512, of what Pillow decodes in Python, 1 µs for each: QOI, BMP in runs, PPM as text
# Pieces in which Pillow may read a file: a few microseconds each, and twice as long for each twice as many where it
# joins them. A header has 10 to 200; the rows of a PNG come in pieces of 8 kB or more, but for small ones.
HEADER_PIECES, PIECES, PIECE = 2000, 20_000, 1024
SILENT = b"\x89PNG", jpeg.START  # formats whose decoders print nothing: PNG and JPEG
PNG = b"\x89PNG\r\n\x1a\n"  # opened as such, without Pillow's search for the format

Gray = NDArray[Any]  # numbers of any type (height, width)

Image.MAX_IMAGE_PIXELS = 2**27  # Pillow refuses twice as many, and would warn of more than these
MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it logs errors of files, which are refused
Image.init()  # loads Pillow's plugins now rather than during a request
warnings.filterwarnings("ignore", module=r"PIL\.")  # it warns on the terminal of what is odd in a file


class _Source(io.BytesIO):
    """The bytes of a file, which may be read in so many pieces: files of a few megabytes can have millions of chunks,
    comments, or strips, which Pillow handles in Python. Raises TooLarge."""

    pieces = HEADER_PIECES

    def read(self, size: int | None = -1, /) -> bytes:
        self.pieces -= 1
        if self.pieces < 0:
            raise TooLarge("the image file has too many parts; save it anew")
        return super().read(size)


@contextmanager
def opened(data: bytes, limits: Limits, mode: str, least: int) -> Iterator[tuple[Image.Image, bool]]:
    """The image in `data`, if it is within the limits, and whether it is a JPEG that was cut off: see `upright`.

    A large JPEG is decoded in that mode at a fraction of its size, of at least `least` pixels. What fails while the
    image is in use is a MediaError too.
    """
    check_bytes(len(data), "image", limits)
    data = without_front(data)
    is_heic = heif.is_readable(data)
    is_cut = jpeg.is_cut(data)
    formats = heif.FORMATS if is_heic else IMAGE_FORMATS
    content = data + jpeg.END if is_cut else data
    source = _Source(content) if len(content) > HEADER_PIECES else io.BytesIO(content)
    try:
        with nullcontext() if data.startswith(SILENT) else quiet:
            image = PngImageFile(source) if data.startswith(PNG) else Image.open(source, formats=formats)
            if isinstance(image, JpegImageFile):
                jpeg.check(image, data, limits)
                image.draft(mode, (least, least))  # decodes a large JPEG at a fraction of its size
            _check_pixels(image, limits)
            of_pixels = _check_decoder(image, limits)
            if isinstance(source, _Source):
                source.pieces = PIECES + len(data) // PIECE + of_pixels
            yield image, is_cut
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the image is larger than the {limits.pixels} pixels allowed") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise (damaged("image", announced(data)) if is_heic else undecodable(data, "image")) from error


def upright(image: Image.Image, limits: Limits, is_cut: bool) -> Image.Image:
    """The opened image, loaded and turned as its EXIF says; of a JPEG that was cut, what is left."""
    depth.load(image)
    _check_pixels(image, limits)  # some formats know their true size only now
    if is_cut:
        image = jpeg.decoded_rows(image)
    if image.info or image.format != "PNG":  # a PNG without metadata has no orientation
        ImageOps.exif_transpose(image, in_place=True)
    return image


def wide_gray(image: Image.Image) -> Gray:
    """An image of more than eight bits as numbers 0 … 255."""
    with np.errstate(all="ignore"):  # numbers that are not finite are refused
        pixels = np.asarray(image, np.float32)
        white = (1 << depth.bits(pixels.max())) - 1 if image.mode.startswith("I;16") else None
        gray = _eight_bit(np.asarray(shrink(Image.fromarray(pixels))), white)
    return WHITE - gray if depth.is_negative(image) else gray


def shrink(image: Image.Image) -> Image.Image:
    """The image averaged down to about WORKING_SIZE, if it is larger."""
    return image.reduce(max(1, max(image.size) // WORKING_SIZE))


def _eight_bit(gray: Gray, white: float | None) -> Gray:
    """`gray` rescaled from 0 … `white` to 0 … 255; where white is unknown, as for 32-bit samples, from the image's own
    range."""
    low, high = (0, white) if white else (gray.min(), gray.max())
    if not np.isfinite(high - low) or high == low:
        raise Unusable("the image is blank or holds pixels that are not finite numbers")
    return (gray - low) * (WHITE / (high - low))


def _check_pixels(image: Image.Image, limits: Limits) -> None:
    width, height = image.size
    most = min(limits.pixels, MOST_PIXELS)
    if width * height > most:
        raise TooLarge(f"the image has {width} × {height} pixels; at most {most} in all are allowed")


def _check_decoder(image: Image.Image, limits: Limits) -> int:
    """How many more pieces of the file the decoder may read. Raises TooLarge if that would hold up all others."""
    width, height = image.size
    pixels = width * height
    in_python = any(tile[0] in Image.DECODERS for tile in image.tile)  # type: ignore[attr-defined]
    allowed = PYTHON_PIXELS if in_python else limits.pixels // COPIED.get(image.format or "", 1)
    if pixels > allowed:
        raise TooLarge(
            f"the image has {width} × {height} pixels; at most {allowed} in all are allowed in "
            "this format; save it as PNG or JPEG"
        )
    return 4 * pixels * in_python
