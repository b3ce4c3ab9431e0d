"""The OpenAPI document agrees with the table of routes, the models and the service's constants."""

from typing import Any

import httpx
import orjson
import pytest

from models.card import FAMILIARITY
from service.http.errors import CODES
from service.http.form import FIELDS
from service.http.openapi import TEMPLATE
from service.media import EXPECTED, Limits
from service.serving.predictor import MAX_WINDOW, MIN_WINDOW
from tests.service.in_process import application

DOCUMENT = orjson.loads(TEMPLATE)


@pytest.fixture(scope="module")
def document(local: httpx.Client) -> Any:
    return local.get("/docs.json").json()


def test_each_operation_of_the_template_is_a_route(document: Any) -> None:
    summaries = {operation["summary"] for path in document["paths"].values() for operation in path.values()}
    assert summaries == {operation["summary"] for operation in DOCUMENT["x-operations"].values()}
    assert "x-operations" not in document


def test_each_reference_resolves(document: Any) -> None:
    def check(value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                check(item)
        elif isinstance(value, dict):
            if "$ref" in value:
                _, _, kind, name = value["$ref"].split("/")
                assert name in document["components"][kind]
            for item in value.values():
                check(item)

    check(document)


def test_names_are_those_of_the_models(document: Any) -> None:
    names = ["digits", "instruments", "sums"]
    assert document["components"]["parameters"]["model"]["schema"]["enum"] == names
    form = document["paths"]["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["model"]["enum"] == names
    answer = document["paths"]["/instruments"]["post"]["responses"]["200"]["content"]["application/json"]
    assert list(answer["example"]["probabilities"]) == ["bassoon", "flute"]


def test_the_example_of_inference_is_answered(document: Any, local: httpx.Client) -> None:
    request = document["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]["content"]["application/json"]
    assert local.post("/v2/models/sums/infer", json=request["example"]).is_success


def test_constants_in_the_template_match_the_code(document: Any) -> None:
    schemas, operations = DOCUMENT["components"]["schemas"], DOCUMENT["x-operations"]
    assert schemas["Error"]["properties"]["error"]["properties"]["code"]["enum"] == [
        *(code for code in CODES.values() if code != "failed"), "failed",
    ]  # fmt: skip
    timeline = DOCUMENT["components"]["parameters"]["timeline"]["schema"]
    assert timeline == {"type": "number", "minimum": MIN_WINDOW, "maximum": MAX_WINDOW}
    for name in ("digits", "instruments", "predict", "predict_by_form"):
        form = operations[name]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
        assert {*form} - {"model", "file"} <= {name.decode() for name in FIELDS}
        assert form["seen"] == {"type": "boolean"}
    assert operations["digits"]["summary"] == f"Classify {EXPECTED['image']}"
    assert operations["instruments"]["summary"] == f"Classify {EXPECTED['audio']}"
    assert FAMILIARITY in schemas["Metadata"]["properties"]["outputs"]["description"]
    inputs = document["components"]["schemas"]["Inference"]["properties"]["inputs"]
    assert inputs["description"] == f"one tensor of at most {Limits().batch} samples"


def test_security_is_documented_only_if_there_are_keys(document: Any, home: Any) -> None:
    with application(home, PERCEPT_API_KEYS="key") as client:
        closed = client.get("/docs.json", headers={"x-api-key": "key"}).json()
    assert "security" not in document
    assert "securitySchemes" not in document["components"]
    assert closed["security"] == [{"bearer": []}, {"basic": []}, {"header": []}]
    assert "401" in closed["paths"]["/v2"]["get"]["responses"]
    assert closed["paths"]["/livez"]["get"]["security"] == []
    assert "401" not in closed["paths"]["/livez"]["get"]["responses"]
