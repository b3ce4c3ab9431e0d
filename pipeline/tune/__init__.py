"""A search over hyperparameters by cross-validation."""

from pipeline.report.style import shown
from pipeline.tune.folds import assign_fold, make_folds
from pipeline.tune.stage import best, evaluate, train_best, tune

__all__ = ["assign_fold", "best", "evaluate", "make_folds", "shown", "train_best", "tune"]
