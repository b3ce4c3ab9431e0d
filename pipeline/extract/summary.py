"""What extraction prints in the end: how many samples and groups there are, near duplicates, and skipped files."""

from collections import Counter
from collections.abc import Sequence

from pipeline.errors import counted
from pipeline.extract import skipped
from pipeline.extract.features import Features
from pipeline.run import Run
from pipeline.sources import Data, Sample
from pipeline.task import Task

GROUPS = 3  # names in a line


def lines(task: Task, run: Run, features: Features, samples: Sequence[Sample], n_new: int) -> list[str]:
    """All lines.

    samples : all of the source
    n_new : how many of the usable ones were extracted now
    """
    also = f" and {len(features.copies)} copies" if len(features.copies) else ""
    counts = f"{len(features.x)} samples{also}, {n_new} newly extracted, {len(features.skipped)} skipped"
    return [
        f"{task.name}: {counts} → {run.features}",
        *([f"  {_groups(features, task.data)}"] if features.has_groups else []),
        *_near_duplicates(features),
        *skipped.lines(features.skipped, Counter(map(skipped.label_of, samples))),
    ]


def _groups(features: Features, data: Data) -> str:
    """One line: how many groups there are, which they are, and where they come from."""
    named = sorted(set(features.group[features.in_groups()].tolist()))
    source = "data.group" if data.group else {"csv": "the column group", "folder": "folders inside class folders"}
    where = source if isinstance(source, str) else source.get(data.source, "the data")
    alone = len(set(features.group.tolist())) - len(named)
    others = f", and {counted(alone, 'sample')} in none" if alone else ""
    shown = f"{', '.join(named[:GROUPS])}{', …' if len(named) > GROUPS else ''}"
    return f"{counted(len(named), 'group')}, which no split divides, from {where}: {shown}{others}"


def _near_duplicates(features: Features) -> list[str]:
    """Lines about near duplicates: those that no split divides, and those that the data itself divides."""
    divided = features.divided()
    lines = []
    for of, what in ((~divided, "which no split divides"), (divided, "in different splits, since the data names them")):
        if n := int(of.sum()):
            first = [" = ".join(features.file[pair].tolist()) for pair in features.near[of][:GROUPS]]
            lines.append(
                f"  {counted(n, 'pair')} of near duplicates, {what}: {', '.join(first)}{', …' if n > GROUPS else ''}"
            )
    return lines
