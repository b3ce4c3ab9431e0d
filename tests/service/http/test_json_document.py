"""JSON that nobody asked for: it is ignored or refused for little more than the time that parsing it takes."""

import itertools
import json
import random
import time
from collections.abc import Iterator

import httpx
import pytest
from starlette.exceptions import HTTPException

from service.http.json_document import LIST, MOST_BYTES, OBJECT, parse_object, typed_values
from tests.service.helpers import mutated

SUMS = "/v2/models/sums/infer"
GOOD = {"name": '"vector"', "shape": "[1, 2]", "datatype": '"FP32"', "data": "[1, 2]"}
LARGE = 2**20


def document(top: str = "", **tensor: str) -> bytes:
    """A request with these JSON texts as the tensor's values, and `top` after its inputs."""
    items = ", ".join(f'"{key}": {value}' for key, value in (GOOD | tensor).items())
    return f'{{"inputs": [{{{items}}}]{top}}}'.encode()


def message(response: httpx.Response) -> str:
    """The message of a 400; the test fails for any other response."""
    assert response.status_code == 400, response.text[:200]
    found = response.json()["error"]
    assert found
    assert "\n" not in found
    assert len(found) < 300
    return str(found)


def repeated(text: str, size: int) -> str:
    return "[" + text * (size // len(text)) + "1]"


def test_known_keys() -> None:
    found = parse_object(b'{"a": "x", "b": null, "c": [1], "d": {}, "e": [[[]]], "e": 1}')
    values = typed_values(found, a=str, b=int, c=LIST, d=OBJECT, absent=bool)
    assert (values["a"], values["b"], list(values["c"]), len(values["d"]), values["absent"]) == (
        "x",
        None,
        [1],
        0,
        None,
    )
    for types, reason in (
        ({"a": int}, "a: expected a whole number"),
        ({"c": str}, "c: expected a string"),
        ({"d": LIST}, "d: expected a list"),
        ({"c": OBJECT}, "c: expected an object"),
        ({"e": int}, "e"),
    ):
        with pytest.raises(HTTPException, match=reason) as raised:
            typed_values(found, **types)
        assert raised.value.status_code == 400


WRONG = {
    "name": lambda size: document(name=repeated("[],", size)),
    "datatype": lambda size: document(datatype=repeated("[],", size)),
    "shape": lambda size: document(shape=repeated("1,", size)),
    "id": lambda size: document(f', "id": {repeated("[],", size)}'),
    "outputs": lambda size: document(f', "outputs": {repeated("[],", size)}'),
    "inputs": lambda size: b'{"inputs": ' + repeated("{},", size).encode() + b"}",
    "binary_data_size": lambda size: document(parameters=f'{{"binary_data_size": {repeated("[],", size)}}}'),
    "true and false": lambda size: document(datatype='"BOOL"', data=repeated('{"a": 1},', size)),
    "strings": lambda size: document(datatype='"BOOL"', shape="[1000, 2]", data=f'["{"x" * size}"{",true" * 1999}]'),
    "lists": lambda size: document(data=repeated("[],", size)),
}
UNKNOWN = {
    "unknown keys": lambda size: document("".join(f', "{i}": [[]]' for i in range(size // 15))),
    "unknown parameters": lambda size: document(', "parameters": {' + '"a": 1, ' * (size // 8) + '"b": 1}'),
    "unknown list": lambda size: document(f', "unknown": {repeated("[],", size)}'),
    "white space": lambda size: document(" " * size),
}


@pytest.mark.parametrize("kind", [*WRONG, *UNKNOWN])
def test_costs(local: httpx.Client, kind: str) -> None:
    """Half a second of CPU for each megabyte is the limit; as Python objects these took up to that, or failed."""
    make = (WRONG | UNKNOWN)[kind]
    for size in (MOST_BYTES - 2**14, LARGE):
        body = make(size)
        start = time.process_time()
        answer = local.post(SUMS, content=body)
        seconds = time.process_time() - start
        if kind in WRONG or size == LARGE:
            message(answer)
        else:
            assert answer.is_success
        assert seconds < 0.5 * max(1, len(body) / 1e6)


@pytest.mark.parametrize("depth", [200, 1000, 1100, 50_000])
def test_nesting(local: httpx.Client, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    for key in GOOD:
        message(local.post(SUMS, content=document(**{key: deep})))
    for key in ("id", "parameters", "outputs"):
        message(local.post(SUMS, content=document(f', "{key}": {deep}')))
    for output in (f'{{"name": {deep}}}', f'{{"name": "value", "parameters": {{"classification": {deep}}}}}', deep):
        message(local.post(SUMS, content=document(f', "outputs": [{output}]')))
    unknown = local.post(SUMS, content=document(f', "unknown": {deep}'))
    assert unknown.is_success or message(unknown)
    message(local.post("/v2/repository/index", content=f'{{"ready": {deep[:60_000]}}}'))
    assert local.post("/predict/sums", content=deep).status_code in (400, 422)


@pytest.mark.parametrize(
    ("key", "values"),
    [("data", ("[3, 4]", "[1, 2]")), ("shape", ("[2, 1]", "[1, 2]")), ("name", ('"x"', '"vector"')),
     ("datatype", ('"BOOL"', '"FP32"')), ("parameters", ("{}", "null"))],
)  # fmt: skip
def test_a_key_given_twice_is_refused(local: httpx.Client, key: str, values: tuple[str, str]) -> None:
    """Parsers differ in which one they take: a proxy in front may have checked the other."""
    first, second = values
    body = document().replace(b'"name"', f'"{key}": {first}, "{key}": {second}, "name"'.encode(), 1)
    assert f"{key} is given more than once" in message(local.post(SUMS, content=body))
    assert local.post(SUMS, content=document(', "unknown": 1, "unknown": 2')).is_success


def test_options_given_twice_are_refused(local: httpx.Client) -> None:
    options = '"parameters": {"binary_data_size": 8, "binary_data_size": 9}'
    body = document().replace(b'"data": [1, 2]', options.encode())
    assert "binary_data_size is given more than once" in message(local.post(SUMS, content=body))
    for top in (', "inputs": []', ', "outputs": [], "outputs": []', ', "id": "a", "id": "a"'):
        message(local.post(SUMS, content=document(top)))
    message(local.post("/v2/repository/index", content=b'{"ready": true, "ready": false}'))


@pytest.mark.parametrize("text", ["\\ud800", "\\udc00", "\\udc00\\ud800", "\\ud83d\\ude00", "\\u0000", "\0", "\ufeff"])
def test_odd_characters(local: httpx.Client, text: str) -> None:
    for body in (document(f', "id": "{text}"'), document(f', "{text}": 1'), document(name=f'"{text}"')):
        assert local.post(SUMS, content=body).status_code in (200, 400)
    assert local.post(SUMS, content=b"\xef\xbb\xbf" + document()).status_code in (200, 400)
    for bytes_ in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80"):
        message(local.post(SUMS, content=document(', "id": "?"').replace(b"?", bytes_)))


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 30, "9" * 10_000, "1e99999999999", "00", "-", ".5", "NaN"])
def test_odd_numbers(local: httpx.Client, number: str) -> None:
    message(local.post(SUMS, content=document(data=f"[{number}, 1]")))
    message(local.post(SUMS, content=document(shape=f"[{number}, 2]")))
    message(local.post(SUMS, content=document(parameters=f'{{"binary_data_size": {number}}}')))
    assert local.post("/predict/sums", content=f"[{number}, 1]").status_code in (200, 400, 422)


@pytest.mark.parametrize("end", ["]", ""])
def test_a_long_vector(local: httpx.Client, end: str) -> None:
    """It is refused for its length alone."""
    body = b"[" + b"1," * LARGE + b"1" + end.encode()
    start = time.process_time()
    answer = local.post("/predict/sums", content=body)
    assert time.process_time() - start < 0.1
    assert answer.status_code == (422 if end else 400)
    assert local.post("/predict/sums", content=b"[1.00000000000000000000, \r\n    2]").is_success


def requests(rng: random.Random) -> Iterator[bytes]:
    """Requests in which up to two values are others, some of them damaged too."""
    values = (None, True, 0, -1, 2**63, 1.5, "", "vector", [], [[]], {}, [1, [2]], {"name": "value"}, ["😀", "\0"])
    while True:
        tensor = {"name": "vector", "shape": [1, 2], "datatype": "FP32", "data": [1, 2], "parameters": {}}
        output = {"name": "value", "parameters": {"classification": 0, "binary_data": False}}
        whole = {"inputs": [tensor], "outputs": [output], "id": "1", "parameters": {"binary_data_output": False}}
        for holder in rng.choices([whole, tensor, output], k=rng.choice([0, 1, 1, 2])):
            holder[rng.choice(list(holder))] = rng.choice(values)  # type: ignore[assignment]
        text = json.dumps(whole).encode()
        yield mutated(text, rng) if rng.random() < 0.4 else text


def test_whatever_is_sent_is_answered_or_refused(local: httpx.Client) -> None:
    answers = [local.post(SUMS, content=body) for body in itertools.islice(requests(random.Random(0)), 500)]
    assert all(answer.is_success or message(answer) for answer in answers)
    assert {answer.status_code for answer in answers} == {200, 400}
