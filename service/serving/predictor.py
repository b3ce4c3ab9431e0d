"""One ONNX model and its card: from a file's bytes, or an array, to an `Answer`."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.card import (
    CARD_KEY,
    FAMILIARITY,
    FEATURES,
    LOG_MEL,
    SECOND_READING,
    WITH_FAMILIARITY,
    ModelCard,
    check_seal,
)
from service.errors import Unusable
from service.media import EXPECTED, Limits, silence
from service.media.decoders import Decoder, decoder
from service.media.parallel import MapParts, one_by_one
from service.media.silence import is_part_silent, is_silent
from service.serving import seen
from service.serving.answer import Answer, Window
from service.serving.cost import PIECE_SECONDS, Cost
from service.serving.drift import Drift

FALSE = np.array(False)
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
NO_FOLDER = "/nonexistent"  # where weights outside of the file would be: the file is all that was exported
MODEL_FILE = "model.onnx"  # name of the graph in a model's folder in the store
BATCH = 4  # seconds of windows that go through it at once: fewer mean more calls, more do not fit the cache
MIN_WINDOW, MAX_WINDOW = 0.1, 60.0  # seconds
GROWING = 2**18  # bytes of a row whose arrays may need more memory than ONNX Runtime holds anyway


class Predictor:
    """An ONNX Runtime session for the graph in a file, and the card inside that file, which describes it."""

    def __init__(self, file: str | Path | bytes, card: bytes | None = None, arena: bool = True) -> None:
        """Opens the ONNX file at a path, or with this content; if a `card` is given, the content of the file beside it,
        the two must have been exported together. Without an `arena`, ONNX Runtime gives back what it allocates: where
        several threads are always busy, in one arena each gets memory that lies in the cache of another one's core.

        Raises ValueError if the file carries no card or another one, OSError if it cannot be read, and what ONNX
        Runtime raises for a graph that it cannot load.
        """
        model = file if isinstance(file, bytes) else Path(file).read_bytes()
        if card is not None:
            check_seal(model, card)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the graphs are so small that a thread pool costs more than it gains
        options.log_severity_level = 4  # what it raises says the same
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", NO_FOLDER)
        options.enable_cpu_mem_arena = arena
        options.enable_mem_pattern = False  # one is cached per length of recording, and takes half as much memory again
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        # What `session.run` calls in the end: it asks first for things that this graph does not have, such as WebGPU.
        self._compute = self.session._sess.run
        inside = self.session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
        if inside is None:
            name = MODEL_FILE if isinstance(file, bytes) else file
            raise ValueError(f"{name} was not exported by percept: its metadata has no {CARD_KEY!r}")
        self.card = ModelCard.model_validate_json(inside)
        self.outputs = [self.card.output, *([] if self.card.known_threshold is None else [FAMILIARITY])]
        self.samples = b"{}"  # examples for the page, as JSON
        self.bom: bytes | None = None  # bill of materials, CycloneDX as JSON; versions exported earlier have none
        self.signer: str | None = None  # see `Trust.check`; None if any model is trusted
        self._has_grown = False  # ONNX Runtime's memory, since `give_back`
        self._has_log_mel = LOG_MEL in [o.name for o in self.session.get_outputs()]
        self._optional = WITH_FAMILIARITY in [i.name for i in self.session.get_overridable_initializers()]
        self.drift = Drift(self.card.groups)
        self.run_options: onnxruntime.RunOptions | None = None
        self._watched = [FEATURES] if self.card.groups and not watches_media(self.card) else []
        self._second = [SECOND_READING] if self.card.groups and has_second_reading(self.card) else []

    @cached_property
    def decoder(self) -> Decoder:
        """Of files."""
        return decoder(self.card)

    @cached_property
    def cost(self) -> Cost:
        """What answers take; not estimated before the card has been checked, which may hold anything."""
        return Cost(self.card)

    def decode(self, data: bytes, limits: Limits, map_parts: MapParts = one_by_one) -> NDArray[Any]:
        """A file's bytes as the model's input, one sample without the axis N: uint8 (28, 28) or
        (S, S, 3), float32 (T,) or float32 (D,). Raises MediaError."""
        return self.decoder.decode(data, limits, map_parts)

    def parse_timeline(self, text: str | None) -> float | None:
        """The length of a timeline's windows in seconds, parsed from `text`; None if that is None.

        Raises Unusable if it is not between MIN_WINDOW and MAX_WINDOW, or the model does not take recordings.
        """
        if text is None:
            return None
        if self.card.input.kind != "audio":
            expected = EXPECTED[self.card.input.kind]
            raise Unusable(f"only recordings have a timeline; {self.card.name} takes {expected}")
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not MIN_WINDOW <= seconds <= MAX_WINDOW:
            raise Unusable(
                f"timeline={text[:20]!r}: expected the seconds of a window, {MIN_WINDOW:g} to {MAX_WINDOW:g}"
            )
        return seconds

    def parse_seen(self, text: str | None) -> bool:
        """Whether an answer is to hold what the model sees, parsed from `text`; false if that is None.

        Raises Unusable if it is neither true nor false, or the model takes numbers.
        """
        if text is None:
            return False
        if (wanted := BOOLEANS.get(text.lower())) is None:
            raise Unusable(f"seen={text[:20]!r}: expected true or false")
        if wanted and self.card.input.kind == "vector":
            raise Unusable(f"only pictures and recordings are shown; {self.card.name} takes {EXPECTED['vector']}")
        return wanted

    def answer(
        self,
        data: bytes,
        limits: Limits,
        window: float | None = None,
        with_seen: bool = False,
        map_parts: MapParts = one_by_one,
    ) -> Answer:
        """The model's answer to a file's bytes, as `predict` gives it. Raises MediaError."""
        return self.predict(self.decode(data, limits, map_parts), window, with_seen, map_parts)

    def predict(
        self,
        sample: NDArray[Any],
        window: float | None = None,
        with_seen: bool = False,
        map_parts: MapParts = one_by_one,
    ) -> Answer:
        """The model's answer to one sample as `decode` returns it; with a `window` in seconds, as `parse_timeline`
        gives it, also the timeline of the recording; `with_seen`, also what the model sees of it.

        Raises Unusable if the answer is not a finite number, as for a vector far outside the training data.
        """
        outputs = self.outputs_of(sample, map_parts)
        fields = {"model": self.card.name, "version": self.card.version} | self._fields(outputs)
        if window is not None:
            fields["timeline"] = list(self._timeline(sample, window, map_parts))
        if with_seen:
            fields["seen"] = self.seen(sample, map_parts)
        return Answer.trusted(fields)

    def seen(self, sample: NDArray[Any], map_parts: MapParts = one_by_one) -> str | None:
        """What the model sees of a sample as `decode` returns it, as a PNG in Base64: the picture itself, or of a sound
        the log-mel spectrogram that the graph computes, once more; None if the graph does not return it."""
        if self.card.input.kind == "image":
            return seen.png(sample)
        if not self._has_log_mel:
            return None

        def log_mel(piece: NDArray[Any]) -> NDArray[np.float32]:
            [spectrograms] = self.session.run([LOG_MEL], {self.card.input.name: piece[np.newaxis]}, self.run_options)
            found: NDArray[np.float32] = spectrograms[0]
            return found

        return seen.png(seen.side_by_side(map_parts(log_mel, self._pieces(sample))))

    def outputs_of(self, sample: NDArray[Any], map_parts: MapParts = one_by_one) -> list[float]:
        """One row of `run`'s outputs for a sample as `decode` returns it; for a long recording, the mean over its
        pieces. Raises Unusable."""
        rows = map_parts(self._row, self._pieces(sample))
        if not rows:
            raise Unusable("the audio is silent")
        mean: list[float] = rows[0] if len(rows) == 1 else np.mean(rows, axis=0).tolist()
        return mean

    def run(self, batch: NDArray[Any], watch: bool = True, familiarity: bool = True) -> NDArray[np.float32]:
        """The graph's outputs for a batch of samples (N, …): probabilities or values (N, K), or (N, K + 1) with the
        familiarity in the last column, if the model has that output and it is asked for. `watch` counts the batch
        towards drift.

        Raises Unusable if an answer is not a finite number.
        """
        answers, *more = self._outputs(batch, watch, familiarity)
        if not np.isfinite(answers).all():
            raise _overflow()
        return np.concatenate([answers, more[0][:, np.newaxis]], axis=1) if more else answers

    def run_in_parts(self, batch: NDArray[Any], familiarity: bool = True) -> NDArray[np.float32]:
        """What `run` gives, for a batch of any size: its rows in chunks that bound time and memory, and of long
        recordings the mean over their pieces, as for files. Raises Unusable."""
        rate = self.card.input.sample_rate
        if rate is not None and batch.shape[1] > PIECE_SECONDS * rate:
            return np.array([self.outputs_of(sample) for sample in batch], np.float32)
        rows = self.cost.rows_at_once(batch.shape)
        chunks = [self.run(batch[i : i + rows], True, familiarity) for i in range(0, len(batch), rows)]
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)

    def _row(self, sample: NDArray[Any]) -> list[float]:
        """What `run` gives for one sample, as a list: arrays of one row would take a fifth of the graph's time."""
        answers, *more = self._outputs(sample[np.newaxis])
        row: list[float] = answers[0].tolist()
        if not math.isfinite(sum(row)):
            raise _overflow()
        return row + more[0].tolist() if more else row

    def _outputs(self, batch: NDArray[Any], watch: bool = True, familiarity: bool = True) -> list[NDArray[np.float32]]:
        """Answers (N, K), and the familiarity (N,) if the model has that output and it is asked for."""
        inputs = {self.card.input.name: batch}
        names = self.outputs
        self._has_grown |= len(batch) > 1 or batch.nbytes > GROWING  # the layers of a vector's row are larger than it
        if not familiarity and self._optional:
            names, inputs[WITH_FAMILIARITY] = names[:1], FALSE
        second = self._second if len(names) > 1 else []
        wanted = [*names, *second, *self._watched] if watch else names
        try:
            outputs: list[NDArray[np.float32]] = self._compute(wanted, inputs, self.run_options)
        except Exception as error:  # ONNX Runtime's own, without a common base
            raise Unusable("the model has no answer to this input: its graph fails") from error
        rows = len(batch)
        if outputs[0].shape != (rows, len(self.card.labels)) or any(o.shape[:1] != (rows,) for o in outputs[1:]):
            shapes = [output.shape for output in outputs]
            raise Unusable(f"the model has no answer to this input: {shapes} for {len(self.card.labels)} labels")
        if watch and self.card.groups:
            features = outputs[-1] if self._watched else batch.reshape(rows, -1)
            self.drift.add(features, *outputs[: len(names) + len(second)])
        return outputs[: len(names)]

    def _fields(self, row: list[float] | None) -> dict[str, Any]:
        """One row of `run`'s outputs as the fields of an Answer or a Window; None is the row of silence."""
        threshold = self.card.known_threshold
        known = None if threshold is None or row is None else row.pop() >= threshold
        if self.card.kind == "regression":
            value = None if row is None else dict(zip(self.card.labels, row, strict=True))
            return {"value": value} if threshold is None else {"value": value, "known": known}
        if row is None:
            return {"label": None, "confidence": None, "known": None, "probabilities": None}
        probabilities = dict(zip(self.card.labels, row, strict=True))
        label = max(probabilities, key=probabilities.__getitem__)
        confidence = probabilities[label]
        fields = {"label": label, "confidence": confidence, "known": known, "probabilities": probabilities}
        if (least := self.card.set_threshold) is not None:
            fields["set"] = [label] if 1 - confidence < least else labels_from(probabilities, least)
        return fields

    def _pieces(self, sample: NDArray[Any]) -> Iterable[NDArray[Any]]:
        """The sample itself, or, of a longer recording than PIECE_SECONDS, its equal parts that are not silent."""
        rate = self.card.input.sample_rate
        if rate is None or len(sample) <= PIECE_SECONDS * rate:
            return [sample]
        n = math.ceil(len(sample) / (PIECE_SECONDS * rate))
        return (piece for piece in np.array_split(sample, n) if not is_part_silent(piece, rate))

    def _timeline(self, waveform: NDArray[np.float32], window: float, map_parts: MapParts) -> Iterator[Window]:
        """What is heard in each window of a recording (T,). The last one has between half and one and a half times the
        length of the others."""
        rate = self.card.input.sample_rate
        assert rate is not None
        size = round(window * rate)
        n = max(1, (2 * len(waveform) + size) // (2 * size))
        full, last = waveform[: (n - 1) * size].reshape(n - 1, size), waveform[np.newaxis, (n - 1) * size :]
        step = max(1, BATCH * rate // size)
        batches = [*(full[i : i + step] for i in range(0, n - 1, step)), last]
        silent = partial(is_part_silent if n > 1 else is_silent, sample_rate=rate)
        rows = map_parts(partial(self._rows_heard, silent), batches)
        edges = [*range(0, n * size, size), len(waveform)]
        for i, row in enumerate(chain.from_iterable(rows)):
            fields = self._fields(row)
            for name in ("probabilities", "set"):
                fields.pop(name, None)
            yield Window.trusted({"start": round(edges[i] / rate, 4), "end": round(edges[i + 1] / rate, 4)} | fields)

    def _rows_heard(
        self, silent: Callable[[NDArray[np.float32]], bool], batch: NDArray[np.float32]
    ) -> list[list[float] | None]:
        """A row of `run` for each window of a batch (N, T); None for those that are silent."""
        heard = np.array([not silent(window) for window in batch])
        outputs = iter(self.run(batch[heard], watch=False).tolist() if heard.any() else ())
        return [next(outputs) if is_heard else None for is_heard in heard]

    def give_back(self) -> None:
        """Free what is kept for more large requests; ONNX Runtime keeps enough for batches as large as the largest."""
        if self._has_grown:
            self._has_grown = False
            silence.give_back()
            options = onnxruntime.RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            small = self.decode(self.decoder.example(), Limits())[np.newaxis]
            self.session.run(self.outputs, {self.card.input.name: small}, options)


def watches_media(card: ModelCard) -> bool:
    """Whether drift is detected on the media, and not on features that the graph returns: for models of pixels."""
    return card.input.kind == "image" and len(card.input.shape) == 3


def has_second_reading(card: ModelCard) -> bool:
    """Whether the service compares the answers with the graph's second reading of the classes."""
    return card.usual is not None and card.usual.agreement is not None


def labels_from(probabilities: dict[str, float], least: float) -> list[str]:
    """The labels of at least that probability, and in any case the likeliest, likeliest first.

    >>> labels_from({"a": 0.1, "b": 0.6, "c": 0.3}, 0.3)
    ['b', 'c']
    """
    ranked = sorted(probabilities, key=probabilities.__getitem__, reverse=True)
    return ranked[:1] + [label for label in ranked[1:] if probabilities[label] >= least]


def _overflow() -> Unusable:
    return Unusable("the model has no answer to this input: it overflows")
