"""The weights file: what is refused, and files of earlier versions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.task import UserError
from pipeline.train import weights
from pipeline.train.weights import Facts


def test_a_broken_weights_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"\x80\x04nonsense")
    with pytest.raises(UserError, match="run `percept train` again"):
        weights.load(tmp_path / "weights.pt")


def test_weights_of_an_earlier_version_load(tmp_path: Path) -> None:
    """Their facts say `engine` where later ones say `gradients`."""
    sections = {
        "features": {"kind": "vector", "size": 2},
        "model": {"hidden": [3], "activation": "relu", "init": "default"},
        "train": {"seed": 0, "engine": "closed-form"},
    }
    facts = Facts(("a", "b"), "binary", **sections, data_digest="", epochs=1, best_epoch=1, seconds=1.0, device="cpu")
    weights.save(tmp_path / "weights.pt", weights.network(facts), facts)
    loaded = weights.load(tmp_path / "weights.pt")[1]
    assert loaded.train == {"seed": 0, "gradients": "closed-form"}


def test_weights_on_mfcc_of_an_earlier_version_load(tmp_path: Path) -> None:
    """Their facts say `lifter` where later ones say `cepstral_decay`."""
    model = {"hidden": [3], "activation": "relu", "init": "default"}
    features = {"kind": "mfcc", "n_mfcc": 13, "cepstral_decay": 8.0}
    facts = Facts(("a", "b"), "binary", features, model, {"seed": 0}, "", 1, 1, 1.0, "cpu")
    recorded = {"lifter" if key == "cepstral_decay" else key: value for key, value in features.items()}
    now = weights.network(facts)
    weights.save(tmp_path / "weights.pt", now, replace(facts, features=recorded))
    classifier, loaded = weights.load(tmp_path / "weights.pt")
    assert loaded.features == features
    assert torch.equal(classifier.frontend.weights, now.frontend.weights)


def test_weights_that_lack_what_this_version_has_are_one_line(tmp_path: Path) -> None:
    """Those of sounds once had no discriminants."""
    features = {"kind": "mfcc", "n_mfcc": 13, "cepstral_decay": 8.0}
    model = {"hidden": [3], "activation": "relu", "init": "default"}
    facts = Facts(("a", "b", "c"), "multiclass", features, model, {"seed": 0}, "", 1, 1, 1.0, "cpu", known=0.1)
    classifier = weights.network(facts)
    assert classifier.familiarity is not None
    classifier.familiarity.discriminants = None
    weights.save(tmp_path / "weights.pt", classifier, facts)
    with pytest.raises(UserError, match="another version's; run `percept train` again"):
        weights.load(tmp_path / "weights.pt")
