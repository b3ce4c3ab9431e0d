"""Shifts of MNIST's digits and of recorded notes, for benchmarks/estimated.py: those that are measured, and others, on
which the service's rule for withholding estimates was chosen."""

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.ndimage as nd
import scipy.signal
import soxr
from numpy.typing import NDArray
from PIL import Image

from benchmarks.robustness import (
    Condition,
    Recording,
    Sound,
    compressed,
    encoded,
    humming,
    in_a_room,
    noisy,
    padded,
    with_babble,
)

Picture = NDArray[np.uint8]  # (28, 28), 255 is ink
Change = Callable[[Picture, np.random.Generator], NDArray[np.float64] | Picture]


def pictures() -> dict[str, Change]:
    """Name of each measured shift of digits → the function that changes one."""
    table: dict[str, Change] = {
        "thick strokes": lambda x, _: nd.grey_dilation(x, (2, 2)),
        "very thick strokes": lambda x, _: nd.grey_dilation(x, (3, 3)),
        "thin strokes": lambda x, _: nd.grey_erosion(x, (2, 2)),
    }
    for degrees in (10, 20, 35):
        table[f"rotated by up to {degrees}°"] = partial(_rotated, degrees)
    for deviation in (15, 40, 80):
        table[f"noise of {deviation} in 255"] = lambda x, rng, d=deviation: x + rng.normal(0, d, x.shape)
    for scale in (0.9, 0.75, 1.2):
        table[f"{scale:g} of the size"] = partial(_scaled, scale)
    for alpha in (2, 4):
        table[f"bent by {alpha} pixels"] = partial(_bent, alpha)
    table["grey paper"] = lambda x, _: np.maximum(x, 40)
    return table


def pictures_of_development() -> dict[str, Change]:
    """Others, on which the rule was chosen."""
    table: dict[str, Change] = {}
    for deviation in (0.5, 0.8, 1.2):
        table[f"blur {deviation}"] = lambda x, _, d=deviation: nd.gaussian_filter(x.astype(float), d)
    for quality in (5, 10, 30):
        table[f"JPEG {quality}"] = partial(_jpeg, quality)
    for size in (3, 5, 8):
        table[f"hidden {size} × {size}"] = partial(_hidden, size)
    for pixels in (1, 2, 3):
        table[f"moved by {pixels}"] = partial(_moved, pixels)
    for slope in (-0.2, 0.1, 0.2, 0.4):
        table[f"slanted {slope}"] = lambda x, _, s=slope: _affine(x, [[1, 0], [s, 1]])
    for share in (0.02, 0.05, 0.1):
        table[f"specks {share}"] = partial(_specks, share)
    for factor in (0.8, 0.6, 0.4):
        table[f"ink {factor}"] = lambda x, _, f=factor: x * f
    for size in (20, 14, 10):
        table[f"{size} pixels wide"] = partial(_coarse, size)
    for aspect in (1.15, 1.3, 0.85, 0.7):
        table[f"aspect {aspect}"] = lambda x, _, a=aspect: _affine(x, [[1, 0], [0, a]])
    for threshold in (60, 128, 200):
        table[f"black and white at {threshold}"] = lambda x, _, t=threshold: np.where(x >= t, 255, 0)
    for gamma in (0.5, 0.7, 1.5, 2.5):
        table[f"gamma {gamma}"] = lambda x, _, g=gamma: 255 * (x / 255) ** g
    return table | _placed() | _written_otherwise()


def _placed() -> dict[str, Change]:
    """Other sizes, angles, places and shapes."""
    table: dict[str, Change] = {}
    for scale in (0.95, 0.92, 0.87, 0.8, 0.65, 1.05, 1.1, 1.15, 1.3):
        table[f"{scale:g} times as large"] = partial(_scaled, scale)
    for degrees in (5, 15, 25):
        table[f"turned by up to {degrees}°"] = partial(_rotated, degrees)
    for degrees in (-15, 8, 20):
        turn = np.radians(degrees)
        matrix = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        table[f"turned by {degrees}°"] = lambda x, _, m=matrix: _affine(x, m)
    for pixels in (0.5, 1.5, 2.5):
        table[f"{pixels} pixels to the lower right"] = lambda x, _, p=pixels: nd.shift(x.astype(float), p, order=1)
    for pixels in (0.5, 1, 2):
        table[f"waves of {pixels} pixels"] = partial(_wavy, pixels)
    for share in (0.15, 0.3):
        table[f"narrower by {share} towards the top"] = partial(_keystone, share)
    return table


def _written_otherwise() -> dict[str, Change]:
    """Other pens, papers and light."""
    table: dict[str, Change] = {}
    for level in (0.2, 0.3, 0.4, 0.6):
        table[f"a pen as wide as blur above {level}"] = partial(_pen, level)
    for size in ((1, 2), (2, 1), (1, 3)):
        table[f"a broad nib {size}"] = lambda x, _, s=size: nd.grey_dilation(x, s)
    for size in ((1, 2), (2, 1)):
        table[f"a fine nib {size}"] = lambda x, _, s=size: nd.grey_erosion(x, s)
    for floor in (10, 20, 60):
        table[f"faint, on paper of {floor}"] = lambda x, _, f=floor: f + x * (0.8 - f / 255)
    for light in (30, 80):
        table[f"a shadow of up to {light}"] = lambda x, _, s=light: np.maximum(x, np.linspace(0, s, 28))
    for width in (8, 25, 60):
        table[f"uniform noise of {width}"] = lambda x, rng, w=width: x + rng.uniform(-w, w, x.shape)
    for deviation in (20, 60):
        table[f"grain of {deviation}"] = partial(_grainy, deviation)
    for share in (0.1, 0.3):
        table[f"{share} of the ink did not take"] = lambda x, rng, s=share: np.where(rng.random(x.shape) < s, 0, x)
    for ink in (80, 200):
        table[f"ruled paper of {ink}"] = partial(_ruled, ink)
    return table


def sounds() -> dict[str, Condition]:
    """Name of each measured shift of notes → the function that makes a file of one."""
    table: dict[str, Condition] = {
        "MP3 at 64 kbit/s": lambda r: compressed(r, "MP3", 64),
        "Opus at 24 kbit/s": lambda r: compressed(r, "Opus", 24),
        "Opus at 16 kbit/s": lambda r: compressed(r, "Opus", 16),
        "a telephone, GSM": lambda r: encoded(soxr.resample(r.sound, r.rate, 8_000), 8_000, "WAV", "GSM610"),
    }
    for gain in (-40, -20, 20):
        table[f"{gain:+d} dB, 16 bit"] = partial(_louder, gain)
    for decibels in (50, 40, 30):
        table[f"white noise {decibels} dB below"] = lambda r, d=decibels: noisy(r, 0, d)
    for seconds in (0.3, 1.2):
        table[f"rooms with an RT60 of {seconds:g} s"] = lambda r, s=seconds: in_a_room(r, s)
    table["other instruments 30 dB below"] = lambda r: with_babble(r, 30)
    table["a second of silence before and after"] = lambda r: padded(r, 1, 1, 0)
    return table


def sounds_of_development() -> dict[str, Condition]:
    """Others, on which the rule was chosen."""
    table: dict[str, Condition] = {}
    for hertz in (8000, 6000, 4000, 2500, 1500):
        table[f"below {hertz} Hz"] = partial(_filtered, "low", hertz)
    for hertz in (100, 200, 350, 500, 700, 1000):
        table[f"above {hertz} Hz"] = partial(_filtered, "high", hertz)
    for decibels in (60, 50, 40, 30, 20):
        table[f"pink noise {decibels} dB below"] = lambda r, d=decibels: noisy(r, 1, d)
    for share in (0.7, 0.4, 0.1):
        table[f"clipped at {share}"] = partial(_clipped, share)
    for speed in (0.9, 0.95, 1.05, 1.12):
        table[f"speed {1 / speed:.2f}"] = lambda r, s=speed: encoded(soxr.resample(r.sound, r.rate, r.rate * s), r.rate)
    for seconds in (2, 1, 0.5):
        table[f"{seconds:g} s of it"] = partial(_cut, seconds)
    for slope in (-3, -1.5, 1.5, 3):
        table[f"{slope:+g} dB an octave"] = partial(_tilted, slope)
    for bits in (12, 8):
        table[f"{bits} bits"] = lambda r, n=2 ** (bits - 1): encoded(np.round(r.sound * n) / np.float32(n), r.rate)
    table["hum"] = lambda r: humming(r, 50, 0.02)
    table["an echo"] = _echo
    table["backwards"] = lambda r: encoded(r.sound[::-1].copy(), r.rate)
    return table | _heard_otherwise()


def _heard_otherwise() -> dict[str, Condition]:
    """Other microphones, equalisers, players, codecs and rooms."""
    table: dict[str, Condition] = {}
    for hertz in (250, 700, 2000, 5000):
        for decibels in (-15, -8, 8):
            table[f"{decibels:+d} dB around {hertz} Hz"] = partial(_equalised, hertz, decibels)
    for low, high in ((300, 800), (1000, 2500)):
        table[f"without {low} to {high} Hz"] = partial(_filtered, "bandstop", (low, high))
    for low, high in ((80, 6000), (150, 4500)):
        table[f"a loudspeaker of {low} to {high} Hz"] = partial(_filtered, "band", (low, high))
    for power in (0.5, 0.8):
        table[f"compressed to a power of {power}"] = partial(_levelled, power)
    for seconds in (0.1, 0.3):
        table[f"faded in over {seconds} s"] = partial(_faded, seconds)
    for depth in (0.005, 0.015):
        table[f"vibrato of {depth}"] = partial(_vibrato, depth)
    for decibels in (40, 20):
        table[f"others {decibels} dB below"] = lambda r, d=decibels: with_babble(r, d)
    for seconds in (0.15, 0.6):
        table[f"rooms of {seconds} s"] = lambda r, s=seconds: in_a_room(r, s)
    for codec, kilobits in (("OGG", 128), ("OGG", 64), ("MP3", 128)):
        table[f"{codec} at {kilobits}"] = lambda r, c=codec, k=kilobits: compressed(r, c, k)
    for rate in (16_000, 11_025, 8_000):
        table[f"{rate} samples a second"] = lambda r, s=rate: encoded(soxr.resample(r.sound, r.rate, s), s)
    for gain in (-30, -10, 10):
        table[f"louder by {gain} dB"] = partial(_louder, gain)
    return table


def changed(pictures: NDArray[np.uint8], change: Change, seed: int) -> NDArray[np.uint8]:
    """Digits (N, 28, 28), each changed."""
    rng = np.random.default_rng(seed)
    return np.stack([np.clip(np.round(change(picture, rng)), 0, 255).astype(np.uint8) for picture in pictures])


def _affine(x: Picture, matrix: list[list[float]]) -> NDArray[np.float64]:
    """The picture at matrix · (position - centre) + centre of each of its pixels."""
    array, centre = np.array(matrix), np.full(2, 13.5)
    return np.asarray(nd.affine_transform(x.astype(float), array, centre - array @ centre, order=1))


def _rotated(degrees: float, x: Picture, rng: np.random.Generator) -> NDArray[np.float64]:
    angle = np.radians(rng.uniform(-degrees, degrees))
    return _affine(x, [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _scaled(scale: float, x: Picture, _: np.random.Generator) -> NDArray[np.float64]:
    return _affine(x, [[1 / scale, 0], [0, 1 / scale]])


def _bent(pixels: float, x: Picture, rng: np.random.Generator) -> NDArray[np.float64]:
    """Each pixel from elsewhere: smooth fields of displacements with that standard deviation."""
    fields = [nd.gaussian_filter(rng.normal(size=x.shape), 4, mode="wrap") for _ in range(2)]
    at = [grid + pixels * field / field.std() for grid, field in zip(np.mgrid[:28, :28], fields, strict=True)]
    return np.asarray(nd.map_coordinates(x.astype(float), at, order=1))


def _wavy(pixels: float, x: Picture, rng: np.random.Generator) -> NDArray[np.float64]:
    """Each row shifted by a sine with a period of 20 rows."""
    i, j = np.mgrid[:28, :28]
    shift = pixels * np.sin(i / 20 * 2 * np.pi + rng.uniform(0, 2 * np.pi))
    return np.asarray(nd.map_coordinates(x.astype(float), [i, j + shift], order=1))


def _keystone(share: float, x: Picture, _: np.random.Generator) -> NDArray[np.float64]:
    i, j = np.mgrid[:28, :28].astype(float)
    return np.asarray(nd.map_coordinates(x.astype(float), [i, 13.5 + (j - 13.5) / (1 - share * (1 - i / 27))], order=1))


def _pen(level: float, x: Picture, _: np.random.Generator) -> NDArray[np.float64]:
    """The strokes redrawn, with soft edges where their blurred picture passes that level."""
    return 255 * np.clip(5 * (nd.gaussian_filter(x / 255, 1) - level) + 0.5, 0, 1)


def _grainy(deviation: float, x: Picture, rng: np.random.Generator) -> NDArray[np.float64]:
    grain = nd.gaussian_filter(rng.normal(size=x.shape), 1)
    return np.asarray(x + deviation * grain / grain.std())


def _ruled(ink: float, x: Picture, rng: np.random.Generator) -> Picture:
    """With a line below or through the digit."""
    changed = x.copy()
    row = rng.integers(14, 26)
    changed[row] = np.maximum(changed[row], ink)
    return changed


def _jpeg(quality: int, x: Picture, _: np.random.Generator) -> Picture:
    file = io.BytesIO()
    Image.fromarray(x).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _hidden(size: int, x: Picture, rng: np.random.Generator) -> Picture:
    i, j = rng.integers(4, 24 - size, 2)
    changed = x.copy()
    changed[i : i + size, j : j + size] = 0
    return changed


def _moved(pixels: int, x: Picture, rng: np.random.Generator) -> Picture:
    i, j = rng.integers(-pixels, pixels + 1, 2).tolist()
    return np.roll(x, (i, j), (0, 1))


def _specks(share: float, x: Picture, rng: np.random.Generator) -> Picture:
    where = rng.random(x.shape)
    return np.where(where < share / 2, 0, np.where(where > 1 - share / 2, 255, x)).astype(np.uint8)


def _coarse(size: int, x: Picture, _: np.random.Generator) -> Picture:
    small = Image.fromarray(x).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((28, 28), Image.Resampling.BILINEAR))


def _louder(decibels: float, r: Recording) -> bytes:
    return encoded(r.sound * np.float32(10 ** (decibels / 20)), r.rate, "WAV", "PCM_16")


def _clipped(share: float, r: Recording) -> bytes:
    """At that share of its peak."""
    limit = share * np.abs(r.sound).max()
    return encoded(r.sound.clip(-limit, limit), r.rate)


def _filtered(kind: str, hertz: float | tuple[float, float], r: Recording) -> bytes:
    """With a Butterworth filter of order 4."""
    filters = scipy.signal.butter(4, hertz, kind, fs=r.rate, output="sos")
    return encoded(scipy.signal.sosfilt(filters, r.sound).astype(np.float32), r.rate)


def _cut(seconds: float, r: Recording) -> bytes:
    """From just before its peak on."""
    start = max(0, int(np.abs(r.sound).argmax()) - r.rate // 20)
    return encoded(r.sound[start : start + int(seconds * r.rate)], r.rate)


def _tilted(slope: float, r: Recording) -> bytes:
    """So many dB louder with each octave, around 1 kHz."""
    hertz = np.maximum(20, np.fft.rfftfreq(len(r.sound), 1 / r.rate))
    heard = np.fft.irfft(np.fft.rfft(r.sound) * 10 ** (slope * np.log2(hertz / 1000) / 20), len(r.sound))
    return encoded(heard.astype(np.float32), r.rate)


def _equalised(hertz: float, decibels: float, r: Recording) -> bytes:
    """So many dB louder around a frequency, half of it an octave to each side."""
    octaves = np.log2(np.maximum(20, np.fft.rfftfreq(len(r.sound), 1 / r.rate)) / hertz)
    heard = np.fft.irfft(np.fft.rfft(r.sound) * 10 ** (decibels * 0.5**octaves**2 / 20), len(r.sound))
    return encoded(heard.astype(np.float32), r.rate)


def _levelled(power: float, r: Recording) -> bytes:
    """As by a compressor: its envelope, of 50 ms, raised to a power."""
    envelope = np.sqrt(np.maximum(nd.uniform_filter1d(r.sound**2, r.rate // 20), 1e-8))
    return encoded((r.sound * (envelope / envelope.max()) ** np.float32(power - 1)).astype(np.float32) / 4, r.rate)


def _faded(seconds: float, r: Recording) -> bytes:
    """From its attack on."""
    start = max(0, int(np.abs(r.sound).argmax()) - r.rate // 10)
    rise = np.clip((np.arange(len(r.sound)) - start) / (seconds * r.rate), 0, 1)
    return encoded((r.sound * rise).astype(np.float32), r.rate)


def _vibrato(depth: float, r: Recording) -> bytes:
    """Five times a second, by that share of the pitch."""
    t = np.arange(len(r.sound)) / r.rate
    at = r.rate * (t + depth / (2 * np.pi * 5) * np.sin(2 * np.pi * 5 * t))
    return encoded(np.interp(at, np.arange(len(t)), r.sound).astype(np.float32), r.rate)


def _echo(r: Recording) -> bytes:
    """50 ms later, at seven tenths."""
    late = r.rate // 20
    heard: Sound = np.pad(r.sound, (0, late))
    heard[late:] += np.float32(0.7) * r.sound
    return encoded(heard, r.rate)
