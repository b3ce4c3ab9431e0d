"""Long recordings go through the exported graph in pieces, and their quantiles are selected: the features stay those of
PyTorch, whatever the length and the number of clips."""

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from models.card import FEATURES
from models.classifier import Classifier, Standardize
from models.mfcc import Mfcc
from models.mlp import MLP
from pipeline.export.graph import Graph, to_onnx
from pipeline.export.pieces import MAX_FRAMES, MIN_FRAMES
from pipeline.export.quantiles import LONG

RATE, HOP = 8_000, 64
TOLERANCE = 2e-3  # of decibels, whose differences reach some tens

Features = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@pytest.fixture(scope="module", params=[0.0, 20.0], ids=["zeros around", "prolonged"])
def both(request: pytest.FixtureRequest) -> tuple[Features, Features]:
    """The features of clips (N, T) by PyTorch and by the exported graph."""
    front = Mfcc(
        RATE, n_fft=256, hop_length=HOP, n_mels=20, n_mfcc=8, preemphasis=0.9, silence_db=40, fmin=request.param
    )
    graph = to_onnx(
        Graph(Classifier(front, Standardize(front.n_features), MLP(front.n_features, [1], 2, "relu"), "multiclass"))
    )
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    def by_graph(clips: NDArray[np.float32]) -> NDArray[np.float32]:
        (features,) = session.run([FEATURES], {"audio": clips})
        assert isinstance(features, np.ndarray)
        return features

    return lambda clips: front(torch.from_numpy(clips)).numpy(), by_graph


def clips(n: int, frames: int, more: int = 0) -> NDArray[np.float32]:
    """Noise whose loudness rises and falls, down to silence, each clip another way. (N, T) of so many frames."""
    samples = (frames - 1) * HOP + more
    rng, t = np.random.default_rng(frames), np.linspace(0, 1, samples, dtype=np.float32)
    loudness = np.stack([10 ** (3 * np.sin(9 * (t + i))) for i in range(n)])
    return (1e-3 * loudness * rng.standard_normal((n, samples))).astype(np.float32)


@pytest.mark.parametrize(
    ("frames", "more"),
    [
        (2, 0),
        (LONG, 0),
        (LONG + 1, 1),
        (MAX_FRAMES + 1, HOP - 1),
        (2 * MAX_FRAMES + 1, 0),
        (3 * MAX_FRAMES - 1, 1),
        (3 * MAX_FRAMES, 0),
    ],
)
def test_a_clip_of_any_number_of_pieces(both: tuple[Features, Features], frames: int, more: int) -> None:
    by_torch, by_graph = both
    audio = clips(1, frames, more)
    np.testing.assert_allclose(by_graph(audio), by_torch(audio), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("n", "frames"), [(2, MAX_FRAMES // 2 + 1), (3, 400), (9, MIN_FRAMES + 1), (300, 2)])
def test_several_clips_at_once(both: tuple[Features, Features], n: int, frames: int) -> None:
    by_torch, by_graph = both
    audio = clips(n, frames)
    found = by_graph(audio)
    np.testing.assert_allclose(found, by_torch(audio), rtol=0, atol=TOLERANCE)
    each = np.concatenate([by_graph(clip[np.newaxis]) for clip in audio[:3]])
    np.testing.assert_allclose(found[:3], each, rtol=0, atol=TOLERANCE)


def test_one_sample_and_constant_sound(both: tuple[Features, Features]) -> None:
    by_torch, by_graph = both
    for audio in (np.full((1, 1), 0.5, np.float32), np.full((1, 500 * HOP), 0.5, np.float32)):
        np.testing.assert_allclose(by_graph(audio), by_torch(audio), rtol=0, atol=TOLERANCE)
