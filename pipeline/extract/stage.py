"""Stage 1: samples → features. Decodes in parallel, and never repeats what an earlier run has extracted, even if it was
stopped.

Clips of sound outside the test split can have slightly varied copies, each with its own features.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models import frontend
from models.image import Picture
from pipeline import sources
from pipeline.engine import LOCAL, Engine
from pipeline.extract import near_duplicates, on_ray, skipped, summary, weighing
from pipeline.extract.features import Features, Skipped, targets_and_labels
from pipeline.extract.media import MediaCache
from pipeline.extract.recipe import Job, Keep, Recipe
from pipeline.extract.shards import Shards, Stored, of_features, reading
from pipeline.extract.splits import (
    assign_splits,
    check_classes,
    group_keys,
    joined,
    without_duplicates,
)
from pipeline.extract.tables import with_columns
from pipeline.profile import marked, step
from pipeline.progress import Progress
from pipeline.run import Run, Streamed
from pipeline.sources import Sample, Split
from pipeline.sources.appearance import Appearance
from pipeline.sources.encoded import EncodedFile
from pipeline.task import Task, UserError
from pipeline.threads import ordered_map, threads
from service.media import EXTRA
from service.media.native import trim


def extract(task: Task, run: Run, strict: bool = False, engine: Engine = LOCAL) -> Features:
    """Extract the features of every sample of the task's source into `features.npz` of the run.

    Parameters
    ----------
    strict : a file that cannot be used is an error instead of a line in the report
    engine : where the samples are decoded; the file is the same, bit for bit, on processors of one kind

    Raises
    ------
    UserError : the source is unusable, a class has too few samples or none that can be used, or `strict` and a file was
        skipped

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
    with step("find samples", all_threads=True):
        samples = sources.load(task.data, task.features)
    if task.features.kind == "pixels":
        _warn_of_pictures(samples)
    media = MediaCache(run.folder)
    with engine.running():
        digests = on_ray.digests(samples) if engine.is_ray else _digests(samples)
        unique, duplicates = without_duplicates(samples, digests)
        jobs, done, near = _settled(task, run, samples, digests, unique, engine, media.keep)
    unusable = _unusable(digests, unique, duplicates, done)
    _check_usable(done.task, jobs, unusable, strict)
    skipped_files = _skipped(samples, digests, duplicates, unusable)
    features = _features(done, [jobs[i] for i in unique if i not in unusable], skipped_files, near)
    check_classes(features)
    _save(features, run, done)
    done.shards.discard()
    features = Features.of(run)
    media.keep_samples(run, features, samples)
    n_new = sum(content in done.new for content in features.digest.tolist())
    print(*summary.lines(task, run, features, samples, n_new), sep="\n")
    return features


class _Extraction(NamedTuple):
    """Samples as they are extracted.

    task : with what the training samples tell of a table's columns
    results : by digest of the content
    new : digests of the contents that were decoded now
    """

    task: Task
    recipe: Recipe
    shards: Shards
    results: dict[str, Stored]
    new: frozenset[str]

    @property
    def usable(self) -> set[str]:
        """Digests of the contents that can be used."""
        return {content for content, one in self.results.items() if one.file is not None}


def _extracted(
    task: Task, run: Run, jobs: list[Job], engine: Engine, keep: Keep, new: frozenset[str] | None = None
) -> _Extraction:
    """Extract these samples, unless they are; `new` are those that this command has already extracted, if it has."""
    task = with_columns(task, jobs)
    recipe = Recipe.of(task).learned(jobs)
    shards = Shards(run, recipe)
    if new is None and shards.before:
        print(f"  {len(shards.before):,} samples were extracted by a run that was stopped", flush=True)
    held = _held(run, recipe, shards)
    missing = [one for one in jobs if not _is_held(one, held, recipe)]
    if engine.is_ray:
        on_ray.extract(missing, recipe, shards)
    else:
        _extract_in_threads(missing, recipe, shards, keep)
    results = {one.content: shards.found.get(one.content) or held[one.content] for one in jobs}
    return _Extraction(task, recipe, shards, results, (new or frozenset()) | shards.found.keys())


def _settled(
    task: Task,
    run: Run,
    samples: Sequence[Sample],
    digests: Sequence[str],
    unique: Sequence[int],
    engine: Engine,
    keep: Keep,
) -> tuple[list[Job], _Extraction, list[tuple[str, str]]]:
    """All samples with their splits, the unique ones extracted, and the pairs of contents that are near duplicates.

    Only extraction finds near duplicates. Where they are others than an earlier one has found and move a sample to
    another split, what depends on the split is extracted once more.
    """
    earlier = _Earlier.of(run)
    jobs = _jobs(task, samples, digests, unique, earlier.near)
    done = _extracted(task, run, [jobs[i] for i in unique], engine, keep)
    near = earlier.near if earlier.is_of(done) else _near(done)
    if near != earlier.near:
        before, jobs = jobs, _jobs(task, samples, digests, unique, near)
        if [one.split for one in jobs] != [one.split for one in before]:
            done = _extracted(task, run, [jobs[i] for i in unique], engine, keep, done.new)
    return jobs, done, near


class _Earlier(NamedTuple):
    """What an earlier extraction has found out about near duplicates.

    near : pairs of contents, in order
    contents : among which they were looked for
    key : of the recipe
    """

    near: list[tuple[str, str]]
    contents: frozenset[str]
    key: str

    @staticmethod
    def of(run: Run) -> "_Earlier":
        with suppress(UserError):  # no features yet
            before = Features.of(run)
            pairs = [(min(pair), max(pair)) for pair in before.digest[before.near].tolist()]
            return _Earlier(sorted(pairs), frozenset(before.digest.tolist()), before.key)
        return _Earlier([], frozenset(), "")

    def is_of(self, done: _Extraction) -> bool:
        """Whether these are all the near duplicates of what was extracted."""
        return self.key == done.recipe.key and self.contents == done.usable


@step("near duplicates", all_threads=True)
def _near(done: _Extraction) -> list[tuple[str, str]]:
    """Pairs of contents that are near duplicates, in order, found by their fingerprints; none in percept's own data."""
    if not done.recipe.compared:
        return []
    trim()  # to look for them takes the most memory: what decoding has left behind goes back first,
    usable = sorted(done.usable)
    with reading() as reader:

        def read(rows: NDArray[np.int64]) -> NDArray[np.int8]:
            prints = [reader.fingerprint(done.results[usable[i]]) for i in rows.tolist()]
            return np.frombuffer(b"".join(prints), np.int8).reshape(len(rows), -1)

        pairs = near_duplicates.find(frontend.build(done.recipe.parameters).input, len(usable), read)
    trim()  # and then what this has
    return [(usable[i], usable[j]) for i, j in pairs.tolist()]


def _warn_of_pictures(samples: Sequence[Sample]) -> None:
    """Print one line if files that are to be read as symbols do not look like any."""
    files = [sample.media.path for sample in samples if isinstance(sample.media, EncodedFile)]
    look = Appearance.of(files) if files else None
    if look is not None and not look.are_symbols:
        print(
            f"WARNING: these pictures do not look like symbols on plain ground ({look}), and this task sees only ink; "
            "`percept run pictures` sees gradients, colours and textures",
            flush=True,
        )


def _held(run: Run, recipe: Recipe, shards: Shards) -> dict[str, Stored]:
    """Digest of the content → what an earlier run with the same key has extracted, or this one; copies only under the
    same key."""
    held = shards.before
    with suppress(UserError):  # no features yet
        before = Features.of(run)
        if before.key == recipe.key:
            held = of_features(before, run.features, before.copies_key == recipe.copies_key) | held
    return {content: one for content, one in held.items() if EXTRA not in one.reason}  # it may be installed by now


def _digests(samples: Sequence[Sample]) -> list[str]:
    """Digests of the samples' content, read in threads of this process."""
    digests = []
    with (
        closing(ordered_map(marked("read", Sample.digest), samples)) as found,
        Progress("read", len(samples), "file") as progress,
    ):
        for content in found:
            digests.append(content)
            progress.update()
    return digests


def _jobs(
    task: Task,
    samples: Sequence[Sample],
    digests: Sequence[str],
    unique: Sequence[int],
    near: Sequence[tuple[str, str]],
) -> list[Job]:
    """All samples with their splits, which the unique ones are drawn into; a duplicate has that of its twin, unless the
    data names another. `near` are pairs of contents that are near duplicates."""
    groups = joined(samples, group_keys(samples, digests), digests, near)
    splits = assign_splits([samples[i] for i in unique], [groups[i] for i in unique], task.data)
    drawn = dict(zip(unique, splits, strict=True))
    of_content = {digests[i]: split for i, split in drawn.items()}
    named = (one.split or of_content[content] for one, content in zip(samples, digests, strict=True))
    splits = [drawn.get(i, split) for i, split in enumerate(named)]
    return [Job(*fields) for fields in zip(samples, digests, groups, splits, strict=True)]


def _is_held(job: Job, held: Mapping[str, Stored], recipe: Recipe) -> bool:
    before = held.get(job.content)
    return before is not None and before.covers(recipe.n_copies(job.split))


def _extract_in_threads(jobs: Sequence[Job], recipe: Recipe, shards: Shards, keep: Keep) -> None:
    """Extract these samples into shards, as `on_ray.extract` does on a cluster."""
    extract = recipe.extractor(keep)

    def add(job: Job) -> None:
        shards.add(job.content, extract(job))

    try:
        with closing(ordered_map(add, jobs)) as done, Progress("extract", len(jobs), "sample") as progress:
            for _ in done:
                progress.update()
    finally:
        shards.flush()


def _unusable(
    digests: Sequence[str], unique: Sequence[int], duplicates: Mapping[int, str], done: _Extraction
) -> dict[int, str]:
    """Index of each sample that is not used → the reason; a copy of a file that cannot be used cannot either."""
    why = {content: one.reason for content, one in done.results.items() if one.file is None}
    broken = {i: why[digests[i]] for i in unique if digests[i] in why}
    return {i: why.get(digests[i], reason) for i, reason in duplicates.items()} | broken


def _check_usable(task: Task, jobs: Sequence[Job], unusable: Mapping[int, str], strict: bool) -> None:
    """UserError if `strict` and a file cannot be used, if none can, or none of a class."""
    problems = [f"{jobs[i].sample.file}: {reason}" for i, reason in unusable.items()]
    if strict and problems:
        raise UserError("\n".join(problems))
    if len(problems) == len(jobs):
        first = f"; the first: {problems[0]}" if problems else ""
        raise UserError(f"{task.data.source}: none of {len(jobs)} samples can be used{first}")
    skipped.check_lost([one.sample for one in jobs], [one.split for one in jobs], unusable)


def _skipped(
    samples: Sequence[Sample], digests: Sequence[str], duplicates: Mapping[int, str], unusable: Mapping[int, str]
) -> tuple[Skipped, ...]:
    return tuple(
        (samples[i].file, reason, "" if i in duplicates else digests[i], skipped.label_of(samples[i]))
        for i, reason in unusable.items()
    )


def _features(
    done: _Extraction, usable: Sequence[Job], skipped: tuple[Skipped, ...], near: Sequence[tuple[str, str]]
) -> Features:
    """All about the usable samples but the features themselves, which stay on disk."""
    task, recipe = done.task, done.recipe
    n_copies = [recipe.n_copies(one.split) for one in usable]
    y, labels = targets_and_labels([one.sample.label for one in usable])
    if y.ndim == 2 and task.features.kind == "table":  # called like its column, or like the array of an .npz file
        labels = (task.data.target or labels[0],)
    row = {one.content: i for i, one in enumerate(usable)}
    front = recipe.front_end()
    state = recipe.state
    if isinstance(front, Picture) and y.ndim == 1:
        state = state | _weighed(front, done, usable, y)
    none = np.empty((0, front.n_features), np.float32)
    return Features(
        x=none,
        y=y,
        labels=labels,
        split=np.array([one.split for one in usable], np.str_),
        group=np.array([one.group for one in usable]),
        file=np.array([one.sample.file for one in usable]),
        digest=np.array([one.content for one in usable]),
        copies=none,
        copy_of=np.repeat(np.arange(len(usable)), n_copies),
        skipped=skipped,
        task=task.origin(),
        key=recipe.key,
        copies_key=recipe.copies_key,
        state=state,
        near=np.array(sorted(sorted((row[one], row[other])) for one, other in near), np.int64).reshape(-1, 2),
    )


@step("learn from samples", all_threads=True)
def _weighed(
    front: Picture, done: _Extraction, usable: Sequence[Job], y: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """How much the parts of a picture's features count: a part of the front end's state."""

    def some(split: Split, most: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The samples of a split with the least digests."""
        rows = sorted((i for i, one in enumerate(usable) if one.split == split), key=lambda i: usable[i].content)[:most]
        x = [np.frombuffer(reader.row(done.results[usable[i].content]), np.float32) for i in rows]
        return np.stack(x) if x else np.empty((0, front.n_features), np.float32), y[rows]

    n_training, n_validation = weighing.LOOKED_AT
    with reading() as reader, threads(1):  # the order of sums depends on the number of threads
        share = weighing.share(front, *some("train", n_training), *some("validation", n_validation))
    print(f"  colours and patches count {share:g} times as much as gradients", flush=True)
    return {"share": np.array(share, np.float32)}


@step("write")
def _save(features: Features, run: Run, done: _Extraction) -> None:
    """Write the features file, whose rows are read where they are stored."""
    usable = [done.results[content] for content in features.digest.tolist()]
    n_copies = np.bincount(features.copy_of, minlength=len(usable)).tolist()
    width = features.x.shape[1]
    with reading() as reader:
        x = Streamed((len(usable), width), (reader.row(one) for one in usable))
        of_copies = (reader.copies(one, n) for one, n in zip(usable, n_copies, strict=True) if n)
        copies = Streamed((len(features.copy_of), width), of_copies)
        n_print = usable[0].file.n_print if usable[0].file else 0
        prints = Streamed((len(usable), n_print), (reader.fingerprint(one) for one in usable), "|i1")
        features.save(run.features, x, copies, prints)
