"""Training of the second network, for degraded samples, and of the gate between the two."""

from math import ceil

from torch import Tensor

from models.calibration import move_prior
from models.card import Kind
from models.classifier import Standardize
from models.expert import Expert
from models.mlp import MLP
from pipeline.profile import step
from pipeline.progress import Progress
from pipeline.task import Train
from pipeline.train.batches import Feed
from pipeline.train.data import Dataset
from pipeline.train.distortion import transform_of
from pipeline.train.loop import all_epochs
from pipeline.train.trainers import TRAINERS

PRIOR = 0.6  # probability that a sample is degraded, before it is seen; the second network is nearly as good on others
LESS = 0.2  # noise and penalty of the second network, as parts of the first one's: degraded copies vary enough
GATE = Train(batch_size=200, learning_rate=3e-3, schedule="cosine", l2=1e-5, noise=0.3)
GATE_STEPS = 700


@step("second network")
def fit(
    expert: Expert, data: Dataset, degraded: Tensor, standardize: Standardize, kind: Kind, options: Train,
    in_memory: bool,
) -> None:  # fmt: skip
    """Train an expert and its gate in place.

    Parameters
    ----------
    data : all training samples with all of their copies, standardised
    degraded : bool (N,), which of them are degraded
    options : of the first network
    """
    changed = {"noise": LESS * options.noise, "l1": LESS * options.l1, "l2": LESS * options.l2}
    changed["batch_size"] = 2 * options.batch_size  # of nearly twice the samples: it takes as many steps
    _fit("expert", expert.mlp, data, standardize, kind, options.model_copy(update=changed), in_memory)
    epochs = max(2, ceil(GATE_STEPS * GATE.batch_size / len(degraded)))
    gate = GATE.model_copy(update={"seed": options.seed, "epochs": epochs})
    _fit("gate", expert.gate, Dataset(data.x, degraded.long()), standardize, "binary", gate, in_memory)
    move_prior(expert.gate, int(degraded.sum()) / len(degraded), PRIOR)


def _fit(
    name: str, network: MLP, data: Dataset, standardize: Standardize, kind: Kind, options: Train, in_memory: bool
) -> None:
    transform = transform_of(options, standardize, data.y.device)
    feed = Feed([data], [options.seed], options.batch_size, transform, options.mix, options.balance == "on", in_memory)
    trainer = TRAINERS[options.gradients]([network], feed, kind, [options])
    with Progress(name, options.epochs, "epoch") as progress:
        all_epochs(trainer, options, progress.update)
