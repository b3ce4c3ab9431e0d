"""What the handlers of one worker share."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
from starlette.types import ASGIApp

from service.http import memory
from service.http.admission import Admission
from service.http.auth import APIKeys
from service.http.connection_limits import REASONS
from service.http.connections import registry
from service.http.request import Request
from service.http.scheduling import Scheduler
from service.media import Limits

if TYPE_CHECKING:
    from service.http.comparison import Comparison
    from service.metrics import Metrics
    from service.serving.predictor import Predictor
    from service.serving.repository import Repository


@dataclass
class State:
    """One worker's models and metrics, and the limits and keys that its operator set."""

    repository: "Repository"
    metrics: "Metrics"
    limits: Limits
    admission: Admission
    keys: APIKeys
    bentoml: ASGIApp | None  # None where the service's methods are called from Python, without HTTP
    logs: bool  # whether requests are logged
    scheduler: Scheduler = field(default_factory=Scheduler)
    schema: bytes | None = None  # BentoML's
    bom: bytes | None = None  # of the Bento; None if the service was not started from one
    comparison: "Comparison | None" = None  # None if there is neither a shadow nor a canary
    _rendering: asyncio.Lock = field(default_factory=asyncio.Lock)
    _rendered: asyncio.Task[bytes] | None = None  # what the next rendering will give

    async def find(self, request: Request, model: str, version: str | None, tensors: bool = False) -> "Predictor":
        """The version that answers a request: the one that it names, or the one that is served, or its canary. Raises
        UnknownModel or StoreBlocked, as `Repository.find` does."""
        predictor = await self.repository.find(model, version)
        if version is not None or self.comparison is None:
            return predictor
        return self.comparison.choose(request, predictor, tensors)

    async def render(self) -> bytes:
        """All metrics. One thread at a time renders them; all who ask meanwhile share the next rendering."""
        if self._rendered is None:
            self._rendered = asyncio.create_task(self._render())
        return await asyncio.shield(self._rendered)

    async def _render(self) -> bytes:
        async with self._rendering:
            self._rendered = None
            self.report()
            return await anyio.to_thread.run_sync(self.metrics.render, self.repository.watched())

    def report(self) -> None:
        """Say in the metrics how busy this worker is."""
        self.metrics.in_flight(self.admission.in_flight)
        self.metrics.connections(len(registry.open), {**dict.fromkeys(REASONS, 0), **registry.closed})
        self.metrics.store(self.repository.failed, self.repository.trouble() is None)

    async def measure(self) -> None:
        """Say in the metrics what takes a while to compute; another worker may be the one that is asked for them."""
        await anyio.to_thread.run_sync(self.metrics.drifts, self.repository.watched())

    async def reload(self, name: str | None = None) -> None:
        """Look for changes in the model store; retry the model of that name if it had failed to load."""
        await self.repository.follow(name)

    async def give_back(self) -> None:
        """Give the memory that large requests, or many connections, took back to the system, once there are none any
        more."""
        shadows = 0.0 if self.comparison is None else self.comparison.shadows.ended
        if self.scheduler.is_done(max(self.admission.emptied, registry.emptied, shadows)):
            await anyio.to_thread.run_sync(self._give_back)

    def _give_back(self) -> None:
        for predictor in self.repository.predictors():
            predictor.give_back()
        memory.give_back()
