"""Forms as browsers, libraries and mail programs write them: the file inside is answered, or the form is refused."""

import base64
import quopri
import random
import time
from collections.abc import Iterable

import httpx
import pytest
from starlette.exceptions import HTTPException

from service.http.form import HEADERS, PARTS, Form, header_parameters
from tests.service.helpers import FLUTE, digit_file, mutated, refusal
from tests.serving import NEWEST

DATA = b"\x89PNG\r\n--\r\n-\r\n--odd\r\n\x00"  # nearly delimiters, and no text
TYPE = "Content-Type: image/png\r\n"
UNCHOSEN = 'Content-Disposition: form-data; name="a"; filename=""\r\nContent-Type: application/octet-stream\r\n'


def part(headers: str, data: bytes = DATA, boundary: str = "odd-one") -> bytes:
    return f"--{boundary}\r\n{headers}\r\n".encode() + data + b"\r\n"


def named(parameters: str, rest: str = "") -> str:
    return f"Content-Disposition: form-data; {parameters}\r\n{rest}"


FILE = part(named('name="f"; filename="a.png"', TYPE))
END = b"--odd-one--\r\n"


def read(body: bytes | Iterable[bytes], boundary: str = "odd-one") -> tuple[bytes, str, dict[str, str]]:
    form = Form(boundary.encode())
    for chunk in [body] if isinstance(body, bytes) else body:
        form.write(chunk)
    return form.content()


@pytest.mark.parametrize(
    "headers",
    [
        named('name="f"; filename="a.png"'),
        named("name=\"f\"; filename*=utf-8''M%C3%B6we.png"),
        named("name=\"f\"; filename*=UTF-8'de'M%C3%B6we.png"),
        named("name=\"f\"; filename=\"Mowe.png\"; filename*=utf-8''M%C3%B6we.png"),
        named("name=\"f\"; FileName *= utf-8''a.png"),
        named("name=\"f\"; filename*0=\"a\"; filename*1=\".png\""),
        named('name="f"; filename="Möwe.png"'),
        named('name="f"; filename=a.png'),
        named('name="f"; filename="a \\"quoted\\"; name.png"'),
        named('name="a\\";b"; filename="C:\\dir\\a.png"'),
        named('name="f"; filename=""'),
        named('filename="a.png"'),
        "CONTENT-DISPOSITION: FORM-DATA; NAME=\"f\"; FILENAME=\"a.png\"\r\n",
        "content-disposition:form-data;name=f;filename=a.png\r\n",
        "X-Other: 1\r\nContent-Length: 20\r\n" + named('name="f"; filename="a.png"'),
        'Content-Disposition: attachment; filename="a.png"\r\n',
        named('name="f"', TYPE),
        named('name="f"', "Content-Type: Image/PNG; charset=binary\r\n"),
        named('name="f"', "Content-Type: application/octet-stream\r\n"),
        TYPE,
        named('name="model"; filename="a.png"'),
        named('name="f"; filename="a.png"', "Content-Transfer-Encoding: Binary\r\n"),
    ],
)  # fmt: skip
def test_every_way_to_say_that_a_part_is_a_file(headers: str) -> None:
    data, _, fields = read(part(headers) + END)
    assert data == DATA
    assert fields == {}


@pytest.mark.parametrize(
    "before",
    [
        part(UNCHOSEN, b""),
        part(named('name="a"; filename*=""', "Content-Type: application/octet-stream\r\n"), b""),
        part(named('name="a"'), b"text, not a file"),
        part(named('name="a"', "Content-Type: application/json\r\n"), b'{"a": 1}'),
        b"".join(part(named(f'name="field {i}"'), b"x" * 5000) for i in range(20)),
        b"This is a message with several parts in MIME format.\r\n",
        b"\r\n",
        b"--odd-on\r\n--odd\r\n",
    ],
)
def test_what_is_no_file_may_come_before_or_after_it(before: bytes) -> None:
    assert read(before + FILE + END) == (DATA, "image/png", {})
    if before.startswith(b"--odd-one"):
        assert read(FILE + before + END) == (DATA, "image/png", {})
    assert read(FILE + END + before) == (DATA, "image/png", {})


@pytest.mark.parametrize("n", [1, 2, 7, 30, 61])
def test_chunks_of_any_size(n: int) -> None:
    body = b"preamble\r\n" + part(UNCHOSEN, b"") + part(named('name="model"'), b"digits") + FILE + END + b"epilogue"
    assert read(body[i : i + n] for i in range(0, len(body), n)) == (DATA, "image/png", {"model": "digits"})


@pytest.mark.parametrize("boundary", ["a b'()+_,-./:=?c", "x" * 70, "----WebKitFormBoundary7MA4YWxkTrZu0gW", "--"])
def test_boundaries(boundary: str) -> None:
    body = part(named('name="f"; filename="a"'), boundary=boundary) + f"--{boundary}--".encode()
    assert read(body, boundary)[0] == DATA


@pytest.mark.parametrize(
    ("encoding", "encoded"), [("base64", base64.encodebytes(DATA)), ("Quoted-Printable", quopri.encodestring(DATA))]
)
def test_encoded_for_mail(encoding: str, encoded: bytes) -> None:
    headers = named('name="f"; filename="a"', f"Content-Transfer-Encoding: {encoding}\r\n")
    assert read(part(headers, encoded) + END)[0] == DATA
    with pytest.raises(HTTPException, match="send it as it is") as raised:
        read(part(headers, encoded.ljust(2**22 + 1)) + END)
    assert raised.value.status_code == 413


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (FILE + FILE + END, "several files"),
        (FILE + part(named('name="g"; filename="b.png"'), b"") + END, "several files"),
        (FILE + part(named('name="g"; filename=""')) + END, "several files"),
        (part(TYPE) + FILE + END, "several files"),
        (part(UNCHOSEN, b"") + END, "holds no file"),
        (part(named('name="f"'), b"http://example.com/a.png") + END, "holds no file"),
        (FILE[:-2], "incomplete"),
        (b"nothing like it", "boundary in its Content-Type is not in the body"),
        (b"", "boundary in its Content-Type is not in the body"),
        (FILE.replace(b"\r\n", b"\n") + END, "cannot be read"),
        (part(named('name="f"; filename="a"', "Content-Transfer-Encoding: uuencode\r\n")) + END, "is not read"),
        (part(named('name="f"; filename="a"', "Content-Transfer-Encoding: base64\r\n"), b"abc") + END, "not base64"),
        (part(named('name="model"'), b"a") * 2 + FILE + END, "gives model more than once"),
    ],
)
def test_refusals(body: bytes, message: str) -> None:
    with pytest.raises(HTTPException, match=message) as raised:
        read(body)
    assert raised.value.status_code == 400


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b'form-data; name="a;b=c"; filename=7.png', {b"name": b"a;b=c", b"filename": b"7.png"}),
        (b'form-data;NAME = "a\\"b" ; FileName=a b.png ;x', {b"name": b'a"b', b"filename": b"a b.png"}),
        (b'multipart/form-data; boundary="a b"; charset=utf-8', {b"boundary": b"a b", b"charset": b"utf-8"}),
        (b'form-data; name="unfinished; filename=a', {b"name": b"unfinished; filename=a"}),
        (b'form-data; name=""; filename=', {b"name": b"", b"filename": b""}),
        (b"form-data", {}),
        (b"", {}),
    ],
)
def test_parameters_of_a_header(header: bytes, expected: dict[bytes, bytes]) -> None:
    assert header_parameters(header) == expected


def test_as_many_parts_as_are_allowed() -> None:
    parts = part(named('name="a"'), b"x") * (PARTS - 1)
    assert read(parts + FILE + END) == (DATA, "image/png", {})
    with pytest.raises(HTTPException, match=f"more than {PARTS} parts") as raised:
        read(parts * 2 + FILE + END)
    assert raised.value.status_code == 400


def test_as_long_headers_as_are_allowed() -> None:
    line = "X: " + "y" * 2000 + "\r\n"
    names = named(f'name="f"; filename="{"ä" * 255}.png"', TYPE)
    assert read(part(names + 3 * line) + END)[0] == DATA
    with pytest.raises(HTTPException, match=f"more than {HEADERS} bytes of headers|header") as raised:
        read(part(names + 6 * line) + END)
    assert raised.value.status_code == 400


FLOODS = {
    "parts": b"--x\r\n\r\n\r\n",
    "parts with a header": b"--x\r\na:\r\n\r\n\r\n",
    "named parts": b"--x\r\nContent-Disposition: a; name=f\r\n\r\n\r\n",
    "semicolons": b"--x\r\nContent-Disposition: a" + b";" * 4000 + b"\r\n\r\n\r\n",
    "quotes": b'--x\r\nContent-Disposition: a; name="' + b';a="' * 1000 + b"\r\n\r\n\r\n",
    "spaces": b"--x\r\na:" + b" " * 4000 + b"\r\n\r\n\r\n",
    "lines like a delimiter": b"--x\r\n\r\n" + b"\r\n--xy" * 1000 + b"\r\n",
    "unfinished delimiters": b"--x\r\n\r\n" + b"\r\n--x\ry" * 1000 + b"\r\n",
    "ends": b"--x\r\n\r\n" + b"\r\n--" * 1000,
    "line ends": b"--x\r\n\r\n" + b"\r\n" * 4000,
    "preamble": b"--xy\r\n",
    "no delimiter": b"\r\n--",
    "padding": b"--x\r\n\r\na\r\n--x" + b" " * 4000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("chunk", [1, 2**16])
@pytest.mark.parametrize("flood", FLOODS)
def test_floods(flood: str, chunk: int) -> None:
    """Half a second of CPU for each megabyte is the limit; in chunks of a byte each has its own cost."""
    body = FLOODS[flood] * ((2**12 if chunk == 1 else 2**18) // len(FLOODS[flood]) + 1)
    start = time.process_time()
    with pytest.raises(HTTPException) as raised:
        read((body[i : i + chunk] for i in range(0, len(body), chunk)), "x")
    assert raised.value.status_code == 400
    assert time.process_time() - start < (0.1 if chunk == 1 else 0.5 * len(body) / 1e6)


def test_delimiters_are_counted_in_chunks_of_any_size() -> None:
    body = FLOODS["lines like a delimiter"] * 2 + b"\r\n--x--"
    for chunk in (1, 3, 7, 10_000):
        with pytest.raises(HTTPException, match="lines that begin with its boundary"):
            read((body[i : i + chunk] for i in range(0, len(body), chunk)), "x")


def test_whatever_form_is_sent_is_answered_or_refused(local: httpx.Client) -> None:
    rng = random.Random(0)
    whole = (
        part(named('name="model"'), b"digits") + part(named('name="f"; filename="7.png"', TYPE), digit_file(3)) + END
    )
    statuses = set()
    for _ in range(150):
        at = rng.randrange(120)
        body = whole if rng.random() < 0.1 else whole[:at] + mutated(whole[at : at + 300], rng) + whole[at + 300 :]
        answer = local.post("/predict", content=body, headers={"content-type": "multipart/form-data; boundary=odd-one"})
        statuses.add(answer.status_code)
        assert answer.is_success or refusal(answer) in (400, 404, 415, 422)
    assert {200, 400} <= statuses


def test_without_a_boundary() -> None:
    with pytest.raises(HTTPException, match="names no boundary"):
        Form(b"")


@pytest.mark.parametrize(
    "content_type",
    ["Multipart/Form-Data; Boundary=odd-one", 'MULTIPART/FORM-DATA ;charset=utf-8; boundary="odd-one"',
     "multipart/mixed; boundary=odd-one", "multipart/related; boundary=odd-one; type=image/png"],
)  # fmt: skip
def test_content_types(local: httpx.Client, content_type: str) -> None:
    body = part(named("name=\"f\"; filename*=utf-8''M%C3%B6we.png"), digit_file(3)) + END
    answer = local.post("/digits", content=body, headers={"content-type": content_type})
    assert (answer.json()["label"], answer.json()["version"]) == ("3", NEWEST)


def test_two_files_are_refused_although_each_could_be_answered(local: httpx.Client) -> None:
    assert refusal(local.post("/digits", files=[("f", digit_file(3)), ("g", digit_file(0))])) == 400
    assert refusal(local.post("/predict", data={"model": "digits"}, files=[("f", digit_file(3)), ("f", FLUTE)])) == 400


def test_a_model_after_many_other_fields(local: httpx.Client) -> None:
    fields = {f"field {i}": "x" for i in range(20)} | {"model": "digits"}
    assert local.post("/predict", data=fields, files={"f": digit_file(3)}).json()["label"] == "3"
