"""Search over hyperparameters by cross-validation."""

from pipeline.tune.folds import assign_folds, make_folds
from pipeline.tune.objective import evaluate
from pipeline.tune.stage import best, train_best, tune

__all__ = ["assign_folds", "best", "evaluate", "make_folds", "train_best", "tune"]
