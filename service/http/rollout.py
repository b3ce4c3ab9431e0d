"""Requests that name no version, where the operator has named a shadow or a canary (service/serving/rollout.py): which
version answers, and what is counted besides."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from models.card import ModelCard
from service.http.request import Request
from service.http.shadow import Asked, Content, Found, Shadows
from service.http.trial import Trial
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
        the request's `trial` if there is one."""
        canary = self._candidates.canary_of(served, tensors)
        if canary is not None and self._candidates.draw(served.card.name):
            request.trial = Trial(self._count(canary.card), None)
            return canary
        shadow = self._candidates.shadow_of(served, tensors)
        if canary is not None or shadow is not None:
            request.trial = Trial(None if canary is None else self._count(served.card), shadow)
        return served

    def after(
        self, request: Request, count: Callable[[], None], content: Content, found: Callable[[], Found]
    ) -> Callable[[], None]:
        """What to do once the response is sent: `count`; and, if there is a shadow, ask it for its answer to the same
        content, to compare it with what was `found`."""
        trial = request.trial
        if trial is None or trial.shadow is None:
            return count
        return partial(self._ask, trial.shadow, count, content, found)

    def _ask(self, shadow: Predictor, count: Callable[[], None], content: Content, found: Callable[[], Found]) -> None:
        count()
        self.shadows.ask(Asked(shadow, content, found()))

    def _count(self, card: ModelCard) -> Callable[[int, float], None]:
        return partial(self._metrics.canary, card)
