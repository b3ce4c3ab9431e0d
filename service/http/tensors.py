"""Tensors of the Open Inference Protocol: from the bytes of a request, JSON or binary, to an array, and back."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from models.card import FAMILIARITY, Input, ModelCard
from service.http.json_document import LIST, MOST_BYTES, OBJECT, parse_object, typed_values
from service.http.json_lists import LongList, extract_integers, split
from service.media import Limits
from service.serving.predictor import labels_from

PIXELS = "pixels are whole numbers from 0, background, to 255, ink"
HEADER_LENGTH = b"inference-header-content-length"
BINARY = b"application/octet-stream"
DTYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "BF16": np.float32, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
BFLOAT16 = "BF16"  # in binary the upper half of a float32; NumPy has no such type
DATATYPES = {"uint8": "UINT8", "float32": "FP32"}  # dtype of a card → datatype of the protocol
FEW = 16  # lists; a request whose numbers are not nested has fewer
FIRST = 784  # values of a batch, which may tell something of all
MAX_RANK = 8  # sizes of a shape that an error message quotes
MAX_DIGITS = 18  # of a length: int() is slow for many digits, and refuses thousands

Array = NDArray[Any]
Parameters = dict[str, Any]


@dataclass
class Output:
    """How one output is to be returned."""

    name: str
    binary: bool
    classes: int = 0  # how many of the most probable classes to name; 0: all probabilities instead


@dataclass
class Inference:
    """A request, parsed and checked."""

    batch: Array  # (N, …), the model's input
    id: str | None
    outputs: list[Output] = field(default_factory=list)
    sets: bool = False  # whether to name the labels in each sample's set


def parse(data: bytes, header_length: bytes, card: ModelCard, limits: Limits) -> Inference:
    """A request's body as the model's one input, and the outputs that are asked for.

    Parameters
    ----------
    header_length : how many bytes are JSON, before binary data; empty: all of them

    Raises HTTPException 400, or 413 for more samples or seconds than the limits allow.
    """
    length = len(data)
    if header_length:
        if not header_length.isdigit() or len(header_length) > MAX_DIGITS or int(header_length) > length:
            raise HTTPException(400, "Inference-Header-Content-Length is not the length of a header in this body")
        length = int(header_length)
    text, binary = data[:length] if header_length else data, memoryview(data)[length:]
    body, tensor = _read(text, card)
    if tensor is None:
        raise HTTPException(400, f"expected inputs: a list of one tensor named {card.input.name!r}")
    if (name := tensor["name"]) != card.input.name:
        raise HTTPException(400, f"unknown input {_quoted(name)}; {card.name} takes {card.input.name!r}")
    others = 2 + (body["outputs"] is not None)  # lists beside the data's: inputs and shape
    batch = _array(tensor, binary, text, others, card, limits)
    sets = parameters(body, set=bool)["set"] is True
    if sets and card.set_threshold is None:
        raise HTTPException(400, f"set: {card.name} promises none")
    return Inference(batch, body["id"], _outputs(body, card), sets)


def _array(tensor: Parameters, binary: memoryview, text: bytes, others: int, card: ModelCard, limits: Limits) -> Array:
    datatype, shape = tensor["datatype"], list(itertools.islice(tensor["shape"] or (), MAX_RANK))
    wanted = card.input.shape
    if datatype not in DTYPES:
        raise HTTPException(400, f"datatype {_quoted(datatype)} is not read; expected {DATATYPES[card.input.dtype]}")
    if not all(type(size) is int and 0 <= size < 2**40 for size in shape):
        raise HTTPException(400, "shape: expected a list of sizes")
    if len(shape) != len(wanted) or any(w not in (None, s) for s, w in zip(shape, wanted, strict=True)):
        raise HTTPException(400, f"shape {shape} does not fit {sizes(wanted)}")
    if 0 in shape:
        raise HTTPException(400, "the batch is empty")
    if shape[0] > limits.batch:
        raise HTTPException(413, f"the batch has {shape[0]} samples; at most {limits.batch} are allowed")
    rate = card.input.sample_rate
    if rate is not None and shape[1] > limits.seconds * rate:
        raise HTTPException(413, f"the audio is longer than the {limits.seconds:g} seconds allowed")
    n = math.prod(shape)
    size = parameters(tensor, binary_data_size=int)["binary_data_size"]
    if size is None:
        if binary:
            raise HTTPException(400, "there are bytes after the header that no input's binary_data_size accounts for")
        values = _from_json(tensor["data"], datatype, shape, text, others, gaps=bool(card.input.columns))
    else:
        dtype = np.dtype(np.uint16 if datatype == BFLOAT16 else DTYPES[datatype]).newbyteorder("<")
        if tensor["data"] is not None:
            raise HTTPException(400, "the input has data and a binary_data_size; expected one of them")
        expected = n * dtype.itemsize
        if size != expected or len(binary) != expected:
            expectation = f"expected {expected} for this shape, and {len(binary)} bytes follow the header"
            raise HTTPException(400, f"binary_data_size {str(size)[:20]}: {expectation}")
        values = np.frombuffer(binary, dtype)
        if datatype == BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
    return _input(values, card.input).reshape(shape)


def _input(values: Array, model_input: Input) -> Array:
    """Numbers as the model takes them. Raises HTTPException 400 if they do not fit, or are pixels from 0 to 1."""
    if values.dtype.kind == "b":
        values = values.view(np.uint8) != 0  # in binary, a byte may have any value
        if model_input.kind == "image":
            return values * np.uint8(255)
    converted = _as(values, model_input.dtype, gaps=bool(model_input.columns))
    # Nearly black, so the answer would be nonsense; ink in the first picture tells that they are not.
    if model_input.kind == "image" and converted[:FIRST].max() <= 1 and converted.max() == 1:
        raise HTTPException(400, f"data: {PIXELS}, and these end at 1; multiply them by 255, or send them as BOOL")
    return converted


def _from_json(data: Any, datatype: str, shape: list[int], text: bytes, others: int, gaps: bool = False) -> Array:
    """Numbers in row-major order, flat or nested as `shape` says, as an array of one dimension.

    They are copied from the parser's memory, if they are not an array already; a Python object for each would take
    twice as long.

    Parameters
    ----------
    text, others : the JSON that holds `data`, and how many lists it has outside of `data`, at least
    gaps : null stands for a missing number, NaN
    """
    n, dtype = math.prod(shape), np.dtype(DTYPES[datatype])
    if isinstance(data, np.ndarray):
        if dtype.kind == "b":
            raise HTTPException(400, "data: expected true or false, for datatype BOOL")
        return _as(_of_size(n, data), dtype)
    if isinstance(data, LongList):
        return _of_size(n, data.values(shape, lambda piece: _converted(piece, 1, datatype)))
    if data is None or not len(data):
        raise HTTPException(400, f"data: expected a list of {n} numbers, got none")
    levels = len(shape) if isinstance(data[0], simdjson.Array) else 1
    fits = levels == 1 or _is_nested(data, shape)
    lists = others + sum(math.prod(shape[:i]) for i in range(levels))
    if fits and _has_more_lists(text, lists):  # perhaps deeper inside `data`
        fits = not any(isinstance(value, simdjson.Array) for value in _inside(data, levels))
    if not fits:
        raise HTTPException(400, f"data: the lists are not nested as shape {shape} says")
    return _of_size(n, _converted(data, levels, datatype, gaps))


def _converted(data: Any, levels: int, datatype: str, gaps: bool = False) -> Array:
    """The numbers in so many levels of simdjson's arrays, as an array of one dimension. Raises HTTPException 400."""
    dtype = np.dtype(DTYPES[datatype])
    if dtype.kind == "b":
        values = list(_inside(data, levels))
        if set(map(type, values)) != {bool}:  # NumPy would pad all of them to the length of the longest string
            raise HTTPException(400, "data: expected true or false, for datatype BOOL")
        return np.array(values)
    kind = "i" if dtype.kind == "u" and dtype != np.uint64 else dtype.kind  # read a quarter faster than unsigned
    try:
        return _as(_numbers(data, kind), dtype)
    except TypeError:
        if gaps and dtype.kind == "f":
            values = list(_inside(data, levels))
            if set(map(type, values)) <= {int, float, NoneType}:
                return np.array([math.nan if value is None else value for value in values], np.float64)
        raise HTTPException(400, f"data: expected numbers of datatype {datatype}") from None
    except ValueError:
        raise _does_not_fit(dtype) from None


def _of_size(n: int, values: Array) -> Array:
    if len(values) != n:
        raise HTTPException(400, f"data: expected a list of {n} numbers, got {len(values)} of them")
    return values


def _has_more_lists(text: bytes, n: int) -> bool:
    """Whether JSON may hold more than n lists."""
    if n > FEW:
        return text.count(b"[") > n
    at = -1
    for _ in range(n + 1):  # 30 times as fast as counting all, where there are few
        at = text.find(b"[", at + 1)
        if at < 0:
            return False
    return True


def _is_nested(data: Any, shape: list[int]) -> bool:
    size, *inner = shape
    rows = isinstance(data, simdjson.Array) and len(data) == size
    return rows and (not inner or all(_is_nested(row, inner) for row in data))


def _inside(data: Any, levels: int) -> Iterable[Any]:
    """The values below so many levels of lists."""
    return data if levels == 1 else itertools.chain.from_iterable(_inside(row, levels - 1) for row in data)


def _numbers(data: Any, kind: str) -> Array:
    """The numbers in a list, nested or not, as int64, uint64 or float64 for the `kind` "i", "u" or "f"; float64 in any
    case if there are fractions. Raises TypeError for anything but numbers, ValueError if one is too large."""
    if kind != "f":
        try:
            return np.frombuffer(data.as_buffer(of_type=kind), f"{kind}8")
        except TypeError:
            pass
    return np.frombuffer(data.as_buffer(of_type="d"))


def _as(values: Array, dtype: Any, gaps: bool = False) -> Array:
    """Numbers as another type. Raises HTTPException 400 if it cannot hold them, or they are not finite; with `gaps`,
    they may be NaN."""
    dtype = np.dtype(dtype)
    if values.dtype == dtype and dtype.kind != "f":
        return values
    with np.errstate(all="ignore"):
        converted = values.astype(dtype, copy=False)
    if dtype.kind == "f":
        fits = (np.isfinite(converted) | np.isnan(values) if gaps else np.isfinite(converted)).all()
    elif values.dtype.kind in "iu":
        range_ = np.iinfo(dtype)
        fits = range_.min <= values.min() and values.max() <= range_.max
    else:
        fits = (converted == values).all()
    if not fits:
        raise _does_not_fit(dtype)
    return converted


def _does_not_fit(dtype: Any) -> HTTPException:
    range_ = np.iinfo(dtype) if dtype.kind in "iu" else None
    what = "finite numbers" if range_ is None else f"whole numbers from {range_.min} to {range_.max}"
    return HTTPException(400, f"data: there are values that {dtype.name} cannot hold; it holds {what}")


def _outputs(body: Parameters, card: ModelCard) -> list[Output]:
    wanted = [card.output, *([] if card.known_threshold is None else [FAMILIARITY])]
    binary = bool(parameters(body, binary_data_output=bool)["binary_data_output"])
    if not body["outputs"]:
        return [Output(name, binary) for name in wanted]
    outputs: list[Output] = []
    for item in body["outputs"]:
        if type(item) is not OBJECT:
            raise HTTPException(400, "outputs: expected a list of objects")
        output = typed_values(item, name=str, parameters=OBJECT)
        name = output["name"]
        if name not in wanted:
            raise HTTPException(400, f"unknown output {_quoted(name)}; {card.name} gives {', '.join(wanted)}")
        if any(name == other.name for other in outputs):  # else a small request could have a response of any size
            raise HTTPException(400, f"output {name!r} is asked for twice")
        asked = parameters(output, classification=int, binary_data=bool)
        classes = asked["classification"] or 0
        if classes < 0 or (classes and name != "probabilities"):
            raise HTTPException(400, "classification: expected a number of classes, of probabilities")
        as_binary = binary if asked["binary_data"] is None else asked["binary_data"]
        outputs.append(Output(name, as_binary, min(classes, len(card.labels))))
    return outputs


def _quoted(text: str | None) -> str:
    """A client's text in a message: its first 80 characters."""
    return repr(text and text[:80])


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


def parameters(holder: Parameters, **types: type) -> Parameters:
    """The values of these keys below "parameters"; all None if that is missing. Raises HTTPException 400."""
    found = holder["parameters"]
    return dict.fromkeys(types) if found is None else typed_values(found, **types)


def _read(text: bytes, card: ModelCard) -> tuple[Parameters, Parameters | None]:
    """A request's keys and its one tensor, whose `data` is a list of simdjson's, a LongList, or an array if
    `extract_integers` read it. Raises HTTPException 400."""
    if (extracted := extract_integers(text)) and len(extracted[0]) <= MOST_BYTES:
        rest, numbers = extracted
        body, tensor = _parsed(rest)
        if tensor and tensor["data"] is not None and not len(tensor["data"]):  # else the list belongs to another key
            return body, tensor | {"data": numbers}
    if len(text) <= MOST_BYTES:
        return _parsed(text)
    if found := split(text):
        body, tensor = _parsed(found[0])
        if tensor and tensor["data"] is not None and list(tensor["data"]) == [None]:
            return body, tensor | {"data": found[1]}
    datatype = DATATYPES[card.input.dtype]
    raise HTTPException(
        400,
        f"expected in data only numbers of datatype {datatype}, and at most {MOST_BYTES} bytes of JSON beside it",
    )


def _parsed(text: bytes) -> tuple[Parameters, Parameters | None]:
    """A request's keys, and its one tensor; None if `inputs` is anything but a list of one object."""
    body = typed_values(parse_object(text), id=str, inputs=LIST, outputs=LIST, parameters=OBJECT)
    inputs = body["inputs"]
    if inputs is None or len(inputs) != 1 or type(inputs[0]) is not OBJECT:
        return body, None
    return body, typed_values(inputs[0], name=str, shape=LIST, datatype=str, parameters=OBJECT, data=LIST)


def sizes(shape: tuple[int | None, ...]) -> list[int]:
    """A card's shape as the protocol writes it, where -1 is any size."""
    return [-1 if size is None else size for size in shape]
