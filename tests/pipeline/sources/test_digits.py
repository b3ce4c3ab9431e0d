"""The embedded digits: scans, their copies, and digits by synthetic pens."""

from collections import Counter

import numpy as np
import pytest

from pipeline.sources import REGISTRY, SPLITS, digits, drawing, pens
from service.media.image import to_mnist_form


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "PENS", {"train": 300, "validation": 100, "test": 100})
    monkeypatch.setattr(digits, "COPIES", 1)


def test_the_service_would_decode_nearly_every_digit_to_itself() -> None:
    pictures = np.stack([s.media.load() for s in digits.digits(seed=0) if s.file.startswith("pens/") or "/0" in s.file])
    assert pictures.shape[1:] == (28, 28)
    assert pictures.dtype == np.uint8
    assert (pictures.max((1, 2)) == 255).all()
    assert np.mean([np.array_equal(to_mnist_form(picture), picture) for picture in pictures]) > 0.95


def test_whole_writers_and_whole_shapes_are_held_out() -> None:
    found = digits.digits(seed=0)
    split_of = {s.file: s.split for s in found}
    assert len(split_of) == len(found) == 1797 + 1287 + 500
    assert set(split_of.values()) == set(SPLITS)
    assert all(split == "train" for file, split in split_of.items() if file.count("/") == 2 and "scans" in file)
    scans = [s for s in found if s.file.count("/") == 1]
    for first in (first for first in digits.FIRST.values() if first):
        assert scans[first - 1].split != scans[first].split
    for first in digits.FIRST.values():  # everyone wrote the same form
        assert "0955650989841773" in "".join(s.label for s in scans[first : first + 60])
    for texts in pens.SHAPES.values():
        assert len(set(texts[:-2]) | {texts[-2]} | {texts[-1]}) == len(set(texts))
        assert not {texts[-1], texts[-2]} & set(texts[:-2])


def test_every_class_has_as_many_and_the_seed_decides() -> None:
    pictures, labels = pens.digits("train", 200, seed=3)
    again, _ = pens.digits("train", 200, seed=3)
    other, _ = pens.digits("train", 200, seed=4)
    test, _ = pens.digits("test", 200, seed=3)
    assert Counter(labels) == dict.fromkeys("0123456789", 20)
    assert np.array_equal(pictures, again)
    assert not np.array_equal(pictures, other)
    assert not np.array_equal(pictures, test)
    assert len(np.unique(pictures, axis=0)) == len(pictures)


def test_mnist_alone_has_further_pictures_digits_in_print() -> None:
    assert [name for name, source in REGISTRY.items() if source.auxiliary] == ["mnist"]
    make = REGISTRY["mnist"].auxiliary
    assert make is not None
    pictures, labels = make(2000, 3)
    again, _ = make(2000, 3)
    other, _ = make(2000, 4)
    assert pictures.shape == (2000, 28, 28)
    assert Counter(labels) == dict.fromkeys("0123456789", 200)
    assert np.array_equal(pictures, again)
    assert not np.array_equal(pictures, other)
    handwritten, _ = pens.digits("train", 2000, seed=3)
    of_print, of_hands = (np.quantile(made.mean((1, 2)), (0.05, 0.95)) for made in (pictures, handwritten))
    assert of_print[0] < of_hands[0]  # from lighter
    assert of_print[1] > of_hands[1]  # to bolder


def test_a_stroke_is_as_wide_as_its_pen_and_touches_the_box() -> None:
    y = np.linspace(0, 1, drawing.MARKS, dtype=np.float32)
    line = np.stack([np.zeros_like(y), y], -1)[None]
    weights = np.full((1, drawing.MARKS), 1 / drawing.MARKS, np.float32)
    for radius in (0.05, 0.1):
        (picture,) = drawing.draw(line, weights, np.float32([radius]), np.float32([0.5]))
        rows = picture.any(1).nonzero()[0]
        assert rows.tolist() == list(range(4, 24))
        width = picture[10:18].sum(1).mean() / 255
        assert width == pytest.approx(2 * radius * 20, rel=0.15)


def test_a_copy_keeps_the_strokes_of_its_scan() -> None:
    bar = np.zeros((1, 8, 8), np.float32)
    bar[:, :, 3:5] = 1
    copies = digits.rewritten(np.repeat(bar, 20, 0), np.random.default_rng(0)).astype(float)
    assert (copies.any(2).sum(1) >= 18).all()  # still upright, and whole
    assert (copies.sum((1, 2)) / 255 < 200).all()
