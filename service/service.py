"""The BentoML service: a file's bytes in, probabilities out.

The routes are a plain ASGI application mounted on the service: BentoML's typed endpoints spool a form into temporary
files and cost several times as much. BentoML itself answers /livez, /readyz, /healthz, /metrics and /docs.json.
"""

import gc
import math
import os
import sys
from typing import TYPE_CHECKING, Any

import anyio
import bentoml
from bentoml.models import BentoModel
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.body import read_file
from service.refusal import Limits, MediaError, blame, positive
from service.static import HEADERS, page
from service.store import newest_models

if TYPE_CHECKING:
    from service.predictor import Predictor

try:
    LIMITS = Limits.from_environment()
    MAX_CONCURRENCY = positive("PERCEPT_MAX_CONCURRENCY", 64)  # requests in flight; more are turned away
except ValueError as error:
    sys.exit(f"percept: {error}")
INLINE_BYTES = 8192  # a smaller file, if no recording, is answered sooner than a thread takes it up
PLACE = 32 * 2**20  # bytes of a body that count as a request in flight: few long recordings fill the memory too


class Predict(HTTPEndpoint):
    """Answers the file in the body with the model that the last segment of the path names; a recording with a
    timeline too, where the query asks for windows of so many seconds."""

    async def post(self, request: Request) -> Response:
        state = request.app.state
        name = request.scope["path"].rpartition("/")[2]
        predictor = state.predictors.get(name)
        if predictor is None:
            raise HTTPException(404, state.failures.get(name) or f"there is no model {name!r}; see /models")
        most = LIMITS.bytes_of(predictor.card.input.kind)
        length = min(int(request.headers.get("content-length", most)), most)
        places = min(max(1, math.ceil(length / PLACE)), MAX_CONCURRENCY)
        if state.in_flight + places > MAX_CONCURRENCY:
            raise HTTPException(503, "too many requests are in flight; try again", {"Retry-After": "1"})
        state.in_flight += places
        try:
            return await self._answer(request, predictor, most)
        finally:
            state.in_flight -= places

    async def _answer(self, request: Request, predictor: "Predictor", max_bytes: int) -> Response:
        window = predictor.window(request.query_params.get("timeline"))
        data, content_type = await read_file(request, max_bytes)
        kind = predictor.card.input.kind

        def answer() -> Response:
            return JSONResponse(predictor.answer(data, LIMITS, window))  # a long timeline takes a while to write

        try:
            if kind != "audio" and len(data) < INLINE_BYTES:
                return answer()
            return await anyio.to_thread.run_sync(answer, limiter=request.app.state.threads)
        except MediaError as error:
            raise blame(error, kind, content_type) from error


class Models(HTTPEndpoint):
    """The cards of the models that are served, and those that could not be loaded."""

    async def get(self, request: Request) -> Response:
        state = request.app.state
        cards = [predictor.card.model_dump(mode="json") for predictor in state.predictors.values()]
        return JSONResponse({"models": cards, "failed": state.failures})


class Page(HTTPEndpoint):
    """The browser page and its files."""

    async def get(self, request: Request) -> Response:
        path = request.scope["path"]
        file = page(path)
        if file is None:
            raise HTTPException(404, f"there is nothing at {path}")
        content, content_type, etag = file
        headers = HEADERS | {"ETag": etag}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers | {"Content-Type": content_type})


class NotFound(HTTPEndpoint):
    """Every path that neither we nor BentoML know."""

    async def dispatch(self) -> None:
        raise HTTPException(404, f"there is nothing at {self.scope['path']}")


class Unclaimed(Convertor[str]):
    """Any path but those that BentoML answers after the mounted application."""

    regex = r"(?!docs\.json$|static_content/).*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


async def refused(request: Request, error: Exception) -> Response:
    """The error form of a file that cannot be used."""
    assert isinstance(error, MediaError)
    headers = {"Connection": "close"} if error.status == 408 else None
    return _error(error.status, error.code, str(error), headers)


async def failed(request: Request, error: Exception) -> Response:
    """The error form of everything else that has an HTTP status."""
    assert isinstance(error, HTTPException)
    return _error(error.status_code, ERRORS.get(error.status_code, "error"), error.detail, error.headers)


async def disconnected(request: Request, error: Exception) -> Response:
    """The client has gone; nobody reads this."""
    return _error(400, "disconnected", "the body is incomplete")


def _error(status: int, code: str, message: str, headers: Any = None) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


ERRORS = {404: "not_found", 405: "method_not_allowed", 503: "busy"}

register_url_convertor("unclaimed", Unclaimed())
app = Starlette(
    routes=[
        Route("/digits", Predict),
        Route("/instruments", Predict),
        Route("/predict/{model}", Predict),
        Route("/models", Models),
        Route("/", Page),
        Route("/page/{name}", Page),
        Route("/{path:unclaimed}", NotFound),
    ],
    exception_handlers={MediaError: refused, HTTPException: failed, ClientDisconnect: disconnected},
)


# Options that BentoML's configuration (BENTOML_CONFIG) overrides. A body has its own, shorter time limit; the log of
# requests and the middleware of tracing take longer than a digit does. To trace, set services.percept.tracing with an
# exporter and without excluded_urls.
@bentoml.service(
    name="percept",
    workers=1,
    traffic={"timeout": 600},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(app)
class Percept:
    """Serves every model of the store that carries our label; in a built Bento, the models inside it."""

    def __init__(self) -> None:
        # Imported here, since BentoML's supervisor imports this module too and needs no ONNX Runtime.
        from service.predictor import open_models

        bento = Percept.bento  # type: ignore[attr-defined]  # mypy ignores what decorators make of a class
        models = [bentoml.models.get(model.tag) for model in bento.info.all_models] if bento else newest_models()
        app.state.predictors, app.state.failures = open_models(models)
        app.state.threads = anyio.CapacityLimiter(len(os.sched_getaffinity(0)))
        app.state.in_flight = 0
        gc.freeze()  # a collection would walk all that was imported: 30 ms during which nobody is answered

    async def __is_ready__(self) -> bool:
        return bool(app.state.predictors)


# What `bentoml build` puts into a Bento.
Percept.models.extend(BentoModel(model.tag) for model in newest_models())  # type: ignore[attr-defined]
