"""Image files → grey pictures, in the form that the models take: that of MNIST's digits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import Unusable
from service.media.ink import RULE, SHADE, STROKE, ink_on_paper, is_framed, without_specks
from service.media.limits import Limits
from service.media.raster import WHITE as WHITE  # re-exported: a part of this form
from service.media.raster import WORKING_SIZE, Gray, opened, shrink, upright, wide_gray
from service.media.work import LEAST_PAGE

SIDE = 28  # pixels; width and height of an MNIST picture
BOX = 20  # pixels; the ink fills a BOX × BOX square of it
CENTRE = 14  # row and column to which the ink's centre of mass is moved

INK_THRESHOLD = 0.2  # of the strongest ink: above paper noise and JPEG ringing, below the edge of a stroke
MIN_CONTRAST = 8  # of 255 grey levels between background and ink; less is a blank page
MIN_COLOUR = 32  # the same between two colours, one of which may be noise
PLAIN = 0.1  # of the contrast: the border of an image on a plain background differs less
DEPTH = 5  # pixels of that border: the first rows of a stroke may be faint

POWERS = np.stack([np.ones(SIDE), np.arange(SIDE)])  # index ** 0 and index ** 1, for centres of mass


def decode_image(data: bytes, limits: Limits) -> NDArray[np.uint8]:
    """The image in `data` as MNIST would hold it: uint8 (28, 28), 0 = background, 255 = ink.

    Any size, mode and polarity will do. The EXIF orientation is applied, transparent images are composited onto a
    background that contrasts with what is visible, and the first frame of an animation is taken.

    Raises MediaError if it cannot be decoded, is too large, or is blank.
    """
    gray = _gray(data, limits)
    try:
        return to_mnist_form(gray, MIN_CONTRAST)
    except Unusable:  # it may have colours that are equally bright, such as red on green
        band = _band(data, limits)
        if not band.size:
            raise
        return to_mnist_form(band, MIN_COLOUR)


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


def _gray(data: bytes, limits: Limits) -> Gray:
    """The image in `data` as numbers (height, width), 0 = black, 255 = white."""
    with opened(data, limits, "L", WORKING_SIZE) as (image, is_cut):
        image = upright(image, limits, is_cut)
        if image.mode.startswith(("I", "F")):
            return wide_gray(image)
        if image.mode == "L" and max(image.size) < 2 * WORKING_SIZE and not image.has_transparency_data:
            pixels = np.frombuffer(image.tobytes(), np.uint8)  # np.asarray takes twice as long
            return pixels.reshape(image.height, image.width)
        if image.has_transparency_data:
            return _composite(shrink(image.convert("RGBA")))
        luma = image.getchannel("L") if image.mode == "LAB" else image.convert("L")
        return np.asarray(shrink(luma), np.float32)


def _band(data: bytes, limits: Limits) -> Gray:
    """Red, green or blue of the image in `data`, whichever has the most contrast; empty if it has no colours."""
    with opened(data, limits, "RGB", WORKING_SIZE) as (image, is_cut):
        if image.mode not in ("RGB", "P", "CMYK", "YCbCr"):  # it is not decoded a second time
            return np.empty((0, 0))
        image = upright(image, limits, is_cut)
        if image.has_transparency_data:
            return np.empty((0, 0))
        bands = np.asarray(shrink(image.convert("RGB")), np.float32)
        return bands[..., int(np.ptp(bands, axis=(0, 1)).argmax())]


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
