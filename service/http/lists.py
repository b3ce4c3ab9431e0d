"""The numbers of a long JSON list, parsed piece by piece.

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

from service.http.document import MOST_BYTES, parse

PIECE = 2**15  # bytes that are parsed at once
DATA_KEY = b'"data"'
DATA_OPENING = re.compile(rb'[{,\s]"data"\s*:\s*\[')  # certainly a key: inside a string, its quotes would be escaped
PLACEHOLDER = b"null"  # in place of the numbers, in the JSON around them

SPACE = b" \t\r\n"
SCALAR, OTHER = b"0", b"?"
# Brackets and commas as they are; SCALAR for each byte that numbers, true, false and null have; OTHER for the rest.
KINDS = bytes(
    byte if byte in b"[]," else (SCALAR if byte in b"0123456789+-.eEtrufalsn" else OTHER)[0] for byte in range(256)
)
WITHOUT_BRACKETS = bytes.maketrans(b"[]", b"  ")


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
    while (at := text.find(DATA_KEY, at + 1, MOST_BYTES)) >= 0:
        if opening := DATA_OPENING.match(text, at - 1):
            start = opening.end()
            quote = text.find(b'"', start)
            brace = text.find(b"}", start, quote if quote >= 0 else len(text))
            stop = text.rfind(b"]", start, max(quote, start) if brace < 0 else brace)
            if stop - start > longest.stop - longest.start:
                longest = LongList(text, start, stop)
    rest = text[: longest.start] + PLACEHOLDER + text[longest.stop :]
    return (rest, longest) if longest.stop and len(rest) <= MOST_BYTES else None
