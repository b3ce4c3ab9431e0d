"""Peak memory and time of training as samples and hidden units grow: the table and the figure of docs/performance.md.

    python -m benchmarks.growth [--out docs/performance] [--samples 6000 60000 600000] [--hidden 100 800 3200]

Each training is `percept train` in a process of its own, on a features file of random numbers: 784 features, 10
classes, ReLU, Adam, batches of 250, two epochs, of which the second is timed. Peak memory is the process's largest
resident set, minus that of a process that has imported everything and trained on 1,000 samples. There is no peer. Takes
several minutes on two cores, and 5 GB of memory.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from pipeline import task, train
from pipeline.extract.features import Features
from pipeline.report.style import CURVES, STYLE, write_svg
from pipeline.run import Run, write_json

FEATURES, CLASSES = 784, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/growth"))
    parser.add_argument("--samples", type=int, nargs="+", default=[6_000, 60_000, 600_000])
    parser.add_argument("--hidden", type=int, nargs="+", default=[100, 800, 3200])
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one, arguments.hidden[0])
        return
    rows = []
    print(f"{os.cpu_count()} cores; data: the features as float32")
    head = ("samples", 9), ("hidden", 8), ("data MB", 9), ("peak MB", 9), ("peak / data", 13), ("s / epoch", 11)
    print("".join(f"{name:>{width}}" for name, width in (*head, ("µs / sample", 13))))
    with tempfile.TemporaryDirectory() as folder:
        base = measured(Path(folder), 1_000, 100)["peak"]
        for n in arguments.samples:
            for hidden in arguments.hidden:
                found = measured(Path(folder), n, hidden)
                peak, data = found["peak"] - base, n * FEATURES * 4 / 1e6
                rows.append({"samples": n, "hidden": hidden, "data": data, "peak": peak, "seconds": found["seconds"]})
                print(
                    f"{n:>9,}{hidden:>8}{data:>9.0f}{peak:>9.0f}{peak / data:>13.2f}{found['seconds']:>11.3f}"
                    f"{found['seconds'] / n * 1e6:>13.1f}",
                    flush=True,
                )
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / "growth.json", rows)
    with matplotlib.rc_context(STYLE):
        print(write_svg(figure(rows), arguments.out / "growth.svg"))


def measured(folder: Path, n: int, hidden: int) -> dict[str, float]:
    """Train in a process of its own: peak resident set in MB, and seconds of the second epoch."""
    run = folder / f"{n}"
    if not run.is_dir():
        random_features(n).save(run / "features.npz")
    command = [sys.executable, "-m", "benchmarks.growth", "--one", str(run), "--hidden", str(hidden)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def one(run: Path, hidden: int) -> None:
    overrides = [f"model.hidden=[{hidden}]", "model.activation=relu", "train.epochs=2", "train.batch_size=250"]
    train.train(task.load("digits", "scans", overrides), Run(run))
    seconds = json.loads((run / "history.json").read_text())["seconds"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux counts in KiB
    print(json.dumps({"peak": peak, "seconds": seconds[1] - seconds[0]}))


def random_features(n: int) -> Features:
    rng = np.random.default_rng(0)
    chosen = task.load("digits")
    names = np.array([f"{i}" for i in range(n)])
    split = np.where(np.arange(n) % 100 == 0, "validation", "train")
    split[1] = "test"
    return Features(
        x=rng.standard_normal((n, FEATURES), dtype=np.float32),
        y=np.arange(n) % CLASSES,
        labels=tuple(map(str, range(CLASSES))),
        split=split, file=names, digest=names, group=names, skipped=(), task=chosen.origin(), key="",
        copies=np.empty((0, FEATURES), np.float32), copy_of=np.empty(0, np.int64), copies_key="",
    )  # fmt: skip


def figure(rows: list[dict[str, float]]) -> Figure:
    drawn = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for hidden, color in zip(sorted({row["hidden"] for row in rows}), CURVES, strict=False):
        of = [row for row in rows if row["hidden"] == hidden]
        samples = [row["samples"] for row in of]
        left.plot(samples, [row["seconds"] for row in of], "o-", color=color, label=f"{hidden:,} units")
        right.plot(samples, [row["peak"] for row in of], "o-", color=color)
    samples, data = zip(*sorted({(row["samples"], row["data"]) for row in rows}), strict=True)
    right.plot(samples, data, "--", color=CURVES[-1], label="the features themselves")
    for axes, title in ((left, "seconds an epoch"), (right, "peak memory, MB")):
        axes.set(xscale="log", yscale="log", xlabel="samples", title=title)
        axes.xaxis.set_major_locator(FixedLocator(samples))
        axes.xaxis.set_minor_locator(NullLocator())
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    drawn.legend(loc="outside lower center", ncols=4)
    return drawn


if __name__ == "__main__":
    main()
