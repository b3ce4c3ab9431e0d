"""What the figures of a network's inside are drawn from: its answers and its units' over a grid, weights, clips.

`validate` saves these arrays; `plots` draws them without the network.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.classifier import Classifier
from models.frontend import IMAGE_SIZE, Pixels
from models.mfcc import TOP_DB, Mfcc
from pipeline.extract import Features

LINE, SQUARE = 401, 101  # points along the axis of a curve, along each axis of a plane
POINTS = 1000  # samples shown on top
UNITS = 100  # of the first layer, shown one by one
CLIPS = 24  # classes of which a clip is shown
SECONDS = 4  # of a clip

Arrays = dict[str, NDArray[np.float32]]


@torch.inference_mode()
def inside(classifier: Classifier, features: Features, clips: Sequence[NDArray[np.float32]]) -> Arrays:
    """Whatever can be shown of this network; nothing for vectors of more than two numbers.

    clips : mono waveforms (T,), one a class, for a network on sound
    """
    frontend = classifier.frontend
    if isinstance(frontend, Pixels):
        weights = classifier.mlp.weights()[0][:UNITS]
        return {"weights": weights.reshape(-1, IMAGE_SIZE, IMAGE_SIZE).numpy()}
    if isinstance(frontend, Mfcc):
        return {name: array for i, clip in enumerate(clips) for name, array in _heard(frontend, clip, i).items()}
    return _responses(classifier, features) if frontend.n_features <= 2 else {}


def _heard(frontend: Mfcc, clip: NDArray[np.float32], i: int) -> Arrays:
    """`mel_i`, dB below the loudest point (n_mels, frames), and `mfcc_i` (n_mfcc, frames) of the clip's beginning."""
    mel = frontend.mel_power(torch.from_numpy(clip[: SECONDS * frontend.sample_rate]).unsqueeze(0))
    decibels = 10 * torch.log10((mel / mel.max().clamp(min=1e-30)).clamp(min=10 ** (-TOP_DB / 10)))
    return {f"mel_{i}": decibels[0].numpy(), f"mfcc_{i}": frontend.coefficients(mel)[0].numpy()}


def _responses(classifier: Classifier, features: Features) -> Arrays:
    """Answers and first hidden layer over the range of the training inputs, with samples to lay on top.

    One input, over `axis_1` (n,); two, over `axis_2` × `axis_1` (n2, n1). `answers` (K, …), probabilities or values;
    `sums` and `units` (H, …), what each unit of the first hidden layer adds up and gives; `votes` (n_outputs, H), the
    weights with which a single hidden layer enters the output, and `bias` (n_outputs,).
    """
    x = features.x[features.rows("train")]
    axes = [_axis(column, LINE if x.shape[1] == 1 else SQUARE) for column in x.T]
    mesh = np.meshgrid(*axes)
    grid = torch.from_numpy(np.stack([m.ravel() for m in mesh], 1))
    inputs = classifier.standardize(grid)
    logits, activations = classifier.mlp.with_activations(inputs)
    answers = classifier.answers(logits)
    arrays = {f"axis_{d}": axis for d, axis in enumerate(axes, start=1)}
    arrays["answers"] = answers.T.reshape(-1, *mesh[0].shape).numpy()
    if activations:
        arrays["units"] = activations[0].T[:UNITS].reshape(-1, *mesh[0].shape).numpy()
        arrays["sums"] = classifier.mlp.layers[0](inputs).T[:UNITS].reshape(-1, *mesh[0].shape).numpy()
    if len(activations) == 1 and len(classifier.mlp.weights()[0]) <= UNITS:
        state = classifier.mlp.state_dict()
        arrays |= {"votes": state["layers.1.weight"].numpy(), "bias": state["layers.1.bias"].numpy()}
    for split in ("train", "test"):
        rows = np.flatnonzero(features.rows(split))
        rows = rows[:: max(1, -(-len(rows) // POINTS))]
        arrays |= {f"{split}_x": features.x[rows], f"{split}_y": features.y[rows]}
    return arrays


def _axis(values: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """The unit interval if the values fill it, else their range and a little more."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1 and high - low > 0.5:
        return np.linspace(0, 1, n, dtype=np.float32)
    margin = 0.05 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, n, dtype=np.float32)
