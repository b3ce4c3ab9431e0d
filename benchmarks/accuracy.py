"""Cross-validated accuracy of a task on a folder of labelled files, beside the report's baselines.

    python -m benchmarks.accuracy instruments clips/

Folds are stratified. Each is the test split of a complete run, from extraction to report; the run takes its validation
split and its varied copies from the other files. The baselines (scikit-learn's logistic regression, SVM and random
forest) get the same features and splits. Takes a few minutes for 200 clips on two cores.
"""

import argparse
import contextlib
import csv
import io
import tempfile
from pathlib import Path
from typing import Any

from sklearn.model_selection import StratifiedKFold

from pipeline import extract, task, train, validate
from pipeline.run import Run
from pipeline.validate.intervals import wilson


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
    correct: dict[str, list[float]] = {}  # model → correct answers in each fold
    n = 0
    for number, (_, held_out) in enumerate(folds, start=1):
        with tempfile.TemporaryDirectory() as folder:
            report = _report(arguments.task, Path(folder), files, set(held_out), arguments.set)
        size = report["samples"]["test"]
        for row in [{"name": "percept", **report["test"]}, *report["baselines"]]:
            correct.setdefault(row["name"], []).append(row["accuracy"] * size)
        n += size
        print(
            f"fold {number}: " + ", ".join(f"{name} {100 * v[-1] / size:.1f} %" for name, v in correct.items()),
            flush=True,
        )
    print(f"{n} files, {len(set(labels))} classes, {arguments.folds} folds")
    for name, hits in correct.items():
        low, high = wilson(sum(hits) / n, n)
        print(f"{name:<20} {100 * sum(hits) / n:5.1f} %  ({100 * low:.1f}–{100 * high:.1f} %)")


def _report(name: str, folder: Path, files: list[Path], held_out: set[int], overrides: list[str]) -> dict[str, Any]:
    manifest = folder / "files.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        writer.writerows([path, path.parent.name, "test" if i in held_out else "train"] for i, path in enumerate(files))
    resolved = task.load(name, str(manifest), overrides)
    with contextlib.redirect_stdout(io.StringIO()):
        extract.extract(resolved, Run(folder))
        train.train(resolved, Run(folder))
        return validate.validate(resolved, Run(folder))


if __name__ == "__main__":
    main()
