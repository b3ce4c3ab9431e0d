"""JSON arrays of numbers → vectors, in the form that the models take."""

import json

import numpy as np
from numpy.typing import NDArray

from service.errors import MediaError, unreadable


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
