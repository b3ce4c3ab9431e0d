"""One ONNX model and its card: a file's bytes, or an array, to the answer that HTTP and `percept predict` give."""

import io
import json
import logging
import wave
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from models.card import CARD_KEY, ModelCard
from service.media import decode_audio, decode_image
from service.refusal import Limits, MediaError, unreadable

logger = logging.getLogger("bentoml.percept")

MODEL_FILE = "model.onnx"  # name of the graph in a model's folder in the store


class Predictor:
    """An ONNX Runtime session, trusted to take and give what the card inside the file says."""

    def __init__(self, path: str | Path) -> None:
        """Opens the ONNX file at `path`.

        Raises ValueError if the file carries no card, and what ONNX Runtime raises if it cannot read the file.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the graphs are small: a pool of threads costs more than it gains
        options.log_severity_level = 3  # errors
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        card = self.session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
        if card is None:
            raise ValueError(f"{path} was not exported by percept: its metadata has no {CARD_KEY!r}")
        self.card = ModelCard.model_validate_json(card)

    def decode(self, data: bytes, limits: Limits) -> NDArray[Any]:
        """A file's bytes as the model's input, one sample without the axis N: uint8 (28, 28), float32 (T,) or
        float32 (D,). Raises MediaError."""
        match self.card.input.kind:
            case "image":
                return decode_image(data, limits)
            case "audio":
                assert self.card.input.sample_rate is not None
                return decode_audio(data, self.card.input.sample_rate, limits)
            case "vector":
                return decode_vector(data, self.card.input.shape[-1])

    def predict(self, sample: NDArray[Any]) -> dict[str, Any]:
        """The model's answer to one sample as `decode` returns it.

        Raises MediaError if the answer is not a finite number, as for a vector far outside of what was trained on.
        """
        card = self.card
        (outputs,) = self.session.run([card.output], {card.input.name: sample[np.newaxis]})
        if not np.isfinite(outputs).all():
            raise MediaError(422, "the model has no answer to this input: it overflows")
        named = dict(zip(card.labels, outputs[0].tolist(), strict=True))
        answer: dict[str, Any] = {"model": card.name, "version": card.version}
        if card.kind == "regression":
            return answer | {"value": named}
        label = max(named, key=named.__getitem__)
        return answer | {"label": label, "confidence": named[label], "probabilities": named}

    def answer(self, data: bytes, limits: Limits) -> dict[str, Any]:
        """The model's answer to a file's bytes. Raises MediaError."""
        return self.predict(self.decode(data, limits))

    def warm_up(self) -> None:
        """Answers one small file, so that no request pays for first uses, and a broken model is found at once."""
        self.answer(_sample(self.card), Limits())


def decode_vector(data: bytes, length: int | None) -> NDArray[np.float32]:
    """A JSON array of numbers as float32 (D,), of `length` numbers unless that is None. Raises MediaError."""
    try:
        numbers = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise unreadable(data, "vector") from error
    if not isinstance(numbers, list) or not all(type(number) in (int, float) for number in numbers):
        raise MediaError(422, "expected one JSON array of numbers")
    if length is not None and len(numbers) != length:
        raise MediaError(422, f"expected {length} numbers, got {len(numbers)}")
    with np.errstate(over="ignore"):
        try:
            vector = np.array(numbers, np.float64).astype(np.float32)
        except OverflowError as error:
            raise MediaError(422, "a number is too large") from error
    if not np.isfinite(vector).all():
        raise MediaError(422, "a number is too large or not finite")
    return vector


def open_models(models: list[bentoml.Model]) -> tuple[dict[str, Predictor], dict[str, str]]:
    """A warm predictor for each model by its name, and for those that fail what a client may know of it; the reason
    stands in the log, in one line."""
    predictors, failures = {}, {}
    for model in models:
        name = model.tag.name
        try:
            predictor = Predictor(model.path_of(MODEL_FILE))
            predictor.warm_up()
        except Exception as error:  # one broken file must not take the others down
            failures[name] = f"{model.tag} could not be loaded; the log of the service says why"
            logger.error("%s cannot be served: %s", model.tag, " ".join(str(error).split()))
        else:
            predictors[name] = predictor
            logger.info("serving %s", model.tag)
    return predictors, failures


def _sample(card: ModelCard) -> bytes:
    """A small file that the model can answer: a picture of one stroke, a second of noise, or ones."""
    file = io.BytesIO()
    match card.input.kind:
        case "image":
            picture = np.zeros((28, 28), np.uint8)
            picture[6:22, 13:15] = 255
            Image.fromarray(picture).save(file, "PNG")
        case "audio":
            noise = np.random.default_rng(0).integers(-9999, 9999, 44_100, np.int16)
            with wave.open(file, "wb") as recording:
                recording.setparams((1, 2, 44_100, 0, "NONE", ""))
                recording.writeframes(noise.tobytes())
        case "vector":
            file.write(json.dumps([1] * (card.input.shape[-1] or 1)).encode())
    return file.getvalue()
