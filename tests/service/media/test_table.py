"""Rows of tables in JSON: by name, as an array, with values missing or unknown, and one line for each mistake."""

import json
import math
import random
from typing import Any
from unicodedata import normalize

import pytest

from models.card import Column
from service.errors import MediaError, Unreadable, Unusable, WrongMedia
from service.media.table import TableRow, named

COLUMNS = (
    Column(name="size", missing=True),
    Column(name="colour", categories=("blue", "red")),
    Column(name="level", categories=("1", "2")),
    Column(name="member", categories=("False", "True")),
)
ROW = {"size": 2.5, "colour": "red", "level": 2, "member": True}
TELLING, SILENT = TableRow(COLUMNS, True), TableRow(COLUMNS, False)


def decoded(row: Any, decoder: TableRow = TELLING) -> list[float]:
    found: list[float] = decoder.decode(json.dumps(row).encode()).tolist()
    return found


@pytest.mark.parametrize(
    "row", [ROW, dict(reversed(ROW.items())), ROW | {"id": 7}, [*ROW.values()], [2.5, " red", "2", "True"]]
)
def test_a_row_is_the_same_by_name_and_as_an_array(row: Any) -> None:
    assert decoded(row) == [2.5, 1, 1, 1]
    assert decoded(named(TELLING.decode(json.dumps(row).encode()), COLUMNS)) == [2.5, 1, 1, 1]


def test_names_are_the_same_with_accents_composed_or_apart() -> None:
    row = TableRow((Column(name="größe"), Column(name="ort", categories=("Bonn", "Köln"))), True)
    for form in ("NFC", "NFD"):
        assert row.decode(normalize(form, '{"größe": 2, "ort": "Köln"}').encode()).tolist() == [2, 1]
    with pytest.raises(Unusable, match="is given more than once"):
        row.decode(('{"größe": 2, ' + normalize("NFD", '"größe": 3, "ort": "Köln"}')).encode())


@pytest.mark.parametrize("absent", [None, math.nan, ""])
def test_null_nan_and_nothing_are_missing(absent: Any) -> None:
    assert math.isnan(decoded(ROW | {"size": absent}, SILENT)[0])
    assert math.isnan(decoded(ROW | {"colour": absent})[1])
    with pytest.raises(Unusable, match="column 'colour': a value is needed"):
        decoded(ROW | {"colour": absent}, SILENT)


def test_an_unknown_category_has_no_index_or_is_refused() -> None:
    assert decoded(ROW | {"colour": "mauve"})[1] == -1
    with pytest.raises(Unusable, match=r"column 'colour': \"mauve\" is none of blue, red"):
        decoded(ROW | {"colour": "mauve"}, SILENT)


@pytest.mark.parametrize(
    ("body", "error", "reason"),
    [
        (b"", Unreadable, "no JSON"),
        (b"size,colour", Unreadable, "this is no JSON; expected an object of values by column"),
        (b"\x89PNG....", WrongMedia, "an image"),
        (b"\x89PNG...." * 10_000, WrongMedia, "an image"),
        (b"PAR1...." * 10_000, WrongMedia, "a Parquet file"),
        (b"PK\3\4" + bytes(26) + b"[Content_Types].xml" * 10, WrongMedia, "such as .xlsx; expected JSON"),
        (b"size,colour\n" * 10_000, Unreadable, "this is no JSON"),
        (b"7", Unusable, "expected a JSON object"),
        (b"[1, 2]", Unusable, "expected 4 values, one for each column, got 2"),
        (b'{"size": 1, "size": 2}', Unusable, '"size" is given more than once'),
        (b'{"size": 1, "color": "red"}', Unusable, "column 'colour' is missing; there is \"color\""),
        (json.dumps(ROW | {"size": "2.5"}).encode(), Unusable, "column 'size': expected a number or null, not \"2.5\""),
        (json.dumps(ROW | {"size": True}).encode(), Unusable, "column 'size': expected a number or null, not true"),
        (json.dumps(ROW | {"size": 10**400}).encode(), Unusable, "column 'size': the number is too large"),
        (b'["\\ud800", "red", 1, true]', Unusable, r"column 'size': expected a number or null, not .\\ud800"),
        (json.dumps(ROW | {"colour": ["red"]}).encode(), Unusable, "column 'colour': expected a category"),
        (b"[" * 100_000, Unusable, "are enough"),
        (b"[" * 5000, Unreadable, "no JSON"),
    ],
)
def test_a_mistake_names_the_column(body: bytes, error: type[MediaError], reason: str) -> None:
    with pytest.raises(error, match=reason.replace("(", r"\(")):
        TELLING.decode(body)


def test_damaged_rows_are_read_or_refused() -> None:
    generator = random.Random(0)
    body = json.dumps(ROW).encode()
    for _ in range(2000):
        content = bytearray(body)
        for _ in range(generator.randint(1, 6)):
            at = generator.randrange(len(content))
            content[at : at + generator.choice([0, 1, 5])] = bytes(generator.choices(b'{}[]",:.-eE19ntN\\u\xff', k=2))
        try:
            assert TELLING.decode(bytes(content)).shape == (4,)
        except MediaError as error:
            assert str(error)  # noqa: PT017
