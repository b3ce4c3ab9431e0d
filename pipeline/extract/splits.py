"""Which split a sample belongs to, which samples are duplicates, and whether every class has enough.

A group is drawn into a split as a whole, by a hash of its name and the seed, so it does not move when data is added.
Only a class that would have less than half its share of a split takes the groups whose draw is the nearest to it.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from hashlib import sha256
from itertools import accumulate

from models.targets import TARGETS
from pipeline.errors import counted
from pipeline.extract.features import Features
from pipeline.sources import REPEATED, SPLITS, UNREADABLE, Data, Sample, Split
from pipeline.task import UserError

MIN_SAMPLES = 3  # of a class, in as many groups: one for each split
LISTED = 5  # classes that a message is about
GUARANTEED = 0.5  # of its share of each split, that every class has


def group_keys(samples: Sequence[Sample], digests: Sequence[str]) -> list[str]:
    """What must not be divided between splits: the name of each sample's group, or where it has none its content."""
    return [
        content.partition(REPEATED)[0] if one.group is None else one.group
        for one, content in zip(samples, digests, strict=True)
    ]


def joined(
    samples: Sequence[Sample], groups: Sequence[str], digests: Sequence[str], near: Iterable[tuple[str, str]]
) -> list[str]:
    """The groups once near duplicates are in one, unless the data itself puts them into different splits.

    Parameters
    ----------
    groups : of each sample; see `group_keys`
    digests : of each sample's content
    near : pairs of contents that are near duplicates

    Returns
    -------
    The groups; those that were joined have the first of their names, or where they have none the first of their digests

    Example
    -------
    >>> from pipeline.sources.toy import sine
    >>> joined(sine(0)[:4], "abcd", "abcd", [("b", "d"), ("c", "d")])
    ['a', 'b', 'b', 'b']
    """
    of_content = dict(zip(reversed(digests), reversed(groups), strict=True))
    pairs = [(of_content[one], of_content[other]) for one, other in near if {one, other} <= of_content.keys()]
    named: dict[str, set[Split]] = {key: set() for pair in pairs for key in pair}  # few of many
    for sample, key in zip(samples, groups, strict=True):
        if sample.split and key in named:
            named[key].add(sample.split)
    root = {key: key for key in named}

    def find(key: str) -> str:
        while root[key] != key:
            root[key] = key = root[root[key]]
        return key

    for pair in pairs:
        roots = find(pair[0]), find(pair[1])
        both = named[roots[0]] | named[roots[1]]
        if len(both) < 2:
            first = min(roots, key=lambda key: (key in of_content, key))
            root[roots[0]] = root[roots[1]] = first
            named[first] = both
    return [find(key) if key in root else key for key in groups]


def assign_splits(samples: Sequence[Sample], groups: Sequence[str], data: Data) -> list[Split | None]:
    """The split of each sample: that of its group, which the data names or `assign_split` draws.

    Every class of three groups or more has at least half its share in each split, and one group. A class that the draw
    leaves with less takes the groups whose draw came closest, so that they may move when groups are added to that
    class; all others stay for ever. A group of several classes counts for the one with the fewest groups.

    Parameters
    ----------
    groups : of each sample; see `group_keys`

    Returns
    -------
    The splits; None for a sample that cannot be read and has no group, whose content would decide

    Raises
    ------
    UserError : the data puts a group into two splits, or a class is in too few groups to split

    Example
    -------
    >>> from dataclasses import replace
    >>> from pipeline.sources.toy import sine
    >>> splits = assign_splits([replace(one, split=None) for one in sine(0)[:10]], "abcdefghij", Data(source="sine"))
    >>> [splits.count(split) for split in SPLITS]
    [7, 1, 2]
    """
    named = _named(samples, groups)
    named_by_data = frozenset(sample.split for sample in samples)
    unread = {key for key in groups if key.startswith(UNREADABLE)}
    labels: dict[str, set[str]] = defaultdict(set)
    for sample, key in zip(samples, groups, strict=True):
        labels[key].add(sample.label if isinstance(sample.label, str) else "")
    _check_groups(samples, groups)
    drawn: dict[tuple[Split, ...], list[str]] = defaultdict(list)
    for key, split in named.items():
        if key not in unread:
            drawn[_candidates(split, named_by_data)].append(key)
    found: dict[str, Split] = {}
    for candidates, keys in drawn.items():
        shares = [getattr(data.splits, split) for split in candidates]
        for stratum in _strata({key: labels[key] for key in keys}):
            positions = {key: _position(data.seed, key) for key in stratum}
            edges = _edges(sorted(positions.values()), shares)
            for n, key in enumerate(sorted(stratum, key=positions.__getitem__)):
                found[key] = candidates[sum(n >= edge for edge in edges[:-1])]
    return [found.get(key, named[key]) for key in groups]


def assign_split(named: Split | None, named_by_data: Set[Split | None], key: str, data: Data) -> Split:
    """Split of a group: a pure function of its name (a digest of the content, where it has none) and the seed, unless
    the data names one.

    If the data names only some of the splits, each of the others takes its share of the training samples.

    Example
    -------
    >>> assign_split("test", {"train", "test"}, "", Data(source="notes"))
    'test'
    """
    candidates = _candidates(named, named_by_data)
    shares = [getattr(data.splits, split) for split in candidates]
    u = _position(data.seed, key) * sum(shares)
    for split, edge in zip(candidates, accumulate(shares), strict=True):
        if u < edge:
            return split
    return candidates[-1]


def _candidates(named: Split | None, named_by_data: Set[Split | None]) -> tuple[Split, ...]:
    """The splits that a group may be drawn into."""
    if named is None:
        return SPLITS
    absent = tuple(split for split in SPLITS if split not in named_by_data) if named == "train" else ()
    return (named, *absent)


def _position(seed: int, key: str) -> float:
    """Where a group's draw lies, 0 … 1: below the first share in the first split, and so on."""
    return int.from_bytes(sha256(f"{seed}:{key}".encode()).digest()[:8], "big") / 2**64


def _named(samples: Sequence[Sample], groups: Sequence[str]) -> dict[str, Split | None]:
    """Group → the split that the data names for any of its samples.

    Raises
    ------
    UserError : it names two
    """
    first: dict[str, Sample] = {}
    for sample, key in zip(samples, groups, strict=True):
        before = first.setdefault(key, sample)
        if sample.split is None or sample.split == before.split:
            continue
        if before.split is not None and sample.group is not None:
            raise UserError(
                f"group {key!r} is in two splits, {before.split} ({before.file}) and {sample.split} ({sample.file}), "
                "and a group is never divided; name one split for it"
            )
        if before.split is None or before.split == "train":  # identical files: the evaluation keeps its own
            first[key] = sample
    return {key: sample.split for key, sample in first.items()}


def _strata(labels: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The groups of each class; one of several classes with those of the class that has the fewest."""
    n_groups = Counter(label for found in labels.values() for label in found)
    strata: dict[str, list[str]] = defaultdict(list)
    for key, found in labels.items():
        strata[min(found, key=lambda label: (n_groups[label], label))].append(key)
    return list(strata.values())


def _edges(positions: Sequence[float], shares: Sequence[float]) -> list[int]:
    """How many of the sorted positions lie below the end of each share, moved where a share has too few of them."""
    n, total = len(positions), sum(shares)
    ends = list(accumulate(shares))
    edges = [bisect_left(positions, end, key=lambda position: position * total) for end in ends[:-1]] + [n]
    if n < len(shares):  # near duplicates have left a class with so few groups
        return [max(edges[0], min(n, 1)), *edges[1:]]
    least = [max(1, round(GUARANTEED * n * share / total)) for share in shares]
    for j in reversed(range(len(edges) - 1)):
        edges[j] = min(edges[j], edges[j + 1] - least[j + 1])
    for j in range(len(edges) - 1):
        edges[j] = max(edges[j], (edges[j - 1] if j else 0) + least[j])
    return edges


def _check_groups(samples: Sequence[Sample], groups: Sequence[str]) -> None:
    """UserError if a class, whose samples the data puts into no split, is in too few groups for all splits."""
    found: dict[str, set[str]] = defaultdict(set)
    n_samples: Counter[str] = Counter()
    for sample, key in zip(samples, groups, strict=True):
        label = sample.label if isinstance(sample.label, str) else ""
        found[label].add(sample.group or key)
        n_samples[label] += 1
    if any(sample.split for sample in samples) or not any(sample.group for sample in samples):
        return
    problems = [
        f"{f'class {label!r}' if label else 'the data'} is in {counted(len(keys), 'group')} "
        f"({', '.join(sorted(keys))}); at least {MIN_SAMPLES} are needed, one for each split, since a group is never "
        "divided. If these are no groups, data.group = '(.+)' splits file by file"
        for label, keys in sorted(found.items())
        if len(keys) < MIN_SAMPLES <= n_samples[label]
    ]
    if problems:
        raise UserError("\n".join(problems[:LISTED]) + _more(problems))


def _more(problems: Sequence[str]) -> str:
    return f"\n{len(problems) - LISTED:,} more classes like these" if len(problems) > LISTED else ""


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
            if twin.file == sample.file:  # in a manifest
                reason, labelled = "listed more than once", "also as"
            else:
                reason, labelled = f"identical to {twin.file}", "which is labelled"
            skipped[i] = reason if twin.label == sample.label else f"{reason}, {labelled} {twin.label!r}"
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
                f"class {label!r} has {counted(total[k], 'usable sample')}{others}; at least {MIN_SAMPLES} are needed "
                "to split"
            )
        elif not trained[k]:
            problems.append(
                f"class {label!r} has no training sample ({total[k]} in other splits); "
                "add samples, or choose another data.seed"
            )
    if problems:
        raise UserError("\n".join(problems[:LISTED]) + _more(problems))
