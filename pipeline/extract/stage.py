"""Stage 1: samples → features. Decodes in parallel, and never repeats what an earlier run has extracted, even if it was
stopped.

Clips of sound outside the test split can have slightly varied copies, each with its own features.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress

import numpy as np

from models import frontend
from pipeline import sources
from pipeline.engine import LOCAL, Engine
from pipeline.extract import on_ray, skipped
from pipeline.extract.features import Features, Skipped, targets_and_labels
from pipeline.extract.media import MediaCache
from pipeline.extract.recipe import Keep, Recipe, Work
from pipeline.extract.shards import Shards, Stored, of_features, reading
from pipeline.extract.splits import assign_splits, check_classes, group_keys, groups_of, without_duplicates
from pipeline.extract.tables import with_columns
from pipeline.profile import marked, step
from pipeline.progress import Progress
from pipeline.run import Run, Streamed
from pipeline.sources import Sample
from pipeline.sources.appearance import Appearance
from pipeline.sources.folder import EncodedFile
from pipeline.task import Task, UserError
from pipeline.threads import ordered_map
from service.media import EXTRA


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
    with step("find samples"):
        samples = sources.load(task.data, task.features)
    if task.features.kind == "pixels":
        _warn_of_pictures(samples)
    media = MediaCache()
    with engine.running():
        digests = on_ray.digests(samples) if engine.is_ray else _digests(samples)
        unique, duplicates = without_duplicates(samples, digests)
        works = _works(task, samples, digests, unique)
        once = [works[i] for i in unique]
        task = with_columns(task, once)
        recipe = Recipe.of(task).learned(once)
        shards = Shards(run, recipe)
        held = _held(run, recipe, shards)
        missing = [one for one in once if not _is_held(one, held, recipe)]
        if engine.is_ray:
            on_ray.extract(missing, recipe, shards)
        else:
            _extract(missing, recipe, shards, media.keep)
    results = {i: shards.found.get(digests[i]) or held[digests[i]] for i in unique}
    unusable = duplicates | {i: one.reason for i, one in results.items() if one.file is None}
    _check_usable(task, works, unusable, strict)
    skipped_files = _skipped(samples, digests, duplicates, unusable)
    features = _features(task, recipe, works, results, skipped_files)
    check_classes(features)
    _save(features, run, results)
    shards.discard()
    features = Features.of(run)
    media.keep_samples(run, features, samples)
    also = f" and {len(features.copies)} copies" if len(features.copies) else ""
    n_new = sum(digest in shards.found for digest in features.digest.tolist())
    counts = f"{len(features.x)} samples{also}, {n_new} newly extracted, {len(unusable)} skipped"
    print(f"{task.name}: {counts} → {run.features}")
    if features.has_groups:
        print(f"  {groups_of(features, task.data)}")
    for line in skipped.lines(features.skipped, Counter(map(skipped.label_of, samples))):
        print(line)
    return features


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
    """Digest of the content → what an earlier run with the same key has extracted; copies only under the same key."""
    if shards.before:
        print(f"  {len(shards.before):,} samples were extracted by a run that was stopped", flush=True)
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


def _works(task: Task, samples: Sequence[Sample], digests: Sequence[str], unique: Sequence[int]) -> list[Work]:
    """All samples with their splits, which the unique ones are drawn into; a duplicate has that of its twin, unless the
    data names another."""
    groups = group_keys(samples, digests)
    splits = assign_splits([samples[i] for i in unique], [groups[i] for i in unique], task.data)
    drawn = dict(zip(unique, splits, strict=True))
    of_content = {digests[i]: split for i, split in drawn.items()}
    named = (one.split or of_content[content] for one, content in zip(samples, digests, strict=True))
    splits = [drawn.get(i, split) for i, split in enumerate(named)]
    return [Work(*fields) for fields in zip(samples, digests, groups, splits, strict=True)]


def _is_held(work: Work, held: Mapping[str, Stored], recipe: Recipe) -> bool:
    before = held.get(work.content)
    return before is not None and before.covers(recipe.n_copies(work.split))


def _extract(works: Sequence[Work], recipe: Recipe, shards: Shards, keep: Keep) -> None:
    """Extract these samples, in threads of this process, into shards."""
    extract = recipe.extractor(keep)

    def work(one: Work) -> None:
        shards.add(one.content, extract(one))

    try:
        with closing(ordered_map(work, works)) as done, Progress("extract", len(works), "sample") as progress:
            for _ in done:
                progress.update()
    finally:
        shards.flush()


def _check_usable(task: Task, works: Sequence[Work], unusable: Mapping[int, str], strict: bool) -> None:
    """UserError if `strict` and a file cannot be used, if none can, or none of a class."""
    problems = [f"{works[i].sample.file}: {reason}" for i, reason in unusable.items()]
    if strict and problems:
        raise UserError("\n".join(problems))
    if len(problems) == len(works):
        first = f"; the first: {problems[0]}" if problems else ""
        raise UserError(f"{task.data.source}: none of {len(works)} samples can be used{first}")
    skipped.check_lost([one.sample for one in works], [one.split for one in works], unusable)


def _skipped(
    samples: Sequence[Sample], digests: Sequence[str], duplicates: Mapping[int, str], unusable: Mapping[int, str]
) -> tuple[Skipped, ...]:
    return tuple(
        (samples[i].file, reason, "" if i in duplicates else digests[i], skipped.label_of(samples[i]))
        for i, reason in unusable.items()
    )


def _features(
    task: Task,
    recipe: Recipe,
    works: Sequence[Work],
    results: Mapping[int, Stored],
    skipped: tuple[Skipped, ...],
) -> Features:
    """All about the usable samples but the features themselves, which stay on disk."""
    usable = [works[i] for i, one in results.items() if one.file is not None]
    n_copies = [recipe.n_copies(one.split) for one in usable]
    y, labels = targets_and_labels([one.sample.label for one in usable])
    if y.ndim == 2 and task.features.kind == "table":  # called like its column, or like the array of an .npz file
        labels = (task.data.target or labels[0],)
    none = np.empty((0, frontend.build(recipe.parameters).n_features), np.float32)
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
        state=recipe.state,
    )


@step("write")
def _save(features: Features, run: Run, results: Mapping[int, Stored]) -> None:
    """Write the features file, whose rows are read where they are stored."""
    usable = [one for one in results.values() if one.file is not None]
    n_copies = np.bincount(features.copy_of, minlength=len(usable)).tolist()
    width = features.x.shape[1]
    with reading() as reader:
        x = Streamed((len(usable), width), (reader.row(one) for one in usable))
        of_copies = (reader.copies(one, n) for one, n in zip(usable, n_copies, strict=True) if n)
        copies = Streamed((len(features.copy_of), width), of_copies)
        features.save(run.features, x, copies)
