"""The arrays behind the figures of a network's inside.

`validate` saves them, so that `percept plot` can draw the figures without the network.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.classifier import Classifier
from pipeline.extract import Features

LINE, SQUARE = 401, 101  # grid points along the axis of a curve, and along each axis of a plane
POINTS = 1000  # samples drawn on top, at most, of each split
UNITS = 100  # units of the first layer, at most
CLIPS = 24  # classes of which a clip is shown, at most

Arrays = dict[str, NDArray[np.float32]]


@torch.inference_mode()
def inside(classifier: Classifier, features: Features, clips: Sequence[NDArray[np.float32]]) -> Arrays:
    """The arrays for this network's figures; none for vectors of more than two numbers.

    clips : mono waveforms (T,), one of each class, for a network on sound

    Returns
    -------
    for one or two features see `_on_grid`, else `FrontEnd.inside`
    """
    frontend = classifier.frontend
    if frontend.n_features <= 2:
        return _on_grid(classifier, features)
    return frontend.inside(classifier.mlp.weights()[0][:UNITS], clips)


def _on_grid(classifier: Classifier, features: Features) -> Arrays:
    """Answers and first hidden layer over the range of the training inputs, with samples to draw on top.

    The grid is `axis_1` (n,) for one input, `axis_2` × `axis_1` (n2, n1) for two. On it: `answers` (K, …),
    probabilities or values; `sums` and `units` (H, …), weighted sum and activation of each unit of the first hidden
    layer. For a single hidden layer also `votes` (n_outputs, H), its weights towards the output, and `bias`
    (n_outputs,). Samples: `train_x`, `train_y`, `test_x`, `test_y`.
    """
    x = features.x[features.rows("train")]
    axes = [_axis(column, LINE if x.shape[1] == 1 else SQUARE) for column in x.T]
    mesh = np.meshgrid(*axes)
    shape = (-1, *mesh[0].shape)
    mlp = classifier.mlp
    inputs = classifier.standardize(torch.from_numpy(np.stack([m.ravel() for m in mesh], 1)))
    logits, activations = mlp.with_activations(inputs)
    arrays = {f"axis_{d}": axis for d, axis in enumerate(axes, start=1)}
    arrays["answers"] = classifier.answers(logits).T.reshape(shape).numpy()
    if activations:
        arrays["units"] = activations[0].T[:UNITS].reshape(shape).numpy()
        arrays["sums"] = mlp.linear()[0](inputs).T[:UNITS].reshape(shape).numpy()
    if len(activations) == 1 and len(mlp.weights()[0]) <= UNITS:
        output = mlp.linear()[1]
        arrays |= {"votes": output.weight.detach().numpy(), "bias": output.bias.detach().numpy()}
    for split in ("train", "test"):
        rows = np.flatnonzero(features.rows(split))
        rows = rows[:: max(1, -(-len(rows) // POINTS))]
        arrays |= {f"{split}_x": features.x[rows], f"{split}_y": features.y[rows]}
    return arrays


def _axis(values: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """The unit interval if the values fill most of it, else their range with a margin."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1 and high - low > 0.5:
        return np.linspace(0, 1, n, dtype=np.float32)
    margin = 0.05 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, n, dtype=np.float32)
