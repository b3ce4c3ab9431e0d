"""The OpenAPI document (3.0.3): what the service takes and gives, with examples, made of the models that it serves."""

from collections.abc import Sequence
from typing import Any

from models.card import FAMILIARITY, ModelCard
from service.errors import CODES, EXPECTED
from service.http.oip import DATATYPES
from service.media.limits import Limits
from service.serving.predictor import MAX_WINDOW, MIN_WINDOW

Object = dict[str, Any]

MEDIA = {"image": ("image/png", "image/jpeg"), "audio": ("audio/wav", "audio/flac", "audio/mpeg", "audio/ogg")}
REASONS = {
    400: "The body cannot be read as what is expected.",
    401: "An API key is missing or wrong.",
    403: "Not allowed.",
    404: "There is no such model or version.",
    408: "The body arrived too slowly.",
    413: "The body, the image, the recording or the batch is too large.",
    415: "Another kind of media.",
    422: "Readable, but unusable: blank, silent, empty, or a timeline that cannot be.",
    503: "Busy; try again after Retry-After seconds.",
}
BINARY: Object = {"type": "string", "format": "binary"}
TEXT: Object = {"type": "string"}


def document(cards: Sequence[ModelCard], limits: Limits, has_keys: bool) -> Object:
    """The document for the models with these cards."""
    by_name = {card.name: card for card in cards}
    paths: Object = {}
    for name, kind in (("digits", "image"), ("instruments", "audio")):
        paths[f"/{name}"] = {"post": _predict(name, kind, by_name.get(name), [])}
        paths[f"/{name}/versions/{{version}}"] = {"post": _predict(name, kind, by_name.get(name), [_path("version")])}
    model = _path("model", [card.name for card in cards])
    paths["/predict/{model}"] = {"post": _predict("predict", None, None, [model])}
    paths["/predict/{model}/versions/{version}"] = {"post": _predict("predict", None, None, [model, _path("version")])}
    paths["/predict"] = {"post": _predict_by_form([card.name for card in cards])}
    paths |= _reading() | _protocol(cards, model)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "percept",
            "version": "2",
            "description": "Classifiers of pixels and sound. The body is a file's bytes, or a form with the file in "
            "any field; a URL is never fetched. `/v2` speaks the Open Inference Protocol.",
        },
        "servers": [{"url": "."}],
        "paths": _with_common(paths, has_keys),
        "components": {"schemas": _schemas(limits), **(_security() if has_keys else {})},
        **({"security": [{"bearer": []}, {"basic": []}, {"header": []}]} if has_keys else {}),
    }


def _predict(name: str, kind: str | None, card: ModelCard | None, parameters: list[Object]) -> Object:
    kinds = [kind] if kind else list(MEDIA)
    types = ["application/octet-stream", *(t for k in kinds for t in MEDIA[k])]
    content: Object = {t: {"schema": BINARY} for t in types}
    if kind is None:
        vector: Object = {"type": "array", "items": {"type": "number"}}
        content["application/json"] = {"schema": vector, "example": [0.5, -0.25]}
    form: Object = {"type": "object", "properties": {"file": BINARY}, "required": ["file"]}
    content["multipart/form-data"] = {"schema": form}
    if kind != "image":
        parameters = [*parameters, _timeline()]
        form["properties"]["timeline"] = _timeline()["schema"]
    expected = EXPECTED[kind] if kind else "an image, a recording or a JSON array, as the model takes"
    answers = {200: _ok("Answer", _example(name, card, kind))}
    return _operation(
        f"Classify {expected}", answers, (400, 404, 408, 413, 415, 422, 503), parameters, content, "Classify"
    )


def _predict_by_form(names: list[str]) -> Object:
    properties = {"model": TEXT | ({"enum": names} if names else {}), "file": BINARY, "timeline": _timeline()["schema"]}
    form = {"schema": {"type": "object", "properties": properties, "required": ["model", "file"]}}
    return _operation(
        "Classify a file with the model that the form names", {200: _ok("Answer")},
        (400, 404, 408, 413, 415, 422, 503), [], {"multipart/form-data": form}, "Classify",
    )  # fmt: skip


def _reading() -> Object:
    text: Object = {"description": "Text.", "content": {"text/plain": {"schema": TEXT}}}
    return {
        "/models": {
            "get": _operation("The cards of the models that are served", {200: _ok("Models")}, (), tag="Models")
        },
        "/livez": {"get": _operation("200 while the process answers", {200: text}, (), tag="Operation")},
        "/readyz": {
            "get": _operation(
                "200 if any model can be asked", {200: _ok("Ready"), 503: _ok("Ready")}, (), tag="Operation"
            )
        },
        "/metrics": {"get": _operation("Prometheus metrics", {200: text}, (), tag="Operation")},
    }


def _protocol(cards: Sequence[ModelCard], model: Object) -> Object:
    tag, version = "Open Inference Protocol", _path("version")
    paths: Object = {
        "/v2": {"get": _operation("Metadata of the server", {200: _ok("Server")}, (), tag=tag)},
        "/v2/health/live": {"get": _operation("Liveness", {200: _ok("Live")}, (), tag=tag)},
        "/v2/health/ready": {
            "get": _operation("Readiness", {200: _ok("Ready"), 503: _ok("Ready")}, (), tag=tag)
        },
        "/v2/repository/index": {
            "get": _operation("Models and versions of the store", {200: _ok("Index")}, (400, 408, 413, 415), tag=tag,
                              error="ProtocolError"),
            "post": _operation(
                "Models and versions of the store", {200: _ok("Index")}, (400, 408, 413, 415), [],
                {"application/json": {"schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}}, tag,
                error="ProtocolError", required=False,
            )
        },
        "/v2/repository/models/{model}/load": {
            "post": _operation(
                "Serve the newest version now", {200: _ok("Empty")}, (400, 403, 404, 408, 413, 415, 503), [model], None,
                tag, error="ProtocolError",
            )
        },
    }  # fmt: skip
    for between, parameters in (("", [model]), ("/versions/{version}", [model, version])):
        base = f"/v2/models/{{model}}{between}"
        paths[base] = {
            "get": _operation(
                "Metadata of a model", {200: _ok("Metadata")}, (404,), parameters, tag=tag, error="ProtocolError"
            )
        }
        paths[f"{base}/ready"] = {
            "get": _operation(
                "Whether a model can be asked", {200: _ok("ModelReady"), 503: _ok("ModelReady")}, (404,), parameters,
                tag=tag, error="ProtocolError",
            )
        }  # fmt: skip
        content: Object = {
            "application/json": {"schema": {"$ref": "#/components/schemas/Inference"}},
            "application/octet-stream": {"schema": BINARY},
        }
        if example := _inference(cards):
            content["application/json"]["example"] = example
        paths[f"{base}/infer"] = {
            "post": _operation(
                "Infer; binary tensor data follow a JSON header of Inference-Header-Content-Length bytes",
                {200: _ok("Inferred")}, (400, 404, 408, 413, 415, 503), parameters, content, tag, error="ProtocolError",
            )
        }  # fmt: skip
    return paths


def _inference(cards: Sequence[ModelCard]) -> Object | None:
    for card in sorted(cards, key=lambda card: card.input.kind, reverse=True):  # a vector is the shortest
        if card.input.kind != "vector":
            return None
        width = card.input.shape[-1] or 1
        tensor = {"name": card.input.name, "shape": [1, width], "datatype": DATATYPES[card.input.dtype]}
        return {"id": "1", "inputs": [tensor | {"data": [0.5] * width}], "outputs": [{"name": card.output}]}
    return None


def _operation(
    summary: str,
    answers: dict[int, Object],
    refusals: Sequence[int],
    parameters: Sequence[Object] = (),
    content: Object | None = None,
    tag: str = "",
    error: str = "Error",
    required: bool = True,
) -> Object:
    responses = {str(status): answer for status, answer in answers.items()}
    for status in refusals:
        responses[str(status)] = _ok(error, description=REASONS[status])
    if 503 in refusals:
        responses["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    operation: Object = {"summary": summary, "tags": [tag], "responses": responses}
    if parameters:
        operation["parameters"] = list(parameters)
    if content:
        operation["requestBody"] = {"required": required, "content": content}
    return operation


def _with_common(paths: Object, has_keys: bool) -> Object:
    """Operations get their ids, and, where there are keys, what happens without one."""
    for path, item in paths.items():
        for method, operation in item.items():
            words = [word.strip("{}") for word in path.split("/") if word]
            operation["operationId"] = "_".join([method, *words])
            if path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"):
                operation["security"] = []
            elif has_keys:
                error = "ProtocolError" if path.startswith("/v2") else "Error"
                operation["responses"]["401"] = _ok(error, description=REASONS[401])
    return paths


def _ok(schema: str, example: Object | None = None, description: str = "The answer.") -> Object:
    content: Object = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    if example:
        content["example"] = example
    return {"description": description, "content": {"application/json": content}}


def _path(name: str, values: list[str] | None = None) -> Object:
    return {"name": name, "in": "path", "required": True, "schema": TEXT | ({"enum": values} if values else {})}


def _timeline() -> Object:
    return {
        "name": "timeline",
        "in": "query",
        "description": "Also what is heard in each window of so many seconds of a recording.",
        "schema": {"type": "number", "minimum": MIN_WINDOW, "maximum": MAX_WINDOW},
    }


def _example(name: str, card: ModelCard | None, kind: str | None) -> Object:
    labels = card.labels if card else ("7", "1") if kind == "image" else ("violin", "flute")
    rest = (1 - 0.94) / max(1, len(labels) - 1)
    probabilities = {label: 0.94 if i == 0 else round(rest, 4) for i, label in enumerate(labels)}
    version = card.version if card else "kii7ndhhakvvqax4"
    model = name if kind else "digits"
    head = {"model": model, "version": version}
    return head | {"label": labels[0], "confidence": 0.94, "known": True, "probabilities": probabilities}


def _security() -> Object:
    return {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "basic": {"type": "http", "scheme": "basic", "description": "The key is the password."},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
    }


def _object(properties: Object, required: Sequence[str] | None = None) -> Object:
    keys = list(properties if required is None else required)
    return {"type": "object", "properties": properties, **({"required": keys} if keys else {})}


def _schemas(limits: Limits) -> Object:
    number, boolean = {"type": "number"}, {"type": "boolean"}
    share = number | {"minimum": 0, "maximum": 1}
    maybe = {"nullable": True}
    texts, anything = {"type": "array", "items": TEXT}, {"type": "object", "additionalProperties": True}
    numbers = {"type": "object", "additionalProperties": number}
    window = {
        "start": number, "end": number, "label": TEXT | maybe, "confidence": share | maybe, "known": boolean | maybe,
        "value": numbers | maybe,
    }  # fmt: skip
    answer = {
        "model": TEXT,
        "version": TEXT,
        "label": TEXT,
        "confidence": share,
        "known": boolean | maybe | {"description": "false: unlike what it was trained on; null: cannot tell"},
        "probabilities": {"type": "object", "additionalProperties": share},
        "value": numbers | {"description": "of a regression, instead of label and probabilities"},
        "timeline": {"type": "array", "items": _object(window, ("start", "end"))},
    }
    sizes = {"type": "array", "items": {"type": "integer"}, "maxItems": 8}
    parameters = anything | maybe
    asked = _object(
        {"name": TEXT, "shape": sizes, "datatype": TEXT, "data": {}, "parameters": parameters},
        ("name", "shape", "datatype"),
    )
    given = _object({"name": TEXT, "shape": sizes, "datatype": TEXT, "data": {}}, ("name", "shape", "datatype"))
    told = _object({"name": TEXT, "datatype": TEXT, "shape": sizes})
    output = _object({"name": TEXT, "parameters": parameters}, ("name",))
    row = _object({"name": TEXT, "version": TEXT, "state": TEXT | {"enum": ["READY", "UNAVAILABLE"]}, "reason": TEXT})
    return {
        "Answer": _object(answer, ("model", "version")),
        "Error": _object({"error": _object({"code": TEXT | {"enum": [*CODES.values(), "failed"]}, "message": TEXT})}),
        "ProtocolError": _object({"error": TEXT}),
        "Models": _object({"models": {"type": "array", "items": anything}, "failed": anything}),
        "Ready": _object({"ready": boolean, "models": anything, "failed": anything}),
        "Live": _object({"live": boolean}),
        "Server": _object({"name": TEXT, "version": TEXT, "extensions": texts}),
        "Metadata": _object(
            {
                "name": TEXT,
                "versions": texts,
                "platform": TEXT,
                "inputs": {"type": "array", "items": told},
                "outputs": {"type": "array", "items": told, "description": f"probabilities or value; {FAMILIARITY}"},
            }
        ),
        "ModelReady": _object({"name": TEXT, "ready": boolean, "error": TEXT}, ("name", "ready")),
        "Index": {"type": "array", "items": row},
        "Empty": _object({}),
        "Inference": _object(
            {
                "id": TEXT | maybe,
                "inputs": {
                    "type": "array", "items": asked, "minItems": 1, "maxItems": 1,
                    "description": f"one tensor of at most {limits.batch} samples",
                },
                "outputs": {"type": "array", "items": output} | maybe,
                "parameters": parameters,
            },
            ("inputs",),
        ),
        "Inferred": _object(
            {"model_name": TEXT, "model_version": TEXT, "id": TEXT, "outputs": {"type": "array", "items": given}},
            ("model_name", "model_version", "outputs"),
        ),
    }  # fmt: skip
