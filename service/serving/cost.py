"""What an answer will take, estimated before its file is decoded, or its batch goes through the graph.

The constants were measured like those of `service.media.work`. A row of sound is filled up to a whole frame of the
Fourier transform, so 32,768 waveforms of one sample are work for seconds, and a gigabyte at once.
"""

import math

from models.card import ModelCard
from service.media import Limits, work
from service.media.parallel import AT_ONCE
from service.media.work import Work
from service.serving import seen

PIECE_SECONDS = 60  # of a recording, at most, that go through the graph at once; an older one then takes 75 MB
CHUNK = 0.01  # seconds of rows that go through the graph at once: more would not fit the cache

RUN = 5e-5  # seconds for each call of the graph
ROW = 1e-6  # seconds for each row
PARAMETER = 5e-11  # seconds for each parameter of the network and row
SAMPLE, WINDOW = 2.2e-8, 3e-5  # seconds for each sample of a waveform, and for each window of a timeline
RESPONSE = 2.5e-11  # seconds for each product of a patch's value with an atom of a dictionary
RESPONSE_BYTES = 16  # of memory for each sum of such products
SAMPLE_BYTES = 60  # of memory for each sample of a waveform that is in the graph
PNG, PIXEL, MEL_BANDS = 6e-5, 4e-8, 128  # seconds for a picture that is sent back, and its values; bands of most sounds


class Cost:
    """What the answers of the model with this card take."""

    def __init__(self, card: ModelCard) -> None:
        self._input, features = card.input, card.features
        self._n_fft = int(features.get("n_fft", 0))
        patch_values = responses = 0  # of a picture: to all patches that the graph looks at
        if features.get("kind") == "image":
            patch_values = (3 if features.get("color") else 1) * int(features["patch"]) ** 2
            responses = int(features["size"] - features["patch"] + 1) ** 2 * int(features["atoms"] + patch_values)
        self._row_bytes = RESPONSE_BYTES * responses
        self._row_seconds = ROW + PARAMETER * card.parameters + RESPONSE * responses * patch_values  # of any length

    def of_file(self, data: bytes, limits: Limits, window: float | None = None, with_seen: bool = False) -> Work:
        """To answer a file; see `Predictor.answer`."""
        match self._input.kind:
            case "image":
                drawing = PNG + PIXEL * math.prod(size or 1 for size in self._input.shape) if with_seen else 0.0
                decoding, graph = work.of_image(data, limits), self.of_batch((1, 0))
                return Work(decoding.seconds + graph.seconds + drawing, decoding.bytes + graph.bytes)
            case "vector":
                return work.of_vector(data) + self.of_batch((1, 0))
        rate = self._input.sample_rate
        assert rate is not None
        decoding, seconds = work.of_audio(data, rate, limits)
        whole = self.of_batch((1, int(seconds * rate)))
        total = decoding + whole
        if window is not None:
            windows = int(seconds / window) + 1
            total += self.of_batch((windows, int(window * rate))) + Work(WINDOW * windows)
        if with_seen:
            total += Work(whole.seconds + PNG + PIXEL * MEL_BANDS * seen.WIDEST)
        return total

    def of_batch(self, shape: tuple[int, ...]) -> Work:
        """For the graph to take a batch of that shape, its rows in chunks of `rows_at_once`."""
        rows, held = min(shape[0], self.rows_at_once(shape)), self._row_bytes
        if self._input.kind == "audio":
            most = AT_ONCE * PIECE_SECONDS * (self._input.sample_rate or 1)
            held = SAMPLE_BYTES * min(self._samples(shape), most)
        return Work(RUN + self._seconds(shape) * shape[0], rows * held)

    def rows_at_once(self, shape: tuple[int, ...]) -> int:
        """How many rows of a batch of that shape go through the graph together."""
        return max(1, int(CHUNK / self._seconds(shape)))

    def _seconds(self, shape: tuple[int, ...]) -> float:
        """For each row of a batch of that shape."""
        return self._row_seconds + (SAMPLE * self._samples(shape) if self._input.kind == "audio" else 0.0)

    def _samples(self, shape: tuple[int, ...]) -> int:
        """Samples of a row of a batch of waveforms, as the graph fills them up."""
        return shape[1] + self._n_fft
