"""What a report's numbers are of: how many samples and groups, of which source, and what was never tested."""

from pathlib import Path
from typing import Any

import numpy as np

from models.targets import TARGETS
from pipeline.errors import counted
from pipeline.extract import Features
from pipeline.sources import REGISTRY, SPLITS
from pipeline.sources.files import readable

ELSEWHERE = {  # kind of features → what differs in the world
    "pixels": "another camera, scanner, pen or hand",
    "image": "another camera, place or light",
    "mfcc": "another microphone, room, player or device",
    "vector": "another source",
    "table": "another source",
}


def scope(features: Features, kind: str) -> list[str]:
    """Two lines: what the number is of, and what it says nothing about; `kind` is that of the features.

    They name the data by the last part of their path: the model's card carries them to any client of the service.
    """
    data = features.task["data"]
    source = REGISTRY[data["source"]]
    n = counted(int(features.rows("test").sum()), "sample")
    groups = counts(features)
    where = (
        f"{source.name} {readable(Path(data['path'])).rpartition('/')[2]}"
        if data["path"]
        else f"the data set {source.name}"
    )
    if groups:
        together = f"in {counted(groups['test'], 'group')} of which no sample was trained on"
    else:
        together = f"{_alone(features)}: no groups are named"
    of = f"of {n} from {where}, {together}"
    unseen = ["inputs from " + ELSEWHERE[kind]]
    if source.tested:
        of = f"of {n}: {source.tested}"
    elif source.synthetic:
        of = f"of {n} of synthetic data ({source.help}), {together}"
        unseen = [f"anything real; what this says of {source.synthetic}, nobody has measured"]
    elif not groups:
        unseen.append("new sessions, people or places, if samples of one of them are in several splits (data.group)")
    return [of, f"not tested: {', or '.join(unseen)}"]


def _alone(features: Features) -> str:
    """How samples without groups are divided: one by one, and what that means for near duplicates."""
    if not len(features.near):
        return "each by itself"
    if divided := int(features.divided().sum()):
        return f"each by itself, {counted(divided, 'pair')} of near duplicates divided"
    return "each by itself but for near duplicates, which no split divides"


def counts(features: Features) -> dict[str, Any] | None:
    """How many groups each split has, and under `classes` each class in each split; None where there are none."""
    if not features.has_groups:
        return None
    found: dict[str, Any] = {split: _distinct(features, features.rows(split)) for split in SPLITS}
    labels = features.labels if TARGETS[features.kind].has_classes else ()
    found["classes"] = {
        label: {split: _distinct(features, features.rows(split) & (features.y == k)) for split in SPLITS}
        for k, label in enumerate(labels)
    }
    return found


def _distinct(features: Features, rows: Any) -> int:
    return len(np.unique(features.group[rows]))
