"""Inference responses of the Open Inference Protocol: from the model's answers to JSON and binary data."""

from typing import Any

import numpy as np
import orjson

from models.card import FAMILIARITY, ModelCard
from service.http.inference_request import Inference
from service.http.tensors import Array
from service.serving.predictor import labels_from


def write(card: ModelCard, inference: Inference, answers: Array) -> tuple[bytes, bytes]:
    """The JSON of the response to a batch, and the binary data that follow it; `answers` as `Predictor.run` returns."""
    width, tensors, tail = len(card.labels), [], []
    data: Any
    for output in inference.outputs:
        values = answers[:, width] if output.name == FAMILIARITY else answers[:, :width]
        if output.classes:
            named = _classified(values, card.labels, output.classes)
            shape, datatype, data, raw = [len(values), output.classes], "BYTES", named, _length_prefixed(named)
        else:
            shape, datatype = list(values.shape), "FP32"
            contiguous = np.ascontiguousarray(values)
            data, raw = contiguous.reshape(-1), contiguous.tobytes() if output.binary else b""
        tensor: dict[str, Any] = {"name": output.name, "shape": shape, "datatype": datatype}
        if output.binary:
            tensor["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            tensor["data"] = data
        tensors.append(tensor)
    body: dict[str, Any] = {"model_name": card.name, "model_version": card.version}
    if inference.id is not None:
        body["id"] = inference.id
    if card.set_threshold is not None:
        body["parameters"] = {"coverage": card.coverage, "set_threshold": card.set_threshold}
        if inference.sets:
            body["parameters"]["set"] = orjson.dumps(_sets(answers[:, :width], card)).decode()
    head = orjson.dumps(body | {"outputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY)
    return head, b"".join(tail)


def _classified(values: Array, labels: tuple[str, ...], n: int) -> list[str]:
    """The n most probable labels of each sample, as "probability:index:label"."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :n]
    return [f"{row[i]:f}:{i}:{labels[i]}" for row, best in zip(values, order, strict=True) for i in best]


def _sets(values: Array, card: ModelCard) -> list[list[str]]:
    """The labels in the set of each sample, likeliest first, as an `Answer` has them."""
    assert card.set_threshold is not None
    rows = (dict(zip(card.labels, row, strict=True)) for row in values.tolist())
    return [labels_from(row, card.set_threshold) for row in rows]


def _length_prefixed(texts: list[str]) -> bytes:
    """Elements of type BYTES in binary: the length of each in four bytes, little-endian, and then the element."""
    encoded = [text.encode() for text in texts]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
