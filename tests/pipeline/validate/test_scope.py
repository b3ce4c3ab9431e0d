"""What a report's numbers are of stands in its first lines."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import extract, task
from pipeline.extract import Features
from pipeline.report import page
from pipeline.run import Run
from pipeline.validate.scope import counts, scope


@pytest.fixture
def features(tmp_path: Path) -> Features:
    return extract.extract(task.load("regions"), Run(tmp_path))


def test_synthetic_data_are_called_so(features: Features) -> None:
    of, untested = scope(features, "vector")
    assert of == "of 1,000 samples of synthetic data (points of two regions), each by itself: no groups are named"
    assert untested == "not tested: anything real; what this says of measurements, nobody has measured"
    assert counts(features) is None
    rows = {split: np.flatnonzero(features.rows(split)) for split in ("train", "test")}
    for one, other, said in (
        ("test", "test", "each by itself but for near duplicates, which no split divides: no groups are named"),
        ("train", "test", "each by itself, 1 pair of near duplicates divided: no groups are named"),
    ):
        near = np.array([[rows[one][0], rows[other][1]]])
        assert scope(replace(features, near=near), "vector")[0].endswith(said)


def test_real_data_say_which_and_how_many_groups(features: Features) -> None:
    named = replace(features, task={"data": {"source": "csv", "path": "/data/list.csv"}})
    of, untested = scope(named, "mfcc")
    assert of.startswith("of 1,000 samples from csv list.csv, each by itself")
    assert untested.startswith("not tested: inputs from another microphone, room, player or device, or new sessions")
    groups = np.array([f"{split} {i % 40}" for i, split in enumerate(features.split)])
    of, untested = scope(replace(named, group=groups), "pixels")
    assert of.endswith(", in 40 groups of which no sample was trained on")
    assert untested == "not tested: inputs from another camera, scanner, pen or hand"
    alone = np.array(["a room" if split == "test" else split for split in features.split])
    assert scope(replace(named, group=alone), "mfcc")[0].endswith(", in 1 group of which no sample was trained on")
    found = counts(replace(named, group=groups))
    assert found is not None
    assert (found["train"], found["test"], found["classes"]["inside"]["test"]) == (40, 40, 40)


def test_the_headline_begins_with_it_and_names_no_class_of_one_sample() -> None:
    per_class = [
        {"label": "a", "support": 40, "recall": 0.9, "recall_interval": [0.8, 0.96]},
        {"label": "b", "support": 1, "recall": 0.0, "recall_interval": [0.0, 0.8]},
    ]
    report = {
        "name": "birds",
        "samples": {"test": 41, "groups": {"test": 12}},
        "scope": ["of 41 samples", "not tested: owls"],
        "test": {"accuracy": 0.878, "macro_recall": 0.45, "ece": 0.02, "per_class": per_class},
        "gate": {"passed": True, "checks": []},
    }
    assert page.headline(report).splitlines() == [
        "birds: accuracy 87.8 % on 41 test samples in 12 groups; macro recall 45.0 %",
        "of 41 samples",
        "not tested: owls",
        "ECE 0.02",
        "weakest class: a, recall 90.0 % (80.0–96.0 %; 40 samples)",
        "fewer than 5 test samples, too few to say how good: b",
        "gate passed: the task sets no threshold",
    ]
