"""A search as a stage: figures from its saved results, and training the best."""

import json
from pathlib import Path

from pipeline import task
from pipeline.report import search as figures
from pipeline.run import Run
from pipeline.train import weights
from pipeline.tune import stage as tune
from tests.pipeline.tune.searches import QUICK, RATES, prepared, search


def test_figures_are_drawn_from_the_saved_results_alone(features: Path, tmp_path: Path) -> None:
    search(
        prepared(features, tmp_path), 'tune.space={"train.l2"=[0, 1e-4, 1e-2], "train.schedule"=["constant", "step"]}'
    )
    names = {"losses", "noise", "regularisation-l2", "score-train-l2", "score-train-schedule"}
    drawn = {path.stem: path.read_bytes() for path in (tmp_path / "search").iterdir()}
    assert drawn.keys() == names
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "search.json").write_bytes((tmp_path / "search.json").read_bytes())
    assert {path.stem: path.read_bytes() for path in figures.draw(Run(copy))} == drawn


def test_the_best_is_trained_on_all_samples_but_the_test_split(features: Path, tmp_path: Path) -> None:
    prepared(features, tmp_path)
    search(tmp_path, RATES)
    chosen = tune.train_best(task.load("regions", overrides=[*QUICK, RATES]), Run(tmp_path))
    history = json.loads((tmp_path / "history.json").read_text())
    assert not history["validation_loss"]
    assert len(history["train_loss"]) == chosen.train.epochs
    assert weights.load(tmp_path / "weights.pt")[1].with_validation
