"""Pictures in the form of MNIST's digits, from marks of ink: points along the strokes of a pen, or pixels of a scan.

Each mark is a Gaussian spot, and there is ink where their sum reaches a level. Marks close together along a line make a
stroke with round ends. A Gaussian is a product of one in x and one in y, so the sum is a product of two matrices, and a
picture takes some ten microseconds. `vary` moves marks as another hand would have placed them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MARKS = 64  # in a picture
FINE = 2  # pictures are drawn this many times as large, then averaged
FAINTEST = 0.2  # of full ink: the box holds all that is darker, as the decoder's does
LEVEL = 0.4  # of the sum of spots in the middle of a stroke: where its edge is,
REACH = float(np.sqrt(-2 * np.log(LEVEL)))  # so many standard deviations of a spot from the middle,
SLOPE = LEVEL * REACH  # and how steep the sum is there, for each standard deviation
LEAST = np.float32(-30)  # exponent of a spot: far from its middle, where a product of two would be subnormal and slow
PIECE = 256  # pictures drawn at a time, for the processor's cache
# How hands differ: standard deviations, of digits of unit height.
BEND, WAVES = 0.045, 3  # of each of so many waves that bend a digit
GROWTH = 0.2  # of one half against the other
ASPECT, TAPER = 0.22, 0.25  # of the logarithm of the width, and of its change from top to bottom
SLANT, SLANT_VARIES, SLANTS = 0.12, 0.22, (-0.5, 0.8)  # to the right for one up: mean, deviation, extremes
TURN, TURN_MOST = 0.1, 0.35  # radians


def draw(points: Array, weights: Array, radius: Array, edge: Array) -> NDArray[np.uint8]:
    """Pictures as the service's decoder brings them to MNIST's form (`to_mnist_form`): uint8 (n, 28, 28).

    Parameters
    ----------
    points : float32 (n, MARKS, 2), x to the right and y downwards, in any unit
    weights : float32 (n, MARKS), of a mark along a stroke the length that it stands for, times the pressure; 0: no mark
    radius : float32 (n,), half the width of strokes, in that unit
    edge : float32 (n,), pixels between no ink and full ink

    Example
    -------
    >>> line = np.linspace((0, 0), (0, 1), MARKS, dtype=np.float32)[None]
    >>> pictures = draw(line, np.full((1, MARKS), 1 / MARKS, np.float32), np.float32([0.1]), np.float32([0.5]))
    >>> rows, columns = (pictures[0] > 127).nonzero()
    >>> pictures.shape, int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    ((1, 28, 28), 20, 4)
    """
    arrays = (points, weights, radius, edge)
    pieces = [tuple(a[i : i + PIECE] for a in arrays) for i in range(0, len(points), PIECE)]
    return np.concatenate([_framed(_ink(*piece)) for piece in pieces])


def _ink(points: Array, weights: Array, radius: Array, edge: Array) -> Array:
    """Ink, 0 … 1, that fills a box of 20 × 20 pixels, float32 (n, 20, 20).

    Drawn twice: where the ink of faint and of blunt ends begins is known only then.
    """
    from service.media.image import BOX

    marked = weights[..., None] > 0
    low = np.where(marked, points, np.inf).min(1) - radius[:, None]
    high = np.where(marked, points, -np.inf).max(1) + radius[:, None]
    for fine in (1, FINE):
        scale = (BOX / (high - low).max(1))[:, None].astype(np.float32)
        corner = np.rint((BOX - (high - low) * scale) / 2)
        at = ((points - low[:, None]) * scale[..., None] + corner[:, None]).astype(np.float32)
        spot = radius[:, None] / np.float32(REACH) * scale  # standard deviation, pixels
        total = _sum(at, weights * scale, spot, BOX, fine)
        # No ink where there is no spot, however soft the edge.
        gain = np.maximum(spot / (np.float32(SLOPE) * edge[:, None]), 0.5 / LEVEL).astype(np.float32)
        if fine < FINE:
            faintest = LEVEL - (0.5 - FAINTEST) / gain
            profiles = total.max(1), total.max(2)
            first = np.concatenate([_begins(profile, faintest) for profile in profiles], 1)
            last = BOX - np.concatenate([_begins(profile[:, ::-1], faintest) for profile in profiles], 1)
            low, high = low + (first - corner) / scale, low + (last - corner) / scale
    total -= np.float32(LEVEL)
    total *= gain[..., None]
    total += np.float32(0.5)
    np.clip(total, 0, 1, out=total)
    rows = total[:, ::FINE] + total[:, 1::FINE]
    return np.asarray(rows[..., ::FINE] + rows[..., 1::FINE])


def _begins(profile: Array, level: Array) -> Array:
    """Where profiles (n, side), of whole pixels, first exceed a level (n, 1), between the pixels' centres: (n, 1)."""
    i = (profile > level).argmax(1)[:, None]
    value, before = (np.take_along_axis(profile, (i - k).clip(0), 1) * (i >= k) for k in (0, 1))
    return np.asarray(i + 0.5 - (value - level) / np.maximum(value - before, 1e-6))


def _sum(at: Array, weights: Array, spot: Array, side: int, fine: int) -> Array:
    """The sum of spots, 1 in the middle of a stroke of full pressure: float32 (n, fine · side, fine · side).

    All in pixels: positions (n, MARKS, 2), lengths that marks stand for (n, MARKS), standard deviation (n, 1).
    """
    grid = (np.arange(fine * side, dtype=np.float32) + np.float32(0.5)) / np.float32(fine)
    spots = grid - at.swapaxes(1, 2)[..., None]
    spots *= spots
    spots *= (np.float32(-0.5) / spot**2)[..., None, None]
    np.maximum(spots, LEAST, out=spots)
    x, y = np.exp(spots, out=spots).swapaxes(0, 1)
    y *= (weights / (spot * np.float32(np.sqrt(2 * np.pi))))[..., None].astype(np.float32)
    return np.asarray(np.matmul(y.swapaxes(1, 2), x))


def _framed(ink: Array) -> NDArray[np.uint8]:
    """The ink on 28 × 28 pixels, its centre of mass as close to MNIST's as whole pixels allow."""
    from service.media.image import BOX, CENTRE, SIDE, WHITE

    picture = np.zeros((len(ink), SIDE, SIDE), np.float32)
    border = (SIDE - BOX) // 2
    inner = slice(border, border + BOX)
    picture[:, inner, inner] = ink * (WHITE / ink.max((1, 2), keepdims=True))
    mass = picture.sum((1, 2))
    for axis in (1, 2):
        centre = picture.sum(3 - axis) @ np.arange(SIDE, dtype=np.float32) / mass
        shift = np.rint(centre - CENTRE).clip(-border, border).astype(np.intp)
        source = (np.arange(SIDE) + shift[:, None]) % SIDE
        picture = np.take_along_axis(picture, np.expand_dims(source, 3 - axis), axis)
    return np.rint(picture).astype(np.uint8)


def vary(points: Array, amount: float, rng: np.random.Generator) -> Array:
    """Points (n, MARKS, 2) of digits of unit height, as another hand would have placed them: bent by a few waves,
    narrower or wider, above all at the top or at the bottom, one half grown, slanted and turned; by no more than
    `amount`."""
    n = len(points)

    def normal(deviation: float, *shape: int) -> Array:
        return np.float32(amount * deviation) * rng.standard_normal((n, 1, *shape), np.float32)

    centred = points - (points.max(1, keepdims=True) + points.min(1, keepdims=True)) / 2
    bent = centred.copy()
    for _ in range(WAVES):
        phase = rng.uniform(0, 2 * np.pi, (n, 1)).astype(np.float32)
        wave = np.sin((centred * 3.3 * rng.standard_normal((n, 1, 2), np.float32)).sum(2) + phase)
        bent += normal(BEND, 2) * wave[..., None]
    x, y = bent[..., 0], bent[..., 1]
    y = y + normal(GROWTH) * (y * y - np.float32(0.25))
    x = x * np.exp(normal(ASPECT)) * (1 + normal(TAPER) * y)
    x = x - (SLANT * amount + normal(SLANT_VARIES)).clip(*SLANTS) * y
    angle = normal(TURN).clip(-TURN_MOST, TURN_MOST)
    return np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], -1)
