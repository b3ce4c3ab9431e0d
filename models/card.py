"""ModelCard: the contract between training and serving, carried inside the ONNX file.

The same JSON stands in `card.json` and in the ONNX file's `metadata_props` under `CARD_KEY`, so the `.onnx` file
alone is enough to serve or to audit a model. No torch here: the service imports this module.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

CARD_KEY = "card"  # key of the card's JSON in the ONNX metadata_props
STORE_LABEL = "percept"  # key of the label that marks our models in BentoML's model store
FAMILIARITY = "familiarity"  # name of the graph's second output, if there is one

Kind = Literal["multiclass", "binary", "regression"]


class Input(BaseModel):
    """What the graph takes. `shape` holds None where any size is allowed.

    image: uint8 (N, 28, 28), 0 = background, 255 = ink; audio: float32 (N, T), mono in [-1, 1] at `sample_rate` Hz;
    vector: float32 (N, D).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["image", "audio", "vector"]
    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | None, ...]
    sample_rate: int | None = None  # Hz; audio only


class ModelCard(BaseModel):
    """Everything that a server or an auditor needs to know of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str  # the tag's version in the model store
    kind: Kind
    labels: tuple[str, ...]  # in the order of the output's columns; names of the values for regression
    input: Input
    output: str  # name of the graph's first output: "probabilities" (N, K), or "value" (N, K) for regression
    features: dict[str, Any]  # kind and parameters of the front end
    temperature: float = 1.0  # that the network's logits are divided by, inside the graph; 1 if none was fitted
    known_threshold: float | None = None  # least of the graph's second output, familiarity (N,), that counts as known
    parameters: int  # trainable parameters of the network
    metrics: dict[str, float]  # of the test split
    samples: dict[str, int]  # number of samples of each split
    checks: dict[str, float]  # largest differences found at export: ONNX against torch, MFCC against librosa
    gate_passed: bool
    gate_forced: bool  # exported with --force although the gate had not passed
    data_digest: str  # SHA-256 over the digests and labels of the samples
    task_digest: str  # SHA-256 of the resolved task
    training_seconds: float
    training_device: str
    libraries: dict[str, str]  # versions of what built it
    created: datetime  # UTC
