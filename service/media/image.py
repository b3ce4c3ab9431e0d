"""Image files → grey pictures, in the form that the models take: that of MNIST's digits."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from service.errors import MediaError, TooLarge, Unreadable, Unusable
from service.media import depth, heif
from service.media.containers import find
from service.media.ink import RULE, SHADE, STROKE, ink_on_paper, is_framed, without_specks
from service.media.limits import Limits, check_bytes
from service.media.native import quiet
from service.media.signatures import announced, damaged, undecodable, without_front
from service.media.work import LEAST_PAGE, START_OF_SCAN

SIDE = 28  # pixels; width and height of an MNIST picture
BOX = 20  # pixels; the ink fills a BOX × BOX square of it
CENTRE = 14  # row and column to which the ink's centre of mass is moved
WHITE = 255

INK_THRESHOLD = 0.2  # of the strongest ink: above paper noise and JPEG ringing, below the edge of a stroke
MIN_CONTRAST = 8  # of 255 grey levels between background and ink; less is a blank page
MIN_COLOUR = 32  # the same between two colours, one of which may be noise
PLAIN = 0.1  # of the contrast: the border of an image on a plain background differs less
DEPTH = 5  # pixels of that border: the first rows of a stroke may be faint
WORKING_SIZE = 1024  # pixels; larger images are averaged down to about this size first

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
SILENT = b"\x89PNG", b"\xff\xd8"  # formats whose decoders print nothing: PNG and JPEG
PNG = b"\x89PNG\r\n\x1a\n"  # opened as such, without Pillow's search for the format
END_OF_IMAGE = b"\xff\xd9"  # the last two bytes of a JPEG
NOT_DECODED = 128  # grey level with which libjpeg fills what is missing
# A large JPEG is decoded at a fraction of its size, so that it may have more pixels than other images,
JPEG_PIXELS = 8  # times as many: the decoder still reads all of their codes
JPEG_HELD = 6  # samples of two bytes, for each pixel allowed, that the decoder of a progressive JPEG may hold
MAX_SCANS = 100  # of a progressive JPEG as large as other images: 10 are usual, and each takes as long as decoding all
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)  # markers of a progressive frame

Gray = NDArray[Any]  # numbers of any type (height, width)

POWERS = np.stack([np.ones(SIDE), np.arange(SIDE)])  # index ** 0 and index ** 1, for centres of mass

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


def decode_image(data: bytes, limits: Limits) -> NDArray[np.uint8]:
    """The image in `data` as MNIST would hold it: uint8 (28, 28), 0 = background, 255 = ink.

    Any size, mode and polarity will do. The EXIF orientation is applied, transparent images are composited onto a
    background that contrasts with what is visible, and the first frame of an animation is taken.

    Raises MediaError if it cannot be decoded, is too large, or is blank.
    """
    gray = convert_image(data, limits, "L", WORKING_SIZE, lambda image, is_cut: _gray(image, limits, is_cut))
    try:
        return to_mnist_form(gray, MIN_CONTRAST)
    except Unusable:  # it may have colours that are equally bright, such as red on green
        band = convert_image(data, limits, "RGB", WORKING_SIZE, lambda image, is_cut: _band(image, limits, is_cut))
        if not band.size:
            raise
        return to_mnist_form(band, MIN_COLOUR)


def convert_image(
    data: bytes, limits: Limits, mode: str, least: int, convert: Callable[[Image.Image, bool], Gray]
) -> Gray:
    """What `convert` makes of the image in `data`, which may be a JPEG that was cut off, if it is within the limits.

    A large JPEG is decoded in that mode at a fraction of its size, of at least `least` pixels. Raises MediaError.
    """
    check_bytes(len(data), "image", limits)
    data = without_front(data)
    is_heic = heif.is_readable(data)
    is_cut = data.startswith(b"\xff\xd8") and not data.endswith(END_OF_IMAGE) and not _ends_within(data)
    formats = heif.FORMATS if is_heic else IMAGE_FORMATS
    content = data + END_OF_IMAGE if is_cut else data
    source = _Source(content) if len(content) > HEADER_PIECES else io.BytesIO(content)
    try:
        with nullcontext() if data.startswith(SILENT) else quiet:
            image = PngImageFile(source) if data.startswith(PNG) else Image.open(source, formats=formats)
            if isinstance(image, JpegImageFile):
                _check_jpeg(image, data, limits)
                image.draft(mode, (least, least))  # decodes a large JPEG at a fraction of its size
            _check_pixels(image, limits)
            of_pixels = _check_decoder(image, limits)
            if isinstance(source, _Source):
                source.pieces = PIECES + len(data) // PIECE + of_pixels
            return convert(image, is_cut)
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the image is larger than the {limits.pixels} pixels allowed") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise (damaged("image", announced(data)) if is_heic else undecodable(data, "image")) from error


def to_mnist_form(gray: NDArray[Any], min_contrast: float = 0) -> NDArray[np.uint8]:
    """A picture of one symbol in the form of MNIST's digits (LeCun et al. 1998): the ink is scaled to fit a 20 × 20
    box, its aspect ratio kept, and shifted so that its centre of mass is the centre of 28 × 28 pixels.

    `gray` is (height, width) in any scale and polarity; the border tells which end is background. A picture that has
    this form already keeps every pixel. Returns uint8 (28, 28), 0 = background, 255 = ink; it may be `gray` itself.

    Raises Unusable if nothing stands out from the background, or the values span less than `min_contrast`.

    >>> page = np.full((90, 60), 255, np.uint8)  # white paper
    >>> page[20:70, 28:32] = 0  # one black stroke, 50 × 4 pixels
    >>> picture = to_mnist_form(page)
    >>> rows, columns = picture.nonzero()
    >>> picture.shape, int(picture.max()), int(np.ptp(rows)) + 1
    ((28, 28), 255, 20)
    """
    border = _border(gray)
    large = min(gray.shape) >= LEAST_PAGE
    plain = large and _plain(gray, border)
    written = ink_on_paper(gray) if large and not plain else None
    ink, peak = _contrasting(gray, border, min_contrast) if written is None else (written, written.max().item())
    mask = ink > type(peak)(INK_THRESHOLD * peak)  # integers compare with the integer part
    top, bottom, left, right = _box(mask)
    if plain and _may_have_others(mask[top:bottom, left:right]):
        kept = without_specks(mask)
        ink = np.where(kept >= mask, ink, 0)
        top, bottom, left, right = _box(kept)
    if not _in_form(ink, max(bottom - top, right - left)):
        ink = _centred(_fit(ink[top:bottom, left:right].astype(np.float32, copy=False)))
        peak = ink.max().item()
    if not 254 <= peak <= 255:  # MNIST's own peaks are 254 and 255
        ink = ink * np.float32(WHITE / peak)
    return ink if ink.dtype == np.uint8 else np.rint(ink).astype(np.uint8)


def _plain(gray: Gray, border: Gray) -> bool:
    """Whether the border is of one grey, except where strokes reach it that are wider than rules and as dark as any."""
    if border.max() == border.min():
        return True
    contrast = float(gray.max()) - float(gray.min())
    edges = gray[:DEPTH], gray[-DEPTH:], gray[:, :DEPTH].T, gray[:, -DEPTH:].T
    paper = np.float32(_median(border))
    away = np.concatenate([np.abs(edge - paper).max(axis=0) for edge in edges])
    if float(away.max()) <= PLAIN * contrast:
        return True
    dark = away >= (1 - PLAIN) * contrast
    broad = max(2, round(STROKE * min(gray.shape)))
    if gray.min() > SHADE * gray.max() and (np.convolve(dark, np.ones(broad)) == broad).any():
        return False  # wider than a stroke: a shadow may be as dark as ink in the light
    wide = max(2, round(RULE * max(gray.shape)))
    strokes = np.convolve(dark, np.ones(wide)) == wide  # at the end of each window
    reached = np.convolve(strokes, np.ones(3 * wide))[2 * wide - 1 :][: len(away)] > 0  # with soft edges
    return not (reached < (away > PLAIN * contrast)).any()


def _contrasting(gray: Gray, border: Gray, min_contrast: float) -> tuple[Gray, float]:
    """What differs from a background of one grey, and the strongest difference. Raises Unusable if it is too little."""
    on_black = not border.any() and (gray.dtype.kind == "u" or gray.min() >= 0)
    if not on_black or gray.dtype != np.uint8:
        gray = gray.astype(np.float32, copy=False)
    peak = gray.max().item()
    ink: Gray
    if on_black:
        ink, contrast = gray, peak  # already light on black
    else:
        contrast = peak - gray.min().item()
        border = border.astype(np.float32, copy=False)
        background = _median(border)
        noise = 3 * _median(np.abs(border - background))
        ink = gray - background
        if np.vdot(ink, np.abs(ink)) < 0:  # dark on light
            ink = -ink
        ink = np.where(ink > noise, ink, 0)
        peak = ink.max().item()
    if contrast < min_contrast or not peak > 0:
        raise Unusable("the image is blank: there is no ink that differs from the background")
    return ink, peak


def _may_have_others(mask: NDArray[np.bool_]) -> bool:
    """Whether there may be more than a symbol: specks, since a row or a column is empty, or a frame."""
    return not (mask.any(axis=0).all() and mask.any(axis=1).all()) or is_framed(mask)


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


def _check_jpeg(image: JpegImageFile, data: bytes, limits: Limits) -> None:
    """Raises TooLarge if decoding at a fraction of the size would still take long, or much memory."""
    pixels = image.width * image.height
    allowed = JPEG_PIXELS * limits.pixels
    if pixels > allowed:
        raise TooLarge(f"the JPEG has {image.width} × {image.height} pixels; at most {allowed} in all are allowed")
    scans = data.count(b"\xff\xda")
    if scans > MAX_SCANS or scans * pixels > MAX_SCANS * limits.pixels:
        raise TooLarge(f"the JPEG has too many scans: {scans} of {image.width} × {image.height} pixels")
    sampling = [(across, down) for _, across, down, _ in image.layer]
    whole = max(across for across, _ in sampling) * max(down for _, down in sampling)
    held = pixels * sum(across * down for across, down in sampling) // whole
    if held > JPEG_HELD * limits.pixels and _in_several_scans(data, image.layers):
        raise TooLarge(
            f"the progressive JPEG has {image.width} × {image.height} pixels, all of which must be held while it is "
            "decoded; save it without progressive encoding, or smaller"
        )


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
    return find(data, END_OF_IMAGE, scan) >= 0


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the segments of a JPEG begin, and their markers, up to the first scan; of few pieces, as in a header."""
    at = 2
    for _ in range(HEADER_PIECES):
        if data[at : at + 1] != b"\xff" or at + 1 == len(data):
            return
        marker = data[at + 1]
        yield at, marker
        if marker == START_OF_SCAN:
            return
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])


def _gray(image: Image.Image, limits: Limits, is_cut: bool) -> Gray:
    """The opened image as numbers (height, width), 0 = black, 255 = white; of a JPEG that was cut, what is left."""
    image = upright(image, limits, is_cut)
    if image.mode.startswith(("I", "F")):
        return wide_gray(image)
    if image.mode == "L" and max(image.size) < 2 * WORKING_SIZE and not image.has_transparency_data:
        pixels = np.frombuffer(image.tobytes(), np.uint8)  # np.asarray takes twice as long
        return pixels.reshape(image.height, image.width)
    if image.has_transparency_data:
        return _composite(_shrink(image.convert("RGBA")))
    luma = image.getchannel("L") if image.mode == "LAB" else image.convert("L")
    return np.asarray(_shrink(luma), np.float32)


def _band(image: Image.Image, limits: Limits, is_cut: bool) -> Gray:
    """Red, green or blue of the opened image, whichever has the most contrast; empty if it has no colours."""
    if image.mode not in ("RGB", "P", "CMYK", "YCbCr"):  # it is not decoded a second time
        return np.empty((0, 0))
    image = upright(image, limits, is_cut)
    if image.has_transparency_data:
        return np.empty((0, 0))
    bands = np.asarray(_shrink(image.convert("RGB")), np.float32)
    return bands[..., int(np.ptp(bands, axis=(0, 1)).argmax())]


def upright(image: Image.Image, limits: Limits, is_cut: bool) -> Image.Image:
    """The opened image, loaded and turned as its EXIF says; of a JPEG that was cut, what is left."""
    depth.load(image)
    _check_pixels(image, limits)  # some formats know their true size only now
    if is_cut:
        image = _decoded_rows(image)
    if image.info or image.format != "PNG":  # a PNG without metadata has no orientation
        ImageOps.exif_transpose(image, in_place=True)
    return image


def wide_gray(image: Image.Image) -> Gray:
    """An image of more than eight bits as numbers 0 … 255."""
    with np.errstate(all="ignore"):  # numbers that are not finite are refused
        pixels = np.asarray(image, np.float32)
        white = (1 << depth.bits(pixels.max())) - 1 if image.mode.startswith("I;16") else None
        gray = _eight_bit(np.asarray(_shrink(Image.fromarray(pixels))), white)
    return WHITE - gray if depth.is_negative(image) else gray


def _decoded_rows(image: Image.Image) -> Image.Image:
    """The rows of a JPEG up to the last one that was decoded to its right end."""
    differs = np.asarray(image.convert("L")) != NOT_DECODED
    decoded = differs[:, -1] if differs[:, -1].any() else differs.any(axis=1)  # the ground may be of that grey itself
    if not decoded.any():
        raise Unreadable("the JPEG is cut off before its first rows of pixels")
    return image.crop((0, 0, image.width, int(decoded.nonzero()[0][-1]) + 1))


def _shrink(image: Image.Image) -> Image.Image:
    return image.reduce(max(1, max(image.size) // WORKING_SIZE))


def _eight_bit(gray: Gray, white: float | None) -> Gray:
    """`gray` rescaled from 0 … `white` to 0 … 255; where white is unknown, as for 32-bit samples, from the image's own
    range."""
    low, high = (0, white) if white else (gray.min(), gray.max())
    if not np.isfinite(high - low) or high == low:
        raise Unusable("the image is blank or holds pixels that are not finite numbers")
    return (gray - low) * (WHITE / (high - low))


def _composite(image: Image.Image) -> Gray:
    """An RGBA image composited onto one grey: the median of its border where that is opaque, else black or white,
    whichever contrasts."""
    alpha = np.asarray(image.getchannel("A"), np.float32) / 255
    gray = np.asarray(image.convert("L"), np.float32)
    if not alpha.any():
        raise Unusable("the image is wholly transparent")
    visible = _border(alpha) > 0.5
    if visible.mean() > 0.5:
        background = _median(_border(gray)[visible])
    else:
        background = 0 if (gray * alpha).sum() > alpha.sum() * WHITE / 2 else WHITE
    return background + alpha * (gray - background)


def _border(picture: Gray) -> Gray:
    return np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])


def _median(values: Gray) -> float:
    return float(np.sort(values)[len(values) // 2])  # np.median takes ten times as long on so few


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The bounding box of the flags (height, width) that are set: top, bottom, left, right, the ends exclusive."""
    # Searching bytes takes a tenth of NumPy's time on arrays this small.
    rows, width, columns = mask.tobytes(), mask.shape[1], np.logical_or.reduce(mask).tobytes()
    return rows.find(True) // width, rows.rfind(True) // width + 1, columns.find(True), columns.rfind(True) + 1


def _centre_of_mass(ink: Gray) -> tuple[float, float]:
    """Row and column of the centre of mass of at most SIDE × SIDE pixels."""
    height, width = ink.shape
    (mass, across), (down, _) = np.dot(np.dot(POWERS[:, :height], ink.astype(np.float64)), POWERS[:, :width].T).tolist()
    return down / mass, across / mass


def _in_form(ink: Gray, side: int) -> bool:
    """Whether ink whose bounding box has the longer side `side` is placed as in MNIST, whose pictures were shifted by
    whole pixels: their centres of mass lie within half a pixel of CENTRE."""
    return (
        ink.shape == (SIDE, SIDE)
        and BOX // 2 < side <= BOX
        and all(abs(centre - CENTRE) < 0.55 for centre in _centre_of_mass(ink))
    )


def _fit(ink: Gray) -> Gray:
    """The ink scaled to a longer side of BOX pixels, its aspect ratio kept."""
    scale = BOX / max(ink.shape)
    height, width = (max(1, round(length * scale)) for length in ink.shape)
    resized = Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized).clip(0)  # bicubic interpolation overshoots


def _centred(ink: Gray) -> Gray:
    """The ink on SIDE × SIDE pixels, its centre of mass as close to CENTRE as whole pixels and the edges allow."""
    picture = np.zeros((SIDE, SIDE), np.float32)
    row, column = (
        min(max(round(CENTRE - centre), 0), SIDE - length)
        for centre, length in zip(_centre_of_mass(ink), ink.shape, strict=True)
    )
    picture[row : row + ink.shape[0], column : column + ink.shape[1]] = ink
    return picture
