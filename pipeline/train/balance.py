"""Whether training weighs classes, so that rare ones count as much as frequent ones."""

import numpy as np
import torch

from models.classifier import Classifier
from models.targets import TARGETS
from pipeline.extract import Features
from pipeline.task import Train, UserError
from pipeline.train.data import Dataset, pieces

RATIO = 4  # of the largest class to the smallest, from which weighing is tried: below, it costs time and changes little


def is_to_be_tried(options: Train, features: Features, with_validation: bool) -> bool:
    """Whether `train.balance` = "auto" has to train both ways to decide: there must be validation samples to tell.

    Raises
    ------
    UserError : classes are to be weighed, and the targets are numbers
    """
    if not TARGETS[features.kind].has_classes:
        if options.balance == "on":
            raise UserError("train.balance weighs classes, and the targets are numbers; set it to off")
        return False
    if options.balance != "auto" or options.framework != "torch" or with_validation:
        return False
    counts = np.bincount(features.y[features.rows("train")], minlength=len(features.labels))
    held_out = np.unique(features.y[features.rows("validation")])
    return bool(counts.max() >= RATIO * counts.min()) and len(held_out) > 1


def chosen(plain: float, weighed: float, features: Features) -> bool:
    """Whether weighing lowered the `macro_loss` of the validation samples, which one line tells."""
    counts = np.bincount(features.y[features.rows("train")], minlength=len(features.labels))
    better = weighed < plain
    effect = "lowers" if better else "does not lower"
    sizes = f"classes of {counts.min():,} to {counts.max():,} training samples"
    loss = f"the log loss of the validation samples, each class counted alike, {plain:.4f} → {weighed:.4f}"
    print(f"  {sizes}: weighing them {effect} {loss}; train.balance is {'on' if better else 'off'}")
    return better


@torch.no_grad()
def macro_loss(classifier: Classifier, data: Dataset) -> float:
    """Mean of the classes' mean losses, for standardised features. The few validation samples of a rare class tell more
    by it than by whether each is right."""
    logits = torch.cat([classifier.mlp(x) for x in pieces(data.x)])
    losses = classifier.target.losses(logits.mT, data.y).double()
    return float(
        torch.stack([losses[data.y == k].mean() for k in range(int(data.y.max()) + 1) if (data.y == k).any()]).mean()
    )
