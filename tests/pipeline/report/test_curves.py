"""Figures: drawn from saved results alone, for any names and any number of classes."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import librosa
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from pipeline.report import curves, pictures, style
from pipeline.run import Run

SCRIPT = '<script>alert("pwned")</script> & "co".png'  # a file name that a page must not run


def wilson(successes: int, count: int) -> list[float] | None:
    if not count:
        return None
    share, z = successes / count, 1.96
    centre, scale = share + z * z / (2 * count), 1 + z * z / count
    half = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return [(centre - half) / scale, (centre + half) / scale]


def history_of(epochs: int, final: float) -> dict[str, list[float]]:
    """Curves of the usual shape: training keeps improving, validation levels off at `final` accuracy."""
    epoch = np.arange(1, epochs + 1)
    noise = np.random.default_rng(0).normal(0, 0.003, epochs)
    return {
        "epoch": epoch.tolist(),
        "train_loss": (0.03 + 1.1 * np.exp(-epoch / 5)).tolist(),
        "train_accuracy": (0.998 - 0.35 * np.exp(-epoch / 4)).tolist(),
        "validation_loss": (0.1 + 0.95 * np.exp(-epoch / 4) + 0.0012 * epoch + noise).tolist(),
        "validation_accuracy": (final - 0.3 * np.exp(-epoch / 4) + noise).tolist(),
        "seconds": (0.17 * epoch).tolist(),
    }


def report_of(labels: list[str], matrix: np.ndarray, mistakes: list[dict[str, Any]]) -> dict[str, Any]:
    """A report whose parts agree with each other, as `validate` writes it."""
    support, predicted, right = matrix.sum(1).tolist(), matrix.sum(0).tolist(), np.diag(matrix).tolist()
    n = int(matrix.sum())
    accuracy = sum(right) / n
    low, high = wilson(sum(right), n) or (0.0, 1.0)
    per_class = [
        {
            "label": label,
            "support": support[i],
            "precision": right[i] / predicted[i] if predicted[i] else None,
            "precision_interval": wilson(right[i], predicted[i]),
            "recall": right[i] / support[i] if support[i] else None,
            "recall_interval": wilson(right[i], support[i]),
            "f1": 2 * right[i] / (support[i] + predicted[i]) if support[i] + predicted[i] else None,
        }
        for i, label in enumerate(labels)
    ]
    confidence = [0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.97]
    share = [0.01, 0.02, 0.03, 0.03, 0.05, 0.08, 0.78]
    above = accuracy - float(np.dot(confidence, share))
    bins = [
        {"confidence": c, "accuracy": min(1.0, c + above), "interval": [0.9 * c, 1.0], "count": round(s * n)}
        for c, s in zip(confidence, share, strict=True)
    ]
    return {
        "name": "digits",
        "kind": "multiclass",
        "created": "2026-11-23T03:40:00+00:00",
        "labels": labels,
        "task": {
            "name": "digits",
            "data": {"source": "digits", "path": None, "splits": [0.7, 0.15, 0.15], "seed": 0},
            "features": {"kind": "pixels"},
            "model": {"hidden": [100], "activation": "sigmoid"},
            "train": {
                "epochs": 30,
                "batch_size": 64,
                "learning_rate": 0.5,
                "device": "auto",
                "shuffle": True,
            },
            "validate": {"min_accuracy": 0.95},
        },
        "samples": {
            "train": 5 * n,
            "validation": n,
            "test": n,
            "skipped": [],
            "classes": {
                label: {"train": 5 * support[i] + 3, "validation": support[i], "test": support[i]}
                for i, label in enumerate(labels)
            },
        },
        "model": {
            "layers": [
                {"name": "pixels", "output": [None, 784], "parameters": 0},
                {"name": "hidden 1 (sigmoid)", "output": [None, 100], "parameters": 78500},
                {"name": "output (softmax)", "output": [None, len(labels)], "parameters": 101 * len(labels)},
            ],
            "parameters": 78500 + 101 * len(labels),
        },
        "training": {"epochs": 30, "best_epoch": 27, "seconds": 5.1, "device": "cpu"},
        "test": {
            "accuracy": accuracy,
            "accuracy_interval": [low, high],
            "log_loss": 0.1034,
            "ece": sum(abs(b["accuracy"] - b["confidence"]) * b["count"] for b in bins) / n,
            "per_class": per_class,
            "confusion_matrix": matrix.tolist(),
            "reliability": bins,
        },
        "mistakes": mistakes,
        "sample_rate": None,
        "notes": [f"class {label} has no test sample" for i, label in enumerate(labels) if not support[i]],
        "gate": {
            "passed": accuracy >= 0.95,
            "checks": [
                {
                    "name": "min_accuracy",
                    "value": accuracy,
                    "threshold": 0.95,
                    "passed": accuracy >= 0.95,
                }
            ],
        },
        "libraries": {"numpy": "2.4.6", "onnx": "1.18.0", "python": "3.11.9", "torch": "2.9.1"},
    }


def save(run: Path, history: dict[str, Any], report: dict[str, Any], arrays: list[np.ndarray] | None = None) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "history.json").write_text(json.dumps(history))
    (run / "report.json").write_text(json.dumps(report))
    if arrays is not None:
        np.savez(run / "mistakes.npz", **{str(i): array for i, array in enumerate(arrays)})
    return run


def digit(character: str, angle: float) -> np.ndarray:
    image = Image.new("L", (112, 112))
    ImageDraw.Draw(image).text((56, 56), character, 255, ImageFont.load_default(92), anchor="mm", stroke_width=2)
    return np.asarray(image.rotate(angle, Image.Resampling.BICUBIC).resize((28, 28), Image.Resampling.BOX))


def note(hertz: float, seconds: float, rate: int = 22050) -> np.ndarray:
    """A plucked string: ten decaying harmonics and a little hiss, float32 (T,)."""
    t = np.arange(int(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * hertz * h * t) * np.exp(-t * (1.5 + h)) / h for h in range(1, 11))
    hiss = np.random.default_rng(1).normal(0, 0.002, t.size)
    return np.asarray(0.3 * tone + hiss, dtype=np.float32)


def digits_run(run: Path) -> Path:
    """Ten classes of 28 × 28 images, twelve mistakes, one of them with a hostile file name."""
    rng = np.random.default_rng(7)
    labels = [str(i) for i in range(10)]
    matrix = np.diag(rng.integers(150, 190, 10))
    matrix[4, 9], matrix[9, 4], matrix[7, 1], matrix[3, 5], matrix[5, 3], matrix[8, 3] = 9, 6, 4, 5, 3, 4
    mistakes = [
        {"file": f"mnist/test/{t}/{rng.integers(1e4):05}.png", "label": t, "predicted": p, "confidence": c}
        for t, p, c in zip("494733581629", "949155318403", np.linspace(0.99998, 0.71, 12), strict=True)
    ]
    mistakes[1]["file"] = SCRIPT
    arrays = [digit(m["label"], rng.uniform(-35, 35)) for m in mistakes]
    return save(run, history_of(30, 0.97), report_of(labels, matrix, mistakes), arrays)


FAMILIES = ["acoustic grand piano", "bowed double bass, sul ponticello", "bass clarinet", "contrabassoon"]
INSTRUMENTS = [
    *FAMILIES,
    "electric guitar, clean, neck pick-up",
    "electric guitar, clean, bridge pick-up",
    "flute",
    "French horn (hand-stopped)",
    "glockenspiel",
    "harp & celesta, a $5 to $10 $oundbank",
    "日本の琴",
    "viola d'amore",
]


def sound_run(run: Path) -> Path:
    """Twelve classes with long names, one without test samples; sound; skipped files; a gate that fails."""
    rng = np.random.default_rng(3)
    matrix = rng.poisson(0.35, (12, 12)) + np.diag(rng.integers(9, 22, 12))
    matrix[4, 5], matrix[5, 4] = 9, 6
    matrix[8] = 0
    mistakes = [
        {
            "file": f"clips/{INSTRUMENTS[t]}/take {i + 1}.wav",
            "label": INSTRUMENTS[t],
            "predicted": INSTRUMENTS[p],
            "confidence": 0.97 - 0.06 * i,
        }
        for i, (t, p) in enumerate([(4, 5), (5, 4), (0, 11), (9, 2), (2, 3), (10, 9), (1, 3), (7, 0)])
    ]
    report = report_of(INSTRUMENTS, matrix, mistakes)
    report |= {"name": "instruments", "sample_rate": 22050}
    report["task"]["features"] = {
        "kind": "mfcc",
        "sample_rate": 22050,
        "n_mfcc": 13,
        "n_fft": 2048,
        "hop_length": 512,
        "n_mels": 64,
        "fmax": None,
    }
    report["samples"]["skipped"] = [
        {"file": f"clips/flute/broken <{i}>.wav", "reason": "not audio: no RIFF header"} for i in range(23)
    ]
    arrays = [note(110 * 1.5**i, 0.3 + 0.4 * i) for i in range(8)]
    return save(run, history_of(60, 0.84), report, arrays)


def perfect_run(run: Path) -> Path:
    """Two classes, one epoch, no validation samples, no mistake and no threshold."""
    report = report_of(["no", "yes"], np.diag([40, 35]), [])
    report["kind"] = "binary"
    report["training"] |= {"epochs": 1, "best_epoch": 1}
    report["gate"] = {"passed": True, "checks": []}
    history = {key: values[:1] for key, values in history_of(30, 1).items()}
    return save(run, history | {"validation_loss": [], "validation_accuracy": []}, report)


def regression_run(run: Path) -> Path:
    """No classes, so nothing that only a classifier has."""
    report = report_of(["y"], np.diag([40]), [])
    report |= {"name": "sine", "kind": "regression", "gate": {"passed": True, "checks": []}, "notes": []}
    report["test"] = {"r2": 0.9931, "rmse": 0.0412}
    del report["samples"]["classes"]
    history = {key: values for key, values in history_of(30, 1).items() if "accuracy" not in key}
    return save(run, history, report)


def inside(run: Path, **arrays: np.ndarray) -> Path:
    np.savez(run / "figures.npz", **arrays)
    return run


def plane_run(run: Path) -> Path:
    """Two classes in the unit square, separated by the sum of two sigmoid units, with the curves of every threshold."""
    perfect_run(run)
    report = json.loads((run / "report.json").read_text())
    report["test"] |= {
        "roc_auc": 0.75,
        "roc": {"fpr": [0, 0, 0.5, 0.5, 1], "tpr": [0, 0.5, 0.5, 1, 1]},
        "average_precision": 0.83,
        "precision_recall": {"precision": [0.5, 2 / 3, 0.5, 1, 1], "recall": [1, 1, 0.5, 0.5, 0]},
    }
    (run / "report.json").write_text(json.dumps(report))
    axis = np.linspace(0, 1, 21)
    x1, x2 = np.meshgrid(axis, axis)
    sums = 20 * np.stack([x1 - 0.3, 0.7 - x2])
    units = 1 / (1 + np.exp(-sums))
    p = 1 / (1 + np.exp(6 - 8 * units.mean(axis=0)))
    samples = np.random.default_rng(0).uniform(size=(50, 2))
    return inside(
        run,
        axis_1=axis,
        axis_2=axis,
        answers=np.stack([1 - p, p]),
        sums=sums,
        units=units,
        votes=np.array([[4.0, -4.0]]),
        bias=np.array([-6.0]),
        train_x=samples,
        train_y=(samples[:, 0] > 0.3).astype(int),
    )


def curve_run(run: Path) -> Path:
    """A regression of one value on one, with three hidden units."""
    regression_run(run)
    x = np.linspace(0, 1, 31)
    units = 1 / (1 + np.exp(-10 * (x - np.array([[0.2], [0.5], [0.8]]))))
    votes = np.array([[2.0, -4.0, 2.0]])
    return inside(
        run,
        axis_1=x,
        answers=votes @ units,
        units=units,
        votes=votes,
        bias=np.zeros(1),
        train_x=x[::3, None],
        train_y=np.sin(6 * x[::3, None]),
        test_x=x[::-2, None],
        test_y=np.sin(6 * x[::-2, None]),
    )


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def texts(path: Path) -> list[str]:
    return [t.text or "" for t in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_draws_every_figure_of_a_run_on_images(tmp_path: Path) -> None:
    run = digits_run(tmp_path)
    drawn = curves.draw(Run(run))
    pictures = [f"mistake-{i:02}.png" for i in range(1, 13)]
    assert names(drawn) == ["loss.svg", "accuracy.svg", "confusion.svg", "reliability.svg", *pictures]
    assert sorted(drawn) == sorted((run / "plots").iterdir())


def test_a_picture_shows_every_pixel_of_the_image_as_a_square(tmp_path: Path) -> None:
    run = digits_run(tmp_path)
    curves.draw(Run(run))
    with np.load(run / "mistakes.npz") as arrays, Image.open(run / "plots" / "mistake-01.png") as picture:
        assert picture.size == (224, 224)
        np.testing.assert_array_equal(np.asarray(picture)[4::8, 4::8], arrays["0"])


def test_removes_the_figures_of_an_older_result(tmp_path: Path) -> None:
    run = digits_run(tmp_path)
    curves.draw(Run(run))
    (run / "mistakes.npz").unlink()
    perfect_run(run)
    drawn = curves.draw(Run(run))
    assert names(drawn) == ["loss.svg", "accuracy.svg", "confusion.svg", "reliability.svg"]
    assert sorted(drawn) == sorted((run / "plots").iterdir())


def test_a_run_on_sound_shows_spectrograms(tmp_path: Path) -> None:
    drawn = curves.draw(Run(sound_run(tmp_path)))
    spectrograms = [path for path in drawn if path.stem.startswith("mistake-")]
    assert len(spectrograms) == 8
    for path in spectrograms:
        assert {"time (s)", "frequency (Hz)", "dB"} <= set(texts(path))
        assert path.read_text().count("<image ") == 2  # the clip and the colour bar


@pytest.mark.parametrize(("seconds", "kept"), [(1, True), (10, False)])
def test_few_frames_keep_their_pixels_and_many_are_reduced(tmp_path: Path, seconds: int, kept: bool) -> None:
    noise = np.random.default_rng(0).standard_normal(seconds * 16_000).astype(np.float32)
    with matplotlib.rc_context(style.PICTURE_STYLE):
        figure = pictures.spectrogram(noise, 16_000, {"n_mels": 40, "hop_length": 160, "n_fft": 400})
        svg = style.write_svg(figure, tmp_path / "noise.svg").read_text()
    files = [base64.b64decode(found) for found in re.findall(r"data:image/png;base64,([^\"]+)", svg)]
    width, height = max(Image.open(io.BytesIO(file)).size for file in files)
    assert ((width, height) == (101, 40)) == kept
    assert width < 500


def test_mel_power_is_librosas() -> None:
    waveform = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    options: dict[str, Any] = {"n_fft": 512, "hop_length": 128, "n_mels": 40, "fmin": 80.0, "fmax": 7_000.0}
    expected = librosa.feature.melspectrogram(y=waveform, sr=16_000, **options)
    assert pictures.mel_power(waveform, 16_000, **options) == pytest.approx(expected, rel=1e-3)


def test_a_spectrogram_has_the_task_s_frames_and_is_brightest_where_the_tone_is() -> None:
    rate = 16000
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)
    axes, bar = pictures.spectrogram(tone, rate, {"n_mels": 40, "hop_length": 160, "n_fft": 400}).axes
    decibels = axes.images[0].get_array()
    assert decibels.shape == (40, 101)
    low, high = axes.get_ylim()
    brightest = low + (np.argmax(decibels.mean(axis=1)) + 0.5) * (high - low) / 40  # mel
    assert brightest == pytest.approx(15, abs=(high - low) / 40)  # 1000 Hz is 15 mel (Slaney)
    assert axes.get_xlim() == (0, 1)
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_title()) == ("time (s)", "frequency (Hz)", "dB")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("waveform", [np.zeros(30), np.zeros(22050), note(440, 0.01)])
def test_draws_silence_and_clips_shorter_than_a_frame(waveform: np.ndarray) -> None:
    assert pictures.spectrogram(waveform.astype(np.float32), 22050, {"kind": "mfcc"}).axes


def test_the_confusion_matrix_shows_the_counts_and_leaves_zeros_blank(tmp_path: Path) -> None:
    curves.draw(Run(digits_run(tmp_path)))
    matrix = json.loads((tmp_path / "report.json").read_text())["test"]["confusion_matrix"]
    counts = [str(n) for row in matrix for n in row if n]
    axes = [*"0123456789", *"0123456789", "true", "predicted"]
    assert sorted(texts(tmp_path / "plots" / "confusion.svg")) == sorted(counts + axes)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("end", ["", " and not at its end"])
@pytest.mark.parametrize("n", [2, 12, 34, 120])
def test_the_confusion_matrix_names_any_number_of_classes(tmp_path: Path, n: int, end: str) -> None:
    labels = [f"a class of which the name is long, number {i}{end}" for i in range(n)]
    report = report_of(labels, np.eye(n, dtype=int) * 7, [])
    curves.draw(Run(save(tmp_path, history_of(5, 0.9), report)))
    shown = texts(tmp_path / "plots" / "confusion.svg")
    names = style.shortened(labels)
    assert all(shown.count(name) == 2 for name in names)
    assert len(set(names)) == n
    assert ("7" in shown) == (n <= curves.NUMBERED)


@pytest.mark.filterwarnings("error")
def test_class_names_are_plain_text_in_any_script(tmp_path: Path) -> None:
    curves.draw(Run(sound_run(tmp_path)))
    shown = texts(tmp_path / "plots" / "confusion.svg")
    assert "日本の琴" in shown
    assert any("$" in text for text in shown)


@pytest.mark.parametrize("make", [perfect_run, regression_run])
def test_draws_what_the_results_allow(tmp_path: Path, make: Any) -> None:
    drawn = curves.draw(Run(make(tmp_path)))
    assert names(drawn)[0] == "loss.svg"
    assert ("confusion.svg" in names(drawn)) == (make is perfect_run)
    assert ("accuracy.svg" in names(drawn)) == (make is perfect_run)


def test_reliability_has_intervals_where_the_report_has_them(tmp_path: Path) -> None:
    run = digits_run(tmp_path)
    curves.draw(Run(run))
    assert "95 % interval" in texts(run / "plots" / "reliability.svg")
    report = json.loads((run / "report.json").read_text())
    for b in report["test"]["reliability"]:
        del b["interval"]  # as earlier versions wrote it
    (run / "report.json").write_text(json.dumps(report))
    curves.draw(Run(run))
    shown = texts(run / "plots" / "reliability.svg")
    assert "measured" in shown
    assert "95 % interval" not in shown


def test_curves_mark_the_epoch_that_was_kept(tmp_path: Path) -> None:
    curves.draw(Run(digits_run(tmp_path)))
    for name in ("loss", "accuracy"):
        assert {"train", "validation", "epoch 27, kept"} <= set(texts(tmp_path / "plots" / f"{name}.svg"))


def test_ticks_of_the_epochs_are_whole_even_for_one(tmp_path: Path) -> None:
    curves.draw(Run(perfect_run(tmp_path)))
    numbers = [text for text in texts(tmp_path / "plots" / "accuracy.svg") if re.fullmatch(r"[\d.]+", text)]
    assert numbers == ["1"]


def test_figures_can_stand_together_in_one_page_in_any_colour(tmp_path: Path) -> None:
    svgs = [path.read_text() for path in curves.draw(Run(digits_run(tmp_path))) if path.suffix == ".svg"]
    ids = [name for svg in svgs for name in re.findall(r' id="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    for svg in svgs:
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) <= set(ids)
        assert "currentColor" in svg
        assert style.INK not in svg


def test_a_file_shows_as_much_as_if_its_bounds_were_found_by_drawing(tmp_path: Path) -> None:
    def drawn() -> Figure:
        """Curves with a legend of six rows above them, two of which are beyond the figure itself."""
        figure = curves.curve(history_of(9, 0.9), "loss", 9)
        for i in range(9):
            figure.axes[0].plot([1, 9], [0.1 * i, 0.5], label=f"curve {i}")
        figure.axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        return figure

    with matplotlib.rc_context(style.STYLE):
        drawn().savefig(tmp_path / "tight.svg", bbox_inches="tight")
        style.write_svg(drawn(), tmp_path / "ours.svg")
    tight, ours = (ElementTree.parse(tmp_path / name).getroot() for name in ("tight.svg", "ours.svg"))
    for side in ("width", "height"):
        assert float(ours.attrib[side].removesuffix("pt")) == pytest.approx(
            float(tight.attrib[side].removesuffix("pt")), 1e-3
        )
    assert ours.attrib["viewBox"] == f"0 0 {ours.attrib['width']} {ours.attrib['height']}".replace("pt", "")
    lines = [
        [path.get("d", "").count("L") for path in one.iter("{http://www.w3.org/2000/svg}path")] for one in (tight, ours)
    ]
    assert lines[0] == lines[1]


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in curves.draw(Run(digits_run(tmp_path / "a")))]
    assert first == [path.read_bytes() for path in curves.draw(Run(digits_run(tmp_path / "b")))]


def test_a_network_of_two_inputs_shows_its_regions_units_and_thresholds(tmp_path: Path) -> None:
    drawn = names(curves.draw(Run(plane_run(tmp_path))))
    assert drawn[4:] == ["roc.svg", "precision_recall.svg", "regions.svg", "units.svg"]


def test_regions_have_the_colour_of_the_answer_and_fade_where_it_is_unsure(tmp_path: Path) -> None:
    with np.load(plane_run(tmp_path) / "figures.npz") as arrays:
        axes = pictures.regions(dict(arrays), ["no", "yes"]).axes[0]
    red, _, blue = np.moveaxis(np.asarray(axes.images[0].get_array()), -1, 0)
    assert red[10, 0] > blue[10, 0]  # x1 = 0 is "no", orange
    assert blue[0, 20] > red[0, 20]  # x1 = 1, x2 = 0 is "yes", blue
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["no", "yes"]


def test_a_network_of_one_input_shows_its_curve_and_what_it_is_made_of(tmp_path: Path) -> None:
    drawn = curves.draw(Run(curve_run(tmp_path)))
    assert names(drawn) == ["loss.svg", "fit.svg", "contributions.svg"]
    assert {"training samples", "test samples", "the network"} <= set(texts(drawn[1]))
    assert {"unit 1", "unit 3", "bias", "output"} <= set(texts(drawn[2]))


def test_contributions_are_summed() -> None:
    lines = pictures.contributions(np.arange(3.0), np.array([[1.0, 2, 3], [1, 0, -1]]), 0.5).axes[0].lines
    np.testing.assert_array_equal(np.asarray(lines[-1].get_ydata()), [2.5, 2.5, 2.5])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [1, 7, 100])
def test_weights_share_one_scale_that_is_symmetric(n: int) -> None:
    images = np.random.default_rng(0).normal(size=(n, 28, 28))
    shown = pictures.weights(images).axes[0].images[0]
    low, high = shown.get_clim()
    assert -low == high == pytest.approx(np.percentile(np.abs(images), 99.5))
    np.testing.assert_array_equal(np.asarray(shown.get_array())[:28, :28], images[0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("n_mfcc", "frames"), [(13, 40), (1, 40), (13, 1)])
def test_a_clip_shows_its_spectrogram_above_its_coefficients(n_mfcc: int, frames: int) -> None:
    mel, mfcc = -40 * np.random.default_rng(0).uniform(size=(32, frames)), np.ones((n_mfcc, frames))
    upper, lower, *_ = pictures.clip(mel, mfcc, 22050, {"hop_length": 512}).axes
    assert upper.images[0].get_array().shape == (32, frames)
    assert lower.images[0].get_array().shape == (max(n_mfcc - 1, 1), frames)
    assert upper.get_xlim() == lower.get_xlim()


def test_a_loss_over_decades_has_a_logarithmic_axis_with_plain_numbers(tmp_path: Path) -> None:
    history = history_of(30, 0.9) | {"train_loss": np.geomspace(5, 0.01, 30).tolist()}
    curves.draw(Run(save(tmp_path, history, report_of(["a", "b"], np.eye(2, dtype=int), []))))
    shown = texts(tmp_path / "plots" / "loss.svg")
    assert {"loss (logarithmic)", "0.1", "1"} <= set(shown)
    assert not any("mathdefault" in text for text in shown)
