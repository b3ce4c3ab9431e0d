"""What is said of files that could not be used: counts for each class, reasons, and a refusal where a class is lost."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from pipeline.errors import counted
from pipeline.extract.features import Skipped
from pipeline.sources import SPLITS, Sample, Split
from pipeline.task import UserError

SHARE = 0.05  # of the files; where more are skipped, a warning says so
CLASSES, REASONS = 10, 5  # on the console, at most

# Where two reasons differ only in these, they count as one.
_PARTICULARS = re.compile(
    r"(?<=identical to ).*?(?=, which is labelled|$)|(?<=which is labelled ).*|(?<=also as ).*|\d[\d.,]*"
)


def label_of(sample: Sample) -> str:
    """The class of a sample; "" for a regression."""
    return sample.label if isinstance(sample.label, str) else ""


def check_lost(samples: Sequence[Sample], splits: Sequence[Split | None], skipped: Mapping[int, str]) -> None:
    """Refuse data of which no file of a class can be used, or of which a class lost all its files of one split.

    Parameters
    ----------
    splits : of each sample; None for a file that cannot be read, whose content would decide. Such files count for
        every split where they outnumber the usable ones of their class
    skipped : index of a sample that cannot be used → reason

    Raises
    ------
    UserError : one line for each class
    """
    classes: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        classes.setdefault(label_of(sample), []).append(i)
    problems = []
    for label, files in sorted(classes.items()):
        lost = [i for i in files if i in skipped]
        if not label or not lost:  # targets are numbers, or all is well
            continue
        usable = Counter(splits[i] for i in files if i not in skipped)
        unread = [i for i in lost if splits[i] is None]
        first = f"(the first: {samples[lost[0]].file}: {skipped[lost[0]]}); replace or remove them"
        if not usable:
            problems.append(f"class {label!r}: none of its {counted(len(files), 'file')} can be used {first}")
            continue
        blamed = {splits[i] for i in lost} - {None} | (set(SPLITS) if len(unread) > usable.total() else set())
        for split in SPLITS:
            if split in blamed and not usable[split]:
                problems.append(
                    f"class {label!r}: no {split} sample is left, since {len(lost):,} of its "
                    f"{counted(len(files), 'file')} cannot be used {first}"
                )
    if problems:
        raise UserError("\n".join(problems))


def warning(skipped: int, n_files: int) -> str:
    """One line if more than `SHARE` of the files were skipped, else "".

    Example
    -------
    >>> warning(6, 100)
    'WARNING: 6 of 100 files (6 %) were skipped: nothing was learned from them, and nothing tested on them'
    """
    if skipped <= SHARE * n_files:
        return ""
    share = f"{skipped:,} of {n_files:,} files ({100 * skipped / n_files:.0f} %)"
    return f"WARNING: {share} were skipped: nothing was learned from them, and nothing tested on them"


def by_class(skipped: Collection[Skipped]) -> dict[str, int]:
    """Class → number of its files that were skipped, in alphabetical order; empty for a regression."""
    return dict(sorted(Counter(label for *_, label in skipped if label).items()))


def by_reason(skipped: Collection[Skipped]) -> list[tuple[str, list[str]]]:
    """Reasons, the most frequent first, each with its files. Those that differ only in a number or in the name of an
    identical file are one, shown as its first file has it."""
    groups: dict[str, tuple[str, list[str]]] = {}
    for file, reason, *_ in skipped:
        groups.setdefault(_PARTICULARS.sub("…", reason), (reason, []))[1].append(file)
    return sorted(groups.values(), key=lambda group: -len(group[1]))


def lines(skipped: Collection[Skipped], totals: Mapping[str, int]) -> list[str]:
    """What the console says of skipped files.

    Parameters
    ----------
    totals : class → number of its files

    Example
    -------
    >>> broken = [("a/1.wav", "empty", "", "a"), ("a/2.wav", "empty", "", "a")]
    >>> lines(broken, {"a": 30, "b": 50})
    ['  skipped: a 2 of 30', '    2 files: empty (the first: a/1.wav)']
    """
    found = []
    if classes := by_class(skipped):
        worst = sorted(classes, key=lambda label: -classes[label] / totals[label])
        shares = [f"{label} {classes[label]:,} of {totals[label]:,}" for label in worst]
        more = f" and files of {len(shares) - CLASSES} more classes" if len(shares) > CLASSES else ""
        found.append(f"  skipped: {', '.join(shares[:CLASSES])}{more}")
    groups = by_reason(skipped)
    for reason, files in groups[:REASONS]:
        some = f"    {len(files):,} files: {reason} (the first: {files[0]})"
        found.append(some if len(files) > 1 else f"    {files[0]}: {reason}")
    if rest := sum(len(files) for _, files in groups[REASONS:]):
        found.append(f"    {counted(rest, 'file')} for other reasons, which the report lists")
    if line := warning(len(skipped), sum(totals.values())):
        found.append(line)
    return found
