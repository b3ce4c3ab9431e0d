"""The trainer's work done by Keras 3 on its torch backend: the same network, batches and steps up to rounding."""

import math
import os
import time

import torch
from torch import Tensor
from tqdm import tqdm

from models.card import Kind
from models.mlp import MLP
from models.steps.closed_form import BETAS, EPSILON, MOMENTUM
from pipeline.task import Train, UserError
from pipeline.threads import threads
from pipeline.train.batches import Feed
from pipeline.train.data import Batch
from pipeline.train.loop import SCHEDULES, State, out_of_patience, record
from pipeline.train.trainers import threads_for

os.environ["KERAS_BACKEND"] = "torch"  # read once, by the import
try:
    import keras
except ImportError:
    raise UserError("train.framework: Keras is not installed; pip install 'percept[keras]', or use torch") from None
if keras.backend.backend() != "torch":
    raise UserError(f"train.framework: Keras already runs on {keras.backend.backend()} here; start a new process")

LOSSES = {  # of each kind of target: the names of the loss and of the accuracy in Keras
    "multiclass": ("SparseCategoricalCrossentropy", "SparseCategoricalAccuracy"),
    "binary": ("BinaryCrossentropy", "BinaryAccuracy"),
    "regression": ("MeanSquaredError", None),
}


def fit(mlp: MLP, training: Batch, validation: Batch, kind: Kind, options: Train) -> State:
    """Train `mlp` in place, as `pipeline.train.fit` does, but without a checkpoint."""
    keras.config.set_floatx("float32")  # whatever the user's keras.json says
    keras.config.set_dtype_policy("float32")
    with (
        keras.device(training.x.device.type),
        threads(threads_for(options.batch_size, mlp)),
        tqdm(total=options.epochs, desc="train", unit="epoch", disable=None) as bar,
    ):
        model = sequential(mlp, options)
        compile_as(model, kind, options)
        data = Shuffled(training, kind, options)
        progress = Progress(mlp, data, validation, kind, options, bar)
        model.fit(data, epochs=options.epochs, verbose=0, shuffle=False, callbacks=[Steps(options), progress])
    if progress.state.best:
        mlp.load_state_dict(progress.state.best)
    return progress.state


def sequential(mlp: MLP, options: Train) -> keras.Sequential:
    """The network with its present weights, and with the penalties of the options.

    Keras's penalties are those of `pipeline.train.penalty`: an activity's, too, is divided by the size of the batch.
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


def compile_as(model: keras.Sequential, kind: Kind, options: Train) -> None:
    """Choose optimiser, loss and metrics."""
    if options.optimizer == "adam":
        optimizer = keras.optimizers.Adam(options.learning_rate, *BETAS)
    else:
        momentum = MOMENTUM if options.optimizer == "momentum" else 0.0
        optimizer = keras.optimizers.SGD(options.learning_rate, momentum)
    loss, accuracy = LOSSES[kind]
    from_logits = {} if kind == "regression" else {"from_logits": True}
    # The loss that Keras reports holds the penalties; the metric is the loss alone.
    metrics = [getattr(keras.metrics, loss)(name="data_loss", **from_logits)]
    if accuracy:
        threshold = {"threshold": 0.0} if kind == "binary" else {}  # of the logit
        metrics.append(getattr(keras.metrics, accuracy)(name="accuracy", **threshold))
    model.compile(optimizer, getattr(keras.losses, loss)(**from_logits), metrics=metrics)


class Shuffled(keras.utils.PyDataset):  # type: ignore[misc]
    """The mini-batches of an epoch, the very ones of `pipeline.train.trainers`."""

    def __init__(self, data: Batch, kind: Kind, options: Train) -> None:
        super().__init__()
        self.x, self.y = data.x, data.y
        if kind == "binary":
            self.y = data.y[:, None].to(data.x.dtype)  # Keras wants the shape of the logits
        self.feed = Feed([data], [options.seed], options.batch_size)
        self.shuffle(0)

    def shuffle(self, epoch: int) -> None:
        self.order = torch.split(self.feed.order(epoch).flatten()[: len(self.y)], self.feed.batch_size)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        batch = self.order[index]
        return self.x[batch], self.y[batch]


class Steps(keras.callbacks.Callback):  # type: ignore[misc]
    """The learning rate of each epoch, and what makes Keras's steps those of PyTorch."""

    def __init__(self, options: Train) -> None:
        super().__init__()
        self.options = options
        self.step = 0

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        optimizer, rate = self.model.optimizer, SCHEDULES[self.options.schedule]
        now = rate(epoch, self.options.epochs)
        optimizer.learning_rate = self.options.learning_rate * now
        if self.options.optimizer == "momentum" and epoch:
            # Keras's velocity is PyTorch's times the negative learning rate of the steps that built it up.
            for velocity in optimizer.momentums:
                velocity.assign(velocity * (now / rate(epoch - 1, self.options.epochs)))

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        self.step += 1
        if self.options.optimizer == "adam":
            # PyTorch adds ε to √(v / (1 - β₂ᵗ)); Keras adds its own to √v, before the correction of the bias.
            self.model.optimizer.epsilon = EPSILON * math.sqrt(1 - BETAS[1] ** self.step)


class Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Before an epoch its batches; after it the weights go back into the MLP, which is evaluated and recorded."""

    def __init__(self, mlp: MLP, data: Shuffled, validation: Batch, kind: Kind, options: Train, bar: tqdm) -> None:
        super().__init__()
        self.mlp, self.data, self.validation, self.kind, self.options = mlp, data, validation, kind, options
        self.bar = bar
        self.state = State()
        self.started = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.data.shuffle(epoch)

    @torch.no_grad()
    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        for dense, layer in zip(self.model.layers, self.mlp.layers, strict=True):
            layer.weight.copy_(dense.kernel.value.T)  # type: ignore[operator]
            layer.bias.copy_(dense.bias.value)  # type: ignore[operator]
        measured = logs["data_loss"], logs.get("accuracy", math.nan)
        record(self.state, measured, self.mlp, self.validation, self.kind, self.options, self.started, self.bar)
        self.model.stop_training = out_of_patience(self.state, self.options)


def _penalty(l1: float, l2: float) -> keras.Regularizer | None:
    return keras.regularizers.L1L2(l1, l2) if l1 or l2 else None
