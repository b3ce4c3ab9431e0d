"""The arrays saved for figures agree with the network."""

from pathlib import Path

import numpy as np
import torch

from models.classifier import Classifier, Standardize
from models.frontend import FrontEnd, Pixels, Vector
from models.mfcc import SHOWN, Mfcc
from models.mlp import MLP
from models.targets import TARGETS
from pipeline.extract.features import Features
from pipeline.run import write_npz
from pipeline.validate import inside


def network(frontend: FrontEnd, hidden: list[int], kind: str = "binary", n_labels: int = 2) -> Classifier:
    mlp = MLP(frontend.n_features, hidden, TARGETS[kind].n_outputs(n_labels), "sigmoid")  # type: ignore[arg-type]
    return Classifier(frontend, Standardize(frontend.n_features), mlp, kind).eval()  # type: ignore[arg-type]


def features(x: np.ndarray, y: np.ndarray) -> Features:
    """Every other sample for training, the others for the test."""
    n = len(x)
    split, names = np.array(["train", "test"] * (n // 2)), np.array([f"{i}" for i in range(n)])
    none = np.empty((0, x.shape[1]), np.float32), np.empty(0, np.int64)
    return Features(x.astype(np.float32), y, ("a", "b"), split, names, names, *none, (), {}, "", "", names)


def points(n: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(n, size))


def test_the_plane_holds_the_answers_and_the_units_of_the_network() -> None:
    classifier = network(Vector(2), [4])
    arrays = inside.inside(classifier, features(points(40, 2), np.arange(40) % 2), [])
    assert arrays["answers"].shape == (2, inside.SQUARE, inside.SQUARE)
    x1, x2 = arrays["axis_1"][70], arrays["axis_2"][20]
    point = torch.tensor([[x1, x2]])
    with torch.inference_mode():
        np.testing.assert_allclose(arrays["answers"][:, 20, 70], classifier(point)[0], atol=1e-6)
        _, activations = classifier.mlp.with_activations(point)
    np.testing.assert_allclose(arrays["units"][:, 20, 70], activations[0][0], atol=1e-6)
    np.testing.assert_allclose(arrays["units"], 1 / (1 + np.exp(-arrays["sums"])), atol=1e-6)
    assert (arrays["axis_1"][0], arrays["axis_1"][-1]) == (0, 1)
    assert arrays["train_x"].shape == (20, 2)


def test_votes_times_units_and_the_bias_are_the_curve() -> None:
    x = points(40, 1) * 6 - 3
    arrays = inside.inside(network(Vector(1), [5], "regression", 1), features(x, x.astype(np.float32)), [])
    total = arrays["votes"][0] @ arrays["units"] + arrays["bias"][0]
    np.testing.assert_allclose(total, arrays["answers"][0], atol=1e-6)
    assert arrays["axis_1"][0] < x.min()
    assert arrays["axis_1"][-1] > x.max()


def test_two_hidden_layers_have_no_votes_and_a_linear_model_no_units() -> None:
    data = features(points(40, 2), np.arange(40) % 2)
    assert "votes" not in inside.inside(network(Vector(2), [4, 3]), data, [])
    assert "units" not in inside.inside(network(Vector(2), []), data, [])


def test_many_samples_are_subsampled() -> None:
    arrays = inside.inside(network(Vector(2), [2]), features(points(5000, 2), np.arange(5000) % 2), [])
    assert 500 < len(arrays["train_x"]) <= inside.POINTS


def test_weights_on_pixels_are_images_and_longer_vectors_show_nothing() -> None:
    nothing = features(points(4, 3), np.arange(4) % 2)
    arrays = inside.inside(network(Pixels(), [120]), nothing, [])
    assert arrays["weights"].shape == (inside.UNITS, 28, 28)
    assert inside.inside(network(Vector(3), [2]), nothing, []) == {}


def test_the_arrays_of_a_clip_come_from_the_front_end(tmp_path: Path) -> None:
    frontend = Mfcc(n_mels=64, n_mfcc=13)
    tone = np.sin(np.arange(22050, dtype=np.float32) / 8)
    silence = np.zeros(10, np.float32)
    arrays = inside.inside(network(frontend, [2]), features(points(4, 3), np.arange(4) % 2), [tone, silence])
    np.testing.assert_allclose(arrays["mfcc_0"], frontend.mfcc(torch.from_numpy(tone)[None])[0], atol=1e-3)
    assert arrays["mel_0"].max() == 0
    assert arrays["mel_0"].min() >= -80
    assert np.isfinite(arrays["mel_1"]).all()
    write_npz(tmp_path / "figures.npz", arrays, compress=True)
    with np.load(tmp_path / "figures.npz") as saved:
        assert sorted(saved) == ["mel_0", "mel_1", "mfcc_0", "mfcc_1"]


def test_a_long_clip_is_cut() -> None:
    frontend = Mfcc(n_mels=32, n_mfcc=13)
    clip = np.random.default_rng(0).normal(size=22050 * 10).astype(np.float32)
    arrays = inside.inside(network(frontend, [2]), features(points(4, 3), np.arange(4) % 2), [clip])
    assert arrays["mel_0"].shape[1] == 1 + SHOWN * 22050 // 512
