"""The application in the process of the tests, for tests that need no socket, worker, uvicorn or BentoML."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp

from service.http.app import App
from service.metrics import Metrics
from service.serving.repository import Repository
from tests.command import model_store


class Client(httpx.Client):
    """A client of the application; `poll` makes the application look into its store, as a service does all the time."""

    poll: Callable[[], None]


@contextmanager
def application(
    home: Path, around: Callable[[ASGIApp], ASGIApp] = lambda app: app, **environment: str
) -> Iterator[Client]:
    """A client of the application with the models of `home`, like `serving` without a server; one home at a time.

    `around` may put middleware in front of it.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        app = App()
    with model_store(home):
        app.bentoml = Starlette()  # stands in for BentoML, and answers every path with 404
        app.open(Repository(None, _metrics().changed, app.trust, app.rollout), _metrics())
        transport = _Transport(around(app))
        with Client(transport=transport, base_url="http://in-process") as client:
            client.poll = partial(transport.poll, app)
            yield client


class _Transport(httpx.BaseTransport):
    """httpx's transport for ASGI, from one thread, without `await`."""

    def __init__(self, app: ASGIApp) -> None:
        self._loop = asyncio.new_event_loop()
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()  # its stream can then be read with `await` too
        return self._loop.run_until_complete(self._answered(request))

    def poll(self, app: App) -> None:
        self._loop.run_until_complete(app.state.reload())

    async def _answered(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())

    def close(self) -> None:
        self._loop.close()


@cache
def _metrics() -> Metrics:
    return Metrics()  # one per process: Prometheus' series are global
