"""JSON arrays of numbers → vectors, in the form that the models take."""

import json

import numpy as np
from numpy.typing import NDArray

from service.errors import MediaError, Unusable
from service.media.signatures import undecodable

# Bytes of JSON for each number, with its comma and indentation, and for everything else. More are not parsed: as Python
# objects they could take fifty times as much memory, and nothing else runs while they are made.
NUMBER_BYTES, OTHER_BYTES = 64, 8192


def decode_vector(data: bytes, length: int | None) -> NDArray[np.float32]:
    """A JSON array of numbers as float32 (D,), which must have `length` numbers unless that is None.

    Raises MediaError.

    >>> decode_vector(b"[0.5, -2]", 2)
    array([ 0.5, -2. ], dtype=float32)
    """
    if length is not None and len(data) > OTHER_BYTES + NUMBER_BYTES * length:
        raise _too_long(data, length)
    try:
        numbers = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise undecodable(data, "vector") from error
    if not isinstance(numbers, list) or not all(type(number) in (int, float) for number in numbers):
        raise Unusable("expected one JSON array of numbers")
    if length is not None and len(numbers) != length:
        raise Unusable(f"expected {length} numbers, got {len(numbers)}")
    with np.errstate(over="ignore"):
        try:
            vector = np.array(numbers, np.float64).astype(np.float32)
        except OverflowError as error:
            raise Unusable("a number is too large") from error
    if not np.isfinite(vector).all():
        raise Unusable("a number is too large or not finite")
    return vector


def _too_long(data: bytes, length: int) -> MediaError:
    text = data.strip()
    if not text.startswith(b"[") or not text.endswith(b"]"):
        return undecodable(data, "vector")
    return Unusable(
        f"expected {length} numbers, got a JSON array of {len(data)} bytes; {NUMBER_BYTES} for each are enough"
    )
