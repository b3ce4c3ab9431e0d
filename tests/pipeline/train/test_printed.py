"""Digits in print, from which the verdict `known` of MNIST learns too."""

from pathlib import Path

import numpy as np
import torch

from benchmarks import unknown as ood
from models.classifier import Classifier, Standardize
from models.frontend import Pixels
from models.mlp import MLP
from pipeline import extract, task, train
from pipeline.run import Run
from pipeline.sources.digits import scans
from pipeline.train import confidence, weights
from pipeline.train.data import Dataset, load_datasets, standardised
from service.media.image import WHITE, to_mnist_form
from tests.pipeline.sources.folders import idx


def test_more_digits_in_print_are_known(tmp_path: Path) -> None:
    """The scans as if they were MNIST, with the digits in print that this source makes, and without them."""
    samples = scans()
    for part, own in (("train", samples[:1500]), ("t10k", samples[1500:])):
        pictures, labels = b"".join(s.media.load().tobytes() for s in own), bytes(int(s.label) for s in own)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(len(own), 28, 28, values=pictures))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(len(own), values=labels))
    resolved, run = task.load("digits", f"mnist:{tmp_path}"), Run(tmp_path / "run")
    features = extract.extract(resolved, run)
    learned = train.train(resolved, run)
    classifier, _ = weights.load(run.weights)
    data = (standardised(part, classifier.standardize, torch.device("cpu")) for part in load_datasets(features, False))
    pages = [np.asarray(ood.letter(digit, face, 1, 0.7)) for digit in ood.DIGITS for face in ood.TYPEFACES]
    printed = torch.from_numpy(np.stack([to_mnist_form(WHITE - page) for page in pages]))

    def known(least: float) -> float:
        with torch.inference_mode():
            familiarity = classifier.readings(classifier.standardize(classifier.frontend(printed)))[1]
        return (familiarity >= least).float().mean().item()

    assert learned.known is not None
    with_print = known(learned.known)
    without = known(confidence.fit_familiarity(classifier, *data, 0))
    assert with_print > 0.75
    assert with_print > without + 0.2


def test_auxiliary_pictures_take_the_places_of_samples_and_outliers_are_made_of_both() -> None:
    n, n_auxiliary = 1000, 400
    mlp = MLP(784, [4], 3, "relu")
    classifier = Classifier(Pixels(), Standardize(784), mlp, "multiclass")
    samples = Dataset(torch.full((300, 784), 0.25), torch.arange(300) % 2)
    auxiliary = Dataset(torch.full((n_auxiliary, 784), 0.75), torch.full((n_auxiliary,), 2))
    for part, share in ((auxiliary, confidence.AUXILIARY), (Dataset(auxiliary.x[:0], auxiliary.y[:0]), 0.0)):
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randint(300, (n,), generator=generator)
        rows, y = confidence._with_pictures(samples, part, chosen, classifier, generator)
        inside = rows.read(torch.arange(n))[round(confidence.REDRAWN * n) :]
        assert (y == 2).float().mean() == share
        assert ((inside[:, 0] == 0.75) == (y[len(y) - len(inside) :] == 2)).all()
        outside = rows.read(torch.arange(n, 2 * n))
        assert (outside == 0.75).all(1).any() == bool(share)  # two flat pictures joined, for one
