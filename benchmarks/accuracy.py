"""Accuracy of a task on a folder of labelled files by stratified cross-validation, beside simpler models.

    python -m benchmarks.accuracy instruments clips/

Each fold is the test split of a run of its own, from extraction to report; what the run does with the others,
validation and varied copies included, is its own affair. The baselines are those of the report, on the same features
and splits.
"""

import argparse
import contextlib
import csv
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from pipeline import extract, task, train, validate
from pipeline.run import Run
from pipeline.validate import metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("folder", type=Path, help="one sub-folder of files for each class")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    files = sorted(p for p in arguments.folder.resolve().glob("*/*") if p.is_file())
    labels = [p.parent.name for p in files]
    folds = StratifiedKFold(arguments.folds, shuffle=True, random_state=0).split(labels, labels)
    right: dict[str, list[float]] = {}
    n = 0
    for number, (_, held_out) in enumerate(folds, start=1):
        with tempfile.TemporaryDirectory() as folder:
            report = _report(arguments.task, Path(folder), files, set(held_out), arguments.set)
        size = report["samples"]["test"]
        for row in [{"name": "percept", **report["test"]}, *report["baselines"]]:
            right.setdefault(row["name"], []).append(row["accuracy"] * size)
        n += size
        print(
            f"fold {number}: " + ", ".join(f"{name} {100 * v[-1] / size:.1f} %" for name, v in right.items()),
            flush=True,
        )
    print(f"{n} files, {len(set(labels))} classes, {arguments.folds} folds")
    for name, hits in right.items():
        low, high = metrics.interval(round(sum(hits)), n) or (np.nan, np.nan)
        print(f"{name:<20} {100 * sum(hits) / n:5.1f} %  ({100 * low:.1f}–{100 * high:.1f} %)")


def _report(name: str, folder: Path, files: list[Path], held_out: set[int], overrides: list[str]) -> dict[str, Any]:
    manifest = folder / "files.csv"
    with manifest.open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["path", "label", "split"])
        writer.writerows([path, path.parent.name, "test" if i in held_out else "train"] for i, path in enumerate(files))
    resolved = task.load(name, str(manifest), overrides)
    with contextlib.redirect_stdout(io.StringIO()):
        extract.extract(resolved, Run(folder))
        train.train(resolved, Run(folder))
        return validate.validate(resolved, Run(folder))


if __name__ == "__main__":
    main()
