"""The content of `report.json`: written by `validate`, read by the page, the figures and `export`.

Intervals are the low and high end of the 95 % confidence interval of a proportion, over groups where samples have some;
None if nothing was counted. Reports of earlier versions lack what is `NotRequired`.
"""

from typing import Any, NotRequired, TypedDict

from models.card import Kind

Interval = list[float] | None


class Check(TypedDict):
    """One threshold of the gate."""

    name: str  # min_… or max_… of a metric
    value: float
    threshold: float
    passed: bool


class Gate(TypedDict):
    """Whether the model may be exported."""

    passed: bool
    checks: list[Check]


class Bin(TypedDict):
    """Test samples whose confidence is in one of 15 bins of equal width."""

    confidence: float  # mean
    accuracy: float
    interval: NotRequired[Interval]  # of the accuracy
    count: int


class ClassMetrics(TypedDict):
    """Metrics of one class."""

    label: str
    support: int  # test samples of this class
    precision: float | None  # None: no answer was this class
    precision_interval: Interval
    recall: float | None  # None: no test sample is of this class
    recall_interval: Interval
    f1: float


class Baseline(TypedDict):
    """A simpler model, fitted to the same features."""

    name: str
    hyperparameters: dict[str, Any]
    samples: int  # that it was fitted to
    available: int  # that it could have been fitted to
    accuracy: float
    accuracy_interval: Interval
    macro_recall: NotRequired[float]
    log_loss: float | None  # None: no probabilities, or a true class was given 0
    seconds: float  # of fitting, with the choice of hyperparameters
    bytes: int  # of the pickled model
    only_network: int  # test samples that the network alone has right
    only_baseline: int
    p_value: float  # McNemar's exact test


class Regressor(TypedDict):
    """A simpler model of numbers, fitted to the same features."""

    name: str
    samples: int  # that it was fitted to
    available: int  # that it could have been fitted to
    rmse: float
    r2: float
    seconds: float  # of fitting
    bytes: int  # of the pickled model
    closer: float  # share of the test samples where the network's error is the smaller one
    p_value: float  # Wilcoxon's signed-rank test of the absolute errors


class Calibration(TypedDict):
    """How the probabilities were calibrated."""

    temperature: float
    uncalibrated: dict[str, float]  # log_loss and ece without the temperature
    known_threshold: float | None  # familiarity from which an input counts as known


class CoveredClass(TypedDict):
    """How often the sets hold the label of one class."""

    label: str
    covered: float | None  # None: no test sample is of this class
    covered_interval: Interval


class Sets(TypedDict):
    """Sets of labels that hold the true one as often as promised, and how often they did on the test samples."""

    coverage: float  # promised
    threshold: float  # probability from which a label belongs to the set
    groups: int  # of validation samples, by which it was chosen
    covered: float
    covered_interval: Interval
    size: float  # mean number of labels in a set
    per_class: list[CoveredClass]


class Takes(TypedDict):
    """Files that look like takes of one source, though nobody has named them as groups."""

    pattern: str  # as data.group takes it
    groups: int
    files: list[str]  # some that are one group
    accuracy: float  # on the test samples, of networks that learned from no sample of their group
    accuracy_interval: Interval
    macro_recall: float


class Curve(TypedDict):
    """Accuracy, or the recall of a class, over the number of training samples."""

    measured: list[float]  # by small networks, at `samples`
    intervals: list[Interval]
    fitted: list[float]  # at `along`, with its 95 % interval
    low: list[float]
    high: list[float]
    now: float  # of the network
    doubled: float  # expected of it with twice the training samples
    doubled_interval: list[float]


class LearningCurve(TypedDict):
    """What more training samples would bring; see pipeline/validate/learning_curve.py."""

    reason: str  # why there is no curve; else empty
    samples: NotRequired[list[int]]
    along: NotRequired[list[float]]  # the last one is twice the present number of training samples
    accuracy: NotRequired[Curve]
    weakest: NotRequired[str]  # the class with the lowest recall
    recall: NotRequired[Curve]  # its own


class Mistake(TypedDict):
    """A wrong answer to a test sample."""

    file: str
    label: str
    predicted: str
    confidence: float


class Clip(TypedDict):
    """A clip that figures show."""

    file: str
    label: str


class Report(TypedDict):
    """The whole file."""

    name: str
    kind: Kind
    scope: NotRequired[list[str]]  # lines: what the numbers are of, and what was never tested
    created: str  # ISO 8601, UTC
    labels: list[str]
    task: dict[str, Any]  # resolved
    # train, validation, test: counts; skipped: file and reason; classes: counts of each label; skipped_by_class: label,
    # count; skipped_by_reason: reason, files (a count), first (one of them); groups: counts of groups in the same form,
    # None where there are none; near_duplicates: pairs of files, and whether the data itself divides them between
    # splits. Earlier versions lack the last four
    samples: dict[str, Any]
    model: dict[str, Any]  # layers, parameters
    training: dict[str, Any]  # epochs, best_epoch, seconds, device
    test: dict[str, Any]  # metrics by name; see pipeline/validate/metrics.py
    baselines: NotRequired[list[Baseline]]
    regressors: NotRequired[list[Regressor]]
    calibration: NotRequired[Calibration | None]
    usual: NotRequired[dict[str, Any] | None]  # models.card.Usual as JSON; None: not calibrated, or a regression
    takes: NotRequired[Takes | None]  # None: groups have names, or nothing tells of any
    sets: NotRequired[Sets | None]  # None: a regression, or too few validation samples
    learning_curve: NotRequired[LearningCurve | None]  # None: a regression
    mistakes: list[Mistake]
    sample_rate: int | None  # Hz; sound only
    notes: list[str]
    gate: Gate
    weights: str  # SHA-256 of weights.pt
    libraries: dict[str, str]
    clips: NotRequired[list[Clip]]
