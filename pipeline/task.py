"""Task: the sections and keys of a TOML task file, and how it is read."""

import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline import mistakes
from pipeline.errors import UserError as UserError  # re-exported: modules that use a Task raise it
from pipeline.sources import REGISTRY, Data, Section, expanded, parse_data

RENAMED = {  # keys of earlier versions → the key now; the values are the same
    "features.lifter": "features.cepstral_decay",
    "train.engine": "train.gradients",
}

NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?")  # of a task


class PixelFeatures(Section):
    """28 × 28 grey levels, prepared as MNIST's were."""

    kind: Literal["pixels"]
    sample_rate: ClassVar[None] = None


class MfccFeatures(Section):
    """Mel-frequency cepstral coefficients of librosa's definition, pooled over the frames that are not silence."""

    kind: Literal["mfcc"]
    sample_rate: int = Field(22_050, ge=4_000, le=192_000)  # Hz
    n_fft: int = Field(2048, ge=64, le=16_384)  # samples
    hop_length: int = Field(512, ge=16)  # samples
    n_mels: int = Field(128, ge=8, le=512)
    n_mfcc: int = Field(40, ge=2)
    fmin: float = Field(80.0, ge=0)  # Hz: nothing below it counts, nor a constant offset; 0 = all counts
    silence_db: float = Field(60.0, gt=0)  # a frame this far below the loudest is silence
    preemphasis: float = Field(0.0, ge=0, lt=1)  # of the waveform, before all else
    cepstral_decay: float = Field(0.0, ge=0)  # coefficient k counts 1 / (1 + (k / cepstral_decay)²); 0 = all alike

    @model_validator(mode="after")
    def _sizes_fit(self) -> "MfccFeatures":
        if self.n_fft & (self.n_fft - 1):
            raise ValueError(f"n_fft = {self.n_fft} is not a power of two")
        if self.n_fft % self.hop_length:
            raise ValueError(f"hop_length = {self.hop_length} does not divide n_fft = {self.n_fft}")
        if self.fmin >= self.sample_rate / 2:
            raise ValueError(f"fmin = {self.fmin:g} is not below half of sample_rate = {self.sample_rate}")
        if self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc = {self.n_mfcc} is more than n_mels = {self.n_mels}")
        return self


class PictureFeatures(Section):
    """Pictures in colour or grey: oriented gradients, colours, and a dictionary of patches that is learned."""

    kind: Literal["image"]
    sample_rate: ClassVar[None] = None
    size: int = Field(32, ge=16, le=128)  # pixels: width and height that pictures are resized to
    color: bool = True  # false: only their luma counts
    atoms: int = Field(800, ge=1, le=4096)  # of the dictionary
    patch: int = Field(6, ge=3, le=16)  # pixels: width and height of an atom


class VectorFeatures(Section):
    """Numbers, passed on unchanged."""

    kind: Literal["vector"]
    sample_rate: ClassVar[None] = None
    size: int = Field(ge=1, le=1_000_000)  # numbers in a sample


class TableColumn(Section):
    """One column of a table, as extraction finds it in the training samples; see `models.table.Table`."""

    name: str
    median: float = 0.0  # of numbers
    comma: bool | None = None  # whether it was the decimal sign of numbers learned from; None: they were no text
    categories: tuple[str, ...] = ()  # none: numbers
    frequent: tuple[int, ...] = ()  # indices of the categories that have a feature of their own
    rare: bool = False  # whether training samples have other categories
    missing: bool = False  # whether training samples lack the value


class TableFeatures(Section):
    """The columns of a table: numbers, and categories one-hot."""

    kind: Literal["table"]
    sample_rate: ClassVar[None] = None
    columns: tuple[TableColumn, ...] = ()  # found in the data


AnyFeatures = Annotated[
    PixelFeatures | PictureFeatures | MfccFeatures | VectorFeatures | TableFeatures, Field(discriminator="kind")
]


class Model(Section):
    """Shape of the multilayer perceptron; its output layer follows from the target."""

    hidden: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = (100,)
    activation: Literal["sigmoid", "relu", "tanh"] = "sigmoid"
    init: Literal["default", "xavier", "he", "uniform"] = "default"


class Augment(Section):
    """How far each image is distorted, differently in every epoch; drawn uniformly from -value … value. All 0 = off."""

    rotation: float = Field(0.0, ge=0, le=180)  # degrees
    scale: float = Field(0.0, ge=0, lt=1)  # fraction, of width and height independently
    shear: float = Field(0.0, ge=0, le=1)  # pixels sideways for one pixel up
    shift: float = Field(0.0, ge=0, le=28)  # pixels
    elastic: float = Field(0.0, ge=0, le=28)  # pixels: standard deviation of a smooth random displacement field
    smoothness: float = Field(4.0, ge=1, le=28)  # pixels: of the Gaussian that smooths it

    def __bool__(self) -> bool:
        return any((self.rotation, self.scale, self.shear, self.shift, self.elastic))


CopyForm = Literal["plain", "degraded", "foreign"]


class Variation(Section):
    """Copies of each sample outside the test split, made at extraction, that sound or look a little different; copies
    = 0: off.

    Raise VERSION when the copies of the same sample change (extract/copies.py): caches of features are keyed by it.
    """

    VERSION: ClassVar[int] = 3
    # The world that recordings come from: a microphone's noise, rooms, telephones, levels set too high or too low.
    DEGRADED: ClassVar[dict[str, Any]] = {
        "noise": 5.0, "room": 1.5, "clip": 0.1, "rate": 6000.0, "low_cut": 400.0, "bits": 4.0, "telephone": True,
        "excerpt": 0.0, "share": 0.3,
    }  # fmt: skip
    PICTURES: ClassVar[frozenset[str]] = frozenset(("crop", "turn", "light", "mirror"))  # keys for pictures only

    copies: int = Field(0, ge=0, le=100)
    crop: float = Field(0.15, ge=0, lt=0.5)  # of a picture's width and height: how much is cut off at most
    turn: float = Field(8.0, ge=0, le=180)  # degrees either way at most
    light: float = Field(0.2, ge=0, le=1)  # brightness, contrast and colours change by this fraction at most
    mirror: Literal["auto", "always", "never"] = "auto"  # half of the copies; auto: if the validation samples say so
    pitch: float = Field(1.5, ge=0, le=12)  # semitones up or down at most; the speed changes with it
    gain: float = Field(12.0, ge=0, le=60)  # decibels up or down at most
    shift: float = Field(0.1, ge=0)  # seconds cut off the beginning at most
    filter: float = Field(0.0, ge=0, le=20)  # decibels: standard deviation of each octave's gain
    noise: float = Field(0.0, ge=0, le=120)  # decibels: lowest signal-to-noise ratio of added noise; 0 = no noise
    rate: float = Field(0.0, ge=0)  # Hz: lowest sampling rate that copies are reduced to and back; 0 = off
    room: float = Field(0.0, ge=0, le=10)  # seconds: longest reverberation time (RT60); 0 = no rooms
    clip: float = Field(0.0, ge=0, le=0.5)  # largest share of the samples that is clipped; 0 = none
    low_cut: float = Field(0.0, ge=0, le=1_000)  # Hz: highest frequency of a high-pass filter; 0 = off
    bits: float = Field(0.0, ge=0, le=24)  # fewest bits that a sample, relative to the peak, is rounded to; 0 = off
    telephone: bool = False  # 300 to 3,400 Hz, in A-law, μ-law or GSM
    excerpt: float = Field(0.0, ge=0, le=600)  # seconds: shortest part of a clip that is kept alone; 0 = all is kept
    share: float = Field(0.25, ge=0, le=1)  # fraction of the copies that each of the last nine happens to
    degrade: bool = False  # to each copy another one, degraded: a second network learns from these too
    foreign: bool = False  # and a few that sound like no class: the verdict `known` learns from these

    @property
    def forms(self) -> tuple[CopyForm, ...]:
        """What each copy of a sample is, in their order. Two are foreign, and with `degrade` two more, degraded too."""
        own: tuple[CopyForm, ...] = ("plain", "degraded") if self.degrade else ("plain",)
        foreign: tuple[CopyForm, ...] = ("foreign",)
        return self.copies * own + (2 * len(own) * foreign if self.foreign and self.copies else ())

    @property
    def degraded(self) -> "Variation":
        """How the degraded copies are made."""
        return self.model_copy(update=self.DEGRADED)

    def of(self, kind: str) -> dict[str, Any]:
        """The keys that count for that `features.kind`, without the number of copies."""
        return self.model_dump(
            exclude={"copies"} | {k for k in type(self).model_fields if (k in self.PICTURES) != (kind == "image")}
        )


class Train(Section):
    """How the network is trained."""

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(100, ge=1)
    optimizer: Literal["sgd", "momentum", "adam"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "step", "cosine", "one-cycle", "robbins-monro"] = "constant"
    l1: float = Field(0.0, ge=0)  # times the sum of |w| over the weights, not the biases
    l2: float = Field(0.0, ge=0)  # times the sum of w² over the weights, not the biases
    activity_l1: float = Field(0.0, ge=0)  # times the sum of |a| over the hidden units, averaged over the batch
    activity_l2: float = Field(0.0, ge=0)  # times the sum of a² over the hidden units, averaged over the batch
    noise: float = Field(0.0, ge=0)  # standard deviation, added to standardised features in every epoch
    mix: float = Field(0.0, ge=0)  # α of mixup: pairs of samples and targets, mixed in a ratio from Beta(α, α); 0 = off
    # training samples: from so many on, noise, mix and penalties fall with the square root of their number; 0 = never
    weaker_from: int = Field(0, ge=0)
    # on: rare classes count as much as frequent ones; auto: if that lowers the loss of the validation samples
    balance: Literal["auto", "on", "off"] = "auto"
    early_stopping: int = Field(0, ge=0)  # epochs of patience on the validation loss; 0 = off
    refit: bool = False  # then train again on training and validation samples, for the epochs that validation chose
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    framework: Literal["torch", "keras"] = "torch"
    gradients: Literal["closed-form", "autograd"] = "closed-form"  # with torch: our formulas, or its autograd
    augment: Augment = Augment()

    @model_validator(mode="after")
    def _augmented_by_torch(self) -> "Train":
        if (self.augment or self.noise or self.mix) and self.framework != "torch":
            raise ValueError(
                f"train.augment, train.noise and train.mix need framework = 'torch', not {self.framework!r}"
            )
        if self.balance == "on" and self.framework != "torch":
            raise ValueError(f"train.balance needs framework = 'torch', not {self.framework!r}")
        return self

    def for_samples(self, n: int) -> "Train":
        """The same for n training samples, without counting copies: see `weaker_from`.

        A penalty is a prior, and so is noise (Bishop 1995, "Training with noise is equivalent to Tikhonov
        regularization"): the more samples there are, the less it should count beside them.

        Example
        -------
        >>> options = Train(noise=1.0, weaker_from=1000)
        >>> options.for_samples(500).noise, options.for_samples(4000).noise
        (1.0, 0.5)
        """
        if not 0 < self.weaker_from < n:
            return self
        share = math.sqrt(self.weaker_from / n)
        regularizers = ("l1", "l2", "activity_l1", "activity_l2", "noise", "mix")
        return self.model_copy(update={"weaker_from": 0} | {key: share * getattr(self, key) for key in regularizers})


class Validate(Section):
    """The gate's thresholds on the test split, and what else is compared on it."""

    min_accuracy: float | None = Field(None, ge=0, le=1)
    min_macro_recall: float | None = Field(None, ge=0, le=1)  # mean recall of the classes, whatever their sizes
    max_log_loss: float | None = Field(None, ge=0)
    max_ece: float | None = Field(None, ge=0, le=1)
    min_roc_auc: float | None = Field(None, ge=0, le=1)  # binary targets
    max_rmse: float | None = Field(None, ge=0)  # regression
    min_r2: float | None = Field(None, le=1)  # regression
    coverage: float = Field(0.95, ge=0.5, lt=1)  # how often the set of labels in an answer holds the true one
    baselines: bool = False  # classes only: simpler models for comparison in the report

    def thresholds(self) -> dict[str, float]:
        """`min_…` or `max_…` and a metric → the threshold, of those that are set."""
        return self.model_dump(exclude_none=True, exclude={"baselines", "coverage"})


class Range(Section):
    """An interval of a hyperparameter, on a linear or a logarithmic scale."""

    low: float
    high: float
    log: bool = False


class Tune(Section):
    """The search over hyperparameters: keys of the task, such as train.learning_rate, and the values of each."""

    space: dict[str, list[Any] | Range] = Field({})
    sampler: Literal["grid", "random", "tpe"] = "grid"  # grid: every combination of the lists
    trials: int = Field(20, ge=1)  # of the other samplers
    folds: int = Field(5, ge=2)  # of the cross-validation

    @field_validator("space", mode="before")
    @classmethod
    def _unquoted_keys(cls, space: Any) -> Any:
        """TOML reads the unquoted key in train.l2 = [0, 1e-3] as a nested table; it means the same here."""
        if not isinstance(space, dict):
            return space
        flat = {}
        for key, value in space.items():
            inner = value if isinstance(value, dict) and not {"low", "high"} & value.keys() else None
            flat.update({f"{key}.{name}": v for name, v in inner.items()} if inner else {key: value})
        return flat


class Task(Section):
    """A task file, resolved: defaults filled in, overrides applied, checked.

    Example
    -------
    >>> task = load("digits", overrides=["train.epochs=5"])
    >>> task.train.epochs, task.model.hidden, task.features.kind
    (5, (100,), 'pixels')
    """

    name: str  # also the model's name in the store
    description: str = ""
    data: Data
    features: AnyFeatures
    augment: Variation = Variation()
    model: Model = Model()
    train: Train = Train()
    validate_: Validate = Field(Validate(), alias="validate")
    tune: Tune = Tune()

    @field_validator("name")
    @classmethod
    def _named_for_the_store(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(
                "must be lower case letters, digits, dashes, underscores and dots, at most 63, "
                "the first and the last of them a letter or a digit"
            )
        return name

    @model_validator(mode="after")
    def _augments_images(self) -> "Task":
        if self.train.augment and self.features.kind != "pixels":
            raise ValueError(f"train.augment distorts images, and features.kind is {self.features.kind!r}")
        if self.augment.copies and self.features.kind not in ("mfcc", "image"):
            raise ValueError(
                f"augment.copies are of sound or of pictures in colour, and features.kind is {self.features.kind!r}"
            )
        return self

    @model_validator(mode="after")
    def _varies_what_there_is(self) -> "Task":
        counts, default = self.augment.of(self.features.kind), Variation()
        for name in sorted(self.augment.model_fields_set - counts.keys() - {"copies"}):
            if getattr(self.augment, name) != getattr(default, name):
                of = "pictures in colour" if name in Variation.PICTURES else "sound"
                raise ValueError(f"augment.{name} is of {of}, and features.kind is {self.features.kind!r}")
        return self

    @model_validator(mode="after")
    def _baselines_have_classes(self) -> "Task":
        source = REGISTRY[self.data.source]
        if self.validate_.baselines and source.numbers and self.features.kind in source.features:
            raise ValueError(
                f"validate.baselines are classifiers, and data.source = {source.name!r} gives numbers; set it to false"
            )
        return self

    def origin(self) -> dict[str, Any]:
        """The sections that determine the features, with an absolute path: later stages may run in another
        directory."""
        origin = self.model_dump(mode="json", include={"data", "features", "augment"})
        if self.data.path is not None:
            origin["data"]["path"] = str(expanded(self.data.path).resolve())
        return origin

    def resolved(self) -> dict[str, Any]:
        """The whole task as plain values, with the structure of a TOML file."""
        return self.model_dump(mode="json", by_alias=True)


def digest(value: Any) -> str:
    """SHA-256, in hexadecimal, of the canonical JSON of plain values.

    Example
    -------
    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    return sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def with_new_names(sections: dict[str, Any]) -> dict[str, Any]:
    """Sections as a run of an earlier version recorded them, with the names that keys have now.

    Example
    -------
    >>> with_new_names({"train": {"engine": "autograd"}})
    {'train': {'gradients': 'autograd'}}
    """
    for old, new in RENAMED.items():
        section, _, key = old.partition(".")
        values = dict(sections.get(section, {}))
        if key in values:
            values[new.partition(".")[2]] = values.pop(key)
            sections = sections | {section: values}
    return sections


def builtin() -> dict[str, str]:
    """Name → description of the built-in tasks."""
    folder = resources.files("pipeline") / "tasks"
    texts = {Path(f.name).stem: f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".toml")}
    return {name: tomllib.loads(texts[name]).get("description", "") for name in sorted(texts)}


def load(name: str, data: str | Mapping[str, Any] | None = None, overrides: Iterable[str] = ()) -> Task:
    """Read a built-in task by name or a task file by path.

    Parameters
    ----------
    name : built-in name, or path of a `.toml` file
    data : replacement of the source, as `--data` gives it (see `sources.parse_data`), or of the whole section
    overrides : `section.key=value` strings, the value in TOML's notation or a bare word

    Raises
    ------
    UserError : one line for every mistake

    Example
    -------
    >>> load("digits", "mnist", ["model.hidden=[64, 32]"]).data.source
    'mnist'
    >>> load("digits", overrides=["train.epocs=5"])
    Traceback (most recent call last):
    pipeline.errors.UserError: task digits: unknown key 'train.epocs'; did you mean 'epochs'?
    """
    where, text = _read(name)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where}: not valid TOML: {error}") from None
    if isinstance(data, Mapping):
        table["data"] = {**data}
    elif data is not None:
        kept = {key: value for key, value in table.get("data", {}).items() if key not in ("source", "path")}
        table["data"] = kept | parse_data(data, table.get("features", {}).get("kind", ""))
    if name in builtin():
        source = REGISTRY[table["data"]["source"]]
        if not source.copies:
            table.setdefault("augment", {})["copies"] = 0
        if name == source.name and source.train:
            table["train"] |= deepcopy(source.train)  # overrides change it
    for override in overrides:
        _override(table, override)
    return parse(table, where)


def parse(table: dict[str, Any], where: str) -> Task:
    """A task from plain values; `where` names their origin in error messages."""
    try:
        return Task.model_validate(table)
    except ValidationError as error:
        raise UserError("\n".join(f"{where}: {line}" for line in mistakes.lines(error, table, Task, RENAMED))) from None


def _read(name: str) -> tuple[str, str]:
    tasks = builtin()
    if name in tasks:
        return f"task {name}", (resources.files("pipeline") / "tasks" / f"{name}.toml").read_text("utf-8")
    path = Path(name)
    if path.suffix != ".toml":
        if path.exists():
            raise UserError(f"{name}: no task; if it holds data, give it as in `percept run TASK --data {name}`")
        close = difflib.get_close_matches(name, tasks, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"built in: {', '.join(tasks)}; or give a .toml file"
        raise UserError(f"no task {name!r}{'' if close else ', and no such file or folder'}; {hint}")
    try:
        return name, path.read_text("utf-8-sig")  # editors on Windows put a byte order mark in front
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a zero byte in the name
        raise UserError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _override(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"--set {override}: expected KEY=VALUE, such as train.epochs=5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {override}: {part!r} is not a section")
    table[parts[-1]] = value
