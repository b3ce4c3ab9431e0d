"""Pictures that belong to no set: noise, pages of one colour, and text."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIDE = 32  # pixels
WORDS = ("known", "unknown", "river", "seven", "of", "and", "the", "window", "1984", "paper", "violin,", "3.14", "page")


def _noise(rng: np.random.Generator) -> NDArray[np.floating]:
    return rng.uniform(0, 255, (SIDE, SIDE, 3))


def _faint_noise(rng: np.random.Generator) -> NDArray[np.floating]:
    return rng.uniform(60, 200) + np.repeat(rng.normal(0, 6, (SIDE, SIDE, 1)), 3, axis=2)


def _one_colour(rng: np.random.Generator) -> NDArray[np.floating]:
    return np.broadcast_to(rng.uniform(0, 255, 3), (SIDE, SIDE, 3))


def _text(rng: np.random.Generator) -> NDArray[np.floating]:
    page = Image.new("RGB", (4 * SIDE, 4 * SIDE), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    height = int(rng.integers(16, 48))
    typeface = ImageFont.truetype(font, height)
    for y in range(0, 4 * SIDE, int(1.3 * height)):
        draw.text((-rng.integers(40), y), " ".join(rng.permutation(WORDS)), fill=(20, 20, 20), font=typeface)
    return np.asarray(page.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)


KINDS: dict[str, Callable[[np.random.Generator], NDArray[np.floating]]] = {
    "noise": _noise, "faint grey noise": _faint_noise, "one colour": _one_colour, "text": _text,
}  # fmt: skip


def foreign(kind: str, n: int, seed: int) -> NDArray[np.uint8]:
    """`n` pictures of one of KINDS, uint8 (n, 32, 32, 3)."""
    rng = np.random.default_rng(seed)
    return np.stack([KINDS[kind](rng) for _ in range(n)]).clip(0, 255).round().astype(np.uint8)
