"""Lists of small whole numbers that are taken out of JSON: the same numbers, and nothing that is no JSON."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.http import integers

REST = {"inputs": [{"name": "image", "shape": [2], "parameters": {"a": [1, {"b": []}]}, "data": []}], "id": "x,y"}
MARK = '"data": []'


@pytest.fixture(autouse=True, scope="module")
def shorter() -> Iterator[None]:
    """Texts of some thousand bytes are long enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integers, "LEAST", 2**12)
        yield


def request(numbers: str, rest: str = json.dumps(REST)) -> bytes:
    assert MARK in rest
    return rest.replace(MARK, f'"data": [{numbers}]').encode()


def parsed(text: bytes) -> object:
    """What JSON says; None if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def replaced(value: object, numbers: list[int]) -> object:
    """JSON with the numbers in the place of the empty list under a key "data"."""
    if isinstance(value, dict):
        return {key: numbers if key == "data" and v == [] else replaced(v, numbers) for key, v in value.items()}
    return [replaced(v, numbers) for v in value] if isinstance(value, list) else value


def check(text: bytes) -> None:
    """What is taken out of the text and what is left of it are the text."""
    taken = integers.taken_out(text)
    if taken is not None:
        rest = parsed(taken[0])
        assert parsed(text) == (None if rest is None else replaced(rest, taken[1].tolist()))


@pytest.mark.parametrize("separator", [",", ", "])
@pytest.mark.parametrize("compact", [False, True])
def test_numbers_are_taken_and_the_rest_is_left(separator: str, compact: bool) -> None:
    numbers = np.random.default_rng(0).integers(0, 1000, 3000) // np.random.default_rng(1).choice([1, 10, 100], 3000)
    text = request(separator.join(map(str, numbers)))
    if compact:
        text = text.replace(b'"data": [', b'"data":[')
    taken = integers.taken_out(text)
    assert taken is not None
    assert json.loads(taken[0]) == REST
    assert taken[1].dtype == np.uint16
    assert taken[1].tolist() == numbers.tolist()


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
def test_what_is_no_json_is_not_taken(middle: list[str], separator: str, at: int) -> None:
    numbers = ["7"] * 2500
    check(request(",".join(numbers[:at]) + separator.join(middle) + "," + ",".join(numbers)))


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 9000), st.binary(max_size=3), st.integers(0, 3))
def test_nor_is_anything_damaged(at: int, put: bytes, cut: int) -> None:
    whole = request(",".join(str(i % 256) for i in range(2500)))
    check(whole[:at] + put + whole[at + cut :])


@pytest.mark.parametrize(
    "rest",
    [
        '{"x\\"data": []}', '{"a": "data", "data": []}', '{"data" : [], "a": "\\"data\\": [1]"}',
        '{"a": {"data": []}, "data": 1}', '{"data": [], "data": []}', '{"a": ["{\\"data\\":[]"]}',
    ],
)  # fmt: skip
def test_other_keys_and_strings_are_not_taken_for_it(rest: str) -> None:
    numbers = ",".join(["12"] * 2000)
    check(rest.replace("[]", f"[{numbers}]").encode())


def test_nor_is_one_of_several() -> None:
    numbers = ",".join(["12"] * 2000)
    assert integers.taken_out(f'{{"a": {{"data": [{numbers}]}}, "data": []}}'.encode()) is None


def test_short_and_unfinished_text_is_left_alone() -> None:
    assert integers.taken_out(request("1,2,3")) is None
    assert integers.taken_out(b'{"data":[' + b"1," * 3000) is None
    assert integers.taken_out(b'"data":[' + b"1," * 3000 + b"1]") is None
    assert integers.taken_out(b"1" * 5000) is None
