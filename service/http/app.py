"""The service's HTTP: routes, and what holds for all of them — keys, places, refusals, metrics, the log.

A plain ASGI application in front of BentoML's, whose typed endpoints spool a form into temporary files and whose
middleware, a task and a timer for each request, takes longer than a digit does.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import orjson

from service.errors import MediaError, Refusal, blame
from service.http import log, static
from service.http.admission import Places
from service.http.auth import Guard
from service.http.body import read_file
from service.http.request import REQUEST_ID, ASGIApp, Disconnected, Headers, Receive, Request, Response, Scope, Send
from service.http.scheduling import Turns
from service.media.limits import Limits, positive

if TYPE_CHECKING:
    from service.http.oip import Protocol
    from service.metrics import Metrics
    from service.serving.predictor import Predictor
    from service.serving.repository import Repository

logger = logging.getLogger("bentoml.percept")

MAX_CONCURRENCY = 64  # requests in flight, if PERCEPT_MAX_CONCURRENCY sets no other number; more are turned away
INLINE_BYTES = 2**13  # a smaller file is answered sooner than a thread takes it up
INLINE_WAV_BYTES = 2**17  # and so is a recording, where its bytes tell how long it is: 3 s of a CD's quality in mono
ALIASES = ("digits", "instruments")  # models that have a path of their own
BENTOML = ("schema.json", "static_content")  # first segments of what BentoML answers
OPEN = frozenset(("/livez", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"))  # without a key

TOLD = ("model", "version", "label", "confidence", "known")  # of an answer, to the log of requests

ALWAYS: Headers = ((b"x-content-type-options", b"nosniff"),)
FAILED = "the service has failed; its log says why"

Handler = Callable[..., Awaitable[Response]]
Match = tuple[str, dict[str, Handler], tuple[str, ...]]  # the route's template, its handlers by method, their arguments


class App:
    """The application of one worker; `open` gives it what it answers with, before the first request."""

    limits: Limits
    repository: "Repository"
    protocol: "Protocol"
    metrics: "Metrics"
    turns: Turns

    def __init__(self) -> None:
        """Raises ValueError for a variable of the environment that makes no sense."""
        self.limits = Limits.from_environment()
        self.places = Places(positive("PERCEPT_MAX_CONCURRENCY", MAX_CONCURRENCY))
        self.guard = Guard.from_environment()
        self.logs = log.wanted()
        self.bentoml: ASGIApp | None = None

    def open(self, repository: "Repository", metrics: "Metrics") -> None:
        """Answer with these from now on."""
        from service.http.oip import Protocol

        self.repository, self.metrics = repository, metrics
        self.turns = Turns()
        self.protocol = Protocol(
            repository,
            self.limits,
            self.places,
            self.turns,
            metrics.answers,
            self.reload if self.guard.has_keys else None,
        )
        self._fixed = self._fixed_routes()

    async def reload(self, name: str | None = None) -> None:
        """Look for changes in the model store; open the model of that name again if it had failed."""
        await anyio.to_thread.run_sync(self.repository.follow, name)

    async def follow(self, seconds: float) -> None:
        """Go on looking for changes in the model store, and telling how busy this worker is."""
        while True:
            await asyncio.sleep(seconds)
            self.metrics.in_flight(self.places.taken)
            try:
                if self.repository.fixed is None:
                    await self.reload()
            except Exception:  # a store that cannot be read for a while is no reason to stop
                logger.exception("the model store cannot be read")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: answers HTTP, refuses WebSockets, leaves the lifespan to BentoML."""
        assert self.bentoml is not None
        if scope["type"] == "lifespan":
            return await self.bentoml(scope, receive, send)
        if scope["type"] != "http":
            await receive()
            return await send({"type": "websocket.close", "code": 1008})
        start = time.perf_counter()
        request = Request(scope, receive)
        route, handlers, arguments = self._match(request.path)
        given = request.header(b"x-request-id")
        request_id = given if REQUEST_ID.fullmatch(given) else os.urandom(8).hex().encode()
        headers: Headers = (*ALWAYS, (b"x-request-id", request_id))
        status = 0
        try:
            if request.path not in OPEN:
                self.guard.check(request)
            if handlers is BY_BENTOML:
                status = await _pass_on(self.bentoml, scope, receive, send, headers)
                return
            response = await _handler(handlers, request.method)(request, *arguments)
        except Disconnected:
            status = 499  # what nginx calls it; nobody reads it but the log
            return
        except Refusal as error:
            response = _error(error.status, error.code, str(error), route, error.headers)
        except Exception:
            logger.exception("request %s to %s failed", request_id.decode(), route)
            response = _error(500, "failed", FAILED, route)
        finally:
            if status:
                self._told(request, request_id, route, status, start)
        await response.send(send, headers, without_body=request.method == "HEAD")
        self._told(request, request_id, route, response.status, start)

    def _told(self, request: Request, request_id: bytes, route: str, status: int, start: float) -> None:
        seconds = time.perf_counter() - start
        self.metrics.request(route, status, seconds)
        if request.after:
            request.after()
        if self.logs:
            log.request(request, request_id.decode(), route, status, seconds)

    def _fixed_routes(self) -> dict[str, Match]:
        v2 = self.protocol
        get: dict[str, Handler] = {
            "/models": self.models,
            "/livez": self.live,
            "/healthz": self.live,
            "/readyz": v2.ready,
            "/metrics": self.render_metrics,
            "/docs.json": self.openapi,
            "/v2": v2.server,
            "/v2/health/live": v2.live,
            "/v2/health/ready": v2.ready,
        }
        fixed: dict[str, Match] = {path: (path, {"GET": handler}, ()) for path, handler in get.items()}
        for path in static.FILES:
            fixed[path] = (path, {"GET": static.page}, ())
        for name in ALIASES:
            fixed[f"/{name}"] = (f"/{name}", {"POST": self.predict}, (name,))
        fixed["/predict"] = ("/predict", {"POST": self.predict}, ())
        fixed["/v2/repository/index"] = ("/v2/repository/index", {"POST": v2.index, "GET": v2.index}, ())
        return fixed

    def _match(self, path: str) -> Match:
        """The route of a path; its template is what metrics call it."""
        if match := self._fixed.get(path):
            return match
        v2 = self.protocol
        match path.split("/")[1:]:
            case ["predict", name]:
                return "/predict/{model}", {"POST": self.predict}, (name,)
            case ["predict", name, "versions", version]:
                return "/predict/{model}/versions/{version}", {"POST": self.predict}, (name, version)
            case [name, "versions", version] if name in ALIASES:
                return f"/{name}/versions/{{version}}", {"POST": self.predict}, (name, version)
            case ["v2", "models", name, "infer"]:
                return "/v2/models/{model}/infer", {"POST": v2.infer}, (name,)
            case ["v2", "models", name, "versions", version, "infer"]:
                return "/v2/models/{model}/versions/{version}/infer", {"POST": v2.infer}, (name, version)
            case ["v2", "models", name]:
                return "/v2/models/{model}", {"GET": v2.model}, (name,)
            case ["v2", "models", name, "ready"]:
                return "/v2/models/{model}/ready", {"GET": v2.model_ready}, (name,)
            case ["v2", "models", name, "versions", version]:
                return "/v2/models/{model}/versions/{version}", {"GET": v2.model}, (name, version)
            case ["v2", "models", name, "versions", version, "ready"]:
                return "/v2/models/{model}/versions/{version}/ready", {"GET": v2.model_ready}, (name, version)
            case ["v2", "repository", "models", name, "load"]:
                return "/v2/repository/models/{model}/load", {"POST": v2.load}, (name,)
            case [first, *_] if first in BENTOML:
                return f"/{first}", BY_BENTOML, ()
            case ["v2", *_]:
                return "/v2/…", {}, ()
        return "other", {}, ()

    async def predict(self, request: Request, name: str | None = None, version: str | None = None) -> Response:
        """Answers the file that the request carries with the model that its path, its form or its query names; a
        recording with a timeline too, where the query or the form asks for windows of so many seconds."""
        predictor = None if name is None else await self.repository.find(name, version)
        most = self.limits.bytes_of(predictor.card.input.kind if predictor else "audio")
        with self.places.entry(request.content_length(), most) as entry:
            data, content_type, fields = await read_file(request, most, entry)
            if predictor is None:
                predictor = self.repository.get(_text(fields.get("model")) or request.query("model") or "")
            asked = request.query("timeline")
            window = predictor.window(_text(fields.get("timeline")) if asked is None else asked)
            return await self._answer(request, predictor, data, content_type, window)

    async def _answer(
        self, request: Request, predictor: "Predictor", data: bytes, content_type: str, window: float | None
    ) -> Response:
        kind = predictor.card.input.kind

        def answer() -> tuple[dict[str, Any], Response]:
            answer = predictor.answer(data, self.limits, window)
            return answer, Response(orjson.dumps(answer))  # a long timeline takes a while to write

        try:
            found, response = await self.turns.take(answer, in_thread=len(data) > _inline(data, kind))
        except MediaError as error:
            raise blame(error, kind, content_type) from error
        request.after = partial(self.metrics.answer, found)
        if self.logs:
            request.told = {key: found[key] for key in TOLD if key in found}
            request.told["bytes"] = len(data)
        return response

    async def models(self, request: Request) -> Response:
        """The cards of the models that are served, and those that could not be loaded."""
        cards = [predictor.card.model_dump(mode="json") for predictor in self.repository.served.values()]
        return Response(orjson.dumps({"models": cards, "failed": self.repository.failures}))

    async def live(self, request: Request) -> Response:
        """200 while the process answers."""
        return Response(b"\n", content_type=b"text/plain; charset=utf-8")

    async def render_metrics(self, request: Request) -> Response:
        """Prometheus' text format."""
        from service.metrics import CONTENT_TYPE

        self.metrics.in_flight(self.places.taken)
        text = await anyio.to_thread.run_sync(self.metrics.render, list(self.repository.served.values()))
        return Response(text, content_type=CONTENT_TYPE)

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document."""
        from service.http.openapi import document

        cards = [predictor.card for predictor in self.repository.served.values()]
        return Response(orjson.dumps(document(cards, self.limits, self.guard.has_keys)))


BY_BENTOML: dict[str, Handler] = {"BentoML": App.live}  # marks a route that is passed on


def _handler(handlers: dict[str, Handler], method: str) -> Handler:
    """Raises Refusal 404 or 405."""
    handler = handlers.get("GET" if method == "HEAD" else method)
    if handler is not None:
        return handler
    if handlers:
        raise Refusal(405, "this method is not allowed here", (b"allow", ", ".join(handlers).encode()))
    raise Refusal(404, "there is nothing at this path; see /docs")


def _error(status: int, code: str, message: str, route: str, headers: Headers = ()) -> Response:
    """The error form; below /v2 that of the protocol."""
    body = {"error": message} if route.startswith("/v2") else {"error": {"code": code, "message": message}}
    return Response(orjson.dumps(body), status, headers=headers)


def _inline(data: bytes, kind: str) -> int:
    """How large a file may be to be answered in the event loop."""
    if kind == "audio":
        return INLINE_WAV_BYTES if data.startswith(b"RIFF") else 0
    return INLINE_BYTES


def _text(field: str | None) -> str | None:
    """What stands in a field of a form; BentoML's client writes it as JSON."""
    if field is None:
        return None
    try:
        value = orjson.loads(field)
    except orjson.JSONDecodeError:
        return field
    return value if value is None or isinstance(value, str) else field


async def _pass_on(app: ASGIApp, scope: Scope, receive: Receive, send: Send, headers: Headers) -> int:
    """Let BentoML answer; returns the status."""
    status = 0

    async def with_headers(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            message = message | {"headers": [*message.get("headers", ()), *headers]}
        await send(message)

    await app(scope, receive, with_headers)
    return status
