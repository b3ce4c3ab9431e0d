"""The numbers of a long JSON list: small integers with NumPy, others piece by piece.

simdjson holds Python's lock while it parses, so that a list of 32 MiB in one piece would stop all other requests: for
0.1 s, or for 13 if each number has more than 19 digits.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simdjson
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from service.http.json_document import MOST_BYTES, parse

PIECE = 2**15  # bytes that are parsed at once
KEY = b'"data"'
OPENING = re.compile(rb'[{,\s]"data"\s*:\s*\[')  # certainly a key: inside a string, its quotes would be escaped
PLACEHOLDER = b"null"  # in place of the numbers, in the JSON around them

SPACE = b" \t\r\n"
SCALAR, OTHER = b"0", b"?"
# Brackets and commas as they are; SCALAR for each byte that numbers, true, false and null have; OTHER for the rest.
KINDS = bytes(
    byte if byte in b"[]," else (SCALAR if byte in b"0123456789+-.eEtrufalsn" else OTHER)[0] for byte in range(256)
)
WITHOUT_BRACKETS = bytes.maketrans(b"[]", b"  ")

# Long lists of small integers, such as pictures in JSON, are parsed with NumPy, which handles 64 bytes of text in one
# instruction. A request with 64 pictures then takes 0.38 ms instead of 0.51 (on the machine of docs/service.md 0.7
# instead of 0.84), and percept answers 3.5 times as many of them as MLServer instead of less than 3 times.
MIN_BYTES = 2**15  # of JSON; for less, simdjson is faster
MAX_BYTES = 2**22  # of JSON; for more, the arrays no longer fit the cache
ZERO, COMMA, BLANK = b"0, "


@dataclass
class LongList:
    """The list in `text` whose values begin at `start` and whose closing bracket is at `stop`."""

    text: bytes
    start: int
    stop: int

    def values(self, shape: list[int], converted: Callable[[Any], NDArray[Any]]) -> NDArray[Any]:
        """The list's values in one dimension; `converted` makes an array of a flat list of simdjson's. Raises
        HTTPException 400 if they are more than `shape` says, or nested otherwise."""
        left, nested = math.prod(shape), self.text.find(b"[", self.start, self.stop) >= 0
        arrays, parser = [], simdjson.Parser()  # one parser: a new one allocates its memory anew
        skeleton = bytearray()  # the brackets and commas
        for piece in self._pieces():
            text = piece
            if nested:
                kinds = piece.translate(KINDS, SPACE)
                if _is_malformed(np.frombuffer(kinds, np.uint8)):
                    raise _not_nested(shape)
                skeleton += kinds.translate(None, SCALAR) + b","
                text = piece.translate(WITHOUT_BRACKETS)
            array = parse(b"[" + text + b"]", parser)
            left -= len(array)
            if not len(array) or left < 0:
                raise HTTPException(400, f"data: expected a list of {math.prod(shape)} numbers, separated by commas")
            arrays.append(converted(array))
            del array  # else the parser cannot be used again
        if nested and bytes(skeleton[:-1]) != _brackets_and_commas(shape, len(skeleton)):
            raise _not_nested(shape)
        return np.concatenate(arrays)

    def _pieces(self) -> Iterator[bytes]:
        """The text between the list's brackets, cut at commas."""
        at = self.start
        while at <= self.stop:
            cut = self.stop if self.stop - at <= PIECE else self.text.rfind(b",", at, at + PIECE)
            if cut < 0:
                raise HTTPException(400, f"data: {PIECE} bytes hold no comma")
            yield self.text[at:cut]
            at = cut + 1


def _is_malformed(kinds: NDArray[np.uint8]) -> bool:
    """Whether something directly before an opening bracket or after a closing one makes this no JSON, or it has other
    bytes than numbers."""
    scalar, opening, closing = (kinds == ord(byte) for byte in (SCALAR, b"[", b"]"))
    wrong = (scalar[:-1] & opening[1:]) | (closing[:-1] & scalar[1:])
    return bool(wrong.any() or (kinds == ord(OTHER)).any())


def _not_nested(shape: list[int]) -> HTTPException:
    return HTTPException(400, f"data: the lists are not nested as shape {shape} says")


def _brackets_and_commas(shape: list[int], most: int) -> bytes | None:
    """What JSON has besides the numbers of an array of that shape, without the outermost brackets; None if that is more
    than `most` bytes.

    >>> _brackets_and_commas([2, 3], 99)
    b'[,,],[,,]'
    """
    lists = sum(itertools.accumulate(shape[:-1], int.__mul__))
    if math.prod(shape) - 1 + 2 * lists > most:
        return None
    text = b"," * (shape[-1] - 1)
    for size in reversed(shape[:-1]):
        text = b",".join([b"[" + text + b"]"] * size)
    return text


def split(text: bytes) -> tuple[bytes, LongList] | None:
    """JSON as two parts: the JSON around its longest list under a key "data", in which PLACEHOLDER is the list's only
    value; and that list. None if the JSON around it has more than MOST_BYTES bytes, or lists hold strings or objects.

    The text may still not be JSON: `LongList.values` finds that out.
    """
    longest = LongList(text, 0, 0)
    at = -1
    while (at := text.find(KEY, at + 1, MOST_BYTES)) >= 0:
        if opening := OPENING.match(text, at - 1):
            start = opening.end()
            quote = text.find(b'"', start)
            brace = text.find(b"}", start, quote if quote >= 0 else len(text))
            stop = text.rfind(b"]", start, max(quote, start) if brace < 0 else brace)
            if stop - start > longest.stop - longest.start:
                longest = LongList(text, start, stop)
    rest = text[: longest.start] + PLACEHOLDER + text[longest.stop :]
    return (rest, longest) if longest.stop and len(rest) <= MOST_BYTES else None


def extract_integers(text: bytes) -> tuple[bytes, NDArray[np.uint16]] | None:
    """The JSON with the list under its only key "data" emptied, and the integers of that list, uint16 (n,).

    None unless these have one to three digits and are separated by commas, each followed by at most one space. The text
    is valid JSON if and only if the returned JSON is.
    """
    if not MIN_BYTES <= len(text) <= MAX_BYTES or not (found := OPENING.match(text, text.find(KEY) - 1)):
        return None
    start = found.end()
    stop = text.find(b"]", start)
    rest = text[:start] + text[stop:]
    if stop < 0 or rest.count(KEY) > 1:
        return None
    # The list with two bytes before and one after it.
    around = np.frombuffer(text, np.uint8, stop + 1 - (start - 2), start - 2)
    values = around - np.uint8(ZERO)  # bytes below "0" wrap around
    digit, comma = values < 10, around == COMMA
    pairs = digit[:-1] & digit[1:]
    last = np.flatnonzero(digit[2:-1] & ~digit[3:])  # position of each number's last digit in the list
    wrong = pairs[1:] & ~digit[:-2] & (values[1:-1] == 0)  # leading zeros, as in 01
    wrong[1:] |= pairs[:-2] & pairs[2:]  # four digits
    allowed = digit | comma
    if text.find(BLANK, start, stop) >= 0:
        allowed[1:] |= (around[1:] == BLANK) & comma[:-1]
    if wrong.any() or not allowed[2:-1].all() or np.count_nonzero(comma) != len(last) - 1:
        return None
    values *= digit
    numbers = (values[:-2] * digit[1:-1]).astype(np.uint16)
    numbers *= 100
    numbers += values[1:-1] * np.uint8(10) + values[2:]  # below 100
    return rest, numbers.take(last)
