"""Training by Keras 3 on its torch backend: the same network, batches and steps as PyTorch's, up to rounding."""

import math
import os

import torch
from torch import Tensor

from models.card import Kind
from models.mlp import MLP
from models.steps.closed_form import BETAS, EPSILON, MOMENTUM
from pipeline.task import Train, UserError
from pipeline.threads import threads
from pipeline.train import loop
from pipeline.train.batches import Feed
from pipeline.train.data import Dataset, Datasets
from pipeline.train.trainers import threads_for

os.environ["KERAS_BACKEND"] = "torch"  # read once, by the import
try:
    import keras
except ImportError:
    raise UserError("train.framework: Keras is not installed; pip install 'percept[keras]', or use torch") from None
if keras.backend.backend() != "torch":
    raise UserError(f"train.framework: Keras already runs on {keras.backend.backend()} here; start a new process")

LOSSES = {  # kind of target → Keras's names of the loss and of the accuracy
    "multiclass": ("SparseCategoricalCrossentropy", "SparseCategoricalAccuracy"),
    "binary": ("BinaryCrossentropy", "BinaryAccuracy"),
    "regression": ("MeanSquaredError", None),
}


def fit(mlp: MLP, data: Datasets, kind: Kind, options: Train) -> loop.State:
    """Train `mlp` in place, without checkpoints.

    Raises
    ------
    UserError : the loss is no longer a number
    """
    keras.config.set_floatx("float32")  # overrides the user's keras.json
    keras.config.set_dtype_policy("float32")
    with keras.device(data.training.y.device.type), threads(threads_for(options.batch_size, mlp)):
        trainer = KerasTrainer(mlp, data.training, kind, options)
        return loop.fit(trainer, mlp, options, data.validation, kind, loop.State())


class KerasTrainer:
    """Trains a Keras model for an epoch at a time, and copies its weights into the MLP."""

    def __init__(self, mlp: MLP, data: Dataset, kind: Kind, options: Train) -> None:
        self.mlp, self.options = mlp, options
        self.model = _sequential(mlp, options)
        _compile_as(self.model, kind, options)
        self.batches = Batches(data, kind, options)
        self.epsilon = [AdamEpsilon()] if options.optimizer == "adam" else []
        self.factor = 1.0  # of the last epoch

    @torch.no_grad()
    def epoch(self, number: int, factor: float) -> tuple[Tensor, Tensor]:
        """See `loop.Trainer`."""
        self._set_learning_rate(number, factor)
        self.batches.shuffle(number)
        with torch.enable_grad():
            epochs = {"initial_epoch": number, "epochs": number + 1}
            done = self.model.fit(self.batches, **epochs, verbose=0, shuffle=False, callbacks=self.epsilon)
        for dense, layer in zip(self.model.layers, self.mlp.layers, strict=True):
            layer.weight.copy_(dense.kernel.value.T)  # type: ignore[operator]
            layer.bias.copy_(dense.bias.value)  # type: ignore[operator]
        means = [done.history.get(name, [math.nan])[-1] for name in ("data_loss", "accuracy")]
        loss, accuracy = torch.tensor(means, dtype=torch.float64).unsqueeze(1)
        return loss, accuracy

    def _set_learning_rate(self, number: int, factor: float) -> None:
        optimizer = self.model.optimizer
        optimizer.learning_rate = self.options.learning_rate * factor
        if self.options.optimizer == "momentum" and number:
            # Keras's velocity is PyTorch's times the negative learning rate of the steps that built it up.
            for velocity in optimizer.momentums:
                velocity.assign(velocity * (factor / self.factor))
        self.factor = factor


def _sequential(mlp: MLP, options: Train) -> keras.Sequential:
    """The network with its current weights, and with the penalties of the options.

    Keras's penalties equal `trainers.penalty`: activity penalties are divided by the size of the batch, too.
    """
    *hidden, output = mlp.layers
    weights = _penalty(options.l1, options.l2)
    activity = _penalty(options.activity_l1, options.activity_l2)
    model = keras.Sequential([keras.Input((mlp.layers[0].in_features,))])
    for layer in hidden:
        penalties = {"kernel_regularizer": weights, "activity_regularizer": activity}
        model.add(keras.layers.Dense(layer.out_features, mlp.activation, **penalties))
    model.add(keras.layers.Dense(output.out_features, kernel_regularizer=weights))
    for dense, layer in zip(model.layers, mlp.layers, strict=True):
        dense.set_weights([layer.weight.detach().T, layer.bias.detach()])  # type: ignore[operator]
    return model


def _compile_as(model: keras.Sequential, kind: Kind, options: Train) -> None:
    """Compile the model with the optimiser of the options, and the loss and metrics of the kind of target."""
    if options.optimizer == "adam":
        optimizer = keras.optimizers.Adam(options.learning_rate, *BETAS)
    else:
        momentum = MOMENTUM if options.optimizer == "momentum" else 0.0
        optimizer = keras.optimizers.SGD(options.learning_rate, momentum)
    loss, accuracy = LOSSES[kind]
    from_logits = {} if kind == "regression" else {"from_logits": True}
    # The loss that Keras reports includes the penalties; the metric does not.
    metrics = [getattr(keras.metrics, loss)(name="data_loss", **from_logits)]
    if accuracy:
        threshold = {"threshold": 0.0} if kind == "binary" else {}  # of the logit
        metrics.append(getattr(keras.metrics, accuracy)(name="accuracy", **threshold))
    model.compile(optimizer, getattr(keras.losses, loss)(**from_logits), metrics=metrics)


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """The mini-batches of an epoch, those of `Feed`."""

    def __init__(self, data: Dataset, kind: Kind, options: Train) -> None:
        super().__init__()
        assert isinstance(data.x, Tensor)
        self.x, self.y = data.x, data.y
        if kind == "binary":
            self.y = data.y[:, None].to(data.x.dtype)  # Keras needs the shape of the logits
        self.feed = Feed([data], [options.seed], options.batch_size)
        self.shuffle(0)

    def shuffle(self, epoch: int) -> None:
        self.order = torch.split(self.feed.order(epoch).flatten()[: len(self.y)], self.feed.batch_size)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        batch = self.order[index]
        return self.x[batch], self.y[batch]


class AdamEpsilon(keras.callbacks.Callback):  # type: ignore[misc]
    """Makes Keras's Adam steps equal PyTorch's, which adds ε to √(v / (1 - β₂ᵗ)); Keras adds its own to √v, before the
    bias correction."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        self.step += 1
        self.model.optimizer.epsilon = EPSILON * math.sqrt(1 - BETAS[1] ** self.step)


def _penalty(l1: float, l2: float) -> keras.Regularizer | None:
    return keras.regularizers.L1L2(l1, l2) if l1 or l2 else None
