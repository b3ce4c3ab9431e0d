"""JSON arrays of numbers → vectors, in the form that the models take."""

import json

import numpy as np
from numpy.typing import NDArray

from service.errors import TooLarge, Unusable, WrongMedia
from service.media.signatures import undecodable

MARGIN, DIGITS = 2**17, 256  # bytes of a file, and more for each number, at most; with spaces, 30 are plenty


def decode_vector(data: bytes, length: int | None) -> NDArray[np.float32]:
    """A JSON array of numbers as float32 (D,), which must have `length` numbers unless that is None.

    Raises MediaError, TooLarge for more bytes than so many numbers need.

    >>> decode_vector(b"[0.5, -2]", 2)
    array([ 0.5, -2. ], dtype=float32)
    """
    if length is not None and len(data) > (most := MARGIN + DIGITS * length):  # else parsing would hold up all others
        if isinstance(other := undecodable(data, "vector"), WrongMedia):
            raise other
        raise TooLarge(f"the file has {len(data)} bytes; {length} numbers have at most {most}")
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
