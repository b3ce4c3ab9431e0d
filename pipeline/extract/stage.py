"""Stage 1: samples → features. Decodes in parallel, and never decodes again what an earlier run has extracted.

Clips of sound that may be trained on can have copies that were varied a little, with features of their own.
"""

import json
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from models import frontend
from models.card import Kind
from models.frontend import FrontEnd, Mfcc
from pipeline import sources, threads
from pipeline.engine import LOCAL, Runner
from pipeline.extract import copies, on_ray
from pipeline.run import require, write_npz
from pipeline.sources.sample import SPLITS, Sample, Split, Target
from pipeline.task import Data, Task, UserError, Variation, digest
from pipeline.train import mapped
from service.media import image
from service.media.limits import Limits, MediaError

FILE = "features.npz"
CHUNK = 16  # samples that a thread takes at a time
QUICK = 5e-4  # seconds: what takes less is not done in threads, which hand Python's lock to and fro
FIRST = 0.1  # seconds that the first uses of everything may take besides
MIN_SAMPLES = 3  # of a class: one for each split

T = TypeVar("T")
R = TypeVar("R")
Row = NDArray[np.float32]  # (D,)
Extracted = tuple[Row | str, NDArray[np.float32]]  # features, or the reason why there are none; of the copies, (C, D)


@dataclass(frozen=True, slots=True)
class Features:
    """What extraction found: one row for each usable sample.

    x float32 (N, D); y int64 (N,), index into labels, or float32 (N, K) for regression, of values that labels name;
    split, file and digest of the content, str (N,); copies float32 (M, D), features of varied copies, and copy_of
    int64 (M,), whose row each is a copy of, never of the test split; skipped:
    (file, reason, digest, or nothing for a duplicate) of what was not usable; task: the sections `data`, `features`
    and `augment` that made it; key: see `_key`; copies_key: the same for the copies.
    """

    x: NDArray[np.float32]
    y: NDArray[Any]
    labels: tuple[str, ...]
    split: NDArray[np.str_]
    file: NDArray[np.str_]
    digest: NDArray[np.str_]
    copies: NDArray[np.float32]
    copy_of: NDArray[np.int64]
    skipped: tuple[tuple[str, str, str], ...]
    task: dict[str, Any]
    key: str
    copies_key: str

    @property
    def n_bytes(self) -> int:
        """Bytes of the features, copies and all."""
        return self.x.nbytes + self.copies.nbytes

    def rows(self, split: Split) -> NDArray[np.bool_]:
        """Which rows are of that split."""
        return np.asarray(self.split == split)

    def with_copies(self, rows: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Features and targets of those rows (mask or indices) and of their copies, newly allocated."""
        chosen = np.zeros(len(self.x), bool)
        chosen[rows] = True
        copied = chosen[self.copy_of]
        if not copied.any():  # a large data set is not to lie there twice
            return self.x[rows], self.y[rows]
        x = np.concatenate([self.x[rows], self.copies[copied]])
        return x, np.concatenate([self.y[rows], self.y[self.copy_of[copied]]])

    @property
    def kind(self) -> Kind:
        """Kind of the target, as the targets show it."""
        if self.y.ndim == 2:
            return "regression"
        return "binary" if len(self.labels) == 2 else "multiclass"

    def data_digest(self) -> str:
        """SHA-256 over content, target and split of every sample, whatever their order."""
        targets = self.y.tolist() if self.kind == "regression" else [self.labels[k] for k in self.y]
        lines = sorted(f"{d} {t} {s}" for d, t, s in zip(self.digest, targets, self.split, strict=True))
        return sha256("\n".join(lines).encode()).hexdigest()

    def save(self, path: Path) -> None:
        arrays = {
            "x": self.x, "y": self.y, "labels": self.labels, "split": self.split, "files": self.file,
            "digest": self.digest, "copies": self.copies, "copy_of": self.copy_of,
            "skipped": json.dumps(self.skipped), "task": json.dumps(self.task),
            "key": self.key, "copies_key": self.copies_key,
        }  # fmt: skip
        write_npz(path, arrays)

    @staticmethod
    def load(path: Path) -> "Features":
        """Read `features.npz`, x and copies once they are used; UserError where there is none or it is not ours."""
        try:
            with np.load(require(path, "extract"), allow_pickle=False) as f:
                return Features(
                    mapped(path, "x"), f["y"], tuple(f["labels"].tolist()), f["split"], f["files"], f["digest"],
                    mapped(path, "copies"), f["copy_of"],
                    tuple(tuple(entry) for entry in json.loads(str(f["skipped"]))),
                    json.loads(str(f["task"])), str(f["key"]), str(f["copies_key"]),
                )  # fmt: skip
        except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
            raise UserError(f"{path}: not a features file ({error}); run `percept extract` again") from None


@dataclass(frozen=True)
class Recipe:
    """What is done to a sample, wherever that is.

    parameters: of the front end; named: the splits that the data names
    """

    parameters: dict[str, Any]
    data: Data
    variation: Variation
    named: frozenset[Split | None]

    def split(self, sample: Sample, content: str) -> Split:
        return assign_split(sample.split, self.named, content, self.data)

    def n_copies(self, sample: Sample, content: str) -> int:
        copies = self.variation.copies
        return copies if copies and self.split(sample, content) != "test" else 0

    def extractor(self) -> Callable[[Sample, str], Extracted]:
        """What makes a sample and the digest of its content into features, in several threads at once."""
        module = frontend.build(self.parameters)
        row = row_of(module)

        def extracted(sample: Sample, content: str) -> Extracted:
            varied = np.empty((self.n_copies(sample, content), module.n_features), np.float32)
            try:
                decoded = sample.media.load()
            except MediaError as error:
                return str(error), varied[:0]
            for number in range(len(varied)):
                clip, rate = np.asarray(decoded, np.float32), module.input.sample_rate
                assert rate is not None
                varied[number] = row(copies.vary(clip, rate, self.variation, content, number))
            return row(decoded), varied

        return extracted


def extract(task: Task, run: Path, strict: bool = False, engine: Runner = LOCAL) -> Features:
    """Extract the features of every sample of the task's source into `run/features.npz`.

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
    known = _known(run / FILE, key, copies_key)
    recipe = Recipe(parameters, task.data, task.augment, frozenset(s.split for s in samples))
    if engine.is_ray:
        with engine.running():
            digests, found = on_ray.extract(samples, recipe, known, run, digest([key, copies_key]))
    else:
        digests, found = _extract(samples, recipe, known)
    kept, skipped = _without_duplicates(samples, digests)
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
    y, labels = _targets([samples[i].label for i in usable])
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
        _check_classes(features)
    features.save(run / FILE)
    on_ray.discard(run)
    also = f" and {len(copy_of)} copies" if copy_of else ""
    print(f"{task.name}: {len(rows)} samples{also}, {decoded} newly extracted, {len(skipped)} skipped → {run / FILE}")
    return features


def assign_split(named: Split | None, named_by_data: Set[Split | None], content: str, data: Data) -> Split:
    """Split of a sample: a pure function of its content's digest and the seed, unless the data names one.

    A split that the data never names is taken out of the training samples, in its share.
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


def digest_of(sample: Sample) -> str:
    """Digest of the content."""
    try:
        return sample.media.digest()
    except MediaError as error:
        return f"unreadable: {error} ({sample.file})"  # differs for each file, so that none counts as a duplicate


def _known(path: Path, key: str, copies_key: str) -> dict[str, Extracted]:
    """Digest → what an earlier run with the same key found; the copies only if theirs is the same too."""
    try:
        before = Features.load(path)
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


def complete(found: Extracted | None, n_copies: int) -> bool:
    """Whether nothing needs to be decoded for a sample and its copies."""
    return found is not None and (isinstance(found[0], str) or len(found[1]) >= n_copies)


def _extract(
    samples: Sequence[Sample], recipe: Recipe, known: Mapping[str, Extracted]
) -> tuple[list[str], dict[int, Extracted]]:
    """Digests of all samples, and by index what is found in those that are not known yet, in threads of this process.

    Of identical samples one alone is looked at.
    """
    work = recipe.extractor()
    digests = list(in_turn(digest_of, samples))
    kept, _ = _without_duplicates(samples, digests)
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


def _without_duplicates(
    samples: Sequence[Sample], digests: Sequence[str]
) -> tuple[list[int], list[tuple[str, str, str]]]:
    """Indices of the samples to keep, one for each content, and the others as skipped.

    Of identical content under two named splits the one outside training stays, so that no evaluation is spoiled.
    """
    order = sorted(range(len(samples)), key=lambda i: (samples[i].split in (None, "train"), i))
    first: dict[str, int] = {}
    for i in order:
        first.setdefault(digests[i], i)
    kept, skipped = [], []
    for i, (sample, content) in enumerate(zip(samples, digests, strict=True)):
        if first[content] == i:
            kept.append(i)
        else:
            twin = samples[first[content]]
            also = "" if twin.label == sample.label else f", which is labelled {twin.label!r}"
            skipped.append((sample.file, f"identical to {twin.file}{also}", ""))
    return kept, skipped


def row_of(module: FrontEnd) -> Callable[[NDArray[np.generic]], Row]:
    """What makes decoded media into their features (D,), `module`'s bit for bit, in several threads at once.

    One sample at a time: its features must not depend, not even by rounding, on what stands beside it in a batch.
    Those of sound take many small operators, before and after each of which threads wait for Python's lock; traced,
    the same operators follow one another without Python.
    """
    computed: Callable[[torch.Tensor], torch.Tensor] = module
    if isinstance(module, Mfcc):
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, for what runs in Python or has to be compiled
            example = torch.zeros(1, module.sample_rate)  # a second; clips may have any length
            computed = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def row(media: NDArray[np.generic]) -> Row:
        features: Row = computed(torch.from_numpy(image).unsqueeze(0))[0].numpy()
        return features

    return row


def origin(task: Task) -> dict[str, Any]:
    """The sections that made the features; the path made absolute, since later stages may run from another folder."""
    origin = task.model_dump(mode="json", include={"data", "features", "augment"})
    if task.data.path is not None:
        origin["data"]["path"] = str(Path(task.data.path).expanduser().resolve())
    return origin


def _key(parameters: dict[str, Any]) -> str:
    """What the features of a given content depend on: parameters, limits, and the versions of the code that computes
    them."""
    return digest([parameters, asdict(Limits.from_environment()), frontend.VERSION, image.VERSION])


def _targets(targets: Sequence[Target]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """What `Features.y` and `Features.labels` hold."""
    values = [target for target in targets if isinstance(target, tuple)]
    if values:
        names = ("y",) if len(values[0]) == 1 else tuple(f"y{k}" for k in range(1, len(values[0]) + 1))
        return np.array(values, np.float32), names
    labels = _sorted_labels({str(target) for target in targets})
    index = {label: k for k, label in enumerate(labels)}
    return np.array([index[str(target)] for target in targets]), labels


def _sorted_labels(labels: set[str]) -> tuple[str, ...]:
    """Numbers by value, other names by the alphabet."""
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def _check_classes(features: Features) -> None:
    if len(features.labels) < 2:
        raise UserError(f"only one class, {features.labels[0]!r}; at least two are needed")
    total = Counter(features.y.tolist())
    trained = Counter(features.y[features.rows("train")].tolist())
    problems = []
    for k, label in enumerate(features.labels):
        if total[k] < MIN_SAMPLES:
            problems.append(
                f"class {label!r} has {total[k]} usable samples; at least {MIN_SAMPLES} are needed to split"
            )
        elif not trained[k]:
            problems.append(
                f"class {label!r} has no training sample ({total[k]} in other splits); "
                "add samples, or choose another data.seed"
            )
    if problems:
        raise UserError("\n".join(problems))
