"""Photographs cut up: from which of them does a piece come? Pieces are turned, scaled, tinted and in shadow; those of
each split come from parts of the photograph of their own."""

import numpy as np
from PIL import Image

from benchmarks.picturesets.photos import lit, photos

SIDE = 32  # pixels
CELLS = 4  # each photograph is divided into CELLS × CELLS parts; a part belongs to one split
SPLITS = ("train",) * 10 + ("validation",) * 3 + ("test",) * 3


def textures(n: int, seed: int):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    sources = photos()
    parts = {name: rng.permutation(SPLITS) for name in sources}
    pictures, labels, splits = [], [], []
    for i in range(n):
        name = list(sources)[i % len(sources)]
        part = int(rng.integers(CELLS * CELLS))
        pictures.append(lit(_piece(sources[name], part, rng), rng))
        labels.append(name)
        splits.append(str(parts[name][part]))
    return np.stack(pictures), np.array(labels), np.array(splits)


def _piece(photo: Image.Image, part: int, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    height, width = photo.height // CELLS, photo.width // CELLS
    top, left = part // CELLS * height, part % CELLS * width
    side = rng.uniform(0.5, 0.9) * min(height, width) / 2**0.5
    centre_x, centre_y = left + width / 2, top + height / 2
    slack_x, slack_y = width / 2 - side / 2**0.5, height / 2 - side / 2**0.5
    x, y = centre_x + rng.uniform(-1, 1) * slack_x, centre_y + rng.uniform(-1, 1) * slack_y
    angle = rng.uniform(-np.pi, np.pi)
    cos, sin, half = np.cos(angle) * side / 2, np.sin(angle) * side / 2, side / 2
    assert half > 0
    corners = [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))]
    quad = [value for corner in corners for value in corner]
    turned = photo.transform((2 * SIDE, 2 * SIDE), Image.Transform.QUAD, quad, Image.Resampling.BILINEAR)
    return np.asarray(turned.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
