"""Accuracy of the task `pictures` on sets that are hard for pixels, beside what a user would write with scikit-learn.

    python -m benchmarks.pictures --pictures 3000

Each set is drawn or cut out of photographs (benchmarks/picturesets), written as PNG files, and divided once. percept
trains on the training samples, chooses by the validation samples and refits on both; the others are trained on both:
an MLP, a random forest and an SVM on the raw 32 × 32 pixels in colour, and an SVM on scikit-image's histograms of
oriented gradients. All are asked about the test samples once. Then the familiarity of percept's model is compared for
its test samples and for pictures of other kinds and of the other sets. Takes minutes for each set on two cores.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from skimage.feature import hog
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from benchmarks.picturesets import SETS, Pictures
from benchmarks.picturesets.foreign import KINDS, foreign
from pipeline import extract, task, train, validate
from pipeline.export.graph import Graph, to_onnx
from pipeline.run import Run
from pipeline.train import weights

OUTSIDE = 200  # pictures of each kind that no model has learned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(SETS), metavar="SET", help=", ".join(SETS))
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    for name in arguments.sets:
        pictures = SETS[name](arguments.pictures, arguments.seed)
        outside = {kind: foreign(kind, OUTSIDE, arguments.seed) for kind in KINDS}
        outside |= {other: SETS[other](OUTSIDE, arguments.seed + 1)[0] for other in SETS if other != name}
        found = {**_percept(pictures, outside, arguments.set), **_others(pictures)}
        print(f"{name}: {len(set(pictures[1]))} classes, {int((pictures[2] == 'test').sum())} test samples")
        for model, (accuracy, seconds) in found.items():
            print(f"  {model:<22} {100 * accuracy:5.1f} %  trained in {seconds:5.0f} s", flush=True)


def _percept(
    pictures: Pictures, outside: dict[str, NDArray[np.uint8]], overrides: list[str]
) -> dict[str, tuple[float, float]]:
    with tempfile.TemporaryDirectory() as folder:
        root, run = Path(folder) / "data", Run(Path(folder) / "run")
        for i, (pixels, label, split) in enumerate(zip(*pictures, strict=True)):
            file = root / split / label / f"{i:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
        resolved = task.load("pictures", str(root), overrides)
        started = time.perf_counter()
        extract.extract(resolved, run)
        train.train(resolved, run)
        seconds = time.perf_counter() - started
        report = validate.validate(resolved, run)
        _describe(run, pictures[0][pictures[2] == "test"], outside)
    return {"percept": (report["test"]["accuracy"], seconds)}


def _describe(run: Run, inside: NDArray[np.uint8], outside: dict[str, NDArray[np.uint8]]) -> None:
    """Print parameters, megabytes and milliseconds of the exported graph, and what it takes for known."""
    classifier, facts = weights.of(run)
    graph = to_onnx(Graph(classifier)).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session, inputs = onnxruntime.InferenceSession(graph, options), {"image": inside[:1]}
    session.run(None, inputs)
    started = time.thread_time()
    for _ in range(50):
        session.run(None, inputs)
    milliseconds = (time.thread_time() - started) / 50 * 1e3
    n = classifier.mlp.n_parameters()
    print(f"  {n:,} parameters, {len(graph) / 1e6:.1f} MB, {milliseconds:.1f} ms of one core for an answer")
    own, known = _familiarity(session, inside), facts.known or 0.0
    print(f"  {100 * np.mean(own >= known):.0f} % of its test samples are known; AUROC, and share of the unknown:")
    for name, part in outside.items():
        values = _familiarity(session, part)
        area = roc_auc_score([1] * len(own) + [0] * len(values), np.concatenate([own, values]))
        print(f"    {name:<20} {area:.3f}  {100 * np.mean(values < known):3.0f} %", flush=True)


def _familiarity(session: onnxruntime.InferenceSession, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    found = [session.run(["familiarity"], {"image": picture[None]})[0] for picture in pictures]
    return np.concatenate(found)


def _others(pictures: Pictures) -> dict[str, tuple[float, float]]:
    x, y, split = pictures
    test = split == "test"
    raw = x.reshape(len(x), -1).astype(np.float32) / 255
    gradients = np.stack([hog(picture, orientations=9, pixels_per_cell=(8, 8), channel_axis=-1) for picture in x])
    models: dict[str, tuple[Any, NDArray[Any]]] = {
        "MLP on pixels": (make_pipeline(StandardScaler(), MLPClassifier(random_state=0, early_stopping=True)), raw),
        "forest on pixels": (RandomForestClassifier(300, random_state=0), raw),
        "SVM on pixels": (make_pipeline(StandardScaler(), SVC()), raw),
        "SVM on HOG": (make_pipeline(StandardScaler(), SVC()), gradients),
    }
    found = {}
    for name, (model, features) in models.items():
        started = time.perf_counter()
        model.fit(features[~test], y[~test])
        seconds = time.perf_counter() - started
        found[name] = float(model.score(features[test], y[test])), seconds
    return found


if __name__ == "__main__":
    main()
