"""Stage 1: samples → features. Decodes in parallel, and never repeats what an earlier run has extracted.

Clips of sound outside the test split can have slightly varied copies, each with its own features.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from models import frontend
from pipeline import sources
from pipeline.engine import LOCAL, Engine
from pipeline.extract import on_ray
from pipeline.extract.features import Features, targets_and_labels
from pipeline.extract.media import MediaCache
from pipeline.extract.recipe import Extracted, Keep, Recipe, Row
from pipeline.extract.splits import check_classes, without_duplicates
from pipeline.run import Run
from pipeline.sources import Sample
from pipeline.task import Task, UserError, digest
from pipeline.threads import ordered_map
from service.media import EXTRA

Skipped = tuple[str, str, str]  # file, reason, digest of its content; empty for a duplicate


def extract(task: Task, run: Run, strict: bool = False, engine: Engine = LOCAL) -> Features:
    """Extract the features of every sample of the task's source into `features.npz` of the run.

    Parameters
    ----------
    strict : a file that cannot be used is an error instead of a line in the report
    engine : where the samples are decoded; the file is the same, bit for bit, on processors of one kind

    Raises
    ------
    UserError : the source is unusable, a class has too few samples, or `strict` and a file was skipped

    Example
    -------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from pipeline import task
    >>> with TemporaryDirectory() as folder:
    ...     found = extract(task.load("sine"), Run(Path(folder)))  # doctest: +ELLIPSIS
    sine: 401 samples, 401 newly extracted, 0 skipped → ...
    >>> found.x.shape, found.y.shape, found.kind
    ((401, 1), (401, 1), 'regression')
    """
    samples = sources.load(task.data, task.features)
    recipe, media = Recipe.of(task, samples), MediaCache()
    cached = _cached(run, recipe)
    if engine.is_ray:
        with engine.running():
            digests, found = on_ray.extract(samples, recipe, cached, run, digest([recipe.key, recipe.copies_key]))
    else:
        digests, found = _extract(samples, recipe, cached, media.keep)
    unique, duplicates = without_duplicates(samples, digests)
    extracted = {i: found[i] if i in found else cached[digests[i]] for i in unique}
    skipped = duplicates + [
        (samples[i].file, one.reason, digests[i]) for i, one in extracted.items() if one.row is None
    ]
    if strict and skipped:
        raise UserError("\n".join(f"{file}: {reason}" for file, reason, _ in skipped))
    features = _features(task, recipe, samples, digests, extracted, skipped)
    check_classes(features)
    features.save(run.features)
    media.keep_samples(run, features, samples)
    on_ray.discard(run)
    also = f" and {len(features.copies)} copies" if len(features.copies) else ""
    n_new = sum(i in found and found[i].row is not None for i in unique)
    print(
        f"{task.name}: {len(features.x)} samples{also}, {n_new} newly extracted, {len(skipped)} skipped "
        f"→ {run.features}"
    )
    return features


def _cached(run: Run, recipe: Recipe) -> dict[str, Extracted]:
    """Digest of the content → what an earlier run with the same key has extracted; copies only under the same key."""
    try:
        before = Features.of(run)
    except UserError:
        return {}
    if before.key != recipe.key:
        return {}
    copies = before.copies if before.copies_key == recipe.copies_key else before.copies[:0]
    edges = np.searchsorted(before.copy_of[: len(copies)], np.arange(len(before.x) + 1))
    cached = {
        content: Extracted(row, copies[start:end])
        for content, row, start, end in zip(before.digest.tolist(), before.x, edges[:-1], edges[1:], strict=True)
    }
    unusable = {
        content: Extracted(None, copies[:0], reason)
        for _, reason, content in before.skipped
        if content and EXTRA not in reason  # it may be installed by now
    }
    return cached | unusable


def _extract(
    samples: Sequence[Sample], recipe: Recipe, cached: Mapping[str, Extracted], keep: Keep
) -> tuple[list[str], dict[int, Extracted]]:
    """Extract what is not cached yet, one of several identical samples, in threads of this process.

    Returns
    -------
    Digests of all samples, and by index what was extracted.
    """
    work = recipe.extractor(keep)
    digests = list(ordered_map(Sample.digest, samples))
    unique, _ = without_duplicates(samples, digests)

    def is_missing(i: int) -> bool:
        before = cached.get(digests[i])
        return before is None or not before.covers(recipe.n_copies(samples[i], digests[i]))

    missing = [i for i in unique if is_missing(i)]
    results = ordered_map(lambda i: work(samples[i], digests[i]), missing)
    with tqdm(results, desc="extract", total=len(missing), unit="sample", disable=None) as bar:
        return digests, dict(zip(missing, bar, strict=True))


def _features(
    task: Task,
    recipe: Recipe,
    samples: Sequence[Sample],
    digests: Sequence[str],
    extracted: Mapping[int, Extracted],
    skipped: Sequence[Skipped],
) -> Features:
    """The features of the usable samples; `extracted` is by index of the sample."""
    rows: list[Row] = []
    usable = []
    copies, copy_of = [np.empty((0, frontend.build(recipe.parameters).n_features), np.float32)], []
    for i, one in extracted.items():
        if one.row is not None:
            n_copies = recipe.n_copies(samples[i], digests[i])
            copies.append(one.copies[:n_copies])
            copy_of += [len(rows)] * n_copies
            usable.append(i)
            rows.append(one.row)
    if not rows:
        first = f"; the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise UserError(f"{task.data.source}: none of {len(samples)} samples can be used{first}")
    y, labels = targets_and_labels([samples[i].label for i in usable])
    return Features(
        x=np.stack(rows),
        y=y,
        labels=labels,
        split=np.array([recipe.split(samples[i], digests[i]) for i in usable]),
        file=np.array([samples[i].file for i in usable]),
        digest=np.array([digests[i] for i in usable]),
        copies=np.concatenate(copies),
        copy_of=np.array(copy_of, np.int64),
        skipped=tuple(skipped),
        task=task.origin(),
        key=recipe.key,
        copies_key=recipe.copies_key,
    )
