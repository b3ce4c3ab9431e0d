"""What an operator sees and sets: keys, metrics, drift, logs, security headers."""

import asyncio
import base64
import gzip
import json
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from sklearn.datasets import load_digits

from models.card import FeatureGroup
from service.errors import Refusal
from service.http import auth, log
from service.http.request import Request
from service.http.scheduling import SLICE, Turns
from service.media.image import to_mnist_form
from service.serving import drift
from service.serving.drift import EVERY, LEAST, ROWS, WINDOW, Drift, Scores
from tests.conftest import Trained
from tests.service.http.test_app import digit_file, refusal
from tests.service.media.test_media import sound_bytes, tone
from tests.serving import NEWEST, Server, serving, until

KEYS = ("first-key", "zweiter Schlüssel")
OPEN = ("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready")


def series(url: str, **headers: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(name, labels) → value of all that /metrics gives, by Prometheus' own parser."""
    text = httpx.get(f"{url}/metrics", headers=headers).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(found: dict[tuple[str, tuple[tuple[str, str], ...]], float], name: str, **labels: str) -> float:
    """The sum of the series of that name that have these labels."""
    return sum(value for (n, have), value in found.items() if n == name and labels.items() <= dict(have).items())


class TestKeys:
    @pytest.fixture(scope="class")
    @classmethod
    def closed(cls, home: Path) -> Iterator[Server]:
        with serving(home, PERCEPT_API_KEYS=f"{KEYS[0]}, {KEYS[1]}") as running:
            yield running

    @pytest.mark.parametrize("path", OPEN)
    def test_health_is_open(self, closed: Server, path: str) -> None:
        assert httpx.get(closed.url + path).is_success

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/"), ("GET", "/docs"), ("GET", "/docs.json"), ("GET", "/schema.json"), ("GET", "/metrics"),
            ("GET", "/static_content/swagger-ui.css"), ("GET", "/models"), ("GET", "/nothing"), ("POST", "/digits"),
            ("POST", "/predict/sums"), ("POST", "/predict"), ("GET", "/v2"), ("GET", "/v2/models/digits"),
            ("POST", "/v2/models/digits/infer"), ("POST", "/v2/repository/index"),
            ("POST", "/v2/repository/models/digits/load"), ("POST", "/livez/"), ("GET", "//livez"),
        ],
    )  # fmt: skip
    def test_all_else_is_closed(self, closed: Server, method: str, path: str) -> None:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "first-ke"}, {"authorization": "Basic !"}):
            answer = httpx.request(method, closed.url + path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Basic ")

    @pytest.mark.parametrize("key", KEYS)
    def test_a_key_opens(self, closed: Server, key: str) -> None:
        basic = base64.b64encode(b"anyone:" + key.encode()).decode()
        bearer = b"Bearer " + key.encode()
        for headers in (
            [(b"authorization", bearer)],
            {"authorization": f"Basic {basic}"},
            [(b"x-api-key", key.encode())],
        ):
            answer = httpx.post(f"{closed.url}/digits", content=digit_file(3), headers=headers)
            assert answer.json()["label"] == "3"

    def test_it_is_told_in_the_document(self, closed: Server, client: httpx.Client) -> None:
        with_keys = httpx.get(f"{closed.url}/docs.json", headers={"x-api-key": KEYS[0]}).json()
        assert set(with_keys["components"]["securitySchemes"]) == {"bearer", "basic", "header"}
        assert "401" in with_keys["paths"]["/digits"]["post"]["responses"]
        assert "securitySchemes" not in client.get("/docs.json").json()["components"]

    def test_a_variable_without_a_key_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(auth.VARIABLE, " , ")
        with pytest.raises(ValueError, match="PERCEPT_API_KEYS is set, but holds no key"):
            auth.Guard.from_environment()

    def test_no_keys_let_all_pass(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(auth.VARIABLE, raising=False)
        request = Request({"method": "GET", "path": "/", "headers": []}, None)
        auth.Guard.from_environment().check(request)
        with pytest.raises(Refusal):
            auth.Guard(["key"]).check(request)


class TestMetrics:
    def test_services_of_one_home_are_apart(self, server: Server, client: httpx.Client, home: Path) -> None:
        client.post("/digits", content=digit_file(3))
        before = total(series(server.url), "percept_requests_total", route="/digits", code="200")
        with serving(home) as other:
            client.post("/digits", content=digit_file(3))
            assert total(series(other.url), "percept_requests_total", route="/digits") == 0
        assert total(series(server.url), "percept_requests_total", route="/digits", code="200") == before + 1

    def test_requests_predictions_and_confidence(self, server: Server, client: httpx.Client) -> None:
        before = series(server.url)
        client.post("/digits", content=digit_file(3))
        client.post("/predict/digits", content=digit_file(3))
        client.post("/digits", content=digit_file(3)[:50])
        client.post("/predict/sums", json=[1, 2])
        client.get("/no/such/path/1")
        client.get("/no/such/path/2")
        pictures = [0] * 5 * 784
        tensor = {"name": "image", "shape": [5, 28, 28], "datatype": "UINT8", "data": pictures}
        assert client.post("/v2/models/digits/infer", json={"inputs": [tensor]}).is_success
        after = series(server.url)

        def more(name: str, **labels: str) -> float:
            return total(after, name, **labels) - total(before, name, **labels)

        assert more("percept_requests_total", route="/digits", code="200") == 1
        assert more("percept_requests_total", route="/digits", code="400") == 1
        assert more("percept_requests_total", route="/predict/{model}", code="200") == 2
        assert more("percept_requests_total", route="other", code="404") == 2
        assert more("percept_request_seconds_count", route="/digits") == 2
        assert 0 < more("percept_request_seconds_sum", route="/digits") < 5
        assert more("percept_predictions_total", model="digits", version=NEWEST, label="3") >= 2
        assert more("percept_predictions_total", model="digits", version=NEWEST) == 7
        assert more("percept_predictions_total", model="sums", label="value") == 1
        assert more("percept_confidence_count", model="digits") == 7
        assert total(after, "percept_model_info", model="digits", version=NEWEST) == 1
        assert total(after, "percept_in_flight") == 0
        assert total(after, "process_resident_memory_bytes") > 1e7

    def test_no_series_is_made_of_what_a_client_sends(self, server: Server, client: httpx.Client) -> None:
        client.get("/models")
        before = set(series(server.url))
        for i in range(50):
            client.get(f"/random/{i}")
            client.post(f"/predict/random{i}", content=b"")
            client.post(f"/v2/models/random{i}/infer", content=b"")
            client.request("GET", f"/digits/versions/{i}")
        new = {labels for name, labels in set(series(server.url)) - before if name == "percept_requests_total"}
        assert len(new) <= 4


class TestDrift:
    @pytest.fixture(scope="class")
    @classmethod
    def exported(cls, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        """A service of `digits` as the pipeline exports it."""
        home = tmp_path_factory.mktemp("drift")
        trained(home, "digits", "--set", "validate.baselines=false")
        with serving(home, PERCEPT_LOG="json") as running:
            yield running

    def indices(self, server: Server) -> dict[str, float]:
        return {
            dict(labels)["group"]: value
            for (name, labels), value in series(server.url).items()
            if name == "percept_drift_psi"
        }

    def test_it_shows_when_what_comes_in_changes(self, exported: Server) -> None:
        digits = load_digits()
        pictures = np.stack([to_mnist_form(image) for image in digits.images])
        rng = np.random.default_rng(0)

        def ask(rows: NDArray[np.intp], batches: int) -> None:
            for _ in range(batches):
                batch = pictures[rng.choice(rows, ROWS)]
                tensor = {"name": "image", "shape": batch.shape, "datatype": "UINT8", "data": batch.ravel().tolist()}
                assert client.post("/v2/models/digits/infer", json={"inputs": [tensor]}).is_success

        with httpx.Client(base_url=exported.url) as client:
            assert self.indices(exported) == {}
            ask(np.arange(len(pictures)), EVERY * WINDOW // ROWS)
            usual = self.indices(exported)
            ask(np.flatnonzero(digits.target == 1), EVERY * WINDOW // ROWS)
            changed = self.indices(exported)
        assert set(usual) == set(changed) == {f"rows {i}–{i + 3}" for i in range(0, 28, 4)}
        assert max(usual.values()) < 0.1
        assert max(changed.values()) > 0.5

    def test_logs_are_json_with_request_ids(self, exported: Server) -> None:
        sent = {"x-request-id": "from-the-client-1"}
        answer = httpx.post(f"{exported.url}/digits", content=digit_file(3), headers=sent)
        assert answer.headers["x-request-id"] == "from-the-client-1"
        odd = httpx.post(
            f"{exported.url}/digits", content=digit_file(3)[:50], headers={"x-request-id": "<script>" * 20}
        )
        assert re.fullmatch("[0-9a-f]{16}", odd.headers["x-request-id"])

        def lines() -> list[dict[str, Any]]:
            return [json.loads(line) for line in exported.log.read_text().splitlines() if line.startswith("{")]

        ids = {sent["x-request-id"], odd.headers["x-request-id"]}
        until(lambda: ids <= {line.get("request_id") for line in lines()})  # written once the answer is sent
        by_id = {line["request_id"]: line for line in lines() if "request_id" in line}
        line = by_id["from-the-client-1"]
        assert line["logger"] == "percept.requests"
        assert (line["method"], line["route"], line["status"], line["model"]) == ("POST", "/digits", 200, "digits")
        assert (line["label"], line["known"]) == (answer.json()["label"], answer.json()["known"])
        assert line["bytes"] == len(digit_file(3))
        assert by_id[odd.headers["x-request-id"]]["status"] == 400
        assert any(line.get("message", "").startswith("serving digits:") for line in lines())


class TestScores:
    def test_root_mean_squares_and_single_values(self) -> None:
        x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
        found = Scores([(0, 3), (3, 4), (4, 6)])(x)
        assert found[:, 0] == pytest.approx(np.sqrt((x[:, :3].astype(float) ** 2).mean(1)))
        assert found[:, 1] == pytest.approx(x[:, 3])
        assert found.shape == (5, 3)

    def test_the_index_is_that_of_the_textbook(self) -> None:
        p, q = np.array([0.2, 0.3, 0.5]), np.array([0.3, 0.3, 0.4])
        expected = sum((a - b) * np.log(a / b) for a, b in zip(p, q, strict=True))
        assert drift.index(p, q) == pytest.approx(expected)
        assert drift.index(q, q) == 0
        assert drift.index(np.array([1.0, 0.0]), np.array([0.0, 1.0])) > 5

    def test_a_score_on_an_edge_lies_above_it(self) -> None:
        """Constant features, as the margin of MNIST's pictures, have one bin that all fall into."""
        group = FeatureGroup(name="g", start=0, stop=1, edges=(0.0,), shares=(0.0, 1.0))
        watched = Drift([group])
        for _ in range(EVERY * LEAST):
            watched.add(np.zeros((1, 1)))
        assert watched.indices() == {"g": 0.0}


def test_answers_may_not_be_taken_for_pages(client: httpx.Client) -> None:
    for answer in (client.post("/digits", content=digit_file(3)), client.get("/models"), client.get("/schema.json")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])


def test_head_is_get_without_a_body(client: httpx.Client) -> None:
    for path in ("/", "/models", "/livez", "/v2"):
        assert client.head(path).headers["content-length"] == str(len(client.get(path).content))
        assert client.head(path).content == b""


def test_only_json_can_be_asked_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(log.VARIABLE, "xml")
    with pytest.raises(ValueError, match="PERCEPT_LOG=xml: expected json"):
        log.wanted()


def test_a_form_may_name_model_and_timeline(client: httpx.Client) -> None:
    files = {"file": ("clip.wav", sound_bytes(tone(frequency=2000, seconds=2)))}
    for text in ("1", '"1"', "1.0"):
        answer = client.post("/predict", data={"model": "instruments", "timeline": text}, files=files).json()
        assert (answer["label"], len(answer["timeline"])) == ("flute", 2)
    assert client.post("/predict?model=instruments", files=files).json()["label"] == "flute"
    assert refusal(client.post("/predict", data={"model": "none"}, files=files)) == 404
    assert refusal(client.post("/predict", files=files)) == 404
    assert (
        refusal(client.post("/predict", data={"model": "digits", "timeline": "1"}, files={"f": digit_file(3)})) == 422
    )


def test_a_compressed_body_is_refused(client: httpx.Client) -> None:
    for path in ("/digits", "/v2/models/digits/infer"):
        answer = client.post(path, content=gzip.compress(digit_file(3)), headers={"content-encoding": "gzip"})
        assert answer.status_code == 415


def test_connections_are_read_between_answers() -> None:
    """What arrives meanwhile does not wait for all answers of one turn of the event loop."""
    events: list[object] = []

    async def all_at_once() -> None:
        turns, loop = Turns(), asyncio.get_running_loop()
        ours, theirs = socket.socketpair()

        def read() -> None:
            events.append(ours.recv(1))

        def answer(i: int) -> None:
            if not i:
                theirs.sendall(b"x")
            time.sleep(SLICE / 2)
            events.append(i)

        async def request(i: int) -> None:
            await turns.take(lambda: answer(i), in_thread=False)

        with ours, theirs:
            loop.add_reader(ours, read)
            await asyncio.gather(*map(request, range(20)))
            loop.remove_reader(ours)

    asyncio.run(all_at_once())
    assert events.index(b"x") < 10
    assert [event for event in events if event != b"x"] == list(range(20))


def test_a_flood_leaves_answers_half_of_the_time() -> None:
    """However long the event loop takes for all else between two slices."""
    spent = Counter[str]()

    def spend(on: str, seconds: float) -> None:
        start = time.monotonic()
        time.sleep(seconds)
        spent[on] += time.monotonic() - start

    async def flooded() -> None:
        turns, loop = Turns(), asyncio.get_running_loop()

        def flood() -> None:  # once in each turn of the loop
            spend("flood", 10 * SLICE)
            if not answers.done():
                loop.call_soon(flood)

        requests = [turns.take(lambda: spend("answers", SLICE / 2), in_thread=False) for _ in range(200)]
        answers = asyncio.gather(*requests)
        loop.call_soon(flood)
        await answers

    asyncio.run(flooded())
    assert spent["answers"] > 0.5 * spent["flood"]


def test_nobody_who_waits_is_overtaken() -> None:
    """Not even one whom the event loop wakes, turn after turn, before the next slice begins."""
    order: list[int] = []

    def answer(i: int) -> None:
        time.sleep(1.1 * SLICE)
        order.append(i)

    async def arriving() -> None:
        turns, loop = Turns(), asyncio.get_running_loop()
        body = loop.create_future()

        async def request(i: int) -> None:
            if i == 0:
                await body
            await turns.take(lambda: answer(i), in_thread=False)

        async with asyncio.TaskGroup() as group:
            group.create_task(request(0))
            await asyncio.sleep(0)
            body.set_result(None)
            await request(1)
            for i in range(2, 20):
                group.create_task(request(i))
                await asyncio.sleep(0)

    asyncio.run(arriving())
    assert order.index(0) <= 1
