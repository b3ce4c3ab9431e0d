"""Pictures of sixteen bits: those that fill fewer bits, and those that Pillow takes for others."""

import re
import sys
from typing import Any

from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

FEWER = 8, 12  # bits that programs and cameras put into sixteen as they are, which makes a picture nearly black
# Pillow's names of pixels of sixteen bits a colour, by the order of bytes.
COLOURS = re.compile(r"(?:RGB[AX]?|[RGBA]);16[BLN]")
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def bits(most: float) -> int:
    """How many of sixteen bits are filled, by the largest value.

    >>> bits(255), bits(4000), bits(5000)
    (8, 12, 16)
    """
    return next((n for n in FEWER if most < 1 << n), 16)


def load(image: Image.Image) -> None:
    """Load the opened image. Of sixteen bits a colour Pillow keeps the upper eight; where fewer are filled, the upper
    eight of these are kept instead."""
    assert isinstance(image, ImageFile)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(BITSPERSAMPLE, (8,))[0] == 16:
        order = "B" if image.tag_v2.prefix == b"MM" else "L"
        # Where a part of the file holds one of the colours, Pillow takes its sixteen bits for eight.
        image.tile = [
            _renamed(tile, f"{name};16{order}") if len(name := _name(tile)) == 1 else tile for tile in image.tile
        ]
    source, tiles = image.fp, image.tile
    image.load()
    if source is None or not tiles or not all(COLOURS.fullmatch(_name(tile)) for tile in tiles):
        return
    extremes: Any = image.getextrema()
    most = [256 * high for _, high in extremes]
    n = len(most) if bits(max(most)) < 16 else 3  # an alpha channel may be filled beside colours that are not
    filled = bits(max(most[:n]))
    if filled == 16:
        return
    source.seek(0)
    again = Image.open(source, formats=[image.format or ""])
    again.tile = [_renamed(tile, _name(tile)[:-1] + OTHER_ORDER[_name(tile)[-1]]) for tile in tiles]
    upper = [value << 16 - filled & 255 for value in range(256)]
    lower = [value >> filled - 8 for value in range(256)]
    colours = [ImageChops.add(image.getchannel(i).point(upper), again.getchannel(i).point(lower)) for i in range(n)]
    del again
    image.paste(Image.merge(image.mode, [*colours, *(image.getchannel(i) for i in range(n, len(most)))]))


def is_negative(image: Image.Image) -> bool:
    """Whether zero is white, which Pillow heeds only in pictures of up to eight bits."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0


def _name(tile: Any) -> str:
    """Pillow's name of the pixels in a part of the file."""
    name = tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args
    return name if isinstance(name, str) else ""


def _renamed(tile: Any, name: str) -> Any:
    return tile._replace(args=(name, *tile.args[1:]) if isinstance(tile.args, tuple) else name)
