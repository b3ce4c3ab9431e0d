"""Networks trained together end as each would alone."""

from pathlib import Path

import pytest

from pipeline.tune import study
from tests.pipeline.tune.searches import prepared, search

pytestmark = pytest.mark.usefixtures("without_figures")


def test_trials_trained_together_score_as_each_does_alone(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shapes that cannot share a stack, rates, penalties, seeds and early stopping; against autograd."""
    space = """tune.space={"model.hidden"=[[4], [3, 2]], "train.learning_rate"=[0.01, 0.1], "train.l2"=[0, 1e-3],
        "train.seed"=[0, 1], "train.early_stopping"=[0, 3]}""".replace("\n", "")
    few_steps = ("train.epochs=4", "train.batch_size=400")  # several batches, the last one smaller
    together = search(prepared(features, tmp_path / "together"), space, *few_steps)
    monkeypatch.setattr(study, "BATCH_SIZE", 1)
    alone = search(prepared(features, tmp_path / "alone"), space, *few_steps, "train.gradients=autograd")
    of = {str(trial["parameters"]): trial for trial in alone["trials"]}
    assert len(of) == 32
    for trial in together["trials"]:
        expected = of[str(trial["parameters"])]
        assert trial["best_epoch"] == expected["best_epoch"]
        for name in ("validation_loss", "train_loss", "weight_norm", "validation_accuracy"):
            assert trial[name]["folds"] == pytest.approx(expected[name]["folds"], rel=1e-3), name
