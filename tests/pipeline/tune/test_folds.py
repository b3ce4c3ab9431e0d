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
    labels = dict.fromkeys("abcdefgh", 0)
    assert folds.spread(labels, 5, 0) != folds.spread(labels, 5, 1)


def test_folds_are_as_full_as_each_other_and_divide_no_group(features: Path) -> None:
    known = Features.load(features / "regions" / "features.npz")
    together = np.array([f"{label}-{i // 7}" for i, label in enumerate(known.y)])
    rows, fold = folds.assign_folds(task.load("regions"), replace(known, group=together))
    kept = together[rows]
    assert all(len(set(fold[kept == group])) == 1 for group in set(kept))
    per_class = [[len(set(kept[(fold == k) & (known.y[rows] == y)])) for k in range(5)] for y in (0, 1)]
    assert all(max(counts) - min(counts) <= 1 for counts in per_class)
