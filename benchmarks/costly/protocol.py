"""Requests of the Open Inference Protocol, and vectors in JSON."""

import json
from typing import Any

import numpy as np

from benchmarks.costly.kind import MANY, Kind, closing, repeated

INFER = "/v2/models/{}/infer"
INPUTS: dict[str, tuple[str, list[int]]] = {
    "digits": ("image", [28, 28]),
    "instruments": ("audio", []),
    "regions": ("vector", [2]),
}
SIZES = {"BOOL": 1, "UINT8": 1, "INT8": 1, "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8, "INT64": 8}
MOST = 2**25  # bytes of a request that is made here


def _head(tensor: dict[str, Any], outputs: str) -> dict[str, Any]:
    body: dict[str, Any] = {"inputs": [tensor]}
    if outputs == "classes":
        body["outputs"] = [{"name": "probabilities", "parameters": {"classification": 10}}]
    elif outputs:
        body["parameters"] = {"binary_data_output": outputs == "binary"}
    return body


def _shape(model: str, rows: int, length: int) -> tuple[str, list[int]]:
    name, shape = INPUTS[model]
    return name, [rows, *(shape or [length])]


def binary(model: str, rows: int, length: int, datatype: str, outputs: str) -> bytes:
    """A tensor in bytes; `length` is the samples of a waveform. Raises ValueError if it is too large."""
    name, shape = _shape(model, rows, length)
    n = int(np.prod(shape)) * SIZES[datatype]
    if n > MOST:
        raise ValueError("too large")
    tensor = {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": n}}
    head = json.dumps(_head(tensor, outputs)).encode()
    return closing(INFER.format(model), head + bytes(n), f"Inference-Header-Content-Length: {len(head)}")


def as_json(model: str, rows: int, length: int, datatype: str, number: str, nested: bool, outputs: str) -> bytes:
    """A tensor in JSON. Raises ValueError if it is too large."""
    name, shape = _shape(model, rows, length)
    n = int(np.prod(shape))
    if n * (len(number) + 1) > MOST:
        raise ValueError("too large")
    text = number
    for size in reversed(shape if nested else [n]):
        text = "[" + ",".join([text] * size) + "]"
    whole = json.dumps(_head({"name": name, "shape": shape, "datatype": datatype, "data": "@"}, outputs))
    return closing(INFER.format(model), whole.replace('"@"', text).encode())


FILLINGS = {
    "numbers": ("[", "0,", "0]"),
    "lists": ("[", "[],", "0]"),
    "objects": ("[", '{"a":0},', "0]"),
    "strings": ("[", '"ab",', "0]"),
    "escapes": ('"', "\\u0041", '"'),
    "deep": ("[" * 1000, "", "]" * 1000),
    "very deep": ("", "[", ""),
    "different keys": ("{", "", '"z":0}'),
    "same keys": ("{", '"a":0,', '"z":0}'),
    "floats": ("[", "0.1234567890123456789,", "0]"),
    "long number": ("", "1", ""),
}
PLACES = (
    "name", "shape", "datatype", "data", "tensor parameters", "tensor unknown", "inputs", "id", "parameters", "outputs",
    "output name", "output parameters", "unknown", "index",
)  # fmt: skip


def _filling(filling: str, size: int) -> str:
    start, unit, end = FILLINGS[filling]
    if filling == "different keys":
        return start + "".join(f'"{i}":0,' for i in range(size // 10)) + end
    return start + unit * (size // max(1, len(unit))) + end


def filled(size: int, place: str, filling: str, model: str) -> bytes:
    """JSON with a long value where a short one is expected."""
    name, inner = INPUTS[model]
    tensor: dict[str, Any] = {"name": name, "shape": [1, *(inner or [1])], "datatype": "FP32", "data": [1]}
    body: dict[str, Any] = {"inputs": [tensor]}
    match place:
        case "tensor parameters":
            tensor["parameters"] = "@"
        case "tensor unknown":
            tensor["unknown"] = "@"
        case "output name":
            body["outputs"] = [{"name": "@"}]
        case "output parameters":
            body["outputs"] = [{"name": "probabilities", "parameters": "@"}]
        case "name" | "shape" | "datatype" | "data":
            tensor[place] = "@"
        case "index":
            body = {"ready": "@"}
        case _:
            body[place] = "@"
    path = "/v2/repository/index" if place == "index" else INFER.format(model)
    return closing(path, json.dumps(body).replace('"@"', _filling(filling, size)).encode())


def vector(size: int, filling: str) -> bytes:
    """JSON where one array of two numbers is expected."""
    return closing("/predict/regions", _filling(filling, size).encode())


def header_length(size: int, length: str) -> bytes:
    """Binary data whose header is nearly all, or none, of a large body."""
    return closing(INFER.format("digits"), repeated(b" ", size), f"Inference-Header-Content-Length: {length}")


_ROWS = (32_768, 1, 32, 1000)
_OUTPUTS = ("", "binary", "json", "classes")
PROTOCOL = [
    *(
        Kind(
            f"binary, {model}",
            binary,
            {"model": (model,), "rows": _ROWS, "length": lengths, "datatype": ("BOOL", *SIZES), "outputs": _OUTPUTS},
        )
        for model, lengths in {"digits": (1,), "instruments": (1, 512, 2049, 100_000, 10**7), "regions": (1,)}.items()
    ),
    *(
        Kind(
            f"JSON, {model}",
            as_json,
            {
                "model": (model,),
                "rows": (1000, *_ROWS),
                "length": (1, 512, 100_000, 10**7),
                "datatype": tuple(SIZES),
                "number": ("0", "255", "1.5", "true", "0.1234567890123456789", "1e-300", "12345678901234567890"),
                "nested": (False, True),
                "outputs": _OUTPUTS,
            },
        )
        for model in INPUTS
    ),
    Kind("JSON, filled", filled, {"size": MANY, "place": PLACES, "filling": tuple(FILLINGS), "model": tuple(INPUTS)}),
    Kind("JSON vector", vector, {"size": MANY, "filling": tuple(FILLINGS)}),
    Kind("binary, header length", header_length, {"size": MANY, "length": ("1", "4000", "1000000")}),
]
