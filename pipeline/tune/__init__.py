"""A search over hyperparameters by cross-validation."""

from pipeline.tune.stage import FILE, assign_fold, best, evaluate, make_folds, train_best, tune
from pipeline.tune.study import shown

__all__ = ["FILE", "assign_fold", "best", "evaluate", "make_folds", "shown", "train_best", "tune"]
