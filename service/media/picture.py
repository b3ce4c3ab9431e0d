"""Image files → pictures in colour of one size, in the form that models of photographs take."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from service.errors import Unusable
from service.media.limits import Limits
from service.media.raster import WHITE, opened, upright, wide_gray

BRIGHT = 224  # of 255: what is visible of a transparent image and is lighter than this would vanish on white
FINER = 4  # a large JPEG is decoded at no less than this many times the size that it gets
GAP = 3.0  # a larger image is averaged down to so many times its final size first, which is fast

LAB, SRGB = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")


def decode_picture(data: bytes, size: int, limits: Limits) -> NDArray[np.uint8]:
    """The image in `data` in red, green and blue: uint8 (size, size, 3).

    Any size and mode will do. The EXIF orientation is applied, what is transparent becomes white, and the first frame
    of an animation is taken. The whole image is resized with antialiasing; one that is not square is squeezed.

    Raises MediaError if it cannot be decoded, is too large, or is wholly transparent.
    """
    with opened(data, limits, "RGB", FINER * size) as (image, is_cut):
        return _resized(_flattened(upright(image, limits, is_cut)), size)


def resized(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Pixels uint8 (height, width), grey, or (height, width, 3) as a picture uint8 (size, size, 3).

    >>> resized(np.full((28, 28), 7, np.uint8), 32).shape
    (32, 32, 3)
    """
    return _resized(Image.fromarray(pixels).convert("RGB"), size)


def _resized(image: Image.Image, size: int) -> NDArray[np.uint8]:
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=GAP)
    return np.array(image)


def _flattened(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB, without transparency."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(np.rint(wide_gray(image)).clip(0, WHITE).astype(np.uint8)).convert("RGB")
    if image.mode == "LAB":
        converted: Any = ImageCms.profileToProfile(image, LAB, SRGB, outputMode="RGB")
        return converted  # type: ignore[no-any-return]
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if not alpha.getbbox():
        raise Unusable("the image is wholly transparent")
    visible = np.asarray(alpha.resize((1, 1), Image.Resampling.BOX)).item() or 1
    on_black = Image.new("RGB", image.size, 0)
    on_black.paste(image, mask=alpha)
    mean = np.asarray(on_black.convert("L").resize((1, 1), Image.Resampling.BOX)).item() * WHITE / visible
    if mean > BRIGHT:
        return on_black
    page = Image.new("RGB", image.size, (WHITE,) * 3)
    page.paste(image, mask=alpha)
    return page
