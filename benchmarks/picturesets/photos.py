"""The photographs that scikit-image and scikit-learn bring along, and random cut-outs of them."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NAMES = (
    "astronaut", "brick", "camera", "cell", "chelsea", "coffee", "coins", "grass", "gravel", "hubble_deep_field", "ihc",
    "moon", "motorcycle_left", "page", "retina", "rocket",
)  # fmt: skip


@cache
def photos() -> dict[str, Image.Image]:
    """Name → photograph in RGB."""
    from pathlib import Path

    import skimage.data
    from sklearn.datasets import load_sample_images

    folder = Path(skimage.data.__file__).parent
    found = {name: next(folder.glob(f"{name}.*g")) for name in NAMES}
    read = {name: Image.open(file).convert("RGB") for name, file in found.items()}
    samples = load_sample_images()
    named = zip(("china", "flower"), samples.images, strict=True)
    return read | {name: Image.fromarray(image) for name, image in named}


def lit(picture: NDArray[np.float32], rng: np.random.Generator, strength: float = 1.0) -> NDArray[np.uint8]:
    """A picture float (S, S, 3), 0 … 255, under another light: brightness, contrast, a tint, a shadow, and noise."""
    side = len(picture)
    gain = np.exp(strength * (rng.normal(0, 0.25) + rng.normal(0, 0.12, 3)))
    across, down = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    shadow = 1 + strength * 0.4 * np.tanh(rng.normal() * across + rng.normal() * down)
    made = picture * gain * shadow[:, :, None] + strength * rng.normal(0, 15)
    made = made + rng.normal(0, strength * 6, picture.shape)
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)
