"""The ASGI application of a worker: API keys, errors, metrics and the log, which are the same for every request.

BentoML's application stands behind it. That one spools forms into temporary files, and its middleware, which starts a
task and a timer for each request, takes longer than classifying a digit.
"""

import asyncio
import logging
import time
from pathlib import Path
from random import getrandbits
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from models.card import BOM_FILE
from service.errors import StoreBlocked
from service.http import errors, log, memory
from service.http.admission import Admission
from service.http.auth import APIKeys
from service.http.connections import close_after
from service.http.request import REQUEST_ID, Headers, Request, Response
from service.http.routing import Router, handler
from service.http.state import State
from service.media import Limits, positive
from service.serving.rollout import Rollout
from service.serving.trust import Trust

if TYPE_CHECKING:
    from service.metrics import Metrics
    from service.serving.repository import Repository

logger = logging.getLogger("bentoml.percept")

MAX_CONCURRENCY = 64  # requests in flight unless PERCEPT_MAX_CONCURRENCY sets another number; further ones are refused
BOM = Path(__file__).parents[2] / BOM_FILE  # where `bentoml build` writes that of the Bento
EVERY_RESPONSE: Headers = ((b"x-content-type-options", b"nosniff"),)
FAILED = "the service has failed; its log says why"


class App:
    """The application, set up from environment variables; `open` must be called before the first request.

    Raises ValueError for an invalid environment variable.
    """

    state: State
    router: Router
    bentoml: ASGIApp | None = None

    def __init__(self) -> None:
        self.limits = Limits.from_environment()
        self.admission = Admission(positive("PERCEPT_MAX_CONCURRENCY", MAX_CONCURRENCY))
        self.keys = APIKeys.from_environment()
        self.logs = log.wanted()
        self.trust = Trust.from_environment()
        self.rollout = Rollout.from_environment()

    def open(self, repository: "Repository", metrics: "Metrics") -> None:
        """Serve these models from now on."""
        # They load ONNX Runtime, which BentoML's supervisor process does not need.
        from service.http.comparison import Comparison
        from service.http.routes import table
        from service.http.shadow import Shadows

        self.state = State(repository, metrics, self.limits, self.admission, self.keys, self.bentoml, self.logs)
        if self.rollout.tags():
            self.state.comparison = Comparison(repository.candidates, metrics, Shadows(metrics, self.limits))
        self.state.bom = BOM.read_bytes() if BOM.is_file() else None
        self.router = Router(table(self.state))

    async def follow(self, seconds: float) -> None:
        """Every `seconds`, poll the model store and report how busy this worker is."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.state.give_back()
                await self.state.reload()
                await self.state.measure()
            except StoreBlocked:  # the log says so already
                pass
            except Exception:
                logger.exception("the model store cannot be followed")
            self.state.report()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: answer HTTP, refuse WebSockets, leave the lifespan to BentoML."""
        if scope["type"] == "lifespan":
            assert self.bentoml is not None
            return await self.bentoml(scope, receive, send)
        if scope["type"] != "http":
            await receive()
            return await send({"type": "websocket.close", "code": 1008})
        start = time.perf_counter()
        request = Request(scope, receive)
        route, handlers, arguments = self.router.match(request.path)
        given_id = request.header(b"x-request-id")
        request_id = given_id if REQUEST_ID.fullmatch(given_id) else b"%016x" % getrandbits(64)
        try:
            request.check()
            self.keys.check(request)
            response = await handler(handlers, request.method)(request, **arguments)
        except ClientDisconnect as error:
            memory.release(error)
            return self._record(request, request_id, route, Response(b"", 499), start)  # nginx's status for it
        except errors.REFUSALS as error:
            response = errors.refusal(error, route)
            memory.release(error)
        except Exception as error:
            logger.exception("request %s to %s failed", request_id.decode(), route)
            response = errors.response(500, FAILED, route)
            memory.release(error)
        headers: Headers = (*EVERY_RESPONSE, (b"x-request-id", request_id), *close_after(receive))
        await response.send(send, headers, without_body=request.method == "HEAD")
        self._record(request, request_id, route, response, start)

    def _record(self, request: Request, request_id: bytes, route: str, response: Response, start: float) -> None:
        seconds = time.perf_counter() - start
        self.state.metrics.request(route, response.status, seconds)
        if response.after:
            response.after()
        if request.compared is not None:
            request.compared.record(response.status, seconds)
        if self.logs:
            log.request(request, request_id.decode(), route, response, seconds)
