"""The accuracy that the service estimates without labels, beside the true one, under shifts of digits and notes.

    python -m benchmarks.estimated [--runs FOLDER] [--data PERCEPT_DATA] [--development] [--no-peer]

Trains on MNIST and on notes, unless FOLDER has the runs. Test samples are changed in one way after the other
(benchmarks/shifts.py), answered by the exported graph, and counted as the service counts requests; then the estimate is
held against the accuracy on just these samples: 10 windows of 1,000 digits each, and one of all notes, of which half
are for testing. "wrong" is the largest difference of any window, in points, of those that had an estimate. With
`20% of it`, the shift is in a fifth of the samples. Another `--seed` draws noise, windows and mixtures anew.

The card knows the accuracy on the unchanged test samples, so their own row only shows that nothing is withheld there;
the others show whether the estimate follows the shift. For samples of which the card knows nothing, chance adds about
a point for so few notes.

The peer is NannyML's CBPE, installed in a temporary virtual environment unless there is none to be had. Its reference
are the unchanged test samples with their labels, too; it withholds nothing.

`--development` measures what the rule for withholding was chosen on: other shifts, in a tenth to all of the samples, of
MNIST's validation digits, of notes that are tested in another split and not in this one, and of synthesised notes; each
seed has networks of its own. The notes there are fewer than estimates wait for: here they do not. Takes some twenty
minutes on two cores.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from benchmarks import shifts
from benchmarks.environments import installed
from benchmarks.robustness import Recording, Unavailable, encoded, others, read
from models.card import FAMILIARITY, FEATURES, SECOND_READING
from pipeline.extract import load_media
from pipeline.extract.features import Features
from pipeline.run import Run
from service.errors import MediaError
from service.media import Limits
from service.media.image import to_mnist_form
from service.serving import estimate
from service.serving.drift import COUNTED, EVERY, WINDOW, Drift
from service.serving.estimate import Estimate, estimated
from service.serving.predictor import Predictor

PEER = ("nannyml==0.13.1", "statsmodels==0.15.0")  # it imports the second without declaring it
SPLITS = "--set", "data.splits.validation=0.1", "--set", "validate.baselines=false"
HALF = *SPLITS, "--set", "data.splits.train=0.45", "--set", "data.splits.test=0.45"
MOST = *SPLITS, "--set", "data.splits.train=0.25", "--set", "data.splits.test=0.65"
TASKS = {  # task and options
    "digits": ("digits", "--data", "mnist:{data}/MNIST"),
    "notes": ("instruments", "--data", "{data}/notes", *HALF),
    "synthesised": ("instruments", *MOST),
}
CLIPS = {"Cello": "cello", "Clarinet": "clarinet", "Double_bass": "double bass", "Flute": "flute",
         "Saxophone": "saxophone"}  # fmt: skip
PARTS = 0.2, 0.1, 0.35, 0.5, 0.75  # of a mixture: the first is measured, the others are for development
OUTPUTS = "probabilities", FAMILIARITY, SECOND_READING
PROGRAM = """
import sys, numpy as np, pandas as pd, nannyml as nml
found = np.load(sys.argv[1])
def table(p, y):
    columns = {f"p{i}": p[:, i] for i in range(p.shape[1])}
    return pd.DataFrame(columns | {"predicted": p.argmax(1).astype(str), "true": y.astype(str)})
reference = table(found["reference"], found["labels"])
peer = nml.CBPE(
    problem_type="classification_multiclass", y_pred="predicted", y_true="true", metrics=["accuracy"], chunk_number=1,
    y_pred_proba={str(i): f"p{i}" for i in range(found["reference"].shape[1])},
).fit(reference)
sizes, rows = found["sizes"], found["probabilities"]
for start, size in zip(np.cumsum(sizes) - sizes, sizes):
    analysed = table(rows[start : start + size], np.zeros(size, int)).drop(columns="true")
    print(float(peer.estimate(analysed).to_df()[("accuracy", "value")].iloc[-1]))
"""


@dataclass(frozen=True)
class Answered:
    """Samples and what the graph says of them: whether right (N,), features (N, D), probabilities, familiarity, second
    reading."""

    right: NDArray[np.bool_]
    features: NDArray[np.float32] | NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    familiarity: NDArray[np.float32]
    second: NDArray[np.float32]

    def at(self, rows: NDArray[np.intp]) -> "Answered":
        return Answered(*(column[rows] for column in vars(self).values()))

    def windows(self) -> Iterator["Answered"]:
        n = max(1, len(self.right) // WINDOW)
        yield from (self.at(rows) for rows in np.array_split(np.arange(len(self.right))[: n * WINDOW], n))

    def estimate(self, predictor: Predictor) -> Estimate:
        """As the service gives it, of EVERY times as many requests, one in EVERY of which is counted."""
        drift = Drift(predictor.card.groups)
        for start in range(0, len(self.right), COUNTED):
            rows = slice(start, start + COUNTED)
            for _ in range(EVERY):
                drift.add(self.features[rows], self.probabilities[rows], self.familiarity[rows], self.second[rows])
        return estimated(predictor.card, drift.samples(), drift.indices())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of the two runs; without it they are trained and deleted")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PERCEPT_DATA", ".")), help="MNIST and notes")
    parser.add_argument("--development", action="store_true", help="what the rule was chosen on")
    parser.add_argument("--seed", type=int, default=0, help="of random shifts, windows and mixtures; or of development")
    parser.add_argument("--no-peer", action="store_true", help="without NannyML")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs, development, seed = arguments.runs or folder, arguments.development, arguments.seed
        peer = None if arguments.no_peer or development else installed(folder, *PEER)
        print(f"{'':<42}{'true':>7}{'estimate':>10}{'wrong':>7}{'inside':>8}{'NannyML':>9}{'wrong':>7}  withheld")
        sets = [make(runs, arguments.data, development, seed) for make in (digits, notes)]
        if development:
            estimate.WITHIN = math.inf
            sets.append(synthesised(runs, arguments.data, seed))
        worst = [report([Row.of(*shift) for shift in shifts], peer, folder) for shifts in sets]
    print(f"largest difference of an estimate: {max(worst):.1f} points")


@dataclass(frozen=True)
class Row:
    """A shift, and of each window of its samples: which are right (N,), the estimate, and the probabilities (N, K)."""

    name: str
    right: list[NDArray[np.bool_]]
    estimates: list[Estimate]
    probabilities: list[NDArray[np.float32]]

    @classmethod
    def of(cls, name: str, predictor: Predictor, found: Answered) -> "Row":
        windows = list(found.windows())
        estimates = [window.estimate(predictor) for window in windows]
        return cls(name, [w.right for w in windows], estimates, [w.probabilities for w in windows])

    @property
    def true(self) -> list[float]:
        """The accuracy in each window."""
        return [float(right.mean()) for right in self.right]


Shifted = Iterator[tuple[str, Predictor, Answered]]  # name of a shift, and the samples that have it


def digits(runs: Path, data: Path, development: bool, seed: int) -> Shifted:
    run = trained("digits", runs, data, seed if development else 0)
    predictor, features = Predictor(run / "model.onnx"), Features.load(run / "features.npz")
    rows = ordered(np.flatnonzero(features.rows("validation" if development else "test")), seed)
    pictures = np.round(np.asarray(features.x[np.sort(rows)]) * 255).astype(np.uint8).reshape(-1, 28, 28)
    pictures, y = pictures[np.argsort(np.argsort(rows))], features.y[rows]

    def answered(x: NDArray[np.uint8], y: NDArray[np.int64]) -> Answered:
        found = [outputs(predictor, part, OUTPUTS) for part in np.array_split(x, len(x) // 100)]
        p, familiarity, second = map(np.concatenate, zip(*found, strict=True))
        return Answered(p.argmax(1) == y, x.reshape(len(x), -1), p, familiarity, second)

    unchanged = answered(pictures, y)
    yield "MNIST, unchanged", predictor, unchanged
    table = shifts.pictures_of_development() if development else shifts.pictures()
    for i, (name, change) in enumerate(table.items()):
        shifted = answered(shifts.changed(pictures, change, i + 1000 * seed), y)
        yield name, predictor, shifted
        yield from mixtures(name, predictor, unchanged, shifted, development, seed)
    for name, weights in mixes(10, seed):
        yield f"mostly {name}", predictor, unchanged.at(drawn(y, weights, seed))
    if not development:
        scans = load_digits()
        x = np.stack([to_mnist_form(image) for image in scans.images])
        yield "other people's digits, scanned (UCI)", predictor, answered(x, scans.target)


def notes(runs: Path, data: Path, development: bool, seed: int) -> Shifted:
    test = Features.load(trained("notes", runs, data, 0) / "features.npz")
    tested = set(test.file[test.rows("test")].tolist())
    run = trained("notes", runs, data, seed + 1 if development else 0)
    predictor, features = Predictor(run / "model.onnx"), Features.load(run / "features.npz")
    chosen = [i for i in np.flatnonzero(features.rows("test")) if not (development and features.file[i] in tested)]
    recordings = [read(data / "notes" / features.file[i], n + 10_000 * seed) for n, i in enumerate(chosen)]
    yield from sounds(predictor, recordings, features.y[chosen], development, seed)
    if not development:
        files = [(f, label) for folder, label in CLIPS.items() for f in sorted((data / "clips" / folder).iterdir())]
        halves = [(read(f, 0), features.labels.index(label)) for f, label in files]
        pieces = [(part, r.rate, k) for r, k in halves for part in np.array_split(r.sound, 2)]
        found = [encoded(part, rate) for part, rate, _ in pieces]
        elsewhere, _ = answered_sounds(predictor, found, np.array([k for *_, k in pieces]))
        yield "other players, rooms, microphones", predictor, elsewhere


def synthesised(runs: Path, data: Path, seed: int) -> Shifted:
    """WINDOW test samples of a network of synthesised notes: real ones are too few for a window of that size."""
    run = trained("synthesised", runs, data, seed)
    predictor, features = Predictor(run / "model.onnx"), Features.load(run / "features.npz")
    chosen = ordered(np.flatnonzero(features.rows("test")), seed + 1)[:WINDOW]
    media, rate = load_media(Run(run), features.file[chosen].tolist()), predictor.card.input.sample_rate
    assert rate is not None
    files = features.file[chosen]
    recordings = [Recording(np.asarray(media[f], np.float32), rate, n + 10_000 * seed) for n, f in enumerate(files)]
    yield from sounds(predictor, recordings, features.y[chosen], True, seed)


def sounds(
    predictor: Predictor, recordings: list[Recording], y: NDArray[np.int64], development: bool, seed: int
) -> Shifted:
    """Recordings of classes y (N,), unchanged and changed."""
    recordings = [replace(r, sound=r.sound[: 10 * r.rate]) for r in recordings]
    recordings = [replace(r, others=others(recordings, y.tolist(), i)) for i, r in enumerate(recordings)]
    unchanged, _ = answered_sounds(predictor, [encoded(r.sound, r.rate) for r in recordings], y)
    yield "notes, unchanged", predictor, unchanged
    for name, condition in (shifts.sounds_of_development() if development else shifts.sounds()).items():
        try:
            shifted, rows = answered_sounds(predictor, map(condition, recordings), y)
        except Unavailable:
            continue
        yield name, predictor, shifted
        yield from mixtures(name, predictor, unchanged.at(rows), shifted, development, seed)
    for name, weights in mixes(len(predictor.card.labels), seed):
        yield f"mostly {name}", predictor, unchanged.at(drawn(y, weights, seed))


def answered_sounds(
    predictor: Predictor, files: Iterable[bytes], y: NDArray[np.int64]
) -> tuple[Answered, NDArray[np.intp]]:
    """The answers to files of sound, and which of them are answered: others are refused, as silent for instance."""

    def answer(file: bytes) -> Any:
        try:
            batch = predictor.decode(file, Limits())[np.newaxis]
        except MediaError:
            return None
        return outputs(predictor, batch, (*OUTPUTS, FEATURES))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(answer, files))
    rows = np.array([row for row, one in enumerate(found) if one is not None])
    p, familiarity, second, features = map(np.concatenate, zip(*(found[row] for row in rows), strict=True))
    return Answered(p.argmax(1) == y[rows], features, p, familiarity, second), rows


def outputs(predictor: Predictor, batch: NDArray[Any], names: Sequence[str]) -> list[NDArray[np.float32]]:
    found: list[NDArray[np.float32]] = predictor.session.run([*names], {predictor.card.input.name: batch})
    return found


def ordered(rows: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """In another order for each seed, so that windows hold others; for 0 as they are."""
    return np.random.default_rng(seed).permutation(rows) if seed else rows


def mixtures(
    name: str, predictor: Predictor, unchanged: Answered, shifted: Answered, development: bool, seed: int
) -> Shifted:
    """A part of the samples shifted, drawn at random."""
    for part in PARTS if development else PARTS[:1]:
        which = np.random.default_rng(seed).random(len(shifted.right)) < part
        columns = (
            np.where(which.reshape(-1, *[1] * (a.ndim - 1)), b, a)
            for a, b in zip(vars(unchanged).values(), vars(shifted).values(), strict=True)
        )
        yield f"  {part:.0%} of it: {name}", predictor, Answered(*columns)


def mixes(k: int, seed: int) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Weights of classes: some of them seven times as frequent as the others."""
    for number in range(3):
        chosen = np.random.default_rng(number + 100 * seed).choice(k, k // 3, replace=False)
        yield f"{len(chosen)} classes of {k}, choice {number}", np.where(np.isin(np.arange(k), chosen), 1, 1 / 7)


def drawn(y: NDArray[np.int64], weights: NDArray[np.float64], seed: int) -> NDArray[np.intp]:
    """Rows of samples, each at most once, classes in proportion to their weights."""
    return np.flatnonzero(np.random.default_rng(seed).random(len(y)) < weights[y])


def report(rows: list[Row], peer: Path | None, folder: Path) -> float:
    """Print a line for each shift, of which the first is none; the largest difference of an estimate, in points."""
    theirs = peers(rows, peer, folder) if peer else [[] for _ in rows]
    worst = 0.0
    for row, other in zip(rows, theirs, strict=True):
        given = [(e, t) for e, t in zip(row.estimates, row.true, strict=True) if e.reason is None]
        wrong = 100 * max((abs(e.accuracy - t) for e, t in given), default=0.0)
        worst = max(worst, wrong)
        line = f"{row.name:<42}{np.mean(row.true):>7.1%}"
        line += f"{np.mean([e.accuracy for e, _ in given]):>10.1%}{wrong:>7.1f}" if given else f"{'–':>10}{'–':>7}"
        line += f"{sum(e.low <= t <= e.high for e, t in given)}/{len(given)}".rjust(8)
        gap = 100 * max((abs(a - t) for a, t in zip(other, row.true, strict=False)), default=0.0)
        line += f"{np.mean(other):>9.1%}{gap:>7.1f}" if other else f"{'':>16}"
        reasons = ", ".join(sorted({e.reason for e in row.estimates if e.reason}))
        print(line + (f"  {len(row.true) - len(given)} of {len(row.true)}: {reasons}" if reasons else ""), flush=True)
    withheld = [estimate.reason is not None for row in rows for estimate in row.estimates]
    print(f"{sum(withheld)} of {len(withheld)} windows withheld ({np.mean(withheld):.0%})")
    return worst


def peers(rows: list[Row], python: Path, folder: Path) -> list[list[float]]:
    """The peer's estimates of each window of each row. Its reference is the first row: labels that are as often right
    as the answers; which other label a wrong one is does not matter to it."""
    reference = np.concatenate(rows[0].probabilities).astype(float)
    sizes = [len(window) for row in rows for window in row.probabilities]
    right = np.concatenate(rows[0].right)
    np.savez(
        folder / "peer.npz",
        reference=reference,
        labels=np.where(right, reference.argmax(1), reference.argsort(1)[:, -2]),
        probabilities=np.concatenate([window for row in rows for window in row.probabilities]).astype(float),
        sizes=sizes,
    )
    done = subprocess.run(
        [python, "-W", "ignore", "-c", PROGRAM, folder / "peer.npz"],
        env=os.environ | {"NML_DISABLE_USAGE_LOGGING": "1"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = iter([float(line) for line in done.stdout.split()])
    return [[next(found) for _ in row.true] for row in rows]


def trained(name: str, runs: Path, data: Path, seed: int) -> Path:
    """The folder of a run with that seed of the splits, trained unless it is there."""
    task, *options = (part.format(data=data) for part in TASKS[name])
    run = runs / f"{name}-{seed}" / task
    if not (run / "model.onnx").is_file():
        command = [Path(sys.executable).with_name("percept"), "run", task, *options, f"--set=data.seed={seed}"]
        environment = os.environ | {"BENTOML_HOME": str(runs / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
        subprocess.run([*command, "--runs", run.parent], env=environment, check=True, stdout=subprocess.DEVNULL)
    return run


if __name__ == "__main__":
    main()
