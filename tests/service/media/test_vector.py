"""JSON to vectors, and a reason for whatever is not a vector."""

import numpy as np
import pytest

from service.errors import Unreadable, Unusable, WrongMedia
from service.media.vector import decode_vector
from tests.service.helpers import FLUTE
from tests.service.media.decoding import reason


@pytest.mark.parametrize("length", [3, None])
def test_numbers(length):
    vector = decode_vector(b"[1, -2.5, 1e-3]", length)
    assert vector.dtype == np.float32
    assert vector == pytest.approx([1, -2.5, 1e-3])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", Unreadable), (b"[1, 2", Unreadable), (b"[" * 100_000, Unreadable), (b"\xff", Unreadable),
        (FLUTE, WrongMedia),
        (b"[1]", Unusable), (b"[1, 2, 3]", Unusable), (b'{"x": [1, 2]}', Unusable), (b'[1, "2"]', Unusable),
        (b"[1, true]", Unusable), (b"[[1, 2]]", Unusable), (b"[1, NaN]", Unusable), (b"[1, 1e39]", Unusable),
        (b"[1, 1" + b"0" * 400 + b"]", Unusable),
    ],
)  # fmt: skip
def test_reasons(data, expected):
    assert reason(decode_vector, data, 2) is expected
