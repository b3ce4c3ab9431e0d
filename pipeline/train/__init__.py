"""Stage 2: features → weights."""

from pipeline.train.data import mapped
from pipeline.train.stage import (
    CHECKPOINT,
    CHECKPOINT_SECONDS,
    ENGINES,
    HISTORY,
    SCHEDULES,
    State,
    calibrate,
    choose_device,
    device_name,
    disturb,
    evaluate,
    fit,
    note,
    out_of_patience,
    train,
)
from pipeline.train.trainers import Batch, ClosedForm, Feed, measure, penalty

__all__ = [
    "CHECKPOINT",
    "CHECKPOINT_SECONDS",
    "ENGINES",
    "HISTORY",
    "SCHEDULES",
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
    "mapped",
    "measure",
    "note",
    "out_of_patience",
    "penalty",
    "train",
]
