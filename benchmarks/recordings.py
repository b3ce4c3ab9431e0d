"""What a model that learned from synthesised notes says of recordings.

    python -m benchmarks.recordings [--run runs/instruments] [--data PERCEPT_DATA/notes]

Asks the exported model of a run for every recording in the folders of --data that are named like one of its labels,
through the service's decoder, from file to label. Prints how many are right, with the 95 % interval; how many count as
known; the mean confidence and its error (ECE); and for each label the share that is right and what the others were
taken for. Nothing was chosen by these figures, and nothing should be. No peer. Takes ten seconds for 600 files.
"""

import argparse
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.exported import predictor_of
from pipeline.validate.intervals import wilson
from pipeline.validate.metrics import calibration
from service.media import Limits

ALIASES = {"french horn": "horn", "acoustic guitar": "guitar", "violin or fiddle": "violin"}  # folder → label
NAMED = 3  # labels that others are taken for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/instruments"), help="run with the model")
    default = Path(os.environ.get("PERCEPT_DATA", ".")) / "notes"
    parser.add_argument("--data", type=Path, default=default, help="recordings, a folder for each label")
    arguments = parser.parse_args()
    predictor = predictor_of(arguments.run, "percept run instruments")
    labels = list(predictor.card.labels)
    files = [(file, label) for file, label in recordings(arguments.data) if label in labels]
    if not files:
        sys.exit(f"{arguments.data}: no folder is named like a label ({', '.join(labels)})")

    def ask(file: Path) -> tuple[list[float], bool]:
        answer = predictor.answer(file.read_bytes(), Limits())
        return [answer.probabilities[label] for label in labels], bool(answer.known)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        probabilities, known = zip(*pool.map(ask, [file for file, _ in files]), strict=True)
    y = np.array([labels.index(label) for _, label in files])
    print("\n".join(table(labels, y, np.array(probabilities, np.float32), np.array(known))))


def recordings(folder: Path) -> list[tuple[Path, str]]:
    """The files in its sub-folders, with the label that each sub-folder's name means.

    >>> recordings(Path("no such folder"))
    []
    """
    found = []
    for file in sorted(folder.glob("*/*")):
        name = file.parent.name.lower().replace("_", " ")
        found.append((file, ALIASES.get(name, name)))
    return found


def table(labels: list[str], y: NDArray[np.int64], p: NDArray[np.float32], known: NDArray[np.bool_]) -> list[str]:
    """The lines that are printed, of true labels (N,) and probabilities (N, K).

    >>> p = np.float32([[0, 1], [1, 0]])
    >>> print("\\n".join(table(["horn", "oboe"], np.array([1, 1]), p, np.array([True, False]))))
    2 recordings: right 50.0 % (95 % interval 9.5 to 90.5)
    known 50.0 %, mean confidence 1.000, ECE 0.500
    oboe             50.0 % of    2   horn 1
    """
    answered = p.argmax(1)
    right = answered == y
    low, high = wilson(right.mean(), len(y))
    ece = calibration(p, y)["ece"]
    lines = [
        f"{len(y):,} recordings: right {100 * right.mean():.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f})",
        f"known {100 * known.mean():.1f} %, mean confidence {p.max(1).mean():.3f}, ECE {ece:.3f}",
    ]
    for k in np.unique(y):
        rows = y == k
        others = Counter(labels[i] for i in answered[rows & ~right]).most_common(NAMED)
        taken = ", ".join(f"{other} {n}" for other, n in others)
        lines.append(f"{labels[k]:<16}{100 * right[rows].mean():5.1f} % of {rows.sum():4d}   {taken}")
    return lines


if __name__ == "__main__":
    main()
