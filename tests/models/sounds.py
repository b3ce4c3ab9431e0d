"""Sounds for the tests of front ends."""

import numpy as np
from numpy.typing import NDArray


def noise(samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def partials(samples: int) -> NDArray[np.float32]:
    """A steady tone of 440 Hz and its overtones."""
    waves = [np.sin(2 * np.pi * k * 440 * np.arange(samples) / 22_050) / k for k in range(1, 20)]
    return np.sum(waves, axis=0).astype(np.float32)
