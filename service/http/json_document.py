"""A request's JSON, of which only what is asked for becomes Python objects.

simdjson parses a megabyte in 3 ms. As Python objects it could be fifty times as large, and take seconds to make, during
which nothing else runs in this process.
"""

from typing import Any

import simdjson
from starlette.exceptions import HTTPException

# Bytes that are parsed in one piece. simdjson holds Python's lock meanwhile, usually for a millisecond, but for 0.1 s
# if all numbers have more than 19 digits.
MOST_BYTES = 2**18

LIST, OBJECT = simdjson.Array, simdjson.Object
EXPECTED = {str: "a string", int: "a whole number", bool: "true or false", LIST: "a list", OBJECT: "an object"}


def parse(text: bytes, parser: simdjson.Parser | None = None) -> Any:
    """A JSON value; lists and objects are simdjson's, whose values are parsed but not yet Python objects. A `parser`
    can be used again once nothing refers to its last value. Raises HTTPException 400."""
    try:
        return (parser or simdjson.Parser()).parse(text)
    except (ValueError, RuntimeError) as error:  # RuntimeError: too deep, or a whole number beyond 64 bits
        raise HTTPException(400, f"the body is not JSON: {error}") from None


def parse_object(text: bytes) -> Any:
    """A JSON object as simdjson's. Raises HTTPException 400."""
    document = parse(text)
    if type(document) is not OBJECT:
        raise HTTPException(400, "expected a JSON object")
    return document


def typed_values(holder: Any, **types: type) -> dict[str, Any]:
    """The values of these keys of simdjson's object; None where it is null or missing. Other keys are ignored.

    Raises HTTPException 400 if a value is not of its type, one of EXPECTED, or a key is given more than once: parsers
    differ in which of its values they take.

    >>> typed_values(parse_object(b'{"name": "image", "extra": [[]]}'), name=str, shape=LIST)
    {'name': 'image', 'shape': None}
    """
    keys = list(holder)
    present = set(keys)  # for a missing key, simdjson raises an exception internally, which takes 2 µs
    values = {key: holder[key] if key in present else None for key in types}
    for key, value in values.items():
        if value is not None and type(value) is not types[key]:
            raise HTTPException(400, f"{key}: expected {EXPECTED[types[key]]}")
    if len(present) < len(keys) and (twice := [key for key in types if keys.count(key) > 1]):
        raise HTTPException(400, f"{twice[0]} is given more than once")
    return values


def parameters(holder: dict[str, Any], **types: type) -> dict[str, Any]:
    """The values of these keys below "parameters"; all None if that is missing. Raises HTTPException 400."""
    found = holder["parameters"]
    return dict.fromkeys(types) if found is None else typed_values(found, **types)


def quoted(text: str | None) -> str:
    """A client's text in a message: its first 80 characters."""
    return repr(text and text[:80])
