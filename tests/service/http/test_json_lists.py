"""Long lists of numbers in JSON, parsed in pieces: the same answer as in one piece, or a refusal."""

import json
import random
import time

import numpy as np
import pytest
from starlette.exceptions import HTTPException

from models.card import CARD_KEY, ModelCard
from service.http import inference_request, json_document, json_lists
from service.http.inference_request import parse
from service.media import Limits
from tests.service.helpers import mutated
from tests.serving import sums_model

CARD = ModelCard.model_validate_json(
    next(prop.value for prop in sums_model("v1").metadata_props if prop.key == CARD_KEY)
)


def request(data: object, n: int, datatype: str = "FP32", rest: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    tensor = f'{{"name": "vector", "shape": [{n}, 2], "datatype": "{datatype}", "data": {text}}}'
    return f'{{"inputs": [{tensor}]{rest}}}'.encode()


def batch(body: bytes) -> list[list[float]] | None:
    """The numbers of a request; None if it is refused."""
    try:
        numbers: list[list[float]] = parse(body, b"", CARD, Limits()).batch.tolist()
    except HTTPException:
        return None
    return numbers


def refusal(body: bytes) -> str:
    with pytest.raises(HTTPException) as raised:
        parse(body, b"", CARD, Limits())
    assert raised.value.status_code == 400
    return raised.value.detail


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT64", "UINT8", "UINT64", "BOOL"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("indent", [None, 1])
def test_the_same_numbers(datatype: str, nested: bool, indent: int | None) -> None:
    values = np.random.default_rng(0).integers(0, 200, (30_000, 2))
    if datatype == "BOOL":
        values = values > 99
    elif datatype != "UINT8":
        values += 1000
    data = values.tolist() if nested else values.reshape(-1).tolist()
    body = request(json.dumps(data, indent=indent), 30_000, datatype, " " * 200_000)
    assert batch(body) == values.tolist()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        *((end, "not JSON") for end in ("1 2", "01", "1e999", "1,{", "-", "1,,2", "", "[]")),
        *((end, "numbers of datatype") for end in ("true", "null")),
        *((end, "only numbers") for end in ('"1"', "{}", '"1",2')),
        *((end, "not nested") for end in ("[1]", "1]2,[3", "[1,2]", "1[,]2")),
    ],
)
def test_what_is_no_list_of_numbers(end: str, reason: str) -> None:
    many = "1000000," * 40_000
    assert reason in refusal(request(f"[{many}{end}]", 32_000))


def test_only_the_right_nesting() -> None:
    rows = ",".join(["[100000,200000]"] * 20_000)
    assert batch(request(f"[{rows}]", 20_000)) == [[100_000, 200_000]] * 20_000
    for wrong in (
        *(
            f"[{rows},[1],2]",
            f"[{rows},[[1,2]]]",
            f"[{rows},[1,2,3]]",
            f"[[{rows}]]",
            f"[{rows}],[1,2]",
            f"[{rows},1,2]",
        ),
        *(f"[{rows},[1,2]],", f"[{rows},[1],[2]]", f"[{rows},[1,2]"),
    ):
        refusal(request(wrong, 20_001))


def test_other_json_is_limited() -> None:
    numbers = [1, 2] * 30_000
    assert batch(request(numbers, 30_000, rest=', "id": "' + "x" * 200_000 + '"')) == [[1, 2]] * 30_000
    large = ', "parameters": {"unknown": "' + "x" * json_document.MOST_BYTES + '"}'
    assert f"at most {json_document.MOST_BYTES} bytes of JSON beside" in refusal(request(numbers, 30_000, rest=large))
    assert "at most" in refusal(request([1, 2], 1, rest=large))
    assert "no comma" in refusal(request("[1," + " " * 300_000 + "2]", 1))


def test_a_list_under_another_key_of_that_name() -> None:
    numbers = json.dumps([1, 2] * 100_000)
    other = f', "parameters": {{"data": {numbers}}}'
    assert batch(request([1, 2], 1, rest=other)) is None
    assert batch(request("[]", 1, rest=other)) is None
    assert batch(request("[null]", 1, rest=other.replace("data", "other"))) is None


def test_many_digits_take_no_more_than_others_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that are hard to round take the parser 10 µs each, during which no other thread runs."""
    longest = 0.0
    parsed = json_lists.parse

    def timed(*arguments: object) -> object:
        nonlocal longest
        start = time.thread_time()
        try:
            return parsed(*arguments)  # type: ignore[arg-type]
        finally:
            longest = max(longest, time.thread_time() - start)

    monkeypatch.setattr(json_lists, "parse", timed)
    refusal(request("[" + ",".join(["1.663162019364449299316e289"] * 20_000) + "]", 10_000))
    assert 0 < longest < 0.2


def test_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of a few bytes nothing is accepted that is refused in one piece, or understood otherwise."""
    rng = random.Random(0)
    answered = 0
    for _ in range(3000):
        n = rng.choice([1, 2, 5, 20])
        values = [rng.choice([0, 7, 255, -3, 0.5, 1e3]) for _ in range(2 * n)]
        nested = [values[i : i + 2] for i in range(0, 2 * n, 2)]
        body = request(
            rng.choice([values, nested]), n, rest=rng.choice(["", ', "id": "\\"data\\": [1]"', ', "id": "data"'])
        )
        if rng.random() < 0.6:
            at, put = (
                rng.randrange(len(body)),
                rng.choice([b"[", b"]", b",", b"1", b" ", b"null", b"}", b'"', b"[]", b""]),
            )
            body = rng.choice([mutated(body, rng), body[:at] + put + body[at + rng.choice([0, 1]) :]])
        whole = batch(body)
        with monkeypatch.context() as patch:
            for module in (inference_request, json_lists):
                patch.setattr(module, "MOST_BYTES", 100)
            patch.setattr(json_lists, "PIECE", rng.choice([16, 40]))
            pieces = batch(body)
        assert pieces in (None, whole), body
        answered += pieces is not None and len(body) > 100
    assert answered > 300
