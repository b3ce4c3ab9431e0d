"""The Open Inference Protocol, version 2, over REST, with the binary tensor data, classification and model repository
extensions (https://github.com/kserve/open-inference-protocol; the extensions are described in Triton's documentation).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import orjson
from starlette.exceptions import HTTPException

from models.card import FAMILIARITY
from service.errors import Unusable
from service.http.body import read
from service.http.inference_request import Inference, parse
from service.http.inference_response import write
from service.http.json_document import OBJECT, parse_object, typed_values
from service.http.request import Request, Response
from service.http.scheduling import takes_thread
from service.http.shadow import of_rows
from service.http.state import State
from service.http.tensors import DATATYPES, FEW_LISTS, sizes
from service.media.work import UNPACKED, Work
from service.serving.drift import COUNTED
from service.serving.predictor import Predictor

EXTENSIONS = ("binary_tensor_data", "classification", "model_repository")
# Seconds, measured like the constants of service.media.work, for each byte of JSON, each list in it, and each byte of
# binary data that are read; for each number and each label that are written.
READ, LIST, CONVERTED, WRITTEN, NAMED = 6e-9, 1e-6, 1e-9, 5e-8, 1.2e-6
HEADER_LENGTH = b"inference-header-content-length"  # bytes of JSON, before binary data
BINARY = b"application/octet-stream"
BODY_BYTES = 2**16  # limit for a request without tensors


class InferenceProtocol:
    """The handlers of all paths below /v2."""

    def __init__(self, state: State) -> None:
        self.state, self.repository = state, state.repository

    async def server(self, request: Request) -> Response:
        """Metadata of the server."""
        return _json({"name": "percept", "version": "2", "extensions": EXTENSIONS})

    async def live(self, request: Request) -> Response:
        """200 while the process answers."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """200 if any model is ready, else 503; says which failed to load, and what is wrong with the store."""
        ready = bool(self.repository.served)
        return _json({"ready": ready, **self.repository.state()}, 200 if ready else 503)

    async def model(self, request: Request, model: str, version: str | None = None) -> Response:
        """Metadata of a model."""
        card = (await self.repository.find(model, version)).card
        versions = (await self.repository.versions(model)).get(model)
        return _json(
            {
                "name": card.name,
                "versions": versions or [card.version],
                "platform": "onnxruntime_onnx",
                "inputs": [_metadata(card.input.name, DATATYPES[card.input.dtype], card.input.shape)],
                "outputs": [_metadata(card.output, "FP32", (None, len(card.labels)))]
                + ([] if card.known_threshold is None else [_metadata(FAMILIARITY, "FP32", (None,))]),
                "parameters": {"labels": card.labels},
            }
        )

    async def model_ready(self, request: Request, model: str, version: str | None = None) -> Response:
        """200 if the model is ready, 503 if it could not be loaded, 404 if there is none."""
        if model not in self.repository.served and (failure := self.repository.failure(model)):
            return _json({"name": model, "ready": False, "error": failure}, 503)
        await self.repository.find(model, version)
        return _json({"name": model, "ready": True})

    async def index(self, request: Request) -> Response:
        """Every model and version in the store, and whether it is ready."""
        only_ready = typed_values(parse_object(await read(request, BODY_BYTES) or b"{}"), ready=bool)["ready"]
        versions = await self.repository.versions(*sorted({*self.repository.served, *self.repository.failed}))
        rows = [row for name, found in versions.items() for row in self._rows(name, found)]
        return _json([row for row in rows if row["state"] == "READY" or not only_ready])

    async def load(self, request: Request, model: str) -> Response:
        """Serve the store's current version of the model now, rather than after the next poll."""
        if not self.state.keys.required:
            raise HTTPException(
                403, "loading takes an API key, and PERCEPT_API_KEYS sets none; new versions come by themselves"
            )
        if typed_values(parse_object(await read(request, BODY_BYTES) or b"{}"), parameters=OBJECT)["parameters"]:
            raise HTTPException(400, "parameters: a model is served as the store holds it; none are read")
        await self.state.reload(model)
        self.repository.get(model)
        if failure := self.repository.failure(model):
            raise HTTPException(503, f"{failure}; the version before it is still served")
        return _json({})

    async def infer(self, request: Request, model: str, version: str | None = None) -> Response:
        """The model's answers to a batch."""
        state, predictor = self.state, await self.state.find(request, model, version, tensors=True)
        max_bytes = state.limits.bytes_of(predictor.card.input.kind)
        with state.admission.slots(request.content_length(), max_bytes) as slots:
            data = await read(request, max_bytes, slots)
            header_length = request.header(HEADER_LENGTH)
            parsing = _parsing(data, header_length)
            slots.count_as_large(takes_thread(parsing))

            def respond(inference: Inference) -> Response:
                familiarity = any(output.name == FAMILIARITY for output in inference.outputs)
                answers = predictor.run_in_parts(inference.batch, familiarity)
                head, tail = write(predictor.card, inference, answers)
                after: Callable[[], None] = partial(state.metrics.answers, predictor, answers)
                if state.comparison is not None:
                    rows, found = inference.batch[:COUNTED], partial(of_rows, predictor, answers)
                    after = state.comparison.after(request, after, rows, found)
                if not tail:
                    return Response(head, after=after)
                length = ((HEADER_LENGTH, b"%d" % len(head)),)
                return Response(head + tail, content_type=BINARY, headers=length, after=after)

            def begin() -> tuple[Response | None, Inference, Work]:
                inference = parse(data, header_length, predictor.card, state.limits)
                work = predictor.cost.of_batch(inference.batch.shape) + _writing(predictor, inference)
                return None if takes_thread(work) else respond(inference), inference, work

            try:
                response, inference, work = await state.scheduler.run(begin, parsing)
                if response is None:
                    slots.count_as_large()
                    response = await state.scheduler.run(lambda: respond(inference), work)
            except Unusable as error:  # the protocol has no status for these
                raise HTTPException(400, str(error)) from error
            return response

    def _rows(self, name: str, versions: list[str]) -> Iterator[dict[str, str]]:
        served, broken = self.repository.served.get(name), self.repository.failed.get(name)
        current = served.card.version if served else None
        for version in versions:
            if version == current:
                yield {"name": name, "version": version, "state": "READY", "reason": ""}
            elif version == broken:
                yield {
                    "name": name,
                    "version": version,
                    "state": "UNAVAILABLE",
                    "reason": self.repository.failure(name) or "",
                }
            else:
                reason = f"opened when /v2/models/{name}/versions/{version} is asked"
                yield {"name": name, "version": version, "state": "UNAVAILABLE", "reason": reason}


def _parsing(data: bytes, header_length: bytes) -> Work:
    """What it takes to parse a request."""
    length = min(len(data), int(header_length)) if header_length.isdigit() and len(header_length) < 20 else len(data)
    lists = length // 100 if length >= 2**19 else _lists(data, length)  # to count takes a while too
    seconds = READ * length + LIST * lists + CONVERTED * (len(data) - length)
    return Work(seconds, UNPACKED * length + 2 * (len(data) - length))


def _lists(data: bytes, length: int) -> int:
    """How many lists the JSON data[:length] has, by their opening brackets."""
    at = -1
    for n in range(FEW_LISTS):  # a search leaves nothing in memory, and most requests have three or four
        at = data.find(b"[", at + 1, length)
        if at < 0:
            return n
    # With bytes.count, three times as long.
    return int(np.count_nonzero(np.frombuffer(data, np.uint8)[:length] == ord("[")))


def _writing(predictor: Predictor, inference: Inference) -> Work:
    names = sum(output.classes for output in inference.outputs) + inference.sets * len(predictor.card.labels)
    return Work(len(inference.batch) * (WRITTEN * len(predictor.card.labels) + NAMED * names))


def _metadata(name: str, datatype: str, shape: tuple[int | None, ...]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": sizes(shape)}


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status)
