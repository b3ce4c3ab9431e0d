"""How often an answer stays the same when a recording is louder, longer, noisier, or encoded differently.

    python -m benchmarks.robustness [--run runs/instruments] [--data PERCEPT_DATA/notes]

Every recording of the test split is decoded at its own rate, changed, written as a file and classified by the service's
predictor, from bytes to label. Agreement is with the answer to the unchanged recording as 32-bit WAV, accuracy is with
the true label, and known is the share that the model counts as known. There is no peer. Takes a few minutes for 174
notes on two cores.
"""

import argparse
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import scipy.signal
import soundfile
import soxr
from numpy.typing import NDArray

from benchmarks.exported import predictor_of
from benchmarks.rooms import impulse_response
from pipeline.extract.features import Features
from service.errors import MediaError
from service.media import Limits
from service.serving.predictor import Predictor

RATES = (8_000, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000)  # Hz
LEVELS = {  # libsndfile's compression level for kbit/s of a mono file
    ("OGG", 128): 0.1, ("OGG", 64): 0.6, ("MP3", 128): 0.65, ("MP3", 64): 0.88, ("Opus", 24): 0.928, ("Opus", 16): 0.96,
}  # fmt: skip
CODECS = {"OGG": ("OGG", "VORBIS"), "MP3": ("MP3", "MPEG_LAYER_III"), "Opus": ("OGG", "OPUS")}  # format, subtype
OPUS_RATE = 48_000  # Hz
TELEPHONE = {"GSM": "GSM610", "A-law": "ALAW"}  # at TELEPHONE_RATE, in WAV
TELEPHONE_RATE, TELEPHONE_BAND = 8_000, (300, 3_400)  # Hz
ROOMS = 8  # of each reverberation time
RT60 = (0.3, 0.6, 1.2)  # seconds
EXCERPTS = (0.5, 1)  # seconds: windows of a timeline
VOICES = 4  # recordings of other labels in babble
BLOCK = 1 << 15  # samples written at a time: with more, libsndfile's Vorbis encoder overflows the stack

Sound = NDArray[np.float32]  # (T,) or (T, channels)


@dataclass(frozen=True, slots=True)
class Recording:
    sound: NDArray[np.float32]  # (T,), mono
    rate: int  # Hz
    seed: int  # of the noise
    others: tuple["Recording", ...] = ()  # of other labels, for babble


Condition = Callable[[Recording], bytes]  # a recording → the changed file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, default=Path("runs/instruments"), help="run with the model and the test split"
    )
    default = Path(os.environ.get("PERCEPT_DATA", ".")) / "notes"
    parser.add_argument("--data", type=Path, default=default, help="recordings that the run was trained on")
    arguments = parser.parse_args()
    predictor = predictor_of(arguments.run, f"percept run instruments --data {arguments.data}")
    features = Features.load(arguments.run / "features.npz")
    rows = np.flatnonzero(features.rows("test"))
    recordings = [read(arguments.data / features.file[i], seed) for seed, i in enumerate(rows)]
    truth = [features.labels[features.y[i]] for i in rows]
    recordings = [replace(r, others=others(recordings, truth, i)) for i, r in enumerate(recordings)]

    def answers(condition: Condition) -> list[tuple[str, bool]]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda recording: answer(predictor, condition(recording)), recordings))

    def labels_and_known(condition: Condition) -> tuple[list[str], float]:
        labels, known = zip(*answers(condition), strict=True)
        return list(labels), float(np.mean(known))

    clean, known = labels_and_known(lambda r: encoded(r.sound, r.rate))
    print(f"{len(recordings)} recordings of the test split of {arguments.run}")
    print(f"{'':<48}{'agreement':>10}{'accuracy':>10}{'known':>10}")
    print(f"{'unchanged':<48}{1:>10.4f}{share(clean, truth):>10.4f}{known:>10.4f}")
    for name, condition in conditions().items():
        try:
            found, known = labels_and_known(condition)
        except Unavailable as error:
            print(f"{name:<48}not measured: {error}")
            continue
        print(f"{name:<48}{share(found, clean):>10.4f}{share(found, truth):>10.4f}{known:>10.4f}", flush=True)


class Unavailable(Exception):
    """The libsndfile in use cannot write a file of that kind."""


def conditions() -> dict[str, Condition]:
    """Name of each condition → the function that makes a changed file of a recording."""
    table: dict[str, Condition] = {
        "WAV, 16 bit": lambda r: encoded(r.sound, r.rate, "WAV", "PCM_16"),
        "WAV, 24 bit": lambda r: encoded(r.sound, r.rate, "WAV", "PCM_24"),
        "WAV, 8 bit": lambda r: encoded(r.sound, r.rate, "WAV", "PCM_U8"),
        "FLAC": lambda r: encoded(r.sound, r.rate, "FLAC", "PCM_16"),
    }
    for codec, kilobits in LEVELS:
        table[f"{codec}, mono at {kilobits} kbit/s"] = lambda r, c=codec, k=kilobits: compressed(r, c, k)
    for rate in RATES:
        table[f"{rate:,} Hz"] = lambda r, rate=rate: encoded(soxr.resample(r.sound, r.rate, rate), rate)
    table |= {
        "stereo, both channels alike": lambda r: encoded(np.stack([r.sound, r.sound], 1), r.rate),
        "stereo, one channel silent": lambda r: encoded(np.stack([r.sound, 0 * r.sound], 1), r.rate),
        "stereo, one channel 6 dB lower, 0.5 ms later": lambda r: encoded(apart(r), r.rate),
        "six channels, five of them silent": lambda r: encoded(
            r.sound[:, np.newaxis] * np.eye(1, 6, dtype="f"), r.rate
        ),
    }
    for decibels in (-40, -20, 20):
        table[f"{decibels:+d} dB"] = lambda r, gain=10 ** (decibels / 20): encoded(r.sound * np.float32(gain), r.rate)
    table["-20 dB, 16 bit"] = lambda r: encoded(r.sound / 10, r.rate, "WAV", "PCM_16")
    table["-40 dB, 16 bit"] = lambda r: encoded(r.sound / 100, r.rate, "WAV", "PCM_16")
    for before, after in ((0.5, 0), (2, 0), (0, 0.5), (0, 2), (2, 2)):
        table[f"silence, {before:g} s before, {after:g} s after"] = lambda r, b=before, a=after: padded(r, b, a, 0)
    for seconds in EXCERPTS:
        table[f"its middle {seconds:g} s"] = lambda r, seconds=seconds: encoded(middle(r, seconds), r.rate)
    for decibels in (-80, -60):
        name = f"noise at {decibels} dB for 1 s before and after"
        table[name] = lambda r, level=10 ** (decibels / 20): padded(r, 1, 1, level)
    for colour in (0, 1):
        for decibels in (30, 20, 10):
            name = f"{('white', 'pink')[colour]} noise {decibels} dB below the sound"
            table[name] = lambda r, colour=colour, decibels=decibels: noisy(r, colour, decibels)
    for offset in (0.1, 0.3):
        table[f"constant offset of {offset:g}"] = lambda r, offset=offset: encoded(r.sound + np.float32(offset), r.rate)
    for hertz, amplitude in ((5, 0.1), (15, 0.1), (50, 0.05)):
        name = f"{hertz} Hz at an amplitude of {amplitude:g}"
        table[name] = lambda r, hertz=hertz, amplitude=amplitude: humming(r, hertz, amplitude)
    return table | in_the_world()


def in_the_world() -> dict[str, Condition]:
    """Conditions of rooms, telephones, other sounds at the same time, and levels set too high."""
    table: dict[str, Condition] = {}
    for seconds in RT60:
        table[f"rooms with an RT60 of {seconds:g} s"] = lambda r, seconds=seconds: in_a_room(r, seconds)
    for name, subtype in TELEPHONE.items():
        table[f"{name} at {TELEPHONE_RATE:,} Hz"] = lambda r, subtype=subtype: encoded(
            soxr.resample(r.sound, r.rate, TELEPHONE_RATE), TELEPHONE_RATE, "WAV", subtype
        )
    low, high = TELEPHONE_BAND
    table[f"{low:,} to {high:,} Hz"] = band_passed
    table[f"{VOICES} other instruments, 20 dB below"] = lambda r: with_babble(r, 20)
    table["5 % of the samples clipped"] = lambda r: encoded(
        r.sound.clip(-(limit := np.quantile(np.abs(r.sound), 0.95)), limit), r.rate
    )
    return table


def read(path: Path, seed: int) -> Recording:
    """A file at its own sampling rate, as the mean of its channels."""
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return Recording(sound.mean(axis=1), rate, seed)


def others(recordings: list[Recording], labels: list[str], i: int) -> tuple[Recording, ...]:
    """VOICES recordings, drawn at random, whose labels are not that of recording i."""
    candidates = [j for j, label in enumerate(labels) if label != labels[i]]
    return tuple(recordings[j] for j in np.random.default_rng(i).choice(candidates, VOICES))


def answer(predictor: Predictor, data: bytes) -> tuple[str, bool]:
    """The label, or the reason for refusing the file; and whether the recording is known."""
    try:
        found = predictor.answer(data, Limits())
    except MediaError as error:
        return str(error), False
    return str(found.label), bool(found.known)


def share(found: list[str], expected: list[str]) -> float:
    return float(np.mean([a == b for a, b in zip(found, expected, strict=True)]))


def encoded(sound: Sound, rate: int, format: str = "WAV", subtype: str | None = "FLOAT", **options: Any) -> bytes:
    """`sound` as a file; None is the format's default subtype. Except in float, values beyond [-1, 1] are clipped."""
    if subtype and subtype not in soundfile.available_subtypes(format):
        raise Unavailable(f"libsndfile {soundfile.__libsndfile_version__} writes no {subtype} in {format}")
    stream, channels = io.BytesIO(), 1 if sound.ndim == 1 else sound.shape[1]
    with soundfile.SoundFile(stream, "w", rate, channels, subtype, format=format, **options) as file:
        for start in range(0, len(sound), BLOCK):
            file.write(sound[start : start + BLOCK])
    return stream.getvalue()


def compressed(recording: Recording, codec: str, kilobits: int) -> bytes:
    """The recording as MP3 of that bit rate, or as OGG Vorbis or Opus of about that average bit rate."""
    options: dict[str, Any] = {"compression_level": LEVELS[codec, kilobits]}
    sound, rate = recording.sound, recording.rate
    if codec == "MP3":
        options["bitrate_mode"] = "CONSTANT"
    if codec == "Opus":
        sound, rate = soxr.resample(sound, rate, OPUS_RATE), OPUS_RATE
    return encoded(sound, rate, *CODECS[codec], **options)


def apart(recording: Recording) -> Sound:
    """The sound at two microphones, (T, 2): at the second 0.5 ms later and with half the amplitude."""
    late = round(0.0005 * recording.rate)
    return np.stack([recording.sound, np.pad(recording.sound, (late, 0))[: len(recording.sound)] / 2], 1)


def middle(recording: Recording, seconds: float) -> Sound:
    """The part in the middle; all of a recording that is shorter."""
    n = round(seconds * recording.rate)
    start = max(0, len(recording.sound) - n) // 2
    return recording.sound[start : start + n]


def padded(recording: Recording, before: float, after: float, amplitude: float) -> bytes:
    """With seconds of silence around the sound, or of white noise at an `amplitude` relative to the peak."""
    rng, sound = np.random.default_rng(recording.seed), recording.sound
    deviation = np.float32(amplitude * np.abs(sound).max())
    ends = [deviation * rng.standard_normal(round(s * recording.rate), np.float32) for s in (before, after)]
    return encoded(np.concatenate([ends[0], sound, ends[1]]), recording.rate)


def humming(recording: Recording, hertz: float, amplitude: float) -> bytes:
    """With a sine in a phase drawn at random."""
    phase = np.random.default_rng(recording.seed).uniform(0, 2 * np.pi)
    seconds = np.arange(len(recording.sound)) / recording.rate
    hum = amplitude * np.sin(2 * np.pi * hertz * seconds + phase)
    return encoded(recording.sound + hum.astype(np.float32), recording.rate)


def noisy(recording: Recording, colour: int, decibels: float) -> bytes:
    """With noise of power 1 / frequency ** `colour` (0 is white, 1 is pink), up to half the sampling rate, that many
    `decibels` below the mean power of the sound."""
    n = len(recording.sound)
    size = scipy.fft.next_fast_len(n, real=True)
    spectrum = scipy.fft.rfft(np.random.default_rng(recording.seed).standard_normal(size, np.float32))
    spectrum *= np.maximum(np.arange(len(spectrum)), 20 * size / recording.rate) ** np.float32(-colour / 2)  # ≥ 20 Hz
    noise = scipy.fft.irfft(spectrum, size)[:n]
    power = np.mean(recording.sound**2) / np.mean(noise**2)
    return encoded(recording.sound + noise * np.float32(np.sqrt(power * 10 ** (-decibels / 10))), recording.rate)


@cache
def rooms(seconds: float, rate: int) -> list[NDArray[np.float32]]:
    """Impulse responses of ROOMS rooms with that reverberation time."""
    return [impulse_response(seconds, rate, np.random.default_rng(number)) for number in range(ROOMS)]


def in_a_room(recording: Recording, seconds: float) -> bytes:
    """Heard in one of the rooms, with the peak that it had."""
    response = rooms(seconds, recording.rate)[recording.seed % ROOMS]
    heard = scipy.signal.fftconvolve(recording.sound, response)
    heard *= np.abs(recording.sound).max() / np.abs(heard).max()
    return encoded(heard.astype(np.float32), recording.rate)


def band_passed(recording: Recording) -> bytes:
    """Only what a telephone passes on: a Butterworth filter of order 4."""
    filters = scipy.signal.butter(4, TELEPHONE_BAND, "bandpass", fs=recording.rate, output="sos")
    return encoded(scipy.signal.sosfilt(filters, recording.sound).astype(np.float32), recording.rate)


def with_babble(recording: Recording, decibels: float) -> bytes:
    """With the others at the same time, equally loud, repeated to its length and together that many `decibels` below
    its mean power."""
    babble = np.zeros_like(recording.sound)
    for other in recording.others:
        sound = other.sound if other.rate == recording.rate else soxr.resample(other.sound, other.rate, recording.rate)
        babble += np.resize(sound / np.sqrt(np.mean(sound**2)), len(babble))
    power = np.mean(recording.sound**2) / max(np.mean(babble**2), 1e-30)
    return encoded(recording.sound + babble * np.float32(np.sqrt(power * 10 ** (-decibels / 10))), recording.rate)


if __name__ == "__main__":
    main()
