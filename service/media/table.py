"""JSON objects of values by column, or arrays of them → the rows that a model of a table takes."""

import json
import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from models.card import Column
from service.errors import MediaError, Unreadable, Unusable
from service.media.signatures import undecodable
from service.media.vector import NUMBER_BYTES, OTHER_BYTES

UNSEEN = -1  # in place of the index of a category
MOST = 10  # categories that a message names
QUOTED = 40  # characters of a client's text in a message
TRUTH = {True: ("true", "True", "TRUE"), False: ("false", "False", "FALSE")}
LARGEST = float(np.finfo(np.float32).max)


class TableRow:
    """Decodes rows of a table with these columns.

    A value is a number, for a category its name, or null where it is missing. A category that the model does not know,
    or a value missing where none was in training, makes the answer's `known` false.

    Parameters
    ----------
    tells_unknown : whether the model's answers have `known`; where they have not, such values are refused

    Example
    -------
    >>> row = TableRow((Column(name="size"), Column(name="colour", categories=("blue", "red"))), tells_unknown=True)
    >>> row.decode(b'{"colour": "red", "size": 2.5}')
    array([2.5, 1. ], dtype=float32)
    >>> row.decode(b'["2", "red"]')
    Traceback (most recent call last):
    service.errors.Unusable: column 'size': expected a number or null, not "2"
    """

    def __init__(self, columns: Sequence[Column], tells_unknown: bool) -> None:
        self.columns, self.tells_unknown = columns, tells_unknown
        self._codes = [{name: code for code, name in enumerate(column.categories)} for column in columns]
        longest = [max((_length(name) for name in column.categories), default=0) for column in columns]
        self.most = OTHER_BYTES + sum(NUMBER_BYTES + _length(c.name) + n for c, n in zip(columns, longest, strict=True))

    def decode(self, data: bytes) -> NDArray[np.float32]:
        """A JSON object or array as float32 (D,), NaN where a value is missing. Raises MediaError."""
        if len(data) > self.most:
            if data.lstrip()[:1] not in (b"{", b"["):
                raise _no_json(data)
            raise Unusable(f"{len(data)} bytes for a row of {len(self.columns)} columns; {self.most} are enough")
        try:
            row = json.loads(data, object_pairs_hook=_once)
        except MediaError:
            raise
        except (ValueError, RecursionError) as error:
            raise _no_json(data) from error
        values = self._by_name(row) if isinstance(row, dict) else row
        if not isinstance(values, list):
            raise Unusable("expected a JSON object of values by column, or an array of them")
        if len(values) != len(self.columns):
            raise Unusable(f"expected {len(self.columns)} values, one for each column, got {len(values)}")
        return np.array([self._number(i, value) for i, value in enumerate(values)], np.float32)

    def _by_name(self, row: dict[str, Any]) -> list[Any]:
        """The values in the order of the columns; others that a record has are no concern of the model."""
        try:
            return [row[normalize("NFC", column.name)] for column in self.columns]
        except KeyError as error:
            name = error.args[0]
            close = get_close_matches(name, row, n=1) if len(row) <= len(self.columns) + MOST else []
            hint = f"there is {_quoted(close[0])}" if close else "null stands for a missing value"
            raise Unusable(f"column {name!r} is missing; {hint}") from None

    def _number(self, i: int, value: Any) -> float:
        column = self.columns[i]
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            if not column.missing and not self.tells_unknown:
                raise Unusable(f"column {column.name!r}: a value is needed, since no training sample lacked it")
            return math.nan
        if column.categories:
            return self._code(i, value)
        if type(value) not in (int, float):
            raise Unusable(f"column {column.name!r}: expected a number or null, not {_quoted(value)}")
        if not -LARGEST <= value <= LARGEST:
            raise Unusable(f"column {column.name!r}: the number is too large or not finite")
        return float(value)

    def _code(self, i: int, value: Any) -> float:
        """The index of a category, which may be given as a number or a truth value where its name is one."""
        column, codes = self.columns[i], self._codes[i]
        if isinstance(value, list | dict):
            raise Unusable(f"column {column.name!r}: expected a category or null, not {_quoted(value)}")
        texts = TRUTH[value] if isinstance(value, bool) else _texts(value)
        for text in texts:
            if text in codes:
                return codes[text]
        if not self.tells_unknown:
            known = ", ".join(column.categories[:MOST]) + (", …" if len(column.categories) > MOST else "")
            raise Unusable(f"column {column.name!r}: {_quoted(value)} is none of {known}")
        return UNSEEN


def named(row: NDArray[np.float32], columns: Sequence[Column]) -> dict[str, Any]:
    """The opposite of `decode`: a row float32 (D,) as values by column.

    >>> named(np.float32([np.nan, 1]), (Column(name="size"), Column(name="colour", categories=("blue", "red"))))
    {'size': None, 'colour': 'red'}
    """
    values: dict[str, Any] = {}
    for column, number in zip(columns, row.tolist(), strict=True):
        if math.isnan(number):
            values[column.name] = None
        elif column.categories:
            values[column.name] = column.categories[int(number)] if 0 <= number < len(column.categories) else "?"
        else:
            values[column.name] = float(str(np.float32(number)))  # 0.1, not 0.10000000149011612
    return values


def _no_json(data: bytes) -> MediaError:
    if isinstance(found := undecodable(data, "vector"), Unreadable):
        return Unreadable("this is no JSON; expected an object of values by column, or an array of them")
    return found


def _texts(value: Any) -> list[str]:
    """How a category may be written."""
    if isinstance(value, str):
        return [value, value.strip(), normalize("NFC", value.strip())]
    texts = [str(value)] if abs(value) < 1e15 else []
    return texts + ([str(int(value)), f"{value:.1f}"] if texts and value == int(value) else [])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [normalize("NFC", name) for name, _ in pairs]  # ö is one letter, or o and dots
    values = dict(zip(names, (value for _, value in pairs), strict=True))
    if len(values) < len(pairs):
        twice = next(name for name in names if names.count(name) > 1)
        raise Unusable(f"{_quoted(twice)} is given more than once")
    return values


def _quoted(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()  # half of a pair: \\ud800
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}…"


def _length(text: str) -> int:
    """Bytes of a text in JSON, at most."""
    return 6 * len(text.encode("utf-16-le")) // 2
