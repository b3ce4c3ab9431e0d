"""How many labels `percept audit --unlabelled` saves: accuracy over the number of labels, beside random picking.

    python -m benchmarks.labels [--data PERCEPT_DATA] [--only notes mnist] [--seeds 0 1 2 3 4] [--out docs/data]

Each seed draws a few samples that have labels; the others wait in a pool. In each round a batch of the pool is
labelled: the files that are ranked first, or random ones. Then the task's network is trained on all that has a label
and tested on the test split, which has no part in the ranking. All networks take about 400 steps at one learning rate,
since a hundred samples give too few in the task's 30 or 40 epochs.

The recipe was chosen with seed 100 on other samples: on notes outside the test split, and on 30,000 of MNIST's
training digits, which wait in no pool here. Takes a few minutes on one idle core.
"""

import argparse
import contextlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models.classifier import Standardize
from models.mlp import MLP
from models.targets import TARGETS
from pipeline import extract, task
from pipeline.audit.unlabelled import worth
from pipeline.extract import Features
from pipeline.report.style import BLUE, INK, PERCENT, STYLE, write_svg
from pipeline.run import Run, write_json
from pipeline.task import Task
from pipeline.threads import subnormals_flushed
from pipeline.train.data import Dataset, Rows, standardised
from pipeline.tune.stacks import Fold, Training, train

STEPS = 400  # of the networks that are tested, about
POOL = 8_000  # samples, at most


@dataclass(frozen=True, slots=True)
class Setting:
    """One set: its source and how it is labelled."""

    name: str
    task: str
    source: str
    options: tuple[str, ...]
    start: int  # labels at the beginning
    batch: int
    rounds: int


SETTINGS = {
    one.name: one
    for one in (
        Setting("notes", "instruments", "{}/notes", ("data.splits={train=0.5,validation=0.1,test=0.4}",), 48, 60, 4),
        Setting("mnist", "digits", "mnist:{}", (), 100, 180, 5),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PERCEPT_DATA", ".")))
    parser.add_argument("--runs", type=Path, default=Path("runs/labels"), help="where the features are kept")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/labels"))
    arguments = parser.parse_args()
    kept = arguments.out / "labels.json"
    results = json.loads(kept.read_text()) if kept.is_file() else {}  # of sets that were measured before
    for name in arguments.only:
        chosen = SETTINGS[name]
        resolved, features = extracted(chosen, arguments.data, arguments.runs)
        found = [
            [grown(chosen, resolved, features, seed, ranks) for seed in arguments.seeds] for ranks in (False, True)
        ]
        labels = [chosen.start + chosen.batch * i for i in range(chosen.rounds + 1)]
        results[name] = {"labels": labels, "random": found[0], "ranked": found[1]}
        report(name, labels, *(np.mean(curves, axis=0) for curves in found))
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(kept, results)
    with matplotlib.rc_context(STYLE):
        print(write_svg(figure(results), arguments.out / "labels.svg"))


def extracted(chosen: Setting, data: Path, runs: Path) -> tuple[Task, Features]:
    resolved = task.load(chosen.task, chosen.source.format(data), [f"name={chosen.name}", *chosen.options])
    run = Run(runs / chosen.name)
    with contextlib.redirect_stdout(io.StringIO()):
        return resolved, Features.of(run) if run.features.is_file() else extract.extract(resolved, run)


@subnormals_flushed()
def grown(chosen: Setting, resolved: Task, features: Features, seed: int, ranks: bool) -> list[float]:
    """Test accuracy at each number of labels."""
    rng = np.random.default_rng(seed)
    pool = rng.permutation(waiting(features))[:POOL]
    known, pool = pool[: chosen.start], pool[chosen.start :]
    found = [accuracy(resolved, features, known)]
    for _ in range(chosen.rounds):
        picked = np.arange(chosen.batch)
        if ranks:
            rows = Rows(np.asarray(features.x[known]), features.y[known])
            picked = worth(features, rows, np.asarray(features.x[pool]), chosen.batch)
        known, pool = np.concatenate([known, pool[picked]]), np.delete(pool, picked)
        found.append(accuracy(resolved, features, known))
    kind = "ranked" if ranks else "random"
    print(f"{chosen.name} {kind} seed {seed}: {' '.join(f'{100 * a:.1f}' for a in found)}", flush=True)
    return found


def waiting(features: Features) -> NDArray[np.int64]:
    """The samples outside the test split; of MNIST those that the recipe was not chosen on."""
    rows = np.flatnonzero(~features.rows("test"))
    return np.random.default_rng(1).permutation(rows)[30_000:] if len(rows) > 2 * POOL else rows


def accuracy(resolved: Task, features: Features, known: NDArray[np.int64]) -> float:
    """Accuracy on the test split of the task's network, trained on these samples and their copies."""
    x, y = features.with_copies(known)
    front = features.front_end()
    standardize = Standardize(front.n_features).fit(torch.from_numpy(x), front)
    data = standardised(Dataset(torch.from_numpy(x), torch.from_numpy(y)), standardize, torch.device("cpu"))
    assert isinstance(data.x, torch.Tensor)
    fold = Fold(data, Dataset(data.x[:1], data.y[:1]), standardize)
    options = resolved.train
    steps = -(-len(y) // resolved.train.batch_size)
    options = resolved.train.model_copy(
        update={"epochs": -(-STEPS // steps), "schedule": "cosine", "learning_rate": 3e-3}
    )
    n_outputs, shape = TARGETS[features.kind].n_outputs(len(features.labels)), resolved.model
    mlp = MLP(front.n_features, shape.hidden, n_outputs, shape.activation, 0, shape.init)
    train([Training(mlp, options, fold)], features.kind)
    rows = np.flatnonzero(features.rows("test"))
    with torch.inference_mode():
        answers = mlp(standardize(torch.from_numpy(features.x[rows]))).argmax(1).numpy()
    return float((answers == features.y[rows]).mean())


def needed(labels: list[int], accuracies: NDArray[np.float64], wanted: float) -> float:
    """How many labels reach an accuracy, by linear interpolation; NaN if none does."""
    rising = np.maximum.accumulate(accuracies)
    if rising[-1] < wanted:
        return float("nan")
    i = int(np.argmax(rising >= wanted))
    if not i:
        return float(labels[0])
    share = (wanted - rising[i - 1]) / (rising[i] - rising[i - 1])
    return labels[i - 1] + share * (labels[i] - labels[i - 1])


def report(name: str, labels: list[int], random: NDArray[np.float64], ranked: NDArray[np.float64]) -> None:
    """Labels that both need for the accuracies that random picking has with a half, two thirds … of the labels."""
    print(f"{name:<8}{'accuracy':>10}{'random':>9}{'ranked':>9}{'fewer':>8}")
    for share in (1 / 2, 2 / 3, 5 / 6, 1):
        wanted = float(np.interp(share * labels[-1], labels, np.maximum.accumulate(random)))
        ours, theirs = (needed(labels, curve, wanted) for curve in (ranked, random))
        print(f"{'':<8}{100 * wanted:>8.1f} %{theirs:>9.0f}{ours:>9.0f}{100 * (1 - ours / theirs):>6.0f} %")


def figure(results: dict[str, dict[str, list]]) -> Figure:  # type: ignore[type-arg]
    drawn = Figure(figsize=(8, 3.6), layout="constrained")
    for axes, (name, found) in zip(drawn.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        for kind, label, colour, dashes in (
            ("ranked", "ranked by percept audit", BLUE, "-"),
            ("random", "drawn at random", INK, "--"),
        ):
            curves = np.array(found[kind])
            axes.plot(found["labels"], curves.mean(0), dashes, color=colour, label=label, linewidth=1.8)
            axes.fill_between(found["labels"], curves.min(0), curves.max(0), color=colour, alpha=0.12, linewidth=0)
        axes.set(xlabel="labels", ylabel="test accuracy", title={"mnist": "MNIST"}.get(name, name))
        axes.yaxis.set_major_formatter(PERCENT)
    axes.legend(loc="lower right")
    return drawn


if __name__ == "__main__":
    main()
