"""Stage 2: features → weights."""

from pipeline.train.batches import Feed
from pipeline.train.confidence import calibrate
from pipeline.train.data import Batch
from pipeline.train.distortion import disturb
from pipeline.train.loop import CHECKPOINT_SECONDS, HISTORY, SCHEDULES, State, evaluate, fit, note, out_of_patience
from pipeline.train.memory import choose_device, device_name
from pipeline.train.stage import train
from pipeline.train.trainers import TRAINERS, ClosedForm, measure, penalty

__all__ = [
    "CHECKPOINT_SECONDS",
    "HISTORY",
    "SCHEDULES",
    "TRAINERS",
    "Batch",
    "ClosedForm",
    "Feed",
    "State",
    "calibrate",
    "choose_device",
    "device_name",
    "disturb",
    "evaluate",
    "fit",
    "measure",
    "note",
    "out_of_patience",
    "penalty",
    "train",
]
