"""ModelCard: the contract between training and serving, carried inside the ONNX file.

The same JSON is in `card.json` and in the ONNX file's `metadata_props` under `CARD_KEY`, so the `.onnx` file alone is
enough to serve or to audit a model. No torch here: the service imports this module.
"""

import hashlib
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

CARD_KEY = "card"  # key of the card's JSON in the ONNX metadata_props
STORE_LABEL = "percept"  # key of the label that marks our models in BentoML's model store
SAMPLES_FILE = "samples.json"  # name of the examples beside the ONNX file
CARD_FILE = "card.json"  # name of the card beside the ONNX file
BOM_FILE = "bom.json"  # name of the bill of materials beside the ONNX file
SIGNATURE_FILE = "model.sig"  # name of the signature of these files
FAMILIARITY = "familiarity"  # name of the graph's second output, if there is one
WITH_FAMILIARITY = "with_familiarity"  # name of a graph's optional input, bool (): false skips that output
LOG_MEL = "log_mel"  # name of an output of graphs of sound: decibels above the floor, (N, n_mels, frames)
USUAL_SHARES = 0.05, 0.1  # shares of the test split that are less familiar than the values in a card's `usual`
SECOND_READING = "second_reading"  # name of an output: a second opinion on the classes, (N, K), the likeliest largest
FEATURES = "features"  # name of a last output: the standardised features (N, D); none for pixels

Kind = Literal["multiclass", "binary", "regression"]


class Column(BaseModel):
    """One number of a vector that is a row of a table.

    In the graph's input a category is its index in `categories`, or -1 if it is none of these, and NaN stands for a
    missing value. Values of a kind that no training sample had make an input unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    categories: tuple[str, ...] = ()  # empty: a number
    missing: bool = False  # whether training samples lacked the value


class Input(BaseModel):
    """The graph's input. `shape` holds None where any size is allowed.

    image: uint8 (N, 28, 28), 0 = background, 255 = ink, or uint8 (N, S, S, 3), red, green and blue; audio: float32
    (N, T), mono in [-1, 1] at `sample_rate` Hz; vector: float32 (N, D).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["image", "audio", "vector"]
    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | None, ...]
    sample_rate: int | None = None  # Hz; audio only
    columns: tuple[Column, ...] = ()  # of a table's row, one for each number; empty for any other vector


class FeatureGroup(BaseModel):
    """Distribution of a group of neighbouring features over the training samples; the service detects drift by it.

    A sample's score is the root mean square of features `start` to `stop` - 1, or the value of a single feature.
    Features are the graph's output `features`, or for models of pixels these, 0 … 255. `edges` divide the training
    samples' scores into len(edges) + 1 bins: ten of equal size if there are enough distinct values. A score equal to an
    edge belongs to the bin above it. `shares` are the proportions of the training samples in the bins.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    start: int
    stop: int
    edges: tuple[float, ...]
    shares: tuple[float, ...]


class Usual(BaseModel):
    """What the answers to the test split were like: the service compares later ones with them, to estimate how many are
    right.

    `confidence` is the mean of the answers' confidences. The shares `USUAL_SHARES` of the samples had a familiarity
    below these of `familiarity`. For the share `agreement` the graph's second reading had the same label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    confidence: float
    familiarity: tuple[float, float]
    agreement: float | None = None  # None: no second reading, or exported by an earlier version


class ModelCard(BaseModel):
    """Everything that a server or an auditor needs to know about a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str  # the tag's version in the model store
    kind: Kind
    labels: tuple[str, ...]  # in the order of the output's columns; names of the values for regression
    input: Input
    output: str  # name of the graph's first output: "probabilities" (N, K), or "value" (N, K) for regression
    features: dict[str, Any]  # kind and parameters of the front end
    temperature: float = 1.0  # the graph divides the network's logits by it; 1 if none was fitted
    known_threshold: float | None = None  # lowest familiarity, the graph's second output (N,), that counts as known
    set_threshold: float | None = None  # lowest probability of a label in an answer's set; None: no set is promised
    coverage: float | None = None  # how often that set holds the true label
    groups: tuple[FeatureGroup, ...] = ()  # empty: drift is not detected
    usual: Usual | None = None  # None: not calibrated, a regression, or exported by an earlier version
    ranges: tuple[tuple[float, float], ...] = ()  # of the training samples' numbers, if they are one or two: for a plot
    parameters: int  # trainable parameters of the network
    metrics: dict[str, float]  # of the test split
    scope: tuple[str, ...] = ()  # what the metrics are of, and what was never tested, for people
    samples: dict[str, int]  # number of samples of each split
    checks: dict[str, float]  # largest differences found at export: ONNX against torch, MFCC against librosa
    gate_passed: bool
    gate_forced: bool  # exported with --force although the gate had not passed
    data_digest: str  # SHA-256 over the digests and labels of the samples
    task_digest: str  # SHA-256 of the resolved task
    training_seconds: float
    training_device: str
    libraries: dict[str, str]  # name → version of the libraries that built it
    created: datetime  # UTC
    sha256: str | None = None  # of the ONNX file before the card at its end; see `seal`


def seal(graph: bytes, card: ModelCard) -> tuple[bytes, bytes]:
    """A serialised ONNX model without a card → the file with the card at its end, and the card's JSON.

    The card carries the SHA-256 of everything before it, so the file and the JSON beside it can be checked against each
    other.
    """
    sealed = card.model_copy(update={"sha256": hashlib.sha256(graph).hexdigest()})
    text = sealed.model_dump_json(indent=1).encode()
    return graph + _metadata_property(text), text


def check_seal(file: bytes, text: bytes) -> None:
    """Raise ValueError unless `seal` returned `file` and the card's JSON together."""
    tail = _metadata_property(text.strip())
    digest = hashlib.sha256(memoryview(file)[: -len(tail)]).hexdigest()
    if not file.endswith(tail) or digest != ModelCard.model_validate_json(text).sha256:
        raise ValueError("the file does not match the SHA-256 in the card beside it; export it again")


def _metadata_property(text: bytes) -> bytes:
    """An entry of the ONNX ModelProto's metadata_props (field 14) as Protocol Buffers encode it."""
    entry = _field(1, CARD_KEY.encode()) + _field(2, text)
    return _field(14, entry)


def _field(number: int, value: bytes) -> bytes:
    length, size = len(value), bytearray()
    while length >= 128:
        size.append(length % 128 + 128)
        length //= 128
    return bytes([number * 8 + 2, *size, length]) + value
