"""The Open Inference Protocol, version 2, over REST, with the binary tensor data, classification and model repository
extensions (https://github.com/kserve/open-inference-protocol; the extensions are described in Triton's documentation).
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import orjson
from starlette.exceptions import HTTPException

from models.card import FAMILIARITY
from service.errors import Unusable
from service.http.body import read
from service.http.document import OBJECT, known, parse_object
from service.http.request import Request, Response
from service.http.state import State
from service.http.tensors import (
    BINARY,
    DATATYPES,
    HEADER_LENGTH,
    Array,
    Inference,
    parse,
    sizes,
    write,
)
from service.serving.predictor import PIECE, Predictor
from service.serving.repository import not_loaded

EXTENSIONS = ("binary_tensor_data", "classification", "model_repository")
INLINE_BYTES = 2**18  # a smaller request is answered in the event loop: 300 digits take a millisecond
CHUNK_BYTES = 2**20  # of inputs that go through a graph at once; more would not fit the cache
BODY_BYTES = 2**16  # limit for a request without tensors


class Protocol:
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
        """200 if any model is ready, else 503; lists the models that failed to load."""
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
        only_ready = known(parse_object(await read(request, BODY_BYTES) or b"{}"), ready=bool)["ready"]
        versions = await self.repository.versions(*sorted({*self.repository.served, *self.repository.failed}))
        rows = [row for name, found in versions.items() for row in self._rows(name, found)]
        return _json([row for row in rows if row["state"] == "READY" or not only_ready])

    async def load(self, request: Request, model: str) -> Response:
        """Serve the store's current version of the model now, rather than after the next poll."""
        if not self.state.keys.required:
            raise HTTPException(
                403, "loading takes an API key, and PERCEPT_API_KEYS sets none; new versions come by themselves"
            )
        if known(parse_object(await read(request, BODY_BYTES) or b"{}"), parameters=OBJECT)["parameters"]:
            raise HTTPException(400, "parameters: a model is served as the store holds it; none are read")
        await self.state.reload(model)
        self.repository.get(model)
        if failure := self.repository.failure(model):
            raise HTTPException(503, f"{failure}; the version before it is still served")
        return _json({})

    async def infer(self, request: Request, model: str, version: str | None = None) -> Response:
        """The model's answers to a batch."""
        state, predictor = self.state, await self.repository.find(model, version)
        max_bytes = state.limits.bytes_of(predictor.card.input.kind)
        with state.admission.slots(request.content_length(), max_bytes) as slots:
            data = await read(request, max_bytes, slots)
            header_length = request.header(HEADER_LENGTH)

            def compute() -> Response:
                inference = parse(data, header_length, predictor.card, state.limits)
                answers = _answers(predictor, inference)
                head, tail = write(predictor.card, inference, answers)
                after = partial(state.metrics.answers, predictor, answers)
                if not tail:
                    return Response(head, after=after)
                length = ((HEADER_LENGTH, b"%d" % len(head)),)
                return Response(head + tail, content_type=BINARY, headers=length, after=after)

            try:
                return await state.scheduler.run(compute, in_thread=len(data) > INLINE_BYTES)
            except Unusable as error:  # the protocol has no status for these
                raise HTTPException(400, str(error)) from error

    def _rows(self, name: str, versions: list[str]) -> Iterator[dict[str, str]]:
        served, broken = self.repository.served.get(name), self.repository.failed.get(name)
        current = served.card.version if served else None
        for version in versions:
            if version == current:
                yield {"name": name, "version": version, "state": "READY", "reason": ""}
            elif version == broken:
                yield {"name": name, "version": version, "state": "UNAVAILABLE", "reason": not_loaded(name, version)}
            else:
                reason = f"opened when /v2/models/{name}/versions/{version} is asked"
                yield {"name": name, "version": version, "state": "UNAVAILABLE", "reason": reason}


def _answers(predictor: Predictor, inference: Inference) -> Array:
    """The graph's outputs for a batch, chunk by chunk to bound memory; for long recordings the mean over their
    pieces, as for files."""
    rate, batch = predictor.card.input.sample_rate, inference.batch
    if rate is not None and batch.shape[1] > PIECE * rate:
        return np.array([predictor.outputs_of(sample) for sample in batch], np.float32)
    familiarity = any(output.name == FAMILIARITY for output in inference.outputs)
    rows = max(1, CHUNK_BYTES // max(1, batch[:1].nbytes))
    chunks = [predictor.run(batch[i : i + rows], True, familiarity) for i in range(0, len(batch), rows)]
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def _metadata(name: str, datatype: str, shape: tuple[int | None, ...]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": sizes(shape)}


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status)
