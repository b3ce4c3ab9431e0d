"""Folds depend on content and seed only, and leave the test split unread."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline import task, train
from pipeline.extract.features import Features
from pipeline.tune import folds
from tests.pipeline.tune.searches import RATES, prepared, search, without_seconds


def test_the_test_split_is_never_read(features: Path, tmp_path: Path) -> None:
    whole = search(prepared(features, tmp_path / "whole"), RATES)
    known = Features.load(features / "regions" / "features.npz")
    x = known.x[:]
    x[known.rows("test")] = np.nan
    (tmp_path / "spoiled").mkdir()
    replace(known, x=x).save(tmp_path / "spoiled" / "features.npz")
    spoiled = search(tmp_path / "spoiled", RATES)
    assert spoiled["study"] == whole["study"]
    assert without_seconds(spoiled) == without_seconds(whole)


def test_a_fold_depends_on_content_and_seed_alone(features: Path) -> None:
    known = Features.load(features / "regions" / "features.npz")
    device = train.choose_device("cpu")
    made = folds.make_folds(task.load("regions"), known, device)
    assert sum(len(fold.held_out.y) for fold in made) == (~known.rows("test")).sum()
    for fold in made:
        assert len(fold.held_out.y) + len(fold.training.y) == (~known.rows("test")).sum()
        assert fold.training.x.mean(0).abs().max() < 1e-5  # standardised by itself
    assert [folds.assign_fold(f"{i}", 5, 0) for i in range(8)] != [folds.assign_fold(f"{i}", 5, 1) for i in range(8)]
