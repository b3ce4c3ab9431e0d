"""How well exported models separate out-of-distribution inputs from their test split.

    python -m benchmarks.unknown [--runs runs] [--pairs 6] [--seeds 0 1 2]

Measures the models of `runs/digits` and `runs/instruments`, if they exist. Out-of-distribution inputs are generated,
written as files and decoded as the service does. Pictures: letters in eight typefaces, with four combinations of stroke
width and blur, printed digits for comparison, textures in the outline of clothes, and noise. Sound: speech by espeak-ng
if that is installed, noise of three colours, tones, chords and clicks. Finally, for `--pairs` pairs of instruments that
each of the `--seeds` draws, a network is trained without them and tested on them.

Each line has the number of inputs, the area under the ROC curve (AUROC) of their familiarity against that of the test
split, and the share with `known: false`. There is no peer. Takes a minute or two on two cores, and one training more
for each pair.
"""

import argparse
import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from pipeline import task, train
from pipeline.extract import Features, load_media
from pipeline.run import Run
from pipeline.train import weights
from service.errors import MediaError
from service.media import Limits
from service.serving.predictor import Predictor

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
LIKE_DIGITS = "BDGIJOQSZbgijloqsz"  # which people may take for digits in careless handwriting
TYPEFACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "STIXGeneralItalic", "cmr10",
    "cmtt10",
)  # fmt: skip
STROKES = ((0, 0.0), (1, 1.5), (2, 0.7), (4, 1.0))  # by how many pixels of 120 a letter is thickened, and blurred
RATE = 22_050  # Hz
PICTURES, SOUNDS = 300, 100  # inputs of each kind
VOICES = ("en-us", "en-gb", "de", "fr", "es", "it", "en-us+f2", "en-us+m3", "en-gb+f4", "de+f3", "sv", "pl")
SENTENCES = (
    "The quick brown fox jumps over the lazy dog.", "Please leave a message after the tone.",
    "What time does the next train leave?", "One, two, three, four, five, six, seven.", "Good morning!",
    "It listens to sounds and gives them names.", "Where did you put the keys?", "An orchestra tunes before a concert.",
)  # fmt: skip

Array = NDArray[Any]
Maker = Callable[[np.random.Generator], Array]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    found = [
        run for name in ("digits", "instruments") if (run := arguments.runs / name, (run / "model.onnx").is_file())[1]
    ]
    if not found:
        sys.exit(f"{arguments.runs}: no exported model; run `percept run digits` or `percept run instruments` first")
    for run in found:
        measure(run)
    if arguments.pairs and arguments.runs / "instruments" in found:
        leave_out(arguments.runs / "instruments", arguments.pairs, arguments.seeds)


def measure(run: Path) -> None:
    """Print the table of one exported model."""
    predictor = Predictor(run / "model.onnx")
    threshold = predictor.card.known_threshold
    if threshold is None:
        print(f"{run.name}: the model was trained without enough validation samples, and has no threshold")
        return
    features = Features.load(run / "features.npz")
    files = features.file[features.rows("test")].tolist()
    media = load_media(Run(run), files)
    known = familiarity(predictor, [media[file] for file in files])
    print(f"{run.name}: {len(known)} test samples, {np.mean(known >= threshold):.1%} known")
    print(f"  {'out-of-distribution':<26}{'inputs':>8}{'AUROC':>8}{'unknown':>9}")
    rows = pictures(predictor) if predictor.card.input.kind == "image" else sounds(predictor)
    letters: dict[str, Array] = {}
    for name, inputs in rows:
        if not inputs:
            print(f"  {name:<26}{'refused':>8}")
            continue
        scores = familiarity(predictor, inputs)
        if len(name) == 1:
            letters[name] = scores
        else:
            print_row(name, scores, known, threshold)
    if letters:
        print_row("printed digits", np.concatenate([letters.pop(digit) for digit in DIGITS]), known, threshold)
        clear = [s for letter, s in letters.items() if letter not in LIKE_DIGITS]
        print_row("letters, all 52", np.concatenate(list(letters.values())), known, threshold)
        print_row(f"except {LIKE_DIGITS}", np.concatenate(clear), known, threshold)
        each = sorted((auroc(known, s), letter) for letter, s in letters.items())
        print("  by the letter: " + ", ".join(f"{letter} {area:.2f}" for area, letter in each))


def print_row(name: str, scores: Array, known: Array, threshold: float) -> None:
    print(f"  {name:<30}{len(scores):>4}{auroc(known, scores):>8.3f}{np.mean(scores < threshold):>9.1%}", flush=True)


def auroc(known: Array, outliers: Array) -> float:
    truth = np.repeat([1, 0], [len(known), len(outliers)])
    return float(roc_auc_score(truth, np.concatenate([known, outliers])))


def familiarity(predictor: Predictor, inputs: Sequence[Array]) -> Array:
    """The graph's second output for decoded media, one at a time, float32 (N,)."""
    name = predictor.card.input.name
    return np.concatenate([predictor.session.run(predictor.outputs[1:], {name: one[np.newaxis]})[0] for one in inputs])


def pictures(predictor: Predictor) -> Iterator[tuple[str, list[Array]]]:
    """Kind of picture → decoded pictures, without those that the service refuses as blank."""

    def decoded(drawn: Sequence[Image.Image]) -> list[Array]:
        kept = []
        for picture in drawn:
            file = io.BytesIO()
            picture.save(file, "PNG")
            with contextlib.suppress(MediaError):
                kept.append(predictor.decode(file.getvalue(), Limits()))
        return kept

    for letter_ in LETTERS + DIGITS:
        yield letter_, decoded([letter(letter_, face, *stroke) for face, stroke in product(TYPEFACES, STROKES)])
    kinds: dict[str, Maker] = {
        "textures": texture,
        "uniform noise": lambda rng: rng.uniform(0, 255, (28, 28)),
        "Gaussian noise": lambda rng: rng.normal(128, 50, (64, 64)).clip(0, 255),
        "salt": lambda rng: 255.0 * (rng.random((28, 28)) < rng.uniform(0.02, 0.3)),
        "smooth noise": lambda rng: stretched(gaussian_filter(rng.normal(size=(56, 56)), rng.uniform(1, 6))),
        "gradients": gradient,
    }
    for name, make in kinds.items():
        rng = np.random.default_rng(0)
        drawn = [np.uint8(make(rng)) for _ in range(PICTURES)]
        yield name, decoded([Image.fromarray(picture) for picture in drawn])
        small = [picture for picture in drawn if picture.shape == (28, 28)]
        if small and name != "textures":
            yield f"{name}, not decoded", small


def letter(letter: str, typeface: str, thick: int, blur: float) -> Image.Image:
    """Dark on light, 120 × 120 pixels."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{typeface}.ttf"
    page = Image.new("L", (120, 120), 255)
    font = ImageFont.truetype(path, 60)
    ImageDraw.Draw(page).text((60, 60), letter, fill=0, font=font, anchor="mm", stroke_width=thick)
    return page.filter(ImageFilter.GaussianBlur(blur))


def texture(rng: np.random.Generator) -> Array:
    """Smooth random grain in the outline of a shirt, trousers, a bag or a shoe; (28, 28)."""
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    width, height, corner = rng.uniform(0.4, 0.9), rng.uniform(0.5, 0.9), rng.uniform(1.5, 8)
    shape = np.abs(x / width) ** corner + np.abs(y / height) ** corner < 1
    match rng.integers(3):
        case 0:  # sleeves
            shape |= (np.abs(y + 0.6 * height) < 0.25) & (np.abs(x) < 0.95)
        case 1:  # legs
            shape &= (np.abs(x) > 0.12) | (y < -0.3 * height)
    grain = stretched(gaussian_filter(rng.normal(size=(28, 28)), rng.uniform(0.7, 3))) / 255
    return 255 * shape * (0.2 + rng.uniform(0.2, 0.8) * grain)


def gradient(rng: np.random.Generator) -> Array:
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    angle = rng.uniform(0, 2 * np.pi)
    return stretched(np.cos(angle) * x + np.sin(angle) * y)


def stretched(values: Array) -> Array:
    """Values scaled to 0 … 255."""
    return 255 * (values - values.min()) / np.ptp(values)


def sounds(predictor: Predictor) -> Iterator[tuple[str, list[Array]]]:
    """Kind of sound → decoded recordings, float32 (T,)."""
    kinds: dict[str, Maker] = {
        "white noise": lambda rng: coloured(rng, 0),
        "pink noise": lambda rng: coloured(rng, 1),
        "brown noise": lambda rng: coloured(rng, 2),
        **{wave: lambda rng, wave=wave: tone(rng, wave, [0]) for wave in ("sine", "square", "sawtooth", "triangle")},
        "chords": lambda rng: tone(rng, ("sine", "square", "sawtooth")[rng.integers(3)], [0, 4, 7]),
        "clicks": lambda rng: (rng.random(2 * RATE) < rng.uniform(1, 50) / RATE) + 1e-3 * rng.normal(size=2 * RATE),
    }
    for name, make in kinds.items():
        rng = np.random.default_rng(0)
        made = []
        for _ in range(SOUNDS):
            file = io.BytesIO()
            sound = make(rng)
            soundfile.write(file, sound / np.abs(sound).max() * rng.uniform(0.05, 0.9), RATE, format="WAV")
            made.append(predictor.decode(file.getvalue(), Limits()))
        yield name, made
    if shutil.which("espeak-ng"):
        yield "speech", [predictor.decode(data, Limits()) for data in speech()]
    else:
        print("  speech: not measured, espeak-ng is not installed")


def coloured(rng: np.random.Generator, exponent: float) -> Array:
    """Noise of power 1 / frequency ** exponent, half a second to four seconds."""
    n = round(RATE * rng.uniform(0.5, 4))
    spectrum = np.fft.rfft(rng.normal(size=n))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-exponent / 2)
    spectrum[0] = 0
    return np.fft.irfft(spectrum, n)


def tone(rng: np.random.Generator, wave: str, semitones: Sequence[int]) -> Array:
    """A chord of one waveform, `semitones` above a pitch of 55 to 1760 Hz; 0.3 to three seconds."""
    t = np.arange(round(RATE * rng.uniform(0.3, 3))) / RATE
    pitch = 55 * 2 ** rng.uniform(0, 5)
    phases = [(pitch * 2 ** (s / 12) * t + rng.random()) % 1 for s in semitones]
    shapes: dict[str, Callable[[Array], Array]] = {
        "sine": lambda p: np.sin(2 * np.pi * p), "square": lambda p: np.sign(p - 0.5), "sawtooth": lambda p: 2 * p - 1,
        "triangle": lambda p: 4 * np.abs(p - 0.5) - 1,
    }  # fmt: skip
    return sum((shapes[wave](phase) for phase in phases), np.zeros(len(t)))


def speech() -> Iterator[bytes]:
    """WAV files: every sentence by every voice, at several pitches and speeds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        for voice, (i, sentence) in product(VOICES, enumerate(SENTENCES)):
            options = ("-v", voice, "-p", str(30 + 5 * i), "-s", str(120 + 10 * i), "-w", str(path))
            subprocess.run(["espeak-ng", *options, sentence], check=True)
            yield path.read_bytes()


def leave_out(run: Path, pairs: int, seeds: Sequence[int]) -> None:
    """For several pairs of classes: train on the run's features without the two, and test on them. The last line has
    the means, and the share of the test split that is known."""
    features = Features.load(run / "features.npz")
    _, facts = weights.load(run / "weights.pt")
    given = {"name": run.name, **features.task, "model": facts.model, "train": facts.train}
    resolved = task.parse(given, run.name)
    n_labels, rows = len(features.labels), []
    orders = [np.random.default_rng(seed).permutation(n_labels) for seed in seeds]
    print("  classes left out, two at a time:")
    for pair in (order[2 * i : 2 * i + 2] for order in orders for i in range(min(pairs, n_labels // 2))):
        kept = ~np.isin(features.y, pair)
        labels = tuple(label for i, label in enumerate(features.labels) if i not in pair)
        index = np.cumsum(~np.isin(np.arange(len(features.labels)), pair)) - 1
        copied = kept[features.copy_of]
        rest = replace(
            features, x=features.x[kept], y=index[features.y[kept]], labels=labels, split=features.split[kept],
            group=features.group[kept], file=features.file[kept], digest=features.digest[kept],
            copies=features.copies[copied],
            copy_of=(np.cumsum(kept) - 1)[features.copy_of[copied]],
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            rest.save(Path(folder) / "features.npz")
            train.train(resolved, Run(Path(folder)))
            classifier, facts = weights.load(Path(folder) / "weights.pt")
        assert facts.known is not None

        def judged(x: Array) -> Array:
            with torch.inference_mode():
                return classifier.from_features(torch.from_numpy(x))[1].numpy()  # noqa: B023

        known = judged(rest.x[rest.rows("test")])
        foreign = judged(features.x[~kept])
        print_row(" and ".join(features.labels[i] for i in pair), foreign, known, facts.known)
        rows.append((auroc(known, foreign), np.mean(foreign < facts.known), np.mean(known >= facts.known)))
    area, unknown, still = np.array(rows, float).mean(0)
    print(f"  mean of {len(rows)} pairs: AUROC {area:.3f}, {unknown:.1%} unknown; of the test split {still:.1%} known")


if __name__ == "__main__":
    main()
