"""Stage 2: features → weights.

Names for other folders, which import from `data` and `weights` what else they need.
"""

from pipeline.train.batches import Feed
from pipeline.train.data import Dataset, standardised
from pipeline.train.devices import choose_device, device_name
from pipeline.train.distortion import transform_of
from pipeline.train.loop import HISTORY, SCHEDULES, State, evaluate, run_epochs
from pipeline.train.stage import train
from pipeline.train.trainers import TRAINERS, Autograd, ClosedForm, measure, penalty

__all__ = [
    "HISTORY",
    "SCHEDULES",
    "TRAINERS",
    "Autograd",
    "ClosedForm",
    "Dataset",
    "Feed",
    "State",
    "choose_device",
    "device_name",
    "evaluate",
    "measure",
    "penalty",
    "run_epochs",
    "standardised",
    "train",
    "transform_of",
]
