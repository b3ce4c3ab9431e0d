"""Long lists of integers in JSON, parsed with NumPy: the same numbers, and nothing that is not JSON is accepted."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.http import json_lists
from service.http.json_lists import extract_integers

REST = {"inputs": [{"name": "image", "shape": [2], "parameters": {"a": [1, {"b": []}]}, "data": []}], "id": "x,y"}
MARK = '"data": []'


@pytest.fixture(autouse=True, scope="module")
def shorter() -> Iterator[None]:
    """Lets texts of a few thousand bytes count as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lists, "MIN_BYTES", 2**12)
        yield


def request(numbers: str, rest: str = json.dumps(REST)) -> bytes:
    assert MARK in rest
    return rest.replace(MARK, f'"data": [{numbers}]').encode()


def parsed(text: bytes) -> object:
    """The value of a JSON text; None if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def replaced(value: object, numbers: list[int]) -> object:
    """A JSON value with the numbers instead of the empty list under a key "data"."""
    if isinstance(value, dict):
        return {key: numbers if key == "data" and v == [] else replaced(v, numbers) for key, v in value.items()}
    return [replaced(v, numbers) for v in value] if isinstance(value, list) else value


def check(text: bytes) -> None:
    """The integers and the rest of the text together are the text."""
    extracted = extract_integers(text)
    if extracted is not None:
        rest = parsed(extracted[0])
        assert parsed(text) == (None if rest is None else replaced(rest, extracted[1].tolist()))


@pytest.mark.parametrize("separator", [",", ", "])
@pytest.mark.parametrize("compact", [False, True])
def test_numbers_and_rest(separator: str, compact: bool) -> None:
    numbers = np.random.default_rng(0).integers(0, 1000, 3000) // np.random.default_rng(1).choice([1, 10, 100], 3000)
    text = request(separator.join(map(str, numbers)))
    if compact:
        text = text.replace(b'"data": [', b'"data":[')
    extracted = extract_integers(text)
    assert extracted is not None
    assert json.loads(extracted[0]) == REST
    assert extracted[1].dtype == np.uint16
    assert extracted[1].tolist() == numbers.tolist()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.integers(0, 300).map(str)
        | st.sampled_from(["", "01", "00", "1000", "-1", "1.5", "1e2", "[1]", "{}", "a"]),
        max_size=8,
    ),
    st.sampled_from([",", ", ", ",,", " ,", ",  ", " ", ",\n", "]"]),
    st.integers(0, 40),
)  # fmt: skip
@example(["1", "2 3,"], ",", 3)
@example([",1", "2"], ", ", 3)
@example(["1", "2, "], ",", 1)
@example([" 1"], ",", 0)
def test_what_is_not_json_is_left_to_the_parser(middle: list[str], separator: str, at: int) -> None:
    numbers = ["7"] * 2500
    check(request(",".join(numbers[:at]) + separator.join(middle) + "," + ",".join(numbers)))


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 9000), st.binary(max_size=3), st.integers(0, 3))
def test_damaged_text(at: int, put: bytes, cut: int) -> None:
    whole = request(",".join(str(i % 256) for i in range(2500)))
    check(whole[:at] + put + whole[at + cut :])


@pytest.mark.parametrize(
    "rest",
    [
        '{"x\\"data": []}', '{"a": "data", "data": []}', '{"data" : [], "a": "\\"data\\": [1]"}',
        '{"a": {"data": []}, "data": 1}', '{"data": [], "data": []}', '{"a": ["{\\"data\\":[]"]}',
    ],
)  # fmt: skip
def test_other_keys_and_strings(rest: str) -> None:
    numbers = ",".join(["12"] * 2000)
    check(rest.replace("[]", f"[{numbers}]").encode())


def test_one_of_several_lists() -> None:
    numbers = ",".join(["12"] * 2000)
    assert extract_integers(f'{{"a": {{"data": [{numbers}]}}, "data": []}}'.encode()) is None


def test_short_and_unfinished_text() -> None:
    assert extract_integers(request("1,2,3")) is None
    assert extract_integers(b'{"data":[' + b"1," * 3000) is None
    assert extract_integers(b'"data":[' + b"1," * 3000 + b"1]") is None
    assert extract_integers(b"1" * 5000) is None
