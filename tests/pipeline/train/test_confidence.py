"""Unknown inputs: out-of-distribution pictures and sounds, from the score to the printed answer."""

import contextlib
import io
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks import unknown
from models.card import ModelCard
from models.familiarity import STEPS, Density, Familiarity
from pipeline.extract import Features, load_media
from pipeline.report.timeline import lines
from pipeline.run import Run
from pipeline.train import confidence, outliers
from service.serving.predictor import Predictor
from tests.command import percept
from tests.conftest import Trained
from tests.pipeline.runs import PLAIN

FEW = pytest.param(False, id="few notes")  # half of them, and half of what is foreign
ALL = pytest.param(True, id="all notes", marks=pytest.mark.soak)


@pytest.fixture(scope="module", params=[FEW, ALL])
def home(trained: Trained, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Runs of the tasks with embedded data; the thresholds in this file are for these data."""
    home = tmp_path_factory.mktemp("home")
    trained(home, "digits", *PLAIN)
    with pytest.MonkeyPatch.context() as patch:
        if not request.param:
            patch.setattr(unknown, "PICTURES", 150)
            patch.setattr(unknown, "SOUNDS", 50)
        yield trained(home, "instruments", *PLAIN, notes=request.param)


@cache  # several tests ask the same run, and the notes are synthesised anew for each answer
def asked(run: Path) -> tuple[Predictor, NDArray[np.float32]]:
    """The exported model of a run, and the familiarity that it gives to its test samples."""
    predictor, features = Predictor(run / "model.onnx"), Features.load(run / "features.npz")
    files = features.file[features.rows("test")].tolist()
    media = load_media(Run(run), files)
    return predictor, unknown.familiarity(predictor, [media[file] for file in files])


def test_the_embedded_digits_are_scans_and_digits_by_pens(home: Path) -> None:
    found = Features.load(home / "runs" / "digits" / "features.npz")
    ends = found.file[0], found.file[-1], found.split[-1]
    assert (len(found.file), *ends) == (40519, "scans/0000-0", "pens/test/1499-9", "test")


def test_out_of_distribution_pictures(home: Path) -> None:
    predictor, known = asked(home / "runs" / "digits")
    found: dict[str, list[NDArray[np.float32]]] = {}
    for kind, inputs in unknown.pictures(predictor):
        if inputs:
            name = "printed digits" if kind in unknown.DIGITS else "letters" if len(kind) == 1 else kind
            found.setdefault(name, []).append(unknown.familiarity(predictor, inputs))
    assert np.mean(np.concatenate(found.pop("printed digits")) >= predictor.card.known_threshold) >= 0.92
    areas = {name: unknown.auroc(known, np.concatenate(scores)) for name, scores in found.items()}
    assert len(areas) >= 7
    assert areas.pop("letters") >= 0.94  # an O is a zero, and pens draw many an s as a five
    assert min(areas.values()) >= 0.95, areas


def test_out_of_distribution_sounds(home: Path) -> None:
    predictor, known = asked(home / "runs" / "instruments")
    found = {kind: unknown.familiarity(predictor, sounds) for kind, sounds in unknown.sounds(predictor)}
    areas = {kind: unknown.auroc(known, scores) for kind, scores in found.items()}
    assert len(areas) >= 9
    assert min(areas.values()) >= 0.97, areas
    assert predictor.card.known_threshold is not None
    for colour in ("white", "pink", "brown"):
        assert np.mean(found[f"{colour} noise"] < predictor.card.known_threshold) >= 0.95
    if "speech" not in areas:
        pytest.skip("espeak-ng is not installed: all but speech was held")


@pytest.mark.parametrize("name", ["digits", "instruments"])
def test_nearly_all_of_the_test_split_is_known(home: Path, name: str) -> None:
    report = json.loads((home / "runs" / name / "report.json").read_text())
    card = ModelCard.model_validate_json((home / "runs" / name / "card.json").read_text())
    _, known = asked(home / "runs" / name)
    assert card.known_threshold is not None
    assert np.mean(known >= card.known_threshold) == pytest.approx(report["test"]["known"], abs=0.005)
    assert report["test"]["known"] >= 0.94
    assert report["calibration"]["known_threshold"] == card.known_threshold
    assert card.checks["familiarity"] < 2e-3
    assert "count as known" in (home / "runs" / name / "report.html").read_text()


def test_an_answer_says_unknown(home: Path, tmp_path: Path) -> None:
    sample = home / "runs" / "digits" / "samples" / "7.png"
    unknown.letter("M", "DejaVuSans", 1, 1.0).save(tmp_path / "M.png")
    done = percept("predict", "digits", sample, tmp_path / "M.png", "--json", home=home)
    assert [json.loads(line)["known"] for line in done.stdout.splitlines()] == [True, False]
    first, second = percept("predict", "digits", sample, tmp_path / "M.png", home=home).stdout.splitlines()
    assert "unknown" not in first
    assert second.endswith("  unknown: unlike what it was trained on")


def test_a_timeline_says_unknown(home: Path, tmp_path: Path) -> None:
    rate = 22_050
    note, _ = soundfile.read(home / "runs" / "instruments" / "samples" / "violin.wav")
    hiss = 0.1 * np.random.default_rng(0).standard_normal(rate)
    soundfile.write(tmp_path / "both.wav", np.concatenate([np.resize(note, rate), np.zeros(rate), hiss]), rate)
    predictor = Predictor(home / "runs" / "instruments" / "model.onnx")
    windows = predictor.answer((tmp_path / "both.wav").read_bytes(), unknown.Limits(), 1.0).timeline
    assert [window.known for window in windows] == [True, None, False]
    assert list(lines(windows))[2].split("  ")[1].endswith(", but unknown")


def test_density_equals_that_of_the_gaussians_behind_the_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(2).repeat(20_000)
    means = torch.tensor([[0.0] * 30, [5.0] * 30])
    stretch = torch.ones(2, 30)
    stretch[0, :3], stretch[1, 5] = 4.0, 9.0
    x = means[y] + stretch[y] * torch.randn(len(y), 30, generator=generator)
    density = Density(30, 2).fit(x, y)
    points = means.repeat(50, 1) + 3 * torch.randn(100, 30, generator=generator)
    exact = torch.stack([
        torch.distributions.Normal(m, s).log_prob(points).sum(1) for m, s in zip(means, stretch, strict=True)
    ]).amax(0) + 15 * np.log(2 * np.pi)  # fmt: skip
    assert density(points)[:, 0].numpy() == pytest.approx(exact.numpy(), rel=0.05)


def test_a_class_of_few_samples_has_a_density() -> None:
    x, y = torch.randn(12, 8), torch.tensor([0] * 11 + [1])
    assert Density(8, 2).fit(x, y)(x).isfinite().all()
    assert Density(1, 2).fit(x[:, :1], y)(x[:, :1]).isfinite().all()


def test_familiarity_is_the_rank_among_the_validation_samples() -> None:
    familiarity = Familiarity(4, 4, 2, outliers=None)
    assert familiarity.density is not None
    hidden = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0))
    familiarity.density.fit(hidden[:1000], torch.arange(1000) % 2)
    empty, answers = torch.zeros(0), torch.softmax(3 * hidden[:, :2], 1)
    parts = [(hidden[i : i + 1000], answers[i : i + 1000]) for i in (1000, 2000)]
    familiarity.fit_scale([(empty, *(half[i::2] for half in parts[0])) for i in (0, 1)])
    validation, others = (familiarity.density(h)[:, 0] / familiarity.unit + p.amax(1).log() for h, p in parts)
    found = familiarity(empty, *parts[1])
    expected = (validation[:, None] <= others).float().mean(0)
    assert found.numpy() == pytest.approx(expected.numpy(), abs=2 / STEPS)
    far = familiarity(empty, 10 * torch.arange(1.0, 6)[:, None].expand(5, 4), answers[:1].expand(5, 2))
    assert (far[1:] < far[:-1]).all() or far[-1] == 0  # still decreasing with distance below all validation samples


@pytest.mark.parametrize("n", [10, 49, 50, 51, 1000])
def test_the_threshold_keeps_the_promised_share(n: int) -> None:
    scores = torch.rand(n, generator=torch.Generator().manual_seed(n))
    threshold = confidence.threshold(scores)
    kept = (scores >= threshold).double().mean().item()
    assert confidence.KEPT <= kept <= confidence.KEPT + 1 / n + 1e-9
    assert (scores - threshold).abs().min() > 0


def test_redrawn_digits_are_known_and_keep_their_label(home: Path) -> None:
    predictor, _ = asked(home / "runs" / "digits")
    features = Features.load(home / "runs" / "digits" / "features.npz")
    pictures = torch.from_numpy(features.x[features.rows("test")])
    redrawn = outliers.redrawn(pictures, torch.Generator().manual_seed(0))
    changed = (redrawn - pictures).abs().amax(1) > 0.1
    assert changed.float().mean() > 0.5
    batch = (255 * redrawn.view(-1, 28, 28)).round().to(torch.uint8).numpy()
    outputs = predictor.run(batch)
    assert (outputs[:, :-1].argmax(1) == features.y[features.rows("test")]).mean() >= 0.9
    assert predictor.card.known_threshold is not None
    assert (outputs[:, -1] >= predictor.card.known_threshold).mean() >= 0.85


def test_sounds_that_cannot_be_measured_are_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(home / "runs" / "instruments" / "model.onnx")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(unknown, "SOUNDS", 2)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        kinds = [kind for kind, _ in unknown.sounds(predictor)]
    assert "speech" not in kinds
    assert "speech: not measured, espeak-ng is not installed" in printed.getvalue()
    assert isinstance(unknown.letter("a", "cmr10", 0, 0), Image.Image)
