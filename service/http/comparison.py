"""Requests that name no version, where the operator has named a shadow or a canary (service/serving/rollout.py): which
version answers, and what is counted besides."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from models.card import ModelCard
from service.http.request import ComparedVersions, Request
from service.http.shadow import Content, Found, ShadowRequest, Shadows
from service.serving.candidates import Candidates
from service.serving.predictor import Predictor

if TYPE_CHECKING:
    from service.metrics import Metrics


class Comparison:
    """Chooses the version that answers a request, and asks shadows afterwards."""

    def __init__(self, candidates: Candidates, metrics: "Metrics", shadows: Shadows) -> None:
        self._candidates, self._metrics, self.shadows = candidates, metrics, shadows

    def choose(self, request: Request, served: Predictor, tensors: bool = False) -> Predictor:
        """The version that answers a request, with a file or with `tensors`, which would be answered by `served`. Sets
        the request's `compared` if there are two."""
        canary = self._candidates.canary_of(served, tensors)
        if canary is not None and self._candidates.draw(served.card.name):
            request.compared = ComparedVersions(self._count(canary.card), None)
            return canary
        shadow = self._candidates.shadow_of(served, tensors)
        if canary is not None or shadow is not None:
            request.compared = ComparedVersions(None if canary is None else self._count(served.card), shadow)
        return served

    def after(
        self, request: Request, count: Callable[[], None], content: Content, found: Callable[[], Found]
    ) -> Callable[[], None]:
        """What to do once the response is sent: `count`; and, if there is a shadow, ask it for its answer to the same
        content, to compare it with what was `found`."""
        compared = request.compared
        if compared is None or compared.shadow is None:
            return count
        return partial(self._ask, compared.shadow, count, content, found)

    def _ask(self, shadow: Predictor, count: Callable[[], None], content: Content, found: Callable[[], Found]) -> None:
        count()
        self.shadows.ask(ShadowRequest(shadow, content, found()))

    def _count(self, card: ModelCard) -> Callable[[int, float], None]:
        return partial(self._metrics.canary, card)
