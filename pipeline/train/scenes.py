"""Out-of-distribution pictures in colour, on which a small network behind `known` is trained, together with collages of
the training pictures' own parts (confidence.py).

They are drawn at random and show nothing in particular: plain ground, gradients, stripes, checks and noise of many
colours, with any number of shapes on it, which hide each other as leaves do (the dead leaves model; Lee, Mumford &
Huang 2001). So the network learns what is particular about the training pictures (outlier exposure; Hendrycks, Mazeika
& Dietterich 2019).
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

LEAVES = (0, 0, 1, 2, 4, 12)  # shapes in a picture
SMALLEST, LARGEST = 0.06, 0.5  # of a picture's width: their radii
POWERS = (0.3, 2.2)  # the amplitude of noise falls with frequency to a power between these

Picture = NDArray[np.float64]  # (S, S, 3), about 0 … 255


def make_scenes(n: int, size: int, seed: int) -> NDArray[np.uint8]:
    """`n` pictures uint8 (n, size, size, 3).

    >>> make_scenes(2, 32, seed=0).shape
    (2, 32, 32, 3)
    """
    rng = np.random.default_rng(seed)
    return np.stack([_scene(rng, size) for _ in range(n)])


def _scene(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    picture = _ground(rng, 2 * size)  # drawn twice as large, so that edges are smooth
    for _ in range(rng.choice(LEAVES)):
        shape = _shape(rng, 2 * size)
        picture = np.where(shape, _ground(rng, 2 * size), picture)
    if rng.random() < 0.3:
        picture = picture.mean(2, keepdims=True).repeat(3, 2)
    picture = picture.reshape(size, 2, size, 2, 3).mean((1, 3))
    picture = (picture - 128) * rng.uniform(0.4, 1.3) + rng.normal(128, 20)
    noisy = picture + rng.normal(0, rng.uniform(0, 8), picture.shape)
    made: NDArray[np.uint8] = np.rint(noisy).clip(0, 255).astype(np.uint8)
    return made


def _ground(rng: np.random.Generator, side: int) -> Picture:
    """One colour, a gradient, stripes or checks, mostly with noise."""
    angle = rng.uniform(0, 2 * np.pi)
    down, across = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    along, beside = across * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - across * np.sin(angle)
    waves = 2 * np.pi * rng.uniform(1, 10)
    patterns = (
        0 * along,
        np.tanh(along * rng.uniform(0.3, 4)),
        np.sign(np.sin(waves * along)),
        np.sin(waves * along) * np.sin(waves * beside),
    )
    ground: Picture = rng.uniform(20, 235, 3) + patterns[rng.integers(4)][:, :, None] * rng.normal(0, 45, 3)
    return ground + rng.uniform(3, 60) * _noise(rng, side) if rng.random() < 0.7 else ground


def _noise(rng: np.random.Generator, side: int) -> Picture:
    """Noise of deviation 1 or so, in grey or in colours."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = 1 / side
    spectrum = np.fft.rfft2(rng.standard_normal((side, side, 3)), axes=(0, 1))
    noise = np.fft.irfft2(spectrum * frequency[:, :, None] ** -rng.uniform(*POWERS), (side, side), axes=(0, 1))
    noise /= noise.std((0, 1))
    mixing = rng.normal(size=(3, 1)) + rng.uniform(0, 0.6) * rng.normal(size=(3, 3))
    mixed: Picture = noise @ (mixing / np.linalg.norm(mixing, axis=0))
    return mixed


def _shape(rng: np.random.Generator, side: int) -> NDArray[np.bool_]:
    """An ellipse, a polygon or a bent line of any size and place, (side, side, 1)."""
    mask = Image.new("1", (side, side))
    draw, centre = ImageDraw.Draw(mask), rng.uniform(0, side, 2)
    radius = side * np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
    corners = centre + (radius * rng.uniform(0.5, 1, (1, len(angles))) * [np.cos(angles), np.sin(angles)]).T
    match rng.integers(3):
        case 0:
            reach = radius * rng.uniform(0.4, 1, 2)
            draw.ellipse([*(centre - reach), *(centre + reach)], fill=1)
        case 1:
            draw.polygon(corners.ravel().tolist(), fill=1)
        case _:
            draw.line(corners.ravel().tolist(), fill=1, width=int(rng.integers(2, 6)))
    return np.asarray(mask)[:, :, None]
