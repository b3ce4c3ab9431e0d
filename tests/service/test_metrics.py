"""What /metrics reports."""

from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import TENTHS, _observe_all
from tests.service.helpers import digit_file
from tests.serving import NEWEST, Server, serving

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def series(url: str, **headers: str) -> Series:
    """`parsed` of all that /metrics has."""
    return parsed(httpx.get(f"{url}/metrics", headers=headers).text)


def parsed(text: str) -> Series:
    """(name, labels) → value, by Prometheus' own parser."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(found: Series, name: str, **labels: str) -> float:
    """The sum of the series of that name that have these labels."""
    return sum(value for (n, have), value in found.items() if n == name and labels.items() <= dict(have).items())


def test_observed_together_as_one_by_one() -> None:
    values = [0.0, 0.1, 0.1, 0.95, 1.0, 1.5, 0.3000000001]
    texts = []
    for together in (True, False):
        registry = CollectorRegistry()
        histogram = Histogram("confidence", "", buckets=TENTHS, registry=registry)
        if together:
            _observe_all(histogram, values)
        else:
            for value in values:
                histogram.observe(value)
        texts.append(
            {key: value for key, value in parsed(generate_latest(registry).decode()).items() if "created" not in key[0]}
        )
    assert texts[0] == texts[1]
    assert texts[0]["confidence_count", ()] == len(values)


class TestMetrics:
    def test_services_of_one_home_count_separately(self, server: Server, client: httpx.Client, home: Path) -> None:
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

    def test_clients_cannot_create_series(self, server: Server, client: httpx.Client) -> None:
        client.get("/models")
        before = set(series(server.url))
        for i in range(50):
            client.get(f"/random/{i}")
            client.post(f"/predict/random{i}", content=b"")
            client.post(f"/v2/models/random{i}/infer", content=b"")
            client.request("GET", f"/digits/versions/{i}")
        new = {labels for name, labels in set(series(server.url)) - before if name == "percept_requests_total"}
        assert len(new) <= 4
