"""How many planted copies of real samples are found as near duplicates, and what else is taken for one.

    python -m benchmarks.near_duplicates [--data PERCEPT_DATA] [--only notes clips mnist many] [--seed 0] [--choice]

For each way of copying, copies of samples drawn at random are planted among all samples. Recall is the share of the
copies that are found to belong to their original. A false pair is one of two samples of which neither was made from the
other, nor both from a third; its share is that of all pairs found. The thresholds of the stage `extract` were chosen on
the files with an even number and on the first 30,000 digits, which `--choice` takes; the others are measured
once. `many` are 10,000 clips, made of the notes by resampling, for the time alone. Seconds are those of the processor,
of all threads. Takes about four minutes on one core.
"""

import argparse
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from PIL import Image

from models.card import Input
from models.frontend import Pixels
from models.mfcc import Mfcc
from pipeline.extract import fingerprints, near_duplicates
from service.media import Limits
from service.media.audio import decode_audio
from service.media.image import decode_image

RATE = 22_050
SHARE = 0.05  # of the samples, copied in each way
LEAST = 20
MANY = 10_000
CHOICE = 30_000  # digits
Media = NDArray[Any]
Copy = Callable[[Media], Media]
Loaded = tuple[Input, list[Media], dict[str, Copy]]
Load = Callable[[Path, np.random.Generator, bool], Loaded]
FILTERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PERCEPT_DATA", ".")))
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--choice", action="store_true", help="the samples on which thresholds were chosen")
    arguments = parser.parse_args()
    for name in arguments.only:
        form, media, ways = SETS[name](arguments.data, np.random.default_rng(arguments.seed), not arguments.choice)
        measure(name, form, media, ways, arguments.seed)


def measure(name: str, form: Input, media: list[Media], ways: dict[str, Copy], seed: int) -> None:
    """Plant, search and print."""
    rng, n = np.random.default_rng(seed), len(media)
    original, way = list(range(n)), [""] * n
    for label, copy in ways.items():
        for i in rng.choice(n, max(LEAST, round(SHARE * n)), replace=False).tolist():
            media.append(copy(media[i]))
            original.append(i)
            way.append(label)
    order = rng.permutation(len(media))
    source, started = np.array(original)[order], time.process_time()
    fingerprint = fingerprints.of(form)
    prints = np.stack([fingerprint(media[i]) for i in order])
    made = time.process_time()
    pairs = near_duplicates.find(form, len(media), lambda rows: prints[rows])
    ended = time.process_time()
    true = source[pairs[:, 0]] == source[pairs[:, 1]]
    together = joined(len(media), pairs[true])
    first = np.empty(n, np.int64)
    first[order[order < n]] = np.flatnonzero(order < n)
    found = together == together[first[source]]
    kinds = np.array(way)[order]
    seconds = f"fingerprints {made - started:.1f} s, search {ended - made:.1f} s"
    print(f"{name}: {n:,} samples, {len(media) - n:,} copies; {seconds}")
    share = 100 * float(np.mean(~true)) if len(pairs) else 0.0
    print(f"  {len(pairs):,} pairs, {int((~true).sum())} of them false: {share:.2f} %")
    each = ", ".join(f"{label} {100 * found[kinds == label].mean():.1f}" for label in ways)
    print(f"  recall {100 * found[kinds != ''].mean() if ways else 0:.1f} %: {each}", flush=True)


def joined(n: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lowest index of the group of each of n samples."""
    group = np.arange(n)
    for _ in range(n):
        lowest = np.minimum(group[pairs[:, 0]], group[pairs[:, 1]])
        before = group.copy()
        np.minimum.at(group, pairs[:, 0], lowest)
        np.minimum.at(group, pairs[:, 1], lowest)
        if (before == group).all():
            break
    return group


def sounds(folder: str, pattern: str) -> Load:
    """The recordings of a folder: every other one, from the second where they are measured."""

    def load(data: Path, rng: np.random.Generator, measured: bool) -> Loaded:
        files, limits = sorted((data / folder).rglob(pattern))[measured::2], Limits.from_environment()
        waveforms: list[Media] = [decode_audio(file.read_bytes(), RATE, limits) for file in files]
        return Mfcc(sample_rate=RATE).input, waveforms, ways_of_sound(rng)

    return load


def digits(first: int, last: int) -> Load:
    """MNIST's digits from the first to the last, or where thresholds are chosen the first 30,000."""

    def load(data: Path, rng: np.random.Generator, measured: bool) -> Loaded:
        folder = data / "MNIST" / "raw"
        parts = [folder / f"{name}-images-idx3-ubyte" for name in ("train", "t10k")]
        found = np.concatenate([np.fromfile(part, np.uint8, offset=16).reshape(-1, 28, 28) for part in parts])
        return Pixels.input, list(found[first:last] if measured else found[:CHOICE]), ways_of_digits(rng)

    return load


def many(data: Path, rng: np.random.Generator, measured: bool) -> Loaded:
    form, notes, _ = sounds("notes", "*.mp3")(data, rng, measured)
    speeds = rng.uniform(0.7, 1.4, MANY)
    return form, [soxr.resample(notes[i % len(notes)], RATE * s, RATE) for i, s in enumerate(speeds)], {}


def ways_of_sound(rng: np.random.Generator) -> dict[str, Copy]:
    def coded(x: Media, format: str, subtype: str, rate: int = RATE) -> Media:
        file = io.BytesIO()
        x = soxr.resample(x, RATE, rate)
        soundfile.write(file, x, rate, format=format, subtype=subtype, compression_level=rng.uniform(0, 0.95))
        file.seek(0)
        return soxr.resample(soundfile.read(file, dtype="float32")[0], rate, RATE)

    def resampled(x: Media) -> Media:
        rate = int(rng.choice([8_000, 11_025, 16_000, 44_100, 48_000]))
        return soxr.resample(soxr.resample(x, RATE, rate), rate, RATE)

    def trimmed(x: Media) -> Media:
        first, last = rng.uniform(0, 0.15, 2) * len(x)
        return x[int(first) : len(x) - int(last)]

    def noisy(x: Media) -> Media:
        level = np.sqrt(np.mean(np.square(x))) * 10 ** (-rng.uniform(20, 40) / 20)
        return x + np.float32(level) * rng.standard_normal(len(x), np.float32)

    def louder(x: Media) -> Media:
        return np.clip(x * np.float32(10 ** (rng.uniform(-20, 3) / 20)), -1, 1)

    def mp3(x: Media) -> Media:
        return coded(x, "MP3", "MPEG_LAYER_III", int(rng.choice([8_000, 16_000, RATE, 44_100])))

    def ogg(x: Media) -> Media:
        return coded(x, "OGG", "VORBIS", int(rng.choice([8_000, 16_000, RATE, 44_100])))

    all_of_it: Copy = lambda x: mp3(louder(noisy(trimmed(x))))  # noqa: E731
    return {
        "MP3": mp3, "OGG": ogg, "8 to 48 kHz": resampled, "trimmed": trimmed, "level": louder, "noise": noisy,
        "trimmed, noise, level, MP3": all_of_it,
    }  # fmt: skip


def ways_of_digits(rng: np.random.Generator) -> dict[str, Copy]:
    """As arrays, and as files that percept decodes, which puts the ink into MNIST's form again."""
    limits = Limits.from_environment()

    def jpeg(x: Media) -> bytes:
        file = io.BytesIO()
        Image.fromarray(x).save(file, "JPEG", quality=int(rng.integers(40, 96)))
        return file.getvalue()

    def sized(x: Media, low: int = 20, high: int = 112) -> Media:
        side = int(rng.integers(low, high))
        return np.asarray(Image.fromarray(x).resize((side, side), FILTERS[rng.integers(len(FILTERS))]))

    def shifted(x: Media) -> Media:
        down, right = rng.integers(-2, 3, 2)
        return np.pad(x, 2)[2 - down : 30 - down, 2 - right : 30 - right]

    def file(change: Copy) -> Copy:
        return lambda x: decode_image(jpeg(change(x)), limits)

    return {
        "JPEG": lambda x: np.asarray(Image.open(io.BytesIO(jpeg(x)))),
        "shifted": shifted,
        "resized": lambda x: sized(sized(x), 28, 29),
        "JPEG file": file(lambda x: x),
        "resized file": file(sized),
        "shifted, resized file": file(lambda x: sized(shifted(x))),
        "inverted file": file(lambda x: 255 - sized(x, 28)),
    }


SETS: dict[str, Load] = {
    "notes": sounds("notes", "*.mp3"),
    "clips": sounds("clips", "*.flac"),
    "mnist": digits(CHOICE, 70_000),
    "all of mnist": digits(0, 70_000),
    "many": many,
}

if __name__ == "__main__":
    main()
