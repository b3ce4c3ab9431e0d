"""Out-of-distribution pictures: from the seed, in the form of MNIST's digits, and no Latin letter among them."""

import unicodedata

import pytest
import torch

from pipeline.train import outliers


def test_outliers_are_pictures_that_the_seed_fixes() -> None:
    pictures = torch.rand(50, 784)
    first, again = (
        outliers.make_outliers(pictures.__getitem__, 50, 500, torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert first.shape == (500, 784)
    assert torch.equal(first, again)
    assert 0 <= first.min() <= first.max() <= 1
    assert (first.amax(1) > 0.1).float().mean() > 0.99
    for make in (outliers.scribbles, outliers.glyphs):
        made = make(200, torch.Generator().manual_seed(0))
        rows = (made > 0.2).any(2).sum(1)
        columns = (made > 0.2).any(1).sum(1)
        assert torch.maximum(rows, columns).median() == pytest.approx(20, abs=2)  # as long as MNIST's digits
        assert len(torch.unique(made, dim=0)) > 190


def test_no_latin_letter_is_among_the_glyphs() -> None:
    characters = [chr(code) for first, last in outliers.SCRIPTS for code in range(first, last + 1)]
    letters = [character for character in characters if character.isalpha()]
    scripts = {unicodedata.name(letter).split()[0] for letter in letters}
    assert not any(character.isdecimal() for character in characters)
    assert not {"LATIN", "GREEK", "CYRILLIC"} & scripts
    assert {"ARMENIAN", "HEBREW", "ARABIC", "LAO", "GEORGIAN", "CANADIAN", "TIFINAGH"} <= scripts
