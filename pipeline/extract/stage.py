"""Stage 1: samples → features. Decodes in parallel, and never decodes again what an earlier run has extracted.

Clips of sound that may be trained on can have copies that were varied a little, with features of their own.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from models import frontend
from pipeline import sources, threads
from pipeline.engine import LOCAL, Engine
from pipeline.extract import copies, on_ray
from pipeline.extract.features import Features, targets_and_labels
from pipeline.extract.recipe import Extracted, Recipe, Row, complete, digest_of
from pipeline.extract.splits import check_classes, without_duplicates
from pipeline.run import Run
from pipeline.sources.sample import Sample
from pipeline.task import Task, UserError, digest
from service import media
from service.media.limits import Limits

CHUNK = 16  # samples that a thread takes at a time
QUICK = 5e-4  # seconds: what takes less is not done in threads, which hand Python's lock to and fro
FIRST = 0.1  # seconds that the first uses of everything may take besides

T = TypeVar("T")
R = TypeVar("R")


def extract(task: Task, run: Run, strict: bool = False, engine: Engine = LOCAL) -> Features:
    """Extract the features of every sample of the task's source into `features.npz` of the run.

    Parameters
    ----------
    strict : a file that cannot be used is an error instead of a line in the report
    engine : where the samples are decoded; the file is the same, bit for bit, on processors of one kind

    Raises
    ------
    UserError : the source is unusable, a class has too few samples, or `strict` and a file was skipped
    """
    samples = sources.load(task)
    parameters = task.features.model_dump(mode="json")
    key = _key(parameters)
    copies_key = digest([key, task.augment.model_dump(exclude={"copies"}), copies.VERSION])
    known = _known(run, key, copies_key)
    recipe = Recipe(parameters, task.data, task.augment, frozenset(s.split for s in samples))
    if engine.is_ray:
        with engine.running():
            digests, found = on_ray.extract(samples, recipe, known, run, digest([key, copies_key]))
    else:
        digests, found = _extract(samples, recipe, known)
    kept, skipped = without_duplicates(samples, digests)
    decoded = sum(i in found for i in kept)
    known.update((digests[i], found[i]) for i in kept if i in found)
    rows: list[Row] = []
    usable, copied, copy_of = [], [np.empty((0, frontend.build(parameters).n_features), np.float32)], []
    for i in kept:
        row, varied = known[digests[i]]
        if isinstance(row, str):
            skipped.append((samples[i].file, row, digests[i]))
        else:
            n_copies = recipe.n_copies(samples[i], digests[i])
            copied.append(varied[:n_copies])
            copy_of += [len(rows)] * n_copies
            usable.append(i)
            rows.append(row)
    if strict and skipped:
        raise UserError("\n".join(f"{file}: {reason}" for file, reason, _ in skipped))
    if not rows:
        first = f"; the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise UserError(f"{task.data.source}: none of {len(samples)} samples can be used{first}")
    y, labels = targets_and_labels([samples[i].label for i in usable])
    features = Features(
        x=np.stack(rows),
        y=y,
        labels=labels,
        split=np.array([recipe.split(samples[i], digests[i]) for i in usable]),
        file=np.array([samples[i].file for i in usable]),
        digest=np.array([digests[i] for i in usable]),
        copies=np.concatenate(copied),
        copy_of=np.array(copy_of, np.int64),
        skipped=tuple(skipped),
        task=origin(task),
        key=key,
        copies_key=copies_key,
    )
    if features.kind != "regression":
        check_classes(features)
    features.save(run.features)
    on_ray.discard(run)
    also = f" and {len(copy_of)} copies" if copy_of else ""
    print(f"{task.name}: {len(rows)} samples{also}, {decoded} newly extracted, {len(skipped)} skipped → {run.features}")
    return features


def _known(run: Run, key: str, copies_key: str) -> dict[str, Extracted]:
    """Digest → what an earlier run with the same key found; the copies only if theirs is the same too."""
    try:
        before = Features.of(run)
    except UserError:
        return {}
    if before.key != key:
        return {}
    copies = before.copies if before.copies_key == copies_key else before.copies[:0]
    edges = np.searchsorted(before.copy_of[: len(copies)], np.arange(len(before.x) + 1))
    known: dict[str, Extracted] = {
        content: (row, copies[start:end])
        for content, row, start, end in zip(before.digest.tolist(), before.x, edges[:-1], edges[1:], strict=True)
    }
    known.update((content, (reason, copies[:0])) for _, reason, content in before.skipped if content)
    return known


def _extract(
    samples: Sequence[Sample], recipe: Recipe, known: Mapping[str, Extracted]
) -> tuple[list[str], dict[int, Extracted]]:
    """Digests of all samples, and by index what is found in those that are not known yet, in threads of this process.

    Of identical samples one alone is looked at.
    """
    work = recipe.extractor()
    digests = list(in_turn(digest_of, samples))
    kept, _ = without_duplicates(samples, digests)
    missing = [i for i in kept if not complete(known.get(digests[i]), recipe.n_copies(samples[i], digests[i]))]
    found = in_turn(lambda i: work(samples[i], digests[i]), missing)
    with tqdm(found, desc="extract", total=len(missing), unit="sample", disable=None) as bar:
        return digests, dict(zip(missing, bar, strict=True))


def in_turn(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """`work` of each item, in this order: here as long as it is quick, and from then on in threads."""
    done, until = 0, time.perf_counter() + FIRST
    with threads.threads(1):  # as those of the pool do
        while done < len(items) and time.perf_counter() < until:
            yield work(items[done])
            done, until = done + 1, until + QUICK
    chunks = [items[i : i + CHUNK] for i in range(done, len(items), CHUNK)]
    with threads.pool() as pool:
        for results in pool.map(lambda chunk: [work(item) for item in chunk], chunks):
            yield from results


def origin(task: Task) -> dict[str, Any]:
    """The sections that made the features; the path made absolute, since later stages may run from another folder."""
    origin = task.model_dump(mode="json", include={"data", "features", "augment"})
    if task.data.path is not None:
        origin["data"]["path"] = str(Path(task.data.path).expanduser().resolve())
    return origin


def _key(parameters: dict[str, Any]) -> str:
    """What the features of a given content depend on: parameters, limits, and the versions of the code that computes
    them."""
    return digest([parameters, asdict(Limits.from_environment()), frontend.VERSION, media.VERSION])
