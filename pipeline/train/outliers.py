"""Out-of-distribution pictures, on which the network behind `known` is trained, together with pictures of the classes.

They belong to no class and are drawn from scratch or made from pictures of the classes (outlier exposure; Hendrycks,
Mazeika & Dietterich 2019, "Deep anomaly detection with outlier exposure"). Pictures of the classes are also redrawn
with other pens, so that the network learns their shapes and not the width of the strokes.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, max_pool2d

from models.frontend import IMAGE_SIZE
from pipeline.task import Augment
from pipeline.train.distortion import Distortion
from service.media.image import WHITE, to_mnist_form

STROKES = 4  # in a scribble, at most
POINTS = 48  # drawn along a stroke
BOX = 20.0  # pixels: longer side of the ink, as in MNIST
PENS = (0.5, 0.75, 1.0, 1.35, 1.7, 2.1)  # pixels: radii
FINE = 2  # scribbles are drawn this many times as large, then averaged: their edges are grey, like those of a scan
FONT = "DejaVuSans.ttf"  # comes with Matplotlib
SCRIPTS = (  # Unicode ranges: Armenian, Hebrew, Arabic, Lao, Georgian, Canadian syllabics, Tifinagh; and symbols
    (0x531, 0x58F), (0x5D0, 0x5EA), (0x621, 0x64A), (0xE81, 0xEAE), (0x10A0, 0x10FF), (0x1401, 0x1676),
    (0x2D30, 0x2D67), (0x2190, 0x23FF), (0x2600, 0x27BF),
)  # fmt: skip
PAGE = 80  # pixels: side of the page that a glyph is drawn on
THICKEST, BLUR = 3, 2.0  # pixels of that page: how much its strokes are thickened and blurred, at most
MARGIN = 4  # pixels of that page that are kept around a glyph: a smaller picture is brought to MNIST's form sooner
DRAWN = 3_000  # glyphs, at most; beyond that they repeat, since drawing takes most of the time
DISTORTED = Augment(rotation=10, scale=0.1, shear=0.2, elastic=1)
PIECE = 1_000  # pictures changed at a time
SCRIBBLES = 128  # drawn at a time: each takes thirty times the memory of its picture
SHARPEST = 4  # times the contrast between ink and paper, at most


def make_outliers(
    pictures: Callable[[Tensor], Tensor],
    n_pictures: int,
    n: int,
    generator: torch.Generator,
    out: Tensor | None = None,
) -> Tensor:
    """`n` pictures that belong to no class, float32 (n, 784), 0 = background, 1 = ink; written to `out` if it is given.

    A third are glyphs, a third pictures of the classes that are rotated, cut up or superposed, the others scribbles and
    textures.

    Parameters
    ----------
    pictures : returns pictures of the classes by index, float32 (m, 784), newly allocated
    n_pictures : how many of them there are

    Example
    -------
    >>> pictures = torch.rand(5, 784)
    >>> make_outliers(pictures.__getitem__, 5, 15, torch.Generator().manual_seed(0)).shape
    torch.Size([15, 784])
    """
    part = n // 15

    def chosen() -> Tensor:
        rows = torch.randint(n_pictures, (part,), generator=generator)
        return pictures(rows).view(-1, IMAGE_SIZE, IMAGE_SIZE)

    makers: list[Callable[[], Tensor]] = [
        lambda: _rotated(chosen(), generator),
        lambda: _joined(chosen(), chosen(), generator),
        lambda: _broken(chosen(), generator),
        lambda: _shuffled(chosen(), generator),
        lambda: torch.maximum(chosen(), chosen()),
        lambda: textures(2 * part, generator),
        lambda: scribbles(3 * part, generator),
        lambda: glyphs(n - 10 * part, generator),
    ]
    made, start = torch.empty(n, IMAGE_SIZE**2) if out is None else out, 0
    for make in makers:  # one after the other, so that each can reuse the memory of the last
        for images in torch.split(make(), PIECE):
            made[start : start + len(images)] = _centred(images).flatten(1)
            start += len(images)
    return made


def redrawn(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Each of the pictures, float32 (n, 784), with thicker, thinner or unchanged strokes, and more contrast."""
    random = [
        torch.split(high * torch.rand(len(pictures), 1, 1, 1, generator=generator), PIECE)
        for high in (3, 0.6, SHARPEST - 1)
    ]
    images = torch.split(pictures.view(-1, 1, IMAGE_SIZE, IMAGE_SIZE), PIECE)
    return torch.cat([_redrawn(*part) for part in zip(images, *random, strict=True)]).flatten(1)


def _redrawn(images: Tensor, pen: Tensor, share: Tensor, contrast: Tensor) -> Tensor:
    thick, thin = max_pool2d(images, 3, 1, 1), -max_pool2d(-images, 3, 1, 1)
    other = torch.where(pen < 1, thick, torch.where(pen < 2, thin, images))
    lines = images.lerp(other, share)
    sharp = ((lines - 0.5) * (1 + contrast) + 0.5).clamp(0, 1)
    return sharp / sharp.amax((2, 3), keepdim=True).clamp(min=0.2)


def scribbles(n: int, generator: torch.Generator) -> Tensor:
    """One to four strokes of one pen: lines, arcs and waves, many of them joined or upright; scaled and centred like
    MNIST's digits. float32 (n, 28, 28), like those of the other makers."""
    strokes: list[Tensor] = []
    for i in range(STROKES):
        stroke = _stroke(n, strokes[-1] if i else None, generator)
        if i:  # a stroke that is left out repeats the first
            left_out = torch.rand(n, 1, 1, generator=generator) < 0.3 + 0.1 * i
            stroke = torch.where(left_out, strokes[0], stroke)
        strokes.append(stroke)
    points = torch.cat(strokes, 1)
    radius = torch.tensor(PENS)[torch.randint(len(PENS), (n,), generator=generator)]
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    size = (high - low).amax(2, keepdim=True).clamp(min=0.05)
    points = (points - low) / size * (BOX - 2 * radius.view(-1, 1, 1))
    points = points + IMAGE_SIZE / 2 - points.mean(1, keepdim=True)
    made = torch.empty(n, IMAGE_SIZE, IMAGE_SIZE)
    for part in zip(*(torch.split(of_all, SCRIBBLES) for of_all in (made, points, radius)), strict=True):
        part[0].copy_(_drawn(*part[1:]))
    return made


def _stroke(n: int, before: Tensor | None, generator: torch.Generator) -> Tensor:
    """Points along one stroke of each of n scribbles, float32 (n, POINTS, 2), in no unit; many strokes begin at an end
    of the one before."""

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    along = torch.linspace(0, 1, POINTS)
    start = draw(0, 1, 2)
    if before is not None:
        end_before = torch.where(draw(0, 1, 1) < 0.6, before[:, -1], before[:, 0])
        start = torch.where(draw(0, 1, 1) < 0.6, end_before, start)
    end = draw(0, 1, 2)
    direction = draw(0, 1, 1)  # upright, level, or any
    end = torch.where(torch.cat([direction < 0.3, (direction > 0.3) & (direction < 0.6)], 1), start, end)
    line = start[:, None] + along[:, None] * (end - start)[:, None]
    turn = torch.where(draw(0, 1, 1) < 0.5, 1.0, -1.0) * draw(0.5 * math.pi, 2 * math.pi, 1)
    angle = draw(0, 2 * math.pi, 1) + turn * along
    circle = torch.stack([angle.cos(), angle.sin()], 2) * draw(0.1, 0.4, 1, 2)
    arc = start[:, None] + circle - circle[:, :1]
    across = (end - start).flip(1) * torch.tensor([-1.0, 1.0])
    wave = line + draw(-0.6, 0.6, 1, 1) * (2 * math.pi * along).sin()[:, None] * across[:, None]
    shape = draw(0, 1, 1, 1)
    return torch.where(shape < 0.5, line, torch.where(shape < 0.85, arc, wave))


def _drawn(points: Tensor, radius: Tensor) -> Tensor:
    """Pictures of the points (n, P, 2), in pixels, drawn with pens of those radii (n,): float32 (n, 28, 28)."""
    paths = _splat((FINE * points).clamp(0, FINE * IMAGE_SIZE - 1.01))
    for r in PENS:
        of_pen = radius == r
        reach = math.ceil(FINE * r)
        offsets = torch.arange(-reach, reach + 1.0)
        disc = (FINE * r + 0.5 - torch.hypot(offsets[:, None], offsets)).clamp(0, 1)
        paths[of_pen] = conv2d(paths[of_pen], disc[None, None], padding=reach).clamp(max=1)
    pictures = avg_pool2d(paths, FINE)[:, 0]
    return pictures / pictures.amax((1, 2), keepdim=True)


def glyphs(n: int, generator: torch.Generator) -> Tensor:
    """Symbols, and characters of scripts that share no letter with Latin; of any stroke width, more or less blurred,
    half of them distorted. float32 (n, 28, 28)."""
    import matplotlib  # takes a while, and only this function needs its typefaces
    from matplotlib.font_manager import get_font

    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / FONT
    typeface = ImageFont.truetype(font, PAGE // 2)
    available = sorted(get_font(str(font)).get_charmap())
    characters = [chr(code) for code in available if any(first <= code <= last for first, last in SCRIPTS)]
    drawn = [_page(characters, typeface, generator) for _ in range(min(n, DRAWN))]
    bank = torch.from_numpy(np.stack(drawn)).to(torch.float32) / WHITE
    pictures = bank[torch.arange(n) % len(bank)]
    distorted = pictures[: n // 2].flatten(1)
    Distortion(DISTORTED, 0.0, torch.device("cpu"))(distorted, generator)
    pictures[: n // 2] = distorted.view(-1, IMAGE_SIZE, IMAGE_SIZE)
    return pictures


def _page(characters: Sequence[str], typeface: ImageFont.FreeTypeFont, generator: torch.Generator) -> NDArray[np.uint8]:
    """A random character, scaled and centred like MNIST's digits; uint8 (28, 28)."""
    while True:
        which, thick = (int(torch.randint(m, (1,), generator=generator)) for m in (len(characters), THICKEST + 1))
        blur = BLUR * float(torch.rand(1, generator=generator))
        page = Image.new("L", (PAGE, PAGE), 0)
        centre = (PAGE // 2, PAGE // 2)
        ImageDraw.Draw(page).text(centre, characters[which], fill=WHITE, font=typeface, anchor="mm", stroke_width=thick)
        if box := page.getbbox():  # else there is no ink: try another
            left, top, right, bottom = box
            page = page.crop((left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN))
            return to_mnist_form(np.asarray(page.filter(ImageFilter.GaussianBlur(blur))))


def textures(n: int, generator: torch.Generator) -> Tensor:
    """Noise and gradients, fine or smooth, over the whole picture or in a patch of any shape; float32 (n, 28, 28)."""

    def field(least: int) -> Tensor:
        """Smooth noise, 0 … 1, with one of several grain sizes in each picture."""
        sizes = [s for s in (2, 4, 7, 14, 28) if s >= least]
        parts = [torch.randn(-(-n // len(sizes)), 1, s, s, generator=generator) for s in sizes]
        smooth = torch.cat([interpolate(p, IMAGE_SIZE, mode="bilinear", align_corners=True) for p in parts])[:n, 0]
        smooth = smooth[torch.randperm(n, generator=generator)]
        lowest, highest = smooth.amin((1, 2), keepdim=True), smooth.amax((1, 2), keepdim=True)
        return (smooth - lowest) / (highest - lowest)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=generator)

    floor = draw(-0.5, 0.9)  # there is no ink below it: from isolated grains to a full surface
    grain = ((field(2) - floor) / (1 - floor)).clamp(min=0)
    shape = torch.zeros(n, IMAGE_SIZE, IMAGE_SIZE)
    shape[:, 4:-4, 4:-4] = 1
    patch = avg_pool2d(shape * field(2), 3, 1, 1) > draw(0.2, 0.6)
    whole = draw(0, 1) < 0.4
    made = torch.where(whole, grain, grain * patch)
    return made / made.amax((1, 2), keepdim=True).clamp(min=1e-3)


def _rotated(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each rotated by 90° either way, or mirrored along a diagonal."""
    made = (images.rot90(1, (1, 2)), images.rot90(3, (1, 2)), images.transpose(1, 2), images.flip(1, 2).transpose(1, 2))
    which = torch.randint(len(made), (len(images),), generator=generator)
    return torch.stack(made)[which, torch.arange(len(images))]


def _joined(images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """The upper or left half of each, joined to the other half of another."""
    joined, half = images.clone(), IMAGE_SIZE // 2
    upright = torch.rand(len(images), generator=generator) < 0.5
    joined[upright, half:] = others[upright, half:]
    joined[~upright, :, half:] = others[~upright, :, half:]
    return joined


def _broken(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each broken along a row or a column, the part beyond the break shifted along it by 3 to 7 pixels."""
    n = len(images)
    position = torch.arange(IMAGE_SIZE).expand(n, IMAGE_SIZE)
    beyond = position >= torch.randint(8, 21, (n, 1), generator=generator)
    sign = 2 * torch.randint(2, (n, 1), generator=generator) - 1
    shift = torch.where(beyond, sign * torch.randint(3, 8, (n, 1), generator=generator), 0)  # of each row
    source = (torch.arange(IMAGE_SIZE) - shift.unsqueeze(2)) % IMAGE_SIZE
    across = torch.rand(n, 1, 1, generator=generator) < 0.5
    rows = images.gather(2, source)
    columns = images.transpose(1, 2).gather(2, source).transpose(1, 2)
    return torch.where(across, rows, columns)


def _shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each cut into 4 × 4 tiles, some of which are exchanged."""
    n, side = len(images), IMAGE_SIZE // 4
    tiles = images.view(n, 4, side, 4, side).transpose(2, 3).reshape(n, 16, side, side)
    stays = torch.rand(n, 16, generator=generator) < torch.rand(n, 1, generator=generator)
    # The tiles that move are shuffled among their positions.
    shuffled = torch.where(stays, torch.inf, torch.rand(n, 16, generator=generator)).argsort(1)
    positions = torch.where(stays, torch.inf, torch.arange(16.0)).argsort(1)
    order = torch.arange(16).repeat(n, 1).scatter(1, positions, shuffled)
    order = torch.where(stays, torch.arange(16), order)
    tiles = tiles.gather(1, order[:, :, None, None].expand_as(tiles))
    return tiles.view(n, 4, 4, side, side).transpose(2, 3).reshape(n, IMAGE_SIZE, IMAGE_SIZE)


def _centred(images: Tensor) -> Tensor:
    """Each shifted by whole pixels, so that its centre of mass is that of MNIST's pictures."""
    mass = images.sum((1, 2)).clamp(min=1e-6)
    position = torch.arange(IMAGE_SIZE)
    for axis in (1, 2):
        centre = (images.sum(3 - axis) * position).sum(1) / mass
        source = (position + (centre - IMAGE_SIZE / 2).round().long()[:, None]) % IMAGE_SIZE
        index = source.unsqueeze(3 - axis).expand_as(images)
        images = images.gather(axis, index)
    return images


def _splat(points: Tensor) -> Tensor:
    """Points (n, P, 2) in fine pixels, each spread over the four pixels around it: float32 (n, 1, 56, 56)."""
    n, side = len(points), FINE * IMAGE_SIZE
    corner = points.floor()
    part = points - corner
    ink = torch.zeros(n, side * side)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = (part[..., 0] if dy else 1 - part[..., 0]) * (part[..., 1] if dx else 1 - part[..., 1])
        index = (corner[..., 0] + dy) * side + corner[..., 1] + dx
        ink.scatter_add_(1, index.long(), weight)
    return ink.clamp_(max=1).view(n, 1, side, side)
