"""Time and memory of the service for timelines of ten-minute recordings.

    python -m benchmarks.timeline [--runs runs] [--minutes 10]

The recordings are synthesised notes in sequence at 44,100 Hz, in four formats, mono and stereo. Times are the best of
three: of decoding, resampling and the graph in this process, and of a whole request to the service. There is no peer.
Takes a minute or two.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soxr
from numpy.typing import NDArray

from benchmarks.exported import predictor_of
from benchmarks.robustness import encoded
from pipeline.sources.notes import SAMPLE_RATE, notes
from service.media import Limits
from service.media.audio import decode_audio
from tests.serving import peak_mb, resident_mb, serving, workers

RATE = 44_100  # Hz
WINDOW = 0.5  # seconds
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    predictor = predictor_of(arguments.runs / "instruments", "percept run instruments")
    rate, limits = predictor.card.input.sample_rate, Limits()
    assert rate is not None
    seconds = 60 * arguments.minutes
    sound = concert(seconds)
    home = Path(os.environ.get("BENTOML_HOME", Path.home() / "bentoml"))
    print(f"{arguments.minutes:g} minutes in windows of {WINDOW} s")
    print("                   MB  decode  resample   graph    HTTP  × real time")
    with serving(home) as server, httpx.Client(base_url=server.url, timeout=120) as client:
        (worker,) = workers(server)
        before = resident_mb(worker)
        for format, channels in product(("WAV", "FLAC", "OGG", "MP3"), (1, 2)):
            # The second channel has half the amplitude of the first.
            data = encoded(sound[:, np.newaxis] * np.array([1, 0.5], np.float32)[:channels], RATE, format, None)
            decode, decoded = best(decode_audio, data, RATE, limits)
            resample, waveform = best(soxr.resample, decoded, RATE, rate)
            inference, _ = best(predictor.predict, waveform, WINDOW)
            request, answer = best(partial(client.post, f"/instruments?timeline={WINDOW}", content=data))
            answer.raise_for_status()
            print(
                f"{format:<5}{('mono', 'stereo')[channels - 1]:<8}{len(data) / 1e6:>8.1f}{decode:>8.2f}"
                f"{resample:>10.2f}{inference:>8.2f}{request:>8.2f}{seconds / request:>13.0f}"
            )
        print(f"worker: {before:.0f} MB resident before, {peak_mb(worker):.0f} MB at peak")


def concert(seconds: float) -> NDArray[np.float32]:
    """Notes of all instruments in a fixed random order, float32 (T,) at RATE Hz."""
    score = notes(per_class=max(1, round(seconds / 12)))  # a note takes 1.4 s on average, and there are 13 instruments
    np.random.default_rng(0).shuffle(score)
    sound = np.concatenate([note.render() for note in score])
    return np.resize(soxr.resample(sound, SAMPLE_RATE, RATE), round(seconds * RATE))


def best(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """The shortest time of `work` in seconds, and its result."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = work(*arguments)
        times.append(time.perf_counter() - start)
    return min(times), result


if __name__ == "__main__":
    main()
