"""Time to compute the features of sound, beside librosa: in the exported graph, and when 1,200 notes are extracted.

    python -m benchmarks.frontend [--notes PERCEPT_DATA/notes]

The peer is librosa as its users would call it: `librosa.feature.mfcc` of the pre-emphasised waveform, and the same
statistics of the coefficients in NumPy. Clips are notes, repeated to the wanted length. Each has one thread, except in
the extraction, where percept uses its threads and librosa joblib's processes, one per core. The two alternate, and the
best time of each counts. Takes about two minutes on two cores.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import librosa
import numpy as np
import onnx
import onnxruntime
import scipy.ndimage
import scipy.signal
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.classifier import Classifier, Standardize
from models.frontend import build
from models.mfcc import LOWEST, TINY, Mfcc
from models.mlp import MLP
from models.pooling import FOLLOWED, LAGS, LOUD_DB, ORDERS, QUANTILES, SHARES_DB
from models.views import (
    AVERAGE_DB,
    ENVELOPE_BANDS,
    ENVELOPE_DB,
    NOISE_BANDS,
    NOISE_FACTOR,
    NOISE_FRAMES,
    ROOT,
    ROOT_DB,
    ROOT_RANGE,
    SUBTRACTED_DB,
    TOP_DB,
    VALLEY_BINS,
    VALLEY_FACTOR,
)
from pipeline.export.graph import Graph, oracle_product, to_onnx
from pipeline.extract.recipe import row_of
from pipeline.task import load
from pipeline.threads import ordered_map
from service.media import Limits
from service.media.audio import decode_audio

SECONDS = (2, 0.1, 0.5, 1, 5, 10, 30, 60)
BATCH = 16
TIME = 1.0  # seconds that each function is timed for, at least
CALLS = 5  # of each function in a row

Clip = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=Path, default=Path(os.environ.get("PERCEPT_DATA", ".")) / "notes")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # librosa's, about clips shorter than a frame
    torch.set_num_threads(1)
    threadpool_limits(1)  # of NumPy's matrix products
    front = build(load("instruments").features.model_dump())
    assert isinstance(front, Mfcc)
    peer = Librosa(front)
    files = [file.read_bytes() for file in sorted(arguments.notes.glob("*/*")) if file.is_file()]
    notes = [decode_audio(data, front.sample_rate, Limits()) for data in files]
    if not notes:
        print(f"no notes in {arguments.notes}: timing noise instead, without the extraction")
        notes = [np.random.default_rng(0).standard_normal(60 * front.sample_rate, np.float32) / 10]
    graphs(front, peer, np.concatenate(notes[:: max(1, len(notes) // 60)]))
    if files:
        extraction(front, peer, notes, files)


class Librosa:
    """The features of an Mfcc front end by librosa and NumPy."""

    def __init__(self, front: Mfcc) -> None:
        self.front = front
        self.parameters = {
            "sr": front.sample_rate, "n_fft": front.n_fft, "hop_length": front.hop_length, "n_mels": front.n_mels,
            "fmin": front.fmin,
        }  # fmt: skip
        centres = librosa.mel_frequencies(front.n_mels + 2, fmin=front.fmin, fmax=front.sample_rate / 2)[1:-1]
        _, response = scipy.signal.freqz([1, -front.preemphasis], worN=centres, fs=front.sample_rate)
        weights = 10 ** (librosa.B_weighting(centres) / 10) if front.fmin else centres >= LOWEST
        self.loudness = weights / np.abs(response) ** 2
        self.filters = librosa.filters.mel(
            sr=front.sample_rate, n_fft=front.n_fft, n_mels=front.n_mels, fmin=front.fmin
        )

    def mfcc(self, clip: Clip) -> NDArray[Any]:
        """float32 (T,) → (n_mfcc, frames)."""
        return librosa.feature.mfcc(y=self._emphasised(clip), n_mfcc=self.front.n_mfcc, **self.parameters)

    def __call__(self, clip: Clip) -> NDArray[Any]:
        """float32 (T,) → (n_features,): MFCC above the floor, those of the views, and their statistics over what is not
        silence."""
        power = self.front.librosa_power(clip)
        mel = self.front.librosa_bands(power)
        decibels = librosa.power_to_db(mel, ref=np.max, amin=TINY, top_db=TOP_DB) + TOP_DB
        values = librosa.feature.mfcc(S=decibels, n_mfcc=self.front.n_mfcc)
        level = librosa.power_to_db(self.loudness @ mel, ref=np.max, amin=TINY, top_db=None)
        heard = librosa.power_to_db(self.loudness[:, None] * mel, ref=np.max, amin=TINY, top_db=ENVELOPE_DB)
        highest = scipy.ndimage.maximum_filter1d(heard + ENVELOPE_DB, ENVELOPE_BANDS, axis=0)
        root = ROOT_RANGE * np.maximum(mel / mel.max(), 10 ** (-ROOT_DB / 10)) ** ROOT
        views = highest, root, self.subtracted(mel, level)
        of_views = [librosa.feature.mfcc(S=view, n_mfcc=self.front.n_view) for view in views]
        averages = librosa.feature.mfcc(S=self.averages(power), n_mfcc=self.front.n_mfcc)
        return np.append(pooled(values, level, of_views, self.front.silence_db), averages.flatten())

    def averages(self, power: NDArray[Any]) -> NDArray[Any]:
        """Power (n_fft/2 + 1, frames) → decibels of the sum and of the loudest bin of each band, (2, n_mels, 1)."""
        total = power.sum(axis=1)
        added = np.ones(VALLEY_BINS, np.float32)
        smooth = np.convolve(total, added, "same") / np.convolve(np.ones_like(total), added, "same")
        noise = scipy.ndimage.minimum_filter1d(smooth, 2 * self.front.valley + 1, mode="constant", cval=np.inf)
        left = self.filters * np.maximum(total - VALLEY_FACTOR * noise, 0)
        bands = [left.sum(axis=1, keepdims=True), left.max(axis=1, keepdims=True)]
        return np.stack([librosa.power_to_db(b, ref=np.max, amin=TINY, top_db=AVERAGE_DB) + AVERAGE_DB for b in bands])

    def subtracted(self, mel: NDArray[Any], level: NDArray[Any]) -> NDArray[Any]:
        """Mel power (n_mels, frames), levels (frames,) → decibels without steady noise, (n_mels, frames)."""
        noise = np.zeros(len(mel))
        active = np.append(level >= -self.front.silence_db, np.zeros(NOISE_FRAMES - 1, bool))
        whole = sliding_window_view(active, NOISE_FRAMES).all(1)
        if whole.any():
            power = scipy.ndimage.uniform_filter1d(mel, NOISE_FRAMES, axis=1, origin=-(NOISE_FRAMES // 2))
            least = power[:, whole].min(axis=1)
            noise = scipy.ndimage.minimum_filter1d(least, NOISE_BANDS, mode="constant", cval=np.inf)
        left = np.maximum(mel - NOISE_FACTOR * noise[:, None], 0)
        return librosa.power_to_db(left, ref=np.max, amin=TINY, top_db=SUBTRACTED_DB) + SUBTRACTED_DB

    def _emphasised(self, clip: Clip) -> Clip:
        return np.append(clip[:1], clip[1:] - np.float32(self.front.preemphasis) * clip[:-1])


def pooled(values: NDArray[Any], level: NDArray[Any], views: Sequence[NDArray[Any]], silence_db: float) -> NDArray[Any]:
    """The statistics of `models.pooling` in plain NumPy, from values (M, frames), levels (frames,) and views, each
    (E, frames)."""
    active = level >= -silence_db
    heard, loud = values[:, active], level[active]
    weights = np.maximum(loud + LOUD_DB, 0) / LOUD_DB + 1e-3

    def moments(chosen: NDArray[Any]) -> list[NDArray[Any]]:
        mean = np.average(chosen, axis=1, weights=weights)
        return [mean, np.sqrt(np.average((chosen - mean[:, None]) ** 2, axis=1, weights=weights))]

    columns = [*moments(heard), values[:, level.argmax()], *np.quantile(heard, QUANTILES, axis=1)]
    for lag in LAGS:
        both = active[lag:] & active[:-lag]
        steps = (values[:, lag:] - values[:, :-lag])[:, both] if both.any() else np.zeros((len(values), 1))
        columns.append(np.sqrt((steps**2).mean(axis=1)))
    third = max(1, heard.shape[1] // 3)
    columns.append(heard[:, :third].mean(axis=1) - heard[:, -third:].mean(axis=1))
    columns.append(np.array([loud.mean(), loud.std(), *(np.mean(loud > edge) for edge in SHARES_DB)]))
    for view in views:
        columns += [*moments(view[:, active]), view[:, level.argmax()]]
    centred = heard[:FOLLOWED] - columns[0][:FOLLOWED, None]
    time = (np.cumsum(weights) - weights / 2) / weights.sum()
    columns += [2 * np.average(centred * np.cos(np.pi * order * time), axis=1, weights=weights) for order in ORDERS]
    return np.concatenate(columns)


def graphs(front: Mfcc, peer: Librosa, sound: Clip) -> None:
    """Print the times of the exported graph, cut after the MFCC and after the pooling, and those of librosa."""
    standardize, mlp = Standardize(front.n_features), MLP(front.n_features, [1], 2, "relu")
    model = to_onnx(Graph(Classifier(front, standardize, mlp, "multiclass")))
    nodes = model.graph.node
    mfcc = oracle_product(model.graph, front).output[0]
    [features] = [node.input[0] for node in nodes if any(name.endswith("standardize.mean") for name in node.input)]
    to_mfcc, to_features = session(model, mfcc), session(model, features)
    clips = {f"{seconds:g} s": np.resize(sound, (1, round(seconds * front.sample_rate))) for seconds in SECONDS}
    clips[f"{BATCH} of {SECONDS[0]} s"] = np.resize(sound, (BATCH, round(SECONDS[0] * front.sample_rate)))
    print(f"one thread, ONNX Runtime {onnxruntime.__version__}, librosa {librosa.__version__}; ms")
    print(f"{'':<12}{'MFCC':>8}{'librosa':>9}{'ratio':>7}{'features':>11}{'librosa':>9}{'ratio':>7}{'difference':>12}")
    for name, batch in clips.items():
        difference = max(
            float(np.abs(found - peer(clip)).max()) for found, clip in zip(to_features(batch), batch, strict=True)
        )
        a, b, c, d = best_of(
            lambda x=batch: to_mfcc(x), lambda x=batch: [peer.mfcc(clip) for clip in x],
            lambda x=batch: to_features(x), lambda x=batch: [peer(clip) for clip in x],
        )  # fmt: skip
        print(
            f"{name:<12}{1e3 * a:>8.2f}{1e3 * b:>9.2f}{a / b:>7.2f}"
            f"{1e3 * c:>11.2f}{1e3 * d:>9.2f}{c / d:>7.2f}{difference:>12.1e}"
        )


def session(model: onnx.ModelProto, output: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A function that computes `output` of the graph from clips (N, T), with the session options of the service."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    at = [output in node.output for node in cut.graph.node].index(True)
    del cut.graph.node[at + 1 :]
    del cut.graph.output[:]
    cut.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # what was cut off leaves unused constants, each of them a warning
    running = onnxruntime.InferenceSession(cut.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        (result,) = running.run([output], {"audio": batch})
        return result  # type: ignore[no-any-return]

    return run


def extraction(front: Mfcc, peer: Librosa, notes: list[Clip], files: list[bytes]) -> None:
    """Print the times of the features of all notes, from decoded clips and from files."""
    workers = joblib.Parallel(n_jobs=-1)
    rate, limits = front.sample_rate, Limits()

    def decoded(data: bytes) -> Clip:
        return decode_audio(data, rate, limits)

    features = row_of(front)

    def percept(work: Callable[[int], Any]) -> None:
        list(ordered_map(work, range(len(notes))))

    def librosa_from_file(data: bytes) -> NDArray[Any]:
        return peer(decode_audio(data, rate, Limits()))

    measured: dict[str, Callable[[], Any]] = {
        "decoding and resampling": lambda: percept(lambda i: decoded(files[i])),
        "features, percept": lambda: percept(lambda i: features(notes[i])),
        "features, librosa with joblib": lambda: workers(joblib.delayed(peer)(clip) for clip in notes),
        "both, percept": lambda: percept(lambda i: features(decoded(files[i]))),
        "both, librosa with joblib": lambda: workers(joblib.delayed(librosa_from_file)(data) for data in files),
    }
    times = best_of(*measured.values(), calls=1)
    print(f"{len(notes)} notes, {sum(map(len, notes)) / rate:.0f} s of sound, {os.cpu_count()} cores")
    for name, seconds in zip(measured, times, strict=True):
        print(f"{name:<32}{seconds:>7.2f} s")
    print(f"librosa / percept: features {times[2] / times[1]:.2f}, from files {times[4] / times[3]:.2f}")


def best_of(*functions: Callable[[], Any], calls: int = CALLS) -> list[float]:
    """Shortest time in seconds of each function. They alternate, after several calls in a row, so that each finds its
    own data in the cache; at least three rounds, and TIME for each."""
    best, total, rounds = [np.inf] * len(functions), [0.0] * len(functions), 0
    while rounds < 3 or min(total) < TIME:
        for i, function in enumerate(functions):
            for _ in range(calls):
                started = time.perf_counter()
                function()
                seconds = time.perf_counter() - started
                best[i], total[i] = min(best[i], seconds), total[i] + seconds
        rounds += 1
    return best


if __name__ == "__main__":
    main()
