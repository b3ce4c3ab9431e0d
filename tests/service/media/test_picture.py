"""Images to pictures in colour of one size: every mode, turned by EXIF, flattened; and reasons for bad files."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from service.errors import MediaError, TooLarge, Unusable
from service.media import Limits
from service.media.picture import decode_picture, resized
from tests.service.helpers import IMAGE_FILES


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)  # type: ignore[arg-type]
    return file.getvalue()


def decoded(image: Image.Image, size: int = 32, form: str = "PNG", **options: object) -> np.ndarray:
    return decode_picture(encoded(image, form, **options), size, Limits())


def deep_png(pixels: np.ndarray) -> bytes:
    """A PNG of sixteen bits a colour, which Pillow does not write."""
    height, width, colours = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[colours], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(rows), b"IEND")
    parts = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_tiff(
    pixels: np.ndarray, order: str = "<", planar: bool = False, deflated: bool = False, photometric: int = 2
) -> bytes:
    """A TIFF of sixteen bits a colour, whose colours are side by side or one after the other."""
    height, width, colours = pixels.shape
    parts = np.moveaxis(pixels, 2, 0) if planar else pixels[None]
    strips = [part.astype(f"{order}u2").tobytes() for part in parts]
    strips = [zlib.compress(strip) for strip in strips] if deflated else strips
    starts = [8 + sum(map(len, strips[:i])) for i in range(len(strips))]
    tags = {
        256: [width], 257: [height], 258: [16] * colours, 259: [8 if deflated else 1], 262: [photometric], 273: starts,
        277: [colours], 278: [height], 279: [*map(len, strips)], 284: [2 if planar else 1],
    }  # fmt: skip
    at = 8 + sum(map(len, strips))
    entries, beyond = b"", b""
    for tag, values in tags.items():
        packed = struct.pack(f"{order}{len(values)}I", *values)
        place = at + 2 + 12 * len(tags) + 4 + len(beyond)
        entries += struct.pack(f"{order}HHI", tag, 4, len(values))
        entries += packed if len(values) == 1 else struct.pack(f"{order}I", place)
        beyond += packed if len(values) > 1 else b""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", at)
    return head + b"".join(strips) + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + beyond


def halves() -> Image.Image:
    """Red on the left, blue on the right: 60 × 40."""
    image = Image.new("RGB", (60, 40), (200, 10, 10))
    image.paste((10, 10, 200), (30, 0, 60, 40))
    return image


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F", "LAB"])
def test_every_mode_becomes_red_green_and_blue(mode: str) -> None:
    gray = np.linspace(0, 255, 48).astype(np.uint8)[None].repeat(48, 0)
    image = Image.fromarray(gray)
    match mode:
        case "I;16":
            image = Image.fromarray(gray.astype(np.uint16) * 257)
        case "F":
            image = Image.fromarray(gray / np.float32(255))
        case "LAB":
            image = Image.merge("LAB", (image, *(Image.new("L", image.size, 128),) * 2))
        case _:
            image = image.convert("RGB").convert(mode)
    form = "PNG" if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF"
    found = decoded(image, 16, form)
    assert (found.shape, found.dtype) == ((16, 16, 3), np.uint8)
    assert np.ptp(found, axis=2).max() <= 8  # palettes hold few greys
    assert np.corrcoef(found[8, :, 0], np.arange(16))[0, 1] > (0.8 if mode == "1" else 0.97)


@pytest.mark.parametrize("bits", [8, 12])
def test_fewer_bits_in_sixteen_are_no_night(bits: int) -> None:
    """As cameras of laboratories store twelve, and programs that convert an array of eight."""
    gray = np.linspace(0, 255, 48).astype(np.uint16)[None].repeat(48, 0)
    full = decoded(Image.fromarray(gray * 257))
    np.testing.assert_allclose(decoded(Image.fromarray(gray << bits - 8), form="TIFF"), full, atol=1)
    np.testing.assert_array_equal(decoded(Image.fromarray(np.zeros((48, 48), np.uint16))), 0)
    colours = np.stack([gray, gray[:, ::-1], gray.T], 2)
    dark = colours << bits - 8
    opaque = [deep_png(np.concatenate([dark, np.full((48, 48, 1), most)], 2)) for most in (65535, (1 << bits) - 1)]
    files = [deep_png(dark), *opaque, deep_tiff(dark), deep_tiff(dark, planar=True)]
    for data in (*files, deep_tiff(dark, order=">"), deep_tiff(dark, deflated=True)):
        np.testing.assert_array_equal(decode_picture(data, 48, Limits()), colours)


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_may_lie_colour_by_colour(order: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for planar in (False, True):
        data = deep_tiff(colours * np.uint16(257), order=order, planar=planar)
        np.testing.assert_array_equal(decode_picture(data, 32, Limits()), colours)


def test_zero_may_be_white_in_sixteen_bits() -> None:
    gray = np.linspace(0, 255, 48).astype(np.uint16)[None].repeat(48, 0)
    found = decode_picture(deep_tiff((65535 - gray * 257)[..., None], photometric=0), 48, Limits())
    np.testing.assert_allclose(found[..., 0], gray, atol=1)


def test_colours_stay_where_they_are_and_exif_turns_them() -> None:
    found = decoded(halves())
    np.testing.assert_array_equal(found[16, [4, 28]], [(200, 10, 10), (10, 10, 200)])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = decoded(halves(), exif=exif)
    np.testing.assert_array_equal(turned[[4, 28], 16], [(200, 10, 10), (10, 10, 200)])


def test_what_is_transparent_is_white_and_what_is_white_stands_on_black() -> None:
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((200, 0, 0, 255), (10, 10, 30, 30))
    found = decoded(image, 20)
    np.testing.assert_array_equal(found[[0, 10], [0, 10]], [(255, 255, 255), (200, 0, 0)])
    image.paste((250, 250, 250, 255), (10, 10, 30, 30))
    np.testing.assert_array_equal(decoded(image, 20)[[0, 10], [0, 10]], [(0, 0, 0), (250, 250, 250)])
    with pytest.raises(Unusable, match="wholly transparent"):
        decoded(Image.new("RGBA", (40, 40), (9, 9, 9, 0)))


def test_fine_stripes_are_averaged_and_not_sampled() -> None:
    stripes = np.tile(np.uint8([0, 255]), (300, 150))
    found = decoded(Image.fromarray(stripes)).astype(int)
    assert np.abs(found - 127).max() <= 8


def test_a_picture_of_the_size_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(decoded(Image.fromarray(pixels)), pixels)
    np.testing.assert_array_equal(resized(pixels, 32), pixels)


def test_a_large_jpeg_is_as_if_it_were_small() -> None:
    large = halves().resize((1800, 1200), Image.Resampling.NEAREST)
    difference = decoded(large, form="JPEG", quality=95).astype(int) - decoded(halves()).astype(int)
    assert np.abs(difference[:, [4, 28]]).max() <= 4


def test_every_file_that_the_service_reads_as_a_symbol_is_a_picture_too() -> None:
    for data in IMAGE_FILES:
        assert decode_picture(data, 24, Limits()).shape == (24, 24, 3)


def test_bad_files_have_a_reason() -> None:
    whole = encoded(halves().resize((600, 400)), "JPEG")
    for data in (b"", b"RIFF", whole[:60], b"\x89PNG\r\n\x1a\n" + bytes(30)):
        with pytest.raises(MediaError):
            decode_picture(data, 32, Limits())
    assert decode_picture(whole[: len(whole) * 2 // 3], 32, Limits()).shape == (32, 32, 3)
    with pytest.raises(TooLarge):
        decode_picture(whole, 32, Limits(pixels=100))
