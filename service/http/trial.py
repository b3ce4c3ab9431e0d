"""What is tried out with a request (see rollout.py)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.serving.predictor import Predictor


class Trial:
    """Whether the status and time of a request are counted for the version that answers it; the shadow to ask too."""

    __slots__ = ("_count", "shadow")

    def __init__(self, count: Callable[[int, float], None] | None, shadow: "Predictor | None") -> None:
        self._count, self.shadow = count, shadow

    def record(self, status: int, seconds: float) -> None:
        """The request was answered."""
        if self._count is not None:
            self._count(status, seconds)
