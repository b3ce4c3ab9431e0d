"""How many photos of a digit on paper are read right: on ruled paper, in pencil, in shadow, with dust on it, ….

    percept run digits --data mnist
    python -m benchmarks.paper [--run runs/digits] [--data PERCEPT_DATA] [--photos 20] [--tuning]

Draws digits with pens of its own (strokes) or takes MNIST's (test pictures, enlarged), lays each on a sheet of paper,
lights it, photographs it, and has the service's predictor read the file, from bytes to label. Each line has the share
that is read right, that is read wrong and called known, and that is refused; the last column is the median time of
decoding in milliseconds. There is no peer. Takes a minute or two on two cores.

With --tuning the sheets, pens and lights are drawn from narrower ranges, and the digits are MNIST's training pictures:
the decoder was developed with these photos, and never saw the others.
"""

import argparse
import io
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.exported import predictor_of
from service.errors import MediaError
from service.media import Limits
from service.serving.predictor import Predictor

if TYPE_CHECKING:
    from torchvision.datasets import MNIST

Array = NDArray[Any]
Range = tuple[float, float]

# Strokes of each digit on a square of side 1, x to the right and y down. An arc is x, y, its two radii, and the angles
# between which it runs, in degrees clockwise from the right.
STROKES: dict[int, list[list[tuple[float, ...]]]] = {
    0: [[(0.5, 0.5, 0.28, 0.45, -80, 280)]],
    1: [[(0.52, 0.05), (0.48, 0.95)]],
    2: [[(0.5, 0.3, 0.27, 0.24, -170, 35), (0.22, 0.94), (0.8, 0.92)]],
    3: [[(0.46, 0.28, 0.26, 0.22, -150, 85), (0.46, 0.71, 0.3, 0.23, -85, 145)]],
    4: [[(0.36, 0.06), (0.2, 0.55), (0.82, 0.52)], [(0.66, 0.2), (0.6, 0.96)]],
    5: [[(0.74, 0.07), (0.32, 0.08), (0.28, 0.46), (0.46, 0.68, 0.28, 0.25, -110, 145)]],
    6: [[(0.62, 0.05), (0.34, 0.4), (0.5, 0.7, 0.25, 0.24, 190, 540)]],
    7: [[(0.2, 0.1), (0.78, 0.08), (0.44, 0.95)]],
    8: [[(0.5, 0.27, 0.21, 0.2, 90, 450), (0.5, 0.71, 0.27, 0.24, -90, 270)]],
    9: [[(0.5, 0.3, 0.24, 0.23, 0, 360), (0.68, 0.95)]],
}


@dataclass(frozen=True)
class Sheet:
    """Ranges from which the paper, the pen, the light and the camera of one photo are drawn."""

    side: Range = (600, 1400)  # pixels
    digit: Range = (0.25, 0.7)  # height of the digit / shorter side
    pen: Range = (0.07, 0.14)  # thickness / height of the digit
    paper: Range = (190, 235)  # grey level
    ink: Range = (30, 80)
    rules: int = 0  # 1: lines across, 2: squares
    period: Range = (0.05, 0.12)  # distance of the lines / shorter side
    line: Range = (2, 4)  # thickness of the lines, pixels
    dark: Range = (10, 60)  # grey levels by which the lines are darker
    tilt: Range = (0, 0)  # degrees
    colour: bool = False  # blue lines, and a red margin
    shadow: Range = (0, 0)  # share of the light that is taken from half of the page
    edge: Range = (0.05, 0.3)  # width of the shadow's edge / side
    falloff: Range = (0, 0)  # share of the light that the corners lack
    slope: Range = (0, 0)  # share of the light that one side lacks
    specks: int = 0
    speck: Range = (2, 6)  # pixels across
    blur: Range = (0.3, 1.5)  # pixels
    noise: Range = (1, 4)  # grey levels, standard deviation
    quality: Range = (75, 95)  # of JPEG
    inverted: bool = False  # chalk on a blackboard


def kinds(base: Sheet) -> dict[str, Sheet]:
    """Name of each kind of photo → its ranges."""
    shade: dict[str, Any] = {"shadow": (0.35, 0.6)}
    return {
        "white paper": base,
        "ruled": replace(base, rules=1),
        "ruled, 40 to 60 levels dark": replace(base, rules=1, dark=(40, 60)),
        "squared": replace(base, rules=2, period=(0.03, 0.09), line=(1, 3)),
        "ruled, tilted up to 4 degrees": replace(base, rules=1, tilt=(1, 4)),
        "squared, tilted up to 4 degrees": replace(base, rules=2, tilt=(1, 4), period=(0.03, 0.09), line=(1, 3)),
        "blue rules with a red margin": replace(base, rules=1, tilt=(0, 2), colour=True),
        "pencil": replace(base, ink=(130, 165), paper=(205, 230)),
        "sensor noise": replace(base, noise=(8, 20)),
        "one speck": replace(base, specks=1),
        "specks": replace(base, specks=8),
        "soft shadow": replace(base, **shade),
        "hard shadow": replace(base, **shade, edge=(0.002, 0.01)),
        "fall-off": replace(base, falloff=(0.3, 0.6)),
        "lit from one side": replace(base, slope=(0.3, 0.6)),
        "pencil on squared paper": replace(base, rules=2, dark=(10, 30), ink=(120, 150), paper=(205, 230)),
        "ruled, in shadow": replace(base, rules=1, **shade, tilt=(0, 2)),
        "all but pencil": replace(
            base, rules=2, tilt=(0, 3), falloff=(0.1, 0.3), specks=3, noise=(4, 9), shadow=(0.2, 0.4), dark=(10, 40)
        ),
        "chalk on a blackboard": replace(base, inverted=True, falloff=(0.1, 0.4), noise=(3, 8)),
    }


TUNING = Sheet()
REPORTED = Sheet(
    side=(500, 1900), digit=(0.2, 0.75), pen=(0.06, 0.16), paper=(175, 245), ink=(20, 90), period=(0.04, 0.15),
    line=(1, 5), edge=(0.02, 0.4), speck=(2, 8), blur=(0, 2), noise=(0, 5), quality=(60, 97),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/digits"), help="run with a model of MNIST")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PERCEPT_DATA", ".")), help="holds MNIST/raw")
    parser.add_argument("--photos", type=int, default=20, help="of each kind")
    parser.add_argument("--tuning", action="store_true")
    arguments = parser.parse_args()
    predictor = predictor_of(arguments.run, "percept run digits --data mnist")
    from torchvision.datasets import MNIST  # takes more than a second, and half of torch with it

    digits = MNIST(arguments.data, train=arguments.tuning, download=False)
    base, seed = (TUNING, 1) if arguments.tuning else (REPORTED, 7)
    print(f"{'':<34}{'right':>8}{'wrong, known':>14}{'refused':>9}{'ms':>7}")
    for name, sheet in kinds(base).items():
        files = [*photos(sheet, digits, arguments.photos, seed)]
        answers = [answer(predictor, data) for _, data in files]
        right = np.mean([found == label for (label, _), (found, _, _) in zip(files, answers, strict=True)])
        known = [known and found != label for (label, _), (found, known, _) in zip(files, answers, strict=True)]
        refused = np.mean([found is None for found, _, _ in answers])
        spent = statistics.median(1e3 * seconds for _, _, seconds in answers)
        print(f"{name:<34}{right:>8.1%}{np.mean(known):>14.1%}{refused:>9.1%}{spent:>7.1f}", flush=True)


def answer(predictor: Predictor, data: bytes) -> tuple[str | None, bool, float]:
    """Label (None if the file is refused), whether it is known, and the seconds of decoding."""
    started = time.perf_counter()
    try:
        picture = predictor.decode(data, Limits())
    except MediaError:
        return None, False, time.perf_counter() - started
    seconds = time.perf_counter() - started
    found = predictor.predict(picture)
    return str(found.label), bool(found.known), seconds


def photos(sheet: Sheet, digits: "MNIST", n: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Label and JPEG of each photo: every digit as often, half of them drawn and half of them MNIST's."""
    rng = np.random.default_rng(seed)
    targets = digits.targets.numpy()
    for i in range(n):
        label = i % 10
        height, width = (round(rng.uniform(*sheet.side)) for _ in range(2))
        size = round(rng.uniform(*sheet.digit) * min(height, width))
        if i // 10 % 2:
            index = int(rng.choice(np.flatnonzero(targets == label)))
            cover = enlarged(digits.data[index].numpy(), size)
        else:
            cover = drawn(label, size, rng.uniform(*sheet.pen), rng)
        yield str(label), photographed(cover, height, width, sheet, rng)


def drawn(digit: int, size: int, pen: float, rng: np.random.Generator) -> Array:
    """A digit `size` pixels high in a person's hand: slanted, stretched and turned a little; 1 = ink, with margins."""
    side = 2 * size
    page = Image.new("L", (side, side), 0)
    slant, stretch, turn = rng.uniform(-0.2, 0.2), rng.uniform(0.85, 1.1), np.radians(rng.uniform(-6, 6))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ [[stretch, -slant], [0, 1]]
    draw, width = ImageDraw.Draw(page), max(1, round(pen * size))
    for stroke in STROKES[digit]:
        points = np.array([point for part in stroke for point in path(part, rng)])
        shifted = ((points - 0.5) @ matrix.T * size + side / 2).tolist()
        draw.line([(x, y) for x, y in shifted], fill=255, width=width, joint="curve")
        for x, y in (shifted[0], shifted[-1]):  # round ends
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    return cropped(np.asarray(page, np.float32) / 255)


def path(part: tuple[float, ...], rng: np.random.Generator) -> Iterator[tuple[float, float]]:
    """The points of one part of a stroke, moved a little."""
    moved = rng.normal(0, [0.015] * min(4, len(part)) + [3] * max(0, len(part) - 4))
    part = tuple((np.array(part) + moved).tolist())
    if len(part) == 2:
        yield part[0], part[1]
        return
    x, y, across, down, first, last = part
    for angle in np.radians(np.linspace(first, last, 40)):
        yield x + across * np.cos(angle), y + down * np.sin(angle)


def enlarged(picture: Array, size: int) -> Array:
    """An MNIST picture whose ink is about `size` pixels high, its edges as sharp as a pen's; 1 = ink."""
    side = max(28, round(size * 28 / 20))
    large = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
    soft = np.asarray(large.filter(ImageFilter.GaussianBlur(side / 56)), np.float32) / 255
    return cropped(1 / (1 + np.exp((0.4 - soft) * 20)))


def cropped(cover: Array) -> Array:
    rows, columns = np.nonzero(cover > 0.3)
    return cover[rows.min() - 2 : rows.max() + 3, columns.min() - 2 : columns.max() + 3]


def photographed(cover: Array, height: int, width: int, sheet: Sheet, rng: np.random.Generator) -> bytes:
    """The ink on a sheet of paper of that many pixels, photographed: a JPEG."""
    draw = rng.uniform
    shape = max(height, cover.shape[0] + 20), max(width, cover.shape[1] + 20)
    ink = np.zeros(shape, np.float32)
    top, left = (rng.integers(5, room - length - 5) for room, length in zip(shape, cover.shape, strict=True))
    ink[top : top + cover.shape[0], left : left + cover.shape[1]] = cover
    y, x = (axis / max(shape) for axis in np.indices(shape, np.float32))
    tint = np.array([1, 1, draw(0.93, 1)] if sheet.colour else [1], np.float32)
    level = np.full((*shape, 1), draw(*sheet.paper), np.float32) * tint
    if sheet.rules:
        level -= rules(x, y, shape, sheet, rng)
    for _ in range(sheet.specks):
        across = round(draw(*sheet.speck))
        row, column = (int(rng.integers(0, room - across)) for room in shape)
        ink[row : row + across, column : column + across] = 1
    level += ink[..., None] * (draw(*sheet.ink) - level)
    level = (255 - level if sheet.inverted else level) * light(x, y, sheet, rng)[..., None]
    page = Image.fromarray(level.clip(0, 255).astype(np.uint8).squeeze())
    page = page.filter(ImageFilter.GaussianBlur(draw(*sheet.blur)))
    noise = np.float32(draw(*sheet.noise)) * rng.standard_normal(shape, np.float32)
    level = np.asarray(page, np.float32).reshape(level.shape) + noise[..., None]
    file = io.BytesIO()
    photo = Image.fromarray(level.clip(0, 255).astype(np.uint8).squeeze())
    photo.save(file, "JPEG", quality=round(draw(*sheet.quality)))
    return file.getvalue()


def rules(x: Array, y: Array, shape: tuple[int, int], sheet: Sheet, rng: np.random.Generator) -> Array:
    """By how much the lines darken the paper, (height, width, 3), or (height, width, 1) if they are grey."""
    draw = rng.uniform
    angle, period, thick = np.radians(draw(*sheet.tilt) * rng.choice([-1, 1])), draw(*sheet.period), draw(*sheet.line)
    unit = max(shape)
    across, along = y * np.cos(angle) - x * np.sin(angle), x * np.cos(angle) + y * np.sin(angle)
    step = period * min(shape) / unit

    def lines(position: Array) -> Array:
        distance = np.abs((position + draw(0, step)) % step - step / 2) * unit  # pixels from the middle of a line
        return (thick / 2 + 0.5 - distance).clip(0, 1)

    cover = np.maximum(lines(across), lines(along)) if sheet.rules == 2 else lines(across)
    tint = np.array([1.4, 1, 0.3] if sheet.colour else [1], np.float32)
    dark = draw(*sheet.dark) * cover[..., None] * tint
    if sheet.colour:
        margin = (thick / 2 + 0.5 - np.abs(along - 0.12) * unit).clip(0, 1)
        dark = np.maximum(dark, margin[..., None] * draw(*sheet.dark) * np.array([0.3, 1.4, 1.3], np.float32))
    return dark


def light(x: Array, y: Array, sheet: Sheet, rng: np.random.Generator) -> Array:
    """The share of the light that falls on each pixel."""
    draw = rng.uniform
    x, y = x - x.max() / 2, y - y.max() / 2
    angle = draw(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    steps = (along + draw(-0.1, 0.1)) / draw(*sheet.edge) * 4
    shadow = draw(*sheet.shadow) / (1 + np.exp(-steps.clip(-20, 20)))
    falloff = draw(*sheet.falloff) * (x**2 + y**2) / (x.max() ** 2 + y.max() ** 2)
    slope = draw(*sheet.slope) * (along - along.min()) / np.ptp(along)
    share: Array = (1 - shadow) * (1 - falloff) * (1 - slope)
    return share


if __name__ == "__main__":
    main()
