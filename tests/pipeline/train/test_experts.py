"""The second network is right on degraded clips that the first one takes for others, in training as in the graph."""

import wave
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from models.classifier import Classifier
from pipeline import extract, task, train
from pipeline.export.graph import Graph, to_onnx
from pipeline.extract import Features
from pipeline.run import Run
from pipeline.task import UserError
from pipeline.train import experts, weights
from pipeline.train.data import Dataset

RATE = 22_050
WAVES = {"sawtooth": lambda phase: 2 * phase - 1, "square": lambda phase: np.sign(phase - 0.5), "sine": np.sin}
KEYS = (
    "augment.copies=8", "augment.rate=0", "features.n_mfcc=13", "features.n_mels=40", "model.hidden=[32]",
    "train.epochs=60", "train.refit=false", "data.splits={train=0.6, validation=0.3, test=0.1}",
)  # fmt: skip


def clip(kind: str, rng: np.random.Generator) -> NDArray[np.float32]:
    phase = 220 * 2 ** rng.uniform(0, 2) * np.arange(RATE // 3) / RATE
    return (0.3 * WAVES[kind](2 * np.pi * phase if kind == "sine" else phase % 1)).astype(np.float32)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Features]:
    """A run on clips of three waveforms, and its features."""
    folder, rng = tmp_path_factory.mktemp("experts"), np.random.default_rng(0)
    for kind in WAVES:
        (folder / "clips" / kind).mkdir(parents=True)
        for i in range(20):
            with wave.open(str(folder / "clips" / kind / f"{i}.wav"), "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", ""))
                file.writeframes((clip(kind, rng) * 32767).astype(np.int16).tobytes())
    resolved = task.load("instruments", str(folder / "clips"), KEYS)
    extract.extract(resolved, Run(folder / "run"))
    train.train(resolved, Run(folder / "run"))
    return folder / "run", Features.load(folder / "run" / "features.npz")


def held_out(features: Features, form: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and classes of the validation clips' copies of one form."""
    rows = np.flatnonzero(features.rows("validation")[features.copy_of] & (features.forms == form))
    return torch.from_numpy(features.copies[rows]), torch.from_numpy(features.y[features.copy_of[rows]])


@torch.inference_mode()
def test_it_answers_degraded_clips_and_leaves_the_others_to_the_first(found: tuple[Path, Features]) -> None:
    classifier, facts = weights.load(found[0] / "weights.pt")
    assert facts.has_expert
    assert classifier.expert is not None
    right, shares = {}, {}
    for degraded in (False, True):
        x, y = held_out(found[1], "degraded" if degraded else "plain")
        z = classifier.standardize(x)
        right[degraded] = [
            (logits.argmax(1) == y).float().mean() for logits in (classifier.mlp(z), answered(classifier, x))
        ]
        shares[degraded] = torch.sigmoid(classifier.expert.gate(z)).mean()
    assert shares[False] < 0.4 < 0.7 < shares[True]
    assert right[True][1] > right[True][0] + 0.05
    assert right[False][1] > right[False][0] - 0.02


def answered(classifier: Classifier, x: torch.Tensor) -> torch.Tensor:
    return classifier.from_features(x)[0]


def test_the_graph_holds_both(found: tuple[Path, Features]) -> None:
    classifier, _ = weights.load(found[0] / "weights.pt")
    model = to_onnx(Graph(classifier))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    for noise in (0.0, 0.1):
        sound = clip("square", rng) + noise * rng.standard_normal(RATE // 3).astype(np.float32)
        (answers,) = session.run(["probabilities"], {session.get_inputs()[0].name: sound[None].astype(np.float32)})
        with torch.inference_mode():
            expected = classifier(torch.from_numpy(sound[None].astype(np.float32)))[0]
        np.testing.assert_allclose(answers, expected, atol=1e-4)


def test_a_loss_that_is_no_number_stops_with_one_line(found: tuple[Path, Features]) -> None:
    classifier, facts = weights.load(found[0] / "weights.pt")
    x, y = held_out(found[1], "degraded")
    options = task.Train(epochs=2, optimizer="sgd", learning_rate=1e30)
    degraded = torch.arange(len(y)) % 2 == 1
    with pytest.raises(UserError, match=r"no longer a number in epoch 2; lower train.learning_rate, now 1e\+30"):
        experts.fit(
            classifier.add_expert(),
            Dataset(x, y),
            degraded,
            classifier.standardize,
            facts.kind,
            options,
            in_memory=True,
        )
