"""Which split a sample belongs to, which samples are duplicates, and whether every class has enough."""

from collections import Counter
from collections.abc import Sequence, Set
from hashlib import sha256
from itertools import accumulate

from models.targets import TARGETS
from pipeline.extract.features import Features
from pipeline.sources import SPLITS, Data, Sample, Split
from pipeline.task import UserError

MIN_SAMPLES = 3  # of a class: one for each split


def assign_split(named: Split | None, named_by_data: Set[Split | None], content: str, data: Data) -> Split:
    """Split of a sample: a pure function of its content's digest and the seed, unless the data names one.

    If the data names only some of the splits, each of the others takes its share of the training samples.

    Example
    -------
    >>> assign_split("test", {"train", "test"}, "", Data(source="notes"))
    'test'
    """
    absent = [s for s in SPLITS if s not in named_by_data] if named == "train" else []
    if named is not None and not absent:
        return named
    candidates: list[Split] = [s for s in SPLITS if named is None or s == "train" or s in absent]
    shares = [getattr(data.splits, s) for s in candidates]
    u = int.from_bytes(sha256(f"{data.seed}:{content}".encode()).digest()[:8], "big") / 2**64 * sum(shares)
    for split, edge in zip(candidates, accumulate(shares), strict=True):
        if u < edge:
            return split
    return candidates[-1]


def without_duplicates(samples: Sequence[Sample], digests: Sequence[str]) -> tuple[list[int], dict[int, str]]:
    """Indices of the samples to keep, one for each content, and of the others with the reason.

    If identical content is in two named splits, the sample outside training stays, so that no evaluation is biased.
    """
    order = sorted(range(len(samples)), key=lambda i: (samples[i].split in (None, "train"), i))
    first: dict[str, int] = {}
    for i in order:
        first.setdefault(digests[i], i)
    unique, skipped = [], {}
    for i, (sample, content) in enumerate(zip(samples, digests, strict=True)):
        if first[content] == i:
            unique.append(i)
        else:
            twin = samples[first[content]]
            also = "" if twin.label == sample.label else f", which is labelled {twin.label!r}"
            skipped[i] = f"identical to {twin.file}{also}"
    return unique, skipped


def check_classes(features: Features) -> None:
    """UserError unless the targets are numbers, or two classes or more, each with enough samples to split."""
    if not TARGETS[features.kind].has_classes:
        return
    if len(features.labels) < 2:
        raise UserError(f"only one class, {features.labels[0]!r}; at least two are needed")
    total = Counter(features.y.tolist())
    trained = Counter(features.y[features.rows("train")].tolist())
    problems = []
    for k, label in enumerate(features.labels):
        if total[k] < MIN_SAMPLES:
            lost = [f"{file}: {reason}" for file, reason, _, named in features.skipped if named == label]
            others = f" (and {len(lost)} that cannot be used, the first: {lost[0]})" if lost else ""
            problems.append(
                f"class {label!r} has {total[k]} usable samples{others}; at least {MIN_SAMPLES} are needed to split"
            )
        elif not trained[k]:
            problems.append(
                f"class {label!r} has no training sample ({total[k]} in other splits); "
                "add samples, or choose another data.seed"
            )
    if problems:
        raise UserError("\n".join(problems))
