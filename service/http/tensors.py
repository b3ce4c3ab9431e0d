"""Tensors of the Open Inference Protocol: from JSON or binary data to an array."""

import itertools
import math
from collections.abc import Iterable
from types import NoneType
from typing import Any

import numpy as np
import simdjson
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from models.card import Input, ModelCard
from service.http.json_document import parameters, quoted
from service.http.json_lists import LongList
from service.media import Limits

PIXELS = "pixels are whole numbers from 0, background, to 255, ink"
DTYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "BF16": np.float32, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
BFLOAT16 = "BF16"  # in binary the upper half of a float32; NumPy has no such type
DATATYPES = {"uint8": "UINT8", "float32": "FP32"}  # dtype of a card → datatype of the protocol
FEW_LISTS = 16  # lists; a request whose numbers are not nested has fewer
FIRST = 784  # values of a batch, which may tell something of all
MAX_RANK = 8  # sizes of a shape that an error message quotes

Array = NDArray[Any]


def read_tensor(
    tensor: dict[str, Any], binary: memoryview, text: bytes, others: int, card: ModelCard, limits: Limits
) -> Array:
    """The numbers of a request's tensor as the model's input, (N, …). Raises HTTPException 400 or 413.

    Parameters
    ----------
    tensor : its keys; `data` is a list of simdjson's, a LongList, or an array
    binary : what follows the JSON
    text, others : the JSON that holds `data`, and how many lists it has outside of `data`, at least
    """
    datatype, shape = tensor["datatype"], list(itertools.islice(tensor["shape"] or (), MAX_RANK))
    wanted = card.input.shape
    if datatype not in DTYPES:
        raise HTTPException(400, f"datatype {quoted(datatype)} is not read; expected {DATATYPES[card.input.dtype]}")
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
        values = _from_json(tensor["data"], datatype, shape, text, others, bool(card.input.columns))
    else:
        if tensor["data"] is not None:
            raise HTTPException(400, "the input has data and a binary_data_size; expected one of them")
        values = _from_binary(binary, datatype, n, size)
    return _input(values, card.input).reshape(shape)


def _from_binary(binary: memoryview, datatype: str, n: int, size: int) -> Array:
    """n numbers in binary, which should have `size` bytes, as an array of one dimension. Raises HTTPException 400."""
    dtype = np.dtype(np.uint16 if datatype == BFLOAT16 else DTYPES[datatype]).newbyteorder("<")
    expected = n * dtype.itemsize
    if size != expected or len(binary) != expected:
        expectation = f"expected {expected} for this shape, and {len(binary)} bytes follow the header"
        raise HTTPException(400, f"binary_data_size {str(size)[:20]}: {expectation}")
    values = np.frombuffer(binary, dtype)
    return (values.astype(np.uint32) << 16).view(np.float32) if datatype == BFLOAT16 else values


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


def _from_json(data: Any, datatype: str, shape: list[int], text: bytes, others: int, gaps: bool) -> Array:
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
    if n > FEW_LISTS:
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


def sizes(shape: tuple[int | None, ...]) -> list[int]:
    """A card's shape as the protocol writes it, where -1 is any size."""
    return [-1 if size is None else size for size in shape]
