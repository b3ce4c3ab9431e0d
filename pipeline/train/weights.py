"""`weights.pt`: the trained classifier as tensors only, with the facts that later stages need."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import frontend
from models.card import Kind
from models.classifier import Classifier, Standardize
from models.mlp import MLP
from models.targets import TARGETS
from pipeline.extract import Features
from pipeline.run import Run, replacing, require
from pipeline.task import Task, UserError, with_new_names

_FACTS = "facts"  # name of the tensor that holds the facts: UTF-8 JSON as uint8


@dataclass(frozen=True, slots=True)
class Facts:
    """How the weights were trained; with the tensors, enough to build the classifier."""

    labels: tuple[str, ...]
    kind: Kind
    features: dict[str, Any]  # this and the next two: sections of the task
    model: dict[str, Any]
    train: dict[str, Any]
    data_digest: str
    epochs: int
    best_epoch: int  # the epoch whose weights these are
    seconds: float
    device: str
    with_validation: bool = False  # whether the validation samples were trained on too
    known: float | None = None  # least familiarity that counts as known; None: the classifier has no familiarity
    has_expert: bool = False  # whether the classifier has a second network, for degraded samples
    scores: Sequence[Sequence[float]] = ()  # of the validation samples: see models/conformal.py


def begin(task: Task, features: Features, device: str) -> Facts:
    """The facts before training."""
    return Facts(
        labels=features.labels,
        kind=features.kind,
        features=features.task["features"],
        model=task.model.model_dump(mode="json"),
        train=task.train.model_dump(mode="json"),
        data_digest=features.data_digest(),
        epochs=0, best_epoch=0, seconds=0.0, device=device, has_expert=bool((features.forms == "degraded").any()),
    )  # fmt: skip


def network(facts: Facts, state: Mapping[str, NDArray[np.float32]] | None = None) -> Classifier:
    """The classifier that the facts describe, with its initial weights, from the seed.

    state : of the front end, as `Features` has it; None where it does not matter, or is loaded afterwards
    """
    front = frontend.build(facts.features, state)
    mlp = MLP(
        front.n_features,
        facts.model["hidden"],
        TARGETS[facts.kind].n_outputs(len(facts.labels)),
        facts.model["activation"],
        facts.train["seed"],
        facts.model["init"],
    )
    classifier = Classifier(front, Standardize(front.n_features), mlp, facts.kind)
    if facts.has_expert:
        classifier.add_expert()
    if facts.known is not None:
        classifier.add_familiarity()
    return classifier


def save(path: Path, classifier: Classifier, facts: Facts) -> None:
    """Write the weights file."""
    # Copies: `torch.save` writes the whole buffer that a view is part of.
    tensors = {name: tensor.cpu().clone() for name, tensor in classifier.state_dict().items()}
    text = json.dumps(asdict(facts), ensure_ascii=False).encode("utf-8", "backslashreplace")
    tensors[_FACTS] = torch.from_numpy(np.frombuffer(text, np.uint8).copy())
    write_torch(path, tensors)


def write_torch(path: Path, value: Any) -> None:
    """Write what `torch.save` makes of a value; not by `torch.save` itself, whose error for a full disk says nothing
    of it."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def of(run: Run) -> tuple[Classifier, Facts]:
    """The trained classifier of a run, on the CPU, and its facts, loaded once and not to be changed; see `load`."""
    return run.load(run.weights, "train", load)


def load(path: Path) -> tuple[Classifier, Facts]:
    """The trained classifier, on the CPU, and its facts.

    Raises
    ------
    UserError : no such file, or not a weights file
    """
    try:
        tensors = torch.load(require(path, "train"), weights_only=True, map_location="cpu")
        values = with_new_names(json.loads(tensors.pop(_FACTS).numpy().tobytes()))
        facts = Facts(**values | {"labels": tuple(values["labels"])})
        classifier = network(facts)
        classifier.load_state_dict(tensors)
    except UserError:
        raise
    except Exception:  # torch's loader raises many types, all of which mean the same to the user
        raise UserError(f"{path}: not a weights file, or another version's; run `percept train` again") from None
    return classifier.eval(), facts
