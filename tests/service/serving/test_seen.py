"""What a model sees, as a picture that is sent back."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from service.serving import seen


@pytest.mark.parametrize("shape", [(28, 28), (32, 32, 3)])
def test_pixels_are_sent_as_they_are(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(seen.png(pixels)))) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), pixels)


def test_a_spectrogram_is_no_wider_than_allowed_whatever_the_pieces() -> None:
    rng = np.random.default_rng(0)
    pieces = [rng.uniform(0, 80, (40, frames)).astype(np.float32) for frames in (2584, 2584, 3, 1)]
    assert seen.side_by_side(pieces[:1]).shape == (40, seen.WIDEST)
    assert seen.side_by_side(pieces).shape == (40, 2 * seen.WIDEST // 4 + 4)
    assert seen.side_by_side(pieces[2:]).shape == (40, 4)
    assert seen.side_by_side([np.zeros((40, 5), np.float32)]).max() == 0


def test_low_frequencies_are_at_the_bottom_and_time_runs_to_the_right() -> None:
    glide = np.zeros((4, 4), np.float32)
    glide[np.arange(4), np.arange(4)] = 80
    assert np.array_equal(seen.side_by_side([glide]), 255 * np.eye(4)[::-1])


def test_neighbouring_frames_are_averaged() -> None:
    frames = np.tile(np.float32([[0, 80]]), (1, seen.WIDEST))
    assert set(seen.side_by_side([frames]).ravel().tolist()) == {127}
