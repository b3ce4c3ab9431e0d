"""The model of an answer: the same however it is made and written, and the same in the OpenAPI document."""

import json
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from service.http.openapi import TEMPLATE
from service.serving import Answer, Window

DIGIT: dict[str, Any] = {
    "model": "digits", "version": "v1", "label": "3", "confidence": 0.9, "known": None,
    "probabilities": {"3": 0.9, "8": 1e-07, "1": 0.1},
}  # fmt: skip
SILENCE: dict[str, Any] = {"start": 0.0, "end": 0.5, "label": None, "confidence": None, "known": None}
SUM: dict[str, Any] = {"model": "sums", "version": "v1", "value": {"sum": 3.5}}
TIMELINE = [Window(**SILENCE), Window(start=0.5, end=1, value=None)]


@pytest.mark.parametrize("fields", [DIGIT, SUM, DIGIT | {"timeline": TIMELINE}])
def test_trusted_is_model_construct(fields: dict[str, Any]) -> None:
    trusted, checked = Answer.trusted(fields), Answer(**fields)
    for name in Answer.model_fields:
        assert getattr(trusted, name) == getattr(checked, name)
    assert checked == Answer.model_construct(**fields) == trusted.model_copy(update=checked.__dict__)
    assert trusted.fields() == checked.fields() == fields
    assert trusted.model_fields_set == checked.model_fields_set == set(fields)
    assert trusted.model_dump(exclude_unset=True) == checked.model_dump(exclude_unset=True)
    assert trusted.model_copy(update={"version": "v2"}).version == "v2"
    with pytest.raises(ValidationError):
        trusted.label = "8"  # type: ignore[misc]


@pytest.mark.parametrize("fields", [DIGIT, SUM, DIGIT | {"timeline": TIMELINE}])
def test_json_holds_what_was_set_in_order(fields: dict[str, Any]) -> None:
    answer = Answer.trusted(fields)
    assert orjson.loads(answer.to_json()) == json.loads(answer.model_dump_json(exclude_unset=True))
    assert list(orjson.loads(answer.to_json())) == list(fields)


def test_silence_is_null() -> None:
    written = orjson.loads(Answer.trusted(DIGIT | {"timeline": TIMELINE}).to_json())["timeline"]
    assert written == [SILENCE, {"start": 0.5, "end": 1.0, "value": None}]


def test_the_document_has_the_same_schema() -> None:
    """OpenAPI 3.0 writes nullable where JSON Schema has a union with null; titles and defaults are pydantic's own."""
    schema = Answer.model_json_schema()
    assert openapi(schema, schema["$defs"]) == orjson.loads(TEMPLATE)["components"]["schemas"]["Answer"]


def openapi(schema: Any, definitions: Any) -> Any:
    """A schema of pydantic's as OpenAPI 3.0 writes it."""
    if isinstance(schema, list):
        return [openapi(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return openapi(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    found = {key: value for key, value in schema.items() if key not in ("title", "default", "$defs")}
    if "properties" in found:
        properties = {key: openapi(value, definitions) for key, value in found["properties"].items()}
        return {"type": "object", "properties": properties, "required": found["required"]}
    if union := found.pop("anyOf", None):
        (kind,) = [item for item in union if item != {"type": "null"}]
        found |= kind | ({"nullable": True} if len(union) > 1 else {})
    return {key: openapi(value, definitions) for key, value in found.items()}
