"""The OpenAPI document (3.0.3): openapi.json filled in with the routes, the models that are served, and the limits.

`x-operations` of that file describes each operation under its key in the table of routes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from models.card import ModelCard
from service.http.auth import OPEN
from service.http.routing import Route
from service.http.tensors import DATATYPES
from service.media import Limits

Object = dict[str, Any]

TEMPLATE = Path(__file__).with_name("openapi.json").read_bytes()
CONFIDENCE = 0.94  # in the examples


def document(routes: Iterable[Route], cards: Sequence[ModelCard], limits: Limits, has_keys: bool) -> Object:
    """The document for these routes, the models with these cards, these limits, and with or without API keys."""
    document: Object = orjson.loads(TEMPLATE)
    operations = document.pop("x-operations")
    _fill_in_models(operations, document["components"]["parameters"], cards)
    inputs = document["components"]["schemas"]["Inference"]["properties"]["inputs"]
    inputs["description"] = f"one tensor of at most {limits.batch} samples"
    for route in routes:
        if route.operation is None:
            continue
        operation: Object = dict(operations[route.operation])
        if parameters := [*map(_parameter, route.parameters()), *operation.get("parameters", ())]:
            operation["parameters"] = parameters
        method, words = route.method.lower(), [word.strip("{}") for word in route.path.split("/") if word]
        operation["operationId"] = "_".join([method, *words])
        if route.path in OPEN:
            operation["security"] = []
        elif has_keys:
            form = "ProtocolError" if route.path.startswith("/v2") else "Error"
            unauthorized = {"$ref": f"#/components/responses/{form}-401"}
            operation["responses"] = operation["responses"] | {"401": unauthorized}
        document["paths"].setdefault(route.path, {})[method] = operation
    if not has_keys:
        del document["security"], document["components"]["securitySchemes"]
    return document


def _fill_in_models(operations: Object, parameters: Object, cards: Sequence[ModelCard]) -> None:
    """Restrict names of models to those that are served, and add examples made from their cards."""
    form = operations["predict_by_form"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    if names := [card.name for card in cards]:
        parameters["model"]["schema"]["enum"] = names
        form["properties"]["model"]["enum"] = names
    for card in cards:
        if card.name in ("digits", "instruments"):
            content = operations[card.name]["responses"]["200"]["content"]["application/json"]
            content["example"] = _answer(card)
    if example := _inference(cards):
        operations["infer"]["requestBody"]["content"]["application/json"]["example"] = example


def _answer(card: ModelCard) -> Object:
    others = round((1 - CONFIDENCE) / max(1, len(card.labels) - 1), 4)
    probabilities = {label: CONFIDENCE if i == 0 else others for i, label in enumerate(card.labels)}
    answer = {"label": card.labels[0], "confidence": CONFIDENCE, "known": True, "probabilities": probabilities}
    if card.set_threshold is not None:
        answer["set"] = card.labels[:1]
    return {"model": card.name, "version": card.version, **answer}


def _inference(cards: Sequence[ModelCard]) -> Object | None:
    """A request to the first model that takes vectors, which are short."""
    for card in cards:
        if card.input.kind == "vector":
            width = card.input.shape[-1] or 1
            tensor = {"name": card.input.name, "shape": [1, width], "datatype": DATATYPES[card.input.dtype]}
            return {"id": "1", "inputs": [tensor | {"data": [0.5] * width}], "outputs": [{"name": card.output}]}
    return None


def _parameter(name: str) -> Object:
    return {"$ref": f"#/components/parameters/{name}"}
