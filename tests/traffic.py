"""Traffic for a service that is watched: usual requests, and those that an alert is about."""

import http.client
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from sklearn.datasets import load_digits

from models.card import CARD_KEY, FeatureGroup, ModelCard
from service.media.image import to_mnist_form
from service.serving.drift import COUNTED, Scores
from tests.service.helpers import digit_file

LOOP = 0.1  # seconds between two rounds of requests
SLOW = 1.2  # seconds that a slow client takes to send a body
APART = 0.1  # seconds between two of them
SPAN = 4 * 28  # pixels whose distribution is watched together
Request = tuple[str, bytes, dict[str, str]]  # path, body, headers


def batches(model: str, pictures: NDArray[np.uint8]) -> list[Request]:
    """Requests with COUNTED pictures each."""
    sizes = f'"shape":[{COUNTED},28,28],"datatype":"UINT8","parameters":{{"binary_data_size":{COUNTED * 784}}}'
    head = f'{{"inputs":[{{"name":"image",{sizes}}}]}}'.encode()
    headers = {"inference-header-content-length": str(len(head))}
    return [
        (f"/v2/models/{model}/infer", head + pictures[i : i + COUNTED].tobytes(), headers)
        for i in range(0, len(pictures) - COUNTED + 1, COUNTED)
    ]


def pictures() -> NDArray[np.uint8]:
    """Digits as the model takes them."""
    return np.stack([to_mnist_form(image) for image in load_digits().images[:400]])


def watched(model: onnx.ModelProto, **figures: Any) -> onnx.ModelProto:
    """The model, of `pictures`, with the distribution of its inputs, and with these figures in its card."""
    spans = [(start, start + SPAN) for start in range(0, 784, SPAN)]
    groups = []
    for i, ((start, stop), scores) in enumerate(zip(spans, Scores(spans)(pictures().reshape(-1, 784)).T, strict=True)):
        edges = np.unique(np.quantile(scores, (0.25, 0.5, 0.75)))
        shares = np.bincount(np.digitize(scores, edges), minlength=len(edges) + 1) / len(scores)
        groups.append(FeatureGroup(name=f"rows {i}", start=start, stop=stop, edges=tuple(edges), shares=tuple(shares)))
    card = ModelCard.model_validate_json(model.metadata_props[0].value)
    card = card.model_copy(update={"groups": tuple(groups), **figures})
    helper.set_model_props(model, {CARD_KEY: card.model_dump_json()})
    return model


class Traffic:
    """Rounds of requests to one service, until it is stopped."""

    def __init__(self, port: int) -> None:
        self.port = port
        usual = pictures()
        self.usual = batches("digits", usual)
        self.ones = batches("digits", usual[load_digits().target[: len(usual)] == 1])
        self.digits, self.n = self.usual, 5  # what each round sends, and how many batches of each model
        self.careful = self.certain = batches("careful", usual)
        self.file = digit_file(3)
        self.slow: deque[tuple[float, socket.socket]] | None = None
        self._connection, self._round = http.client.HTTPConnection("127.0.0.1", port), 0
        self._stopped = threading.Event()

    @contextmanager
    def running(self) -> Iterator["Traffic"]:
        """The thread runs in the block."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(LOOP):
            self._round += 1
            for i in range(self._round * self.n, (self._round + 1) * self.n):
                self._send(*self.digits[i % len(self.digits)])
                self._send(*self.careful[i % len(self.careful)])
                if self.slow is not None:  # between any two, so that some end in every window of a busy machine
                    self._send_slowly(self.slow)
            self._send("/digits", self.file, {"connection": "close"})  # the next ones may go to another worker
            self._send("/predict/sums", b"[1, 2]", {})

    def _send(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        try:
            self._connection.request("POST", path, body, headers)
            self._connection.getresponse().read()
        except (OSError, http.client.HTTPException):  # the worker was killed
            self._connection.close()

    def _send_slowly(self, slow: deque[tuple[float, socket.socket]]) -> None:
        head = b"POST /predict/sums HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 6\r\n\r\n[1,"
        if not slow or time.monotonic() + SLOW > slow[-1][0] + APART:
            slow.append((time.monotonic() + SLOW, held(self.port, head)))
        while slow and slow[0][0] < time.monotonic():
            with slow.popleft()[1] as connection, suppress(OSError):
                connection.sendall(b" 2]")
                connection.recv(1000)


def held(port: int, sent: bytes) -> socket.socket:
    """A connection on which the first part of a request was sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    with suppress(OSError):  # refused before all was sent
        connection.sendall(sent)
    return connection
