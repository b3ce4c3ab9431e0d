"""Writing on paper: the ink in a photo, without its shadows, rules, specks and noise."""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Gray = NDArray[Any]  # numbers of any type (height, width)
Mask = NDArray[np.bool_]  # (height, width)
Index = NDArray[np.intp]

SIDE = 320  # pixels, at most, of the longer side of the picture in which ink is looked for
STROKE = 0.25  # of the shorter side; strokes of a pen are thinner, what is wider is shadow
RULE = 0.025  # of the longer side; rules are thinner
STRIPS = 16  # into which a picture is cut to look for rules; they show in all but MISSING of them
MISSING = 2
LEAST_RULE = 0.02  # of the ink's darkness
SLOPES = np.linspace(-0.1, 0.1, 41)  # of rules; 0.1 are 6 degrees
WRITTEN = 0.35  # of the ink's darkness: darker pixels are writing
FAINT = 0.15  # of the ink's darkness: less is paper; between the two are only the edges of strokes
MOST = 0.3  # of the pixels, at most, are writing,
EDGES = 0.05  # and these are between writing and paper
UNSURE = 0.5  # where what speaks for chalk exceeds what speaks for ink by a smaller share of both
SHADE = 0.2  # of the light, at least, falls on the darkest part of a page
NOISE = 0.12  # of the ink's darkness: that of the paper is less
OTHER = 0.15  # of the area of the largest part: as large as another symbol, wherever it is
SPECK = 0.02  # of that area: a smaller part is a speck
NEAR = 0.5  # of the extent of the largest part: what is as near belongs to it
BENT = 0.1  # of its extent: the sides of a frame are as straight,
DRAWN = 0.85  # and as much of each is drawn
LINE = 0.04  # and they are thinner
INSIDE = (0.05, 0.9)  # of the extent of a frame: what is written inside is larger, and smaller
FRAMES = 3  # at most, one in the other


def ink_on_paper(gray: Gray) -> Gray | None:
    """The ink in a photo of a page, float32 (height, width) at a resolution of its own, 0 = paper.

    `gray` is (height, width), 0 = black, 255 = white; the ink may be dark or light. The paper's brightness is estimated
    around each pixel, by a morphological closing that no stroke survives (Soille, Morphological Image Analysis, 2003).

    None if the picture does not look like writing on paper.
    """
    page = _page(gray, -(-max(gray.shape) // SIDE))
    if min(page.shape) < STRIPS:  # too narrow to look for rules
        return None
    size = max(3, round(STROKE * min(page.shape)))
    paper, board = _closing(page, size), _closing(255 - page, size)
    away = page - _local_median(page)
    dark, light = (float((rest * away).sum()) for rest in (paper - page, board - (255 - page)))
    guesses = [dark + light > 0]  # whether it is chalk on a board
    if 0 < dark + light < UNSURE * (abs(dark) + abs(light)):  # a better guess, but for paper between dark rules
        guesses.insert(0, _beyond(255 - page, board, size) > _beyond(page, paper, size))
    for is_chalk in dict.fromkeys(guesses):
        if is_chalk:  # turned over
            ink = _written(255 - page, board, (board - (255 - page)).astype(np.float32))
        else:
            ink = _written(page, paper, 255 - page * (255 / np.maximum(paper, 1).astype(np.float32)))  # in even light
        if ink is not None:
            return ink
    return None


def _beyond(page: NDArray[np.uint8], paper: NDArray[np.uint8], size: int) -> float:
    """By how much pixels are darker than all paper around them, in all. Light between a stroke and a shadow may look
    like chalk, and is no lighter than the paper beyond the stroke."""
    around = np.pad(paper, ((size // 2, size - 1 - size // 2),) * 2, mode="edge")
    least = _extremes(around, size, np.minimum)
    return float((least - np.minimum(page, least)).sum())


def _written(page: NDArray[np.uint8], paper: NDArray[np.uint8], dark: Gray) -> Gray | None:
    """The writing in what is darker than the paper, which is changed; None if the picture does not look like a page."""
    dark -= _median(dark)
    _erase_rules(dark)
    _erase_rules(dark.T)
    level, noise = _level(dark), 1.5 * _median(np.abs(dark))
    mask = dark > max(WRITTEN * level, 4 * noise)
    if noise > NOISE * level or not _is_page(page, paper, dark, mask, level):
        return None
    kept = _writing(mask, inside=True)
    return np.where(_widened(kept, 2) & (dark > 2 * noise), dark, 0)


def _is_page(page: NDArray[np.uint8], paper: NDArray[np.uint8], dark: Gray, mask: Mask, level: float) -> bool:
    """Whether a picture looks like writing on paper: there is little of it, with sharp edges, and no shadow is as dark
    as the ink."""
    written = float(mask.mean())
    if not 0 < written < MOST or float((np.abs(dark) > FAINT * level).mean()) > written + EDGES:
        return False
    rim = round(RULE * max(paper.shape))  # a strip of table or of a scanner's lid may show
    inner = paper[rim:-rim, rim:-rim]
    darkest, brightest = int(inner.min()), int(inner.max())
    return darkest > SHADE * brightest or darkest > float(np.median(page[mask]))


def _page(gray: Gray, factor: int) -> NDArray[np.uint8]:
    """The picture averaged down by a whole number, a little blurred."""
    image = Image.fromarray(gray if gray.dtype == np.uint8 else gray.clip(0, 255).astype(np.uint8))
    small = image.reduce(factor)
    return np.asarray(small.filter(ImageFilter.BoxBlur(max(small.size) / SIDE)))


def _closing(page: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Grey closing with a square of `size` pixels: dark parts into which it does not fit are filled. Beyond the edges
    all is dark, so that a shadow that reaches them stays."""
    return _extremes(_extremes(np.pad(page, size - 1), size, np.maximum), size, np.minimum)


def _extremes(values: Gray, size: int, of: np.ufunc) -> Gray:
    """`of`, a maximum or minimum, over each square of `size` pixels that lies inside."""
    return _running(_running(values, size, of).T, size, of).T


def _running(values: Gray, size: int, of: np.ufunc) -> Gray:
    """`of`, a maximum or minimum, over each `size` rows that follow one another."""
    done = 1
    while done < size:
        step = min(done, size - done)
        values = of(values[step:], values[:-step])
        done += step
    return values


def _local_median(page: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The median of about a third of the picture around each pixel, roughly."""
    height, width = page.shape
    cells = np.asarray(Image.fromarray(page).reduce(max(1, max(page.shape) // 20)))
    windows = sliding_window_view(np.pad(cells, 3, mode="symmetric"), (7, 7)).reshape(*cells.shape, 49)
    middle = Image.fromarray(np.sort(windows, axis=-1)[..., 24])
    return np.asarray(middle.resize((width, height), Image.Resampling.BILINEAR), np.float32)


def _median(values: Gray) -> float:
    return float(np.median(values[::3, ::3]))


def _level(dark: Gray) -> float:
    """The darkness of ink: 0.2 % of the pixels are darker."""
    some = dark[::2, ::2].ravel()
    return float(np.partition(some, -1 - some.size // 500)[-1 - some.size // 500])


def _erase_rules(dark: Gray) -> None:
    """Take the darkness of thin lines off, in place, that cross the whole picture nearly along its rows.

    The picture is cut into strips from top to bottom. Along a line of the right slope, a rule shows in nearly all of
    them, a stroke only in some.
    """
    height, width = dark.shape
    edges = np.arange(STRIPS) * width // STRIPS
    strips = np.add.reduceat(dark, edges, axis=1) / np.diff(edges, append=width).astype(np.float32)
    strips = _running(np.pad(strips, ((1, 1), (0, 0))), 3, np.maximum)  # a rule may be bent a little
    middles = edges + (width / STRIPS - width) / 2
    shifts = np.rint(SLOPES[:, np.newaxis] * middles).astype(np.intp)  # pixels, (slopes, strips)
    margin = int(np.abs(shifts).max())
    least: list[Gray] = [np.full((len(SLOPES), height), np.inf, np.float32)] * (MISSING + 1)  # in ascending order
    for strip, shift in zip(np.pad(strips, ((margin, margin), (0, 0))).T, shifts.T, strict=True):
        along = sliding_window_view(strip, height)[margin + shift]
        for i, smaller in enumerate(least):
            least[i], along = np.minimum(smaller, along), np.maximum(smaller, along)
    common = np.maximum(least[-1].T, 0)  # (height, slopes)
    size = max(3, round(RULE * max(dark.shape)))
    wide = _running(np.pad(common, ((size - 1, size - 1), (0, 0)), constant_values=np.inf), size, np.minimum)
    thin = common - _running(wide, size, np.maximum)
    best = int((thin**2).sum(axis=0).argmax())
    rules = np.where(thin[:, best] > LEAST_RULE * _level(dark), thin[:, best], 0)
    if rules.any():
        offsets = np.rint(SLOPES[best] * (np.arange(width) + 0.5 - width / 2)).astype(np.intp)
        lines = 1.2 * rules[(np.arange(height)[:, np.newaxis] - offsets).clip(0, height - 1)]
        ink = dark > lines + WRITTEN * _level(dark)  # even on a rule
        np.maximum(dark - lines, np.minimum(dark, 0), out=dark, where=~ink)


def _widened(mask: Mask, by: int) -> Mask:
    return _extremes(np.pad(mask, by), 2 * by + 1, np.logical_or)


def is_framed(mask: Mask) -> bool:
    """Whether the sides of a mask, cut to what is set, are lines: those of a frame, or of a symbol that looks like one.

    >>> frame = np.ones((9, 9), bool)
    >>> frame[1:-1, 1:-1] = False
    >>> is_framed(frame), is_framed(np.eye(9, dtype=bool))
    (True, False)
    """
    across, down = (max(1, round(BENT * length)) for length in (mask.shape[1], mask.shape[0]))
    sides = mask[:, :across].T, mask[:, -across:].T, mask[:down], mask[-down:]
    return all(side.any(axis=0).mean() > DRAWN for side in sides)


def without_specks(mask: Mask) -> Mask:
    """The parts of a mask, which is not empty, that are neither a frame around others nor specks: small and far from
    the largest part."""
    factor = -(-max(mask.shape) // SIDE)
    coarse = mask
    for axis in (0, 1):
        coarse = np.logical_or.reduceat(coarse, np.arange(0, mask.shape[axis], factor), axis)
    kept = _writing(coarse).repeat(factor, 0).repeat(factor, 1)
    return mask & kept[: mask.shape[0], : mask.shape[1]]


def _writing(mask: Mask, inside: bool = False) -> Mask:
    """The connected parts of a mask, which is not empty, without specks and frames: the largest, what lies near it, and
    what is as large as another symbol would be.

    With `inside`, the largest is one that does not reach the edge of the picture, unless nothing else is there, and
    others that reach it count only if they are near.
    """
    mask = _without_frame(mask)
    height, width = mask.shape
    row, start, end = _runs(mask)
    part = _connected(row, start, end, width)
    n = int(part.max()) + 1
    area = np.bincount(part, end - start, n)
    top, left = np.full(n, height), np.full(n, width)
    bottom, right = np.zeros(n, np.intp), np.zeros(n, np.intp)
    np.minimum.at(top, part, row)
    np.maximum.at(bottom, part, row + 1)
    np.minimum.at(left, part, start)
    np.maximum.at(right, part, end)
    reaches = inside & ((top == 0) | (left == 0) | (bottom == height) | (right == width))
    within = np.where(reaches, 0, area)
    main = int((within if within.max() > OTHER * area.max() else area).argmax())
    size = max(bottom[main] - top[main], right[main] - left[main])
    gap = np.maximum(
        np.maximum(top[main] - bottom, top - bottom[main]), np.maximum(left[main] - right, left - right[main])
    )
    share = area / area[main]
    keep = (share > OTHER) & (~reaches | reaches[main]) | (share > SPECK) & (gap < NEAR * size)
    keep[main] = True
    kept = np.zeros((height, width + 1), np.int8)
    runs = keep[part]
    np.add.at(kept, (row[runs], start[runs]), 1)
    np.add.at(kept, (row[runs], end[runs]), -1)
    return np.cumsum(kept, axis=1)[:, :width] > 0


def _without_frame(mask: Mask) -> Mask:
    """A mask, which is not empty, without the thin lines of a frame around what is written, which may touch it."""
    for _ in range(FRAMES):
        rows, columns = (np.nonzero(mask.any(axis=axis))[0] for axis in (1, 0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if not is_framed(mask[box]):
            return mask
        rest = mask[box].copy()
        if not all(_erase_side(side) for side in (rest, rest[::-1], rest.T, rest.T[::-1])):
            return mask
        filled = [rest.any(axis=axis).mean() for axis in (0, 1)]
        if not INSIDE[0] < max(filled) < INSIDE[1]:  # nothing else is there, or lines that belong to the symbol
            return mask
        mask = np.zeros_like(mask)
        mask[box] = rest
    return mask


def _erase_side(mask: Mask) -> bool:
    """Take the line along the upper edge of a mask off, in place, unless it is not thin; whether it is."""
    down = np.arange(len(mask))[:, np.newaxis]
    first = mask.argmax(axis=0)
    end = np.where(mask | (down < first), len(mask), down).min(axis=0)
    thickness = int(np.median(end - first))
    if thickness > max(2, LINE * max(mask.shape)):
        return False
    mask &= (down < first) | (down > first + thickness) | (first > BENT * len(mask))
    return True


def _runs(mask: Mask) -> tuple[Index, Index, Index]:
    """Row, first column and end of each run of set pixels, in reading order."""
    change = np.diff(np.pad(mask, ((0, 0), (1, 1))).view(np.int8), axis=1)
    row, start = np.nonzero(change == 1)
    return row, start, np.nonzero(change == -1)[1]


def _connected(row: Index, start: Index, end: Index, width: int) -> Index:
    """The number of the connected part, from 0, to which each run belongs; diagonal neighbours are connected."""
    pitch = width + 2
    first = np.searchsorted(row * pitch + end, (row - 1) * pitch + start, side="left")
    last = np.searchsorted(row * pitch + start, (row - 1) * pitch + end, side="right")
    touching = np.maximum(last - first, 0)
    below = np.repeat(np.arange(len(row)), touching)
    above = np.arange(len(below)) - np.repeat(np.cumsum(touching) - touching, touching) + np.repeat(first, touching)
    root = np.arange(len(row))
    while True:
        lowest = np.minimum(root[below], root[above])
        new = root.copy()
        np.minimum.at(new, root[below], lowest)
        np.minimum.at(new, root[above], lowest)
        new = new[new]
        if (new == root).all():
            return np.unique(root, return_inverse=True)[1]
        root = new
