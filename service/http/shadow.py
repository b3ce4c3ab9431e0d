"""Asks shadows: in a thread of its own, after the response, and only as far as that costs others little. What does not
fit is dropped and counted."""

import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import Unusable
from service.http.scheduling import behind, takes_thread
from service.media import Limits
from service.serving.answer import Answer
from service.serving.drift import COUNTED
from service.serving.predictor import Predictor

if TYPE_CHECKING:
    from service.metrics import Metrics

WAITING = 64  # requests that wait for their shadow
BYTES = 16 * 2**20  # of their files and tensors together
WORK = 64 * 2**20  # bytes of memory that an answer may take
PAUSE = 9  # times as long as it has computed, the thread leaves the interpreter to the requests
CLOSE = 0.01  # values of a regression that differ by no more than this share are the same

Content = bytes | NDArray[np.uint8] | NDArray[np.float32]  # a file, or a batch (N, …)
Found = Sequence[str | list[float]]  # for each sample, a label, or the values of a regression


class ShadowRequest(NamedTuple):
    """A request that was answered, and the version to ask as well."""

    shadow: Predictor
    content: Content
    found: Found

    def size(self) -> int:
        """Bytes that are held until the shadow is asked."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.nbytes


class Shadows:
    """A bounded queue, and the thread that empties it, which starts with the first request."""

    def __init__(self, metrics: "Metrics", limits: Limits) -> None:
        self._metrics, self._limits = metrics, limits
        self._queue: SimpleQueue[ShadowRequest] = SimpleQueue()
        self._held, self._lock = 0, threading.Lock()
        self._thread: threading.Thread | None = None
        self.ended = 0.0  # when an answer that takes much memory was last computed

    def ask(self, request: ShadowRequest) -> None:
        """Queue a request, or drop it if too much is queued."""
        size = request.size()
        if size > BYTES:
            return self._drop(request, "large")
        with self._lock:
            fits = self._queue.qsize() < WAITING and self._held + size <= BYTES
            self._held += size if fits else 0
        if not fits:
            return self._drop(request, "full")
        if not isinstance(request.content, bytes):  # else the rows would hold the whole batch
            request = request._replace(content=request.content.copy())
        self._queue.put(request)
        if self._thread is None:
            self._thread = threading.Thread(target=behind, args=[self._run], name="shadow", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            request, start = self._queue.get(), time.thread_time()
            size = request.size()
            self._compare(request)
            del request  # the queue may stay empty for long
            with self._lock:
                self._held -= size
            time.sleep(PAUSE * (time.thread_time() - start))

    def _compare(self, request: ShadowRequest) -> None:
        shadow, content = request.shadow, request.content
        try:
            if isinstance(content, bytes):
                work = shadow.cost.of_file(content, self._limits)
            else:
                work = shadow.cost.of_batch((1, *content.shape[1:]))
            if work.bytes > WORK:
                return self._drop(request, "large")
            others: Found = answers(shadow, content, self._limits)
            self.ended = time.monotonic() if takes_thread(work) else self.ended
        except Exception:  # of whatever a graph may raise
            others = []
        for i, found in enumerate(request.found):
            outcome = "error" if i >= len(others) else "same" if _is_same(found, others[i]) else "different"
            self._metrics.shadow(shadow.card, found if isinstance(found, str) else "value", outcome)

    def _drop(self, request: ShadowRequest, reason: str) -> None:
        self._metrics.shadow_dropped(request.shadow.card, reason)


def answers(predictor: Predictor, content: Content, limits: Limits) -> Found:
    """What a version answers to a file, or to each row of a batch. Raises MediaError."""
    if isinstance(content, bytes):
        return [of_answer(predictor.answer(content, limits))]
    return of_rows(predictor, np.array([predictor.outputs_of(row) for row in content]))


def of_answer(answer: Answer) -> str | list[float]:
    """The label, or the values of a regression. Raises Unusable if there is neither."""
    if answer.value is not None:
        return [*answer.value.values()]
    if answer.label is None:
        raise Unusable("there is no label")
    return answer.label


def of_rows(predictor: Predictor, answers: NDArray[np.floating]) -> Found:
    """The label, or the values of a regression, of each of the first COUNTED answers that `Predictor.run` returns."""
    labels = predictor.card.labels
    rows = answers[:COUNTED, : len(labels)]
    return rows.tolist() if predictor.card.kind == "regression" else [labels[i] for i in rows.argmax(axis=1).tolist()]


def _is_same(found: str | list[float], other: str | list[float]) -> bool:
    """Whether two answers are the same label, or values that differ by no more than CLOSE.

    >>> _is_same("3", "3"), _is_same([1.0, 2.0], [1.001, 2.0]), _is_same([1.0], "3")
    (True, True, False)
    """
    if isinstance(found, str) or isinstance(other, str):
        return found == other
    return len(found) == len(other) and bool(np.allclose(found, other, rtol=CLOSE))
