"""What a model sees of a file, as a small picture: the decoded pixels, or the spectrogram that its graph computes."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDEST = 512  # pixels of a spectrogram; a minute has 2,584 frames


def png(pixels: NDArray[np.uint8]) -> str:
    """Pixels uint8 (height, width), grey, or (height, width, 3), as a PNG in Base64.

    >>> png(np.zeros((28, 28), np.uint8))[:11]
    'iVBORw0KGgo'
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def side_by_side(spectrograms: Sequence[NDArray[np.float32]]) -> NDArray[np.uint8]:
    """Log-mel spectrograms (n_mels, frames) of the pieces of a recording, each from 0 at its floor, as one picture:
    uint8 (n_mels, columns), the lowest frequency at the bottom, 255 = the loudest point of its piece. Neighbouring
    frames are averaged where there are more of them than WIDEST allows.

    >>> side_by_side([np.float32([[0, 80], [40, 40]])]).tolist()
    [[127, 127], [0, 255]]
    """
    most = max(1, WIDEST // len(spectrograms))
    return np.concatenate([_narrowed(part, most) for part in spectrograms], axis=1)[::-1]


def _narrowed(part: NDArray[np.float32], most: int) -> NDArray[np.uint8]:
    frames = part.shape[1]
    edges = np.arange(min(frames, most)) * frames // min(frames, most)
    columns = np.add.reduceat(part, edges, axis=1) / np.diff([*edges, frames])
    pixels: NDArray[np.uint8] = (columns * (255 / max(1e-6, float(part.max())))).clip(0, 255).astype(np.uint8)
    return pixels
