"""Copies that sound like no class: what the verdict `known` learns from them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import unknown as ood
from models.classifier import Classifier, Standardize
from models.mfcc import Mfcc
from models.mlp import MLP
from pipeline import extract, task, train
from pipeline.run import Run
from pipeline.train import confidence, weights
from pipeline.train.data import Copies, Dataset, load_copies, load_datasets, standardised

KNOWN, FOREIGN = ("cello", "clarinet", "flute", "french horn", "oboe"), ("bassoon", "trombone")


def test_more_of_an_instrument_never_taught_is_unknown(real_data: Path, tmp_path: Path) -> None:
    for label in KNOWN + FOREIGN:
        folder = tmp_path / ("known" if label in KNOWN else "foreign") / label
        folder.mkdir(parents=True)
        for file in sorted((real_data / "notes" / label).iterdir())[::2]:
            (folder / file.name).symlink_to(file)
    keys = ["augment.copies=2", "train.refit=false", "train.epochs=20"]
    resolved = task.load("instruments", str(tmp_path / "known"), keys)
    features = extract.extract(resolved, Run(tmp_path / "run"))
    train.train(resolved, Run(tmp_path / "run"))
    others = task.load("instruments", str(tmp_path / "foreign"), ["augment.copies=0"])
    foreign = extract.extract(others, Run(tmp_path / "others"))
    classifier, _ = weights.load(tmp_path / "run" / "weights.pt")

    def read(dataset: Dataset) -> Dataset:
        return standardised(dataset, classifier.standardize, torch.device("cpu"))

    training, validation = map(read, load_datasets(features, False))
    samples = read(load_datasets(features, False, ()).training)
    degraded, made = (read(load_copies(features, False, form)) for form in ("degraded", "foreign"))
    none = Dataset(torch.empty(0, samples.x.shape[1]), samples.y[:0])
    rng, front = np.random.default_rng(0), classifier.frontend
    waves = [ood.coloured(rng, exponent) for exponent in (0, 2) for _ in range(20)]
    waves += [ood.tone(rng, wave, [0]) for wave in ("square", "sawtooth") for _ in range(20)]
    devices = torch.cat([front(torch.from_numpy(wave.astype(np.float32))[None]) for wave in waves])
    unknown = []
    for copies in (Copies(samples, degraded, made, none), Copies(samples, degraded, none, none)):
        least = confidence.fit_familiarity(classifier, training, validation, 0, copies)
        with torch.inference_mode():
            of_test, of_foreign, of_devices = (
                classifier.readings(classifier.standardize(torch.as_tensor(x)))[1]
                for x in (features.x[features.rows("test")], foreign.x[:], devices)
            )
        assert (of_test >= least).float().mean() > 0.95
        for kind in of_devices.split(20):
            assert ood.auroc(of_test.numpy(), kind.numpy()) > 0.95
        unknown.append((of_foreign < least).float().mean())
    assert unknown[0] > unknown[1] + 0.05


def test_it_learns_from_samples_degraded_and_foreign_copies_and_noises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confidence, "NOISES", 4)
    front = Mfcc(sample_rate=8000, n_fft=256, hop_length=128, n_mels=20, n_mfcc=8)
    mlp = MLP(front.n_features, [4], 3, "relu")
    classifier = Classifier(front, Standardize(front.n_features), mlp, "multiclass")
    parts = []
    for i, n in enumerate((9, 18, 36)):
        parts.append(Dataset(torch.full((n, front.n_features), float(10_000 + i)), torch.arange(n) % 3))
    none = [Dataset(part.x[:0], part.y[:0]) for part in parts]
    of_degraded, of_noises = confidence.DEGRADED, confidence.NOISE
    for degraded, foreign, shares in (
        (parts[1], parts[2], (1 - of_degraded, of_degraded, 1 - of_noises, of_noises)),
        (none[1], parts[2], (1, 0, 1 - of_noises, of_noises)),
        (parts[1], none[2], (1 - of_degraded, of_degraded, 0, 1)),
    ):
        x, y = confidence._with_sounds(
            Copies(parts[0], degraded, foreign, none[0]), 1000, classifier, front, torch.Generator().manual_seed(0)
        )
        rows = x.read(torch.arange(2000))
        of_inside, of_outside = rows[:1000, 0], rows[1000:, 0]
        found = [(half == 10_000 + i).float().mean() for half, i in ((of_inside, 0), (of_inside, 1), (of_outside, 2))]
        assert found == pytest.approx(shares[:3], abs=1e-6)
        assert (of_outside < 9_000).float().mean() == pytest.approx(shares[3])
        assert len(y) == 1000
        assert torch.bincount(y).min() > 250  # each class as often as it is
