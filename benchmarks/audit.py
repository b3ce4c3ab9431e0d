"""How many of planted wrong labels `percept audit` finds, beside cleanlab.

    python -m benchmarks.audit [--data PERCEPT_DATA] [--only notes clips mnist] [--seeds 0 1 2] [--no-peer]

In each set, 5 % of the labels are replaced by another class drawn at random. Of the m samples that are suspected most,
where m is the number planted, the share that was planted is the precision. Wrong labels that the data had before count
as false, so 1 may be out of reach. The method was chosen with seeds 100 to 109.

The peer is cleanlab with scikit-learn's logistic regression, cross-validated in five folds on the same standardised
features, ranked by its label quality. It is AGPL and no dependency: it is installed into a temporary virtual
environment if pip can reach an index, and left out with the reason if not. Takes about ten minutes on two cores, most
of it the peer's on MNIST.
"""

import argparse
import contextlib
import io
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.environments import installed
from pipeline import extract, task
from pipeline.audit.out_of_fold import standard
from pipeline.audit.stage import find_labels
from pipeline.extract import Features
from pipeline.run import Run

SHARE = 0.05  # of the labels that are replaced
PEER = "cleanlab==2.9.0"
SETS = {"notes": ("instruments", "notes"), "clips": ("instruments", "clips"), "mnist": ("digits", "mnist:")}
PROGRAM = """
import sys
import numpy as np
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
data = np.load(sys.argv[1])
p = cross_val_predict(LogisticRegression(max_iter=200), data["z"], data["y"], cv=5, method="predict_proba", n_jobs=2)
np.save(sys.argv[2], np.argsort(get_label_quality_scores(data["y"], p), kind="stable"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("PERCEPT_DATA", ".")), help="folder of the sets"
    )
    parser.add_argument("--runs", type=Path, help="where the features are kept; in a temporary folder by default")
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--no-peer", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peer = None if arguments.no_peer else installed(Path(folder), PEER)
        print(f"{'set':<8}{'seed':>5}{'planted':>9}{'percept':>9}{'seconds':>9}{'cleanlab':>10}{'seconds':>9}")
        for name in arguments.only:
            features = extracted(name, arguments.data, arguments.runs or Path(folder))
            found = [measured(name, features, seed, peer, Path(folder)) for seed in arguments.seeds]
            ours, theirs = (np.mean([pair[i] for pair in found]) for i in (0, 1))
            print(f"{name:<8}{'mean':>5}{'':>9}{ours:>9.3f}{'':>9}{theirs:>10.3f}")


def extracted(name: str, data: Path, runs: Path) -> Features:
    """The features of one of the sets, extracted unless they are there."""
    of, source = SETS[name]
    wanted = task.load(of, f"{source}{data}" if source.endswith(":") else str(data / source), [f"name={name}"])
    run = Run(runs / name)
    with contextlib.redirect_stdout(io.StringIO()):
        return Features.of(run) if run.features.is_file() else extract.extract(wanted, run)


def planted(y: NDArray[np.int64], k: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Labels of which SHARE are wrong, and which."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(y), round(SHARE * len(y)), replace=False)
    wrong = y.copy()
    wrong[rows] = (y[rows] + rng.integers(1, k, len(rows))) % k
    return wrong, np.asarray(wrong != y)


def measured(name: str, features: Features, seed: int, peer: Path | None, folder: Path) -> tuple[float, float]:
    """Precision among the m most suspected samples: of the audit, and of the peer."""
    y, wrong = planted(features.y, len(features.labels), seed)
    m = int(wrong.sum())
    started = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        suspects = find_labels(features, y)
    seconds = time.perf_counter() - started
    bad = set(features.file[wrong].tolist())
    ours = sum(suspect["file"] in bad for suspect in suspects[:m]) / m
    theirs, taken = peers(features, y, wrong, peer, folder) if peer else (float("nan"), float("nan"))
    print(f"{name:<8}{seed:>5}{m:>9}{ours:>9.3f}{seconds:>9.1f}{theirs:>10.3f}{taken:>9.1f}", flush=True)
    return ours, theirs


def peers(
    features: Features, y: NDArray[np.int64], wrong: NDArray[np.bool_], python: Path, folder: Path
) -> tuple[float, float]:
    """Precision of the peer, and its seconds."""
    np.savez(folder / "peer.npz", z=standard(features, np.asarray(features.x[:])), y=y)
    started = time.perf_counter()
    subprocess.run([python, "-c", PROGRAM, folder / "peer.npz", folder / "order.npy"], check=True)
    order, m = np.load(folder / "order.npy"), int(wrong.sum())
    return float(wrong[order[:m]].mean()), time.perf_counter() - started


if __name__ == "__main__":
    main()
