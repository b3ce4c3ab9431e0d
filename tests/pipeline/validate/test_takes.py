"""Takes of one source that nobody has named: suspected by names and features together, kept apart, and gated."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.extract import Features
from pipeline.report.page import headline
from pipeline.task import Task, Validate
from pipeline.train import weights
from pipeline.validate.stage import gate
from pipeline.validate.takes import lower_metrics, score_apart, suspect_takes
from tests import vectors

CLASSES, SOURCES, TAKES = 3, 10, 6


def features(folder: Path, near: bool = True, names: str = "{label}/s{source}_{take:02}.wav") -> tuple[Task, Features]:
    """Classes of several sources, each with several takes, close to each other or not."""
    rng = np.random.default_rng(0)
    index = np.indices((CLASSES, SOURCES, TAKES)).reshape(3, -1)
    centres = rng.standard_normal((CLASSES, 1, 8)) + 1.5 * rng.standard_normal((CLASSES, SOURCES, 8))
    x = np.float32(centres[index[0], index[1]] + (0.1 if near else 40) * rng.standard_normal((index.shape[1], 8)))
    split = rng.choice(["train", "validation", "test"], index.shape[1], p=(0.7, 0.1, 0.2)).tolist()
    task = vectors.write(folder, x, index[0], split, CLASSES)
    files = [names.format(label="abc"[k], source=s, take=t, n=n) for n, (k, s, t) in enumerate(index.T.tolist())]
    return task, replace(Features.load(folder / "features.npz"), file=np.array(files))


@pytest.mark.parametrize(
    ("names", "group"),
    [
        ("{label}/s{source}_{take:02}.wav", "s4"),
        ("{label}/{label}_player{source}_{take}_loud.wav", "player4"),
        ("{label}/p{source} {take}.png", "p4"),
        ("{label}/{source}-{n}.png", "4-"),
        ("{label}/2024_north_s{source}_{take:02}.m4a", "s4"),
    ],
)
def test_names_and_features_together_tell_of_takes(tmp_path: Path, names: str, group: str) -> None:
    _, found = features(tmp_path, names=names)
    suspicion = suspect_takes(found)
    assert suspicion is not None
    assert int(suspicion.group.max()) + 1 in (SOURCES, CLASSES * SOURCES)
    assert np.isin(np.bincount(suspicion.group), (TAKES, CLASSES * TAKES)).all()


def test_neither_alone_does(tmp_path: Path) -> None:
    assert suspect_takes(features(tmp_path, near=False)[1]) is None
    assert suspect_takes(features(tmp_path, names="{label}/{n:04}.wav")[1]) is None
    assert suspect_takes(features(tmp_path, names="{label}/IMG_{n:04}.jpg")[1]) is None
    named = features(tmp_path)[1]
    assert suspect_takes(replace(named, group=np.array([file[:4] for file in named.file]))) is None


def test_the_accuracy_is_that_of_sources_never_heard_and_the_gate_holds_it(tmp_path: Path) -> None:
    task, found = features(tmp_path)
    suspicion = suspect_takes(found)
    assert suspicion is not None
    facts = replace(weights.begin(task, found, "cpu"), best_epoch=30)
    takes = score_apart(suspicion, found, facts)
    assert takes["accuracy"] < 0.8  # among other takes of the same source nearly all are right
    assert takes["groups"] == SOURCES
    assert len(takes["files"]) == 3
    test = {"accuracy": 1.0, "macro_recall": 0.1, "log_loss": 0.2}
    assert lower_metrics(test, takes) == {"accuracy": takes["accuracy"], "macro_recall": 0.1, "log_loss": 0.2}
    assert lower_metrics(test, None) is test
    assert not gate(lower_metrics(test, takes), Validate(min_accuracy=0.9))["passed"]
    report = {"name": "n", "samples": {"test": 9}, "test": test, "takes": takes, "gate": {"passed": True, "checks": []}}
    assert f"--set 'data.group={takes['pattern']}' names the 10 groups" in headline(report)  # type: ignore[typeddict-item]
