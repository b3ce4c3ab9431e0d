"""BENTOML_CONFIG: what it may set holds for every path, and the rest stops the start with one line."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bentoml._internal.configuration import load_config
from bentoml._internal.configuration.containers import BentoMLContainer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from service import options
from service.service import Percept
from tests.service.helpers import digit_file
from tests.service.in_process import application
from tests.serving import ROOT, free_port

ORIGIN = {"origin": "http://localhost:5173"}


def check(folder: Path, monkeypatch: pytest.MonkeyPatch, config: Any) -> None:
    file = folder / "bentoml.yaml"
    file.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("BENTOML_CONFIG", str(file))
    options.check(Percept, is_supervisor=True)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """BentoML's configuration is that of the process."""
    yield
    load_config()
    Percept.inject_config()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"traffic": {"timeout": 60}}, "traffic.timeout=60 would have no effect: a body has 30 seconds"),
        ({"traffic": {"max_concurrency": 4}}, "use PERCEPT_MAX_CONCURRENCY"),
        ({"logging": {"access": {"enabled": True}}}, "use PERCEPT_LOG=json"),
        ({"logging": {"access": {"skip_paths": ["/x"]}}}, "use PERCEPT_LOG=json"),
        ({"metrics": {"enabled": True}}, "/metrics always has percept's own"),
        ({"metrics": {"enabled": False}}, "/metrics always has percept's own"),
        ({"http": {"response": {"trace_id": True}}}, "X-Request-ID"),
        ({"http": {"cors": {"enabled": True}}}, "set access_control_allow_origins"),
        ({"http": {"cors": {"access_control_allow_origins": "*"}}}, "set enabled to true"),
        ({"http": {"cors": {"enabled": "yes"}}}, "services.percept.http.cors.enabled is not valid"),
        ({"htp": {"port": 1}}, "htp.port=1 would have no effect: percept does not use it"),
        ({"workers": 0}, "services.percept.workers is not valid"),
        ({"threads": 4}, "as many as the process may use cores"),
        ({"ssl": {"enabled": True}}, "ssl: set certfile"),
        ({"ssl": {"certfile": "a.pem"}}, "ssl: set enabled to true"),
        ({"ssl": {"enabled": True, "certfile": "a.pem"}}, "a.pem: expected absolute paths"),
        ({"ssl": {"enabled": True, "certfile": "/no.pem"}}, "/no.pem cannot be used: .* No such file"),
        ({"tracing": {"sample_rate": 1.0}}, "tracing would have no effect: set exporter_type"),
        ({"tracing": {"exporter_type": "zipkin"}}, "tracing: set sample_rate"),
        ({"tracing": {"exporter_type": "otlp", "sample_rate": 1.0}}, "otlp: set protocol to http or grpc"),
        (
            {"tracing": {"exporter_type": "zipkin", "sample_rate": 1.0, "zipkin": {"endpoint": "http://a"}}},
            r"No module named .*; install bentoml\[tracing-zipkin\]",
        ),
        ("text", "services.percept: expected a mapping"),
    ],
)
def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as raised:
        check(tmp_path, monkeypatch, {"services": {"percept": given}})
    assert "\n" not in str(raised.value)


def test_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timeout = {"traffic": {"timeout": 5}}
    for config, expected in (
        ({"services": timeout}, "traffic.timeout=5"),
        ({"services": {"Percept": timeout}}, "the service's name is percept"),
        ({"api_server": timeout}, "api_server is not read"),
    ):
        with pytest.raises(ValueError, match=expected):
            check(tmp_path, monkeypatch, config)
    monkeypatch.delenv("BENTOML_CONFIG")
    monkeypatch.setenv("BENTOML_CONFIG_OVERRIDES", json.dumps({"services": timeout}))
    with pytest.raises(ValueError, match="timeout=5"):
        options.check(Percept, is_supervisor=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"services": None},
        {"services": {"percept": None, "another": {"traffic": {"timeout": 5}}}},
        {"services": {"percept": {"workers": 2, "backlog": 100, "resources": {"cpu": 2}, "http": {"port": 8080}}}},
        {"services": {"percept": {"logging": {"access": {"enabled": False}}, "traffic": {"max_concurrency": None}}}},
        {"services": {"http": {"cors": {"enabled": True, "access_control_allow_origin_regex": ".*"}}}},
    ],
)
def test_what_holds_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Any) -> None:
    check(tmp_path, monkeypatch, config)


def test_cors_holds_for_every_path(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cors = {"enabled": True, "access_control_allow_origins": ORIGIN["origin"]}
    cors |= {"access_control_allow_methods": "GET, POST", "access_control_allow_headers": "X-API-Key"}
    check(tmp_path, monkeypatch, {"services": {"percept": {"http": {"cors": cors}}}})
    preflight = ORIGIN | {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    key = {"x-api-key": "k"}
    with application(home, options.around, PERCEPT_API_KEYS="k") as client:
        for path in ("/digits", "/v2/models/digits/infer", "/models", "/schema.json", "/nothing"):
            answer = client.options(path, headers=preflight)  # a browser sends no key with it
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-methods"] == "GET, POST"
            assert answer.headers["access-control-allow-origin"] == ORIGIN["origin"]
            for headers in (ORIGIN, ORIGIN | key):  # a refusal can be read by a page, too
                answer = client.post(path, content=digit_file(3), headers=headers)
                assert answer.headers["access-control-allow-origin"] == ORIGIN["origin"]
            answer = client.get(path, headers=key | {"origin": "http://elsewhere"})
            assert "access-control-allow-origin" not in answer.headers
        assert client.post("/digits", content=digit_file(3), headers=key).json()["label"] == "3"


def test_tracing_holds_for_every_path_but_those_excluded(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing = {"exporter_type": "in_memory", "sample_rate": 1.0, "excluded_urls": "livez,models"}
    check(tmp_path, monkeypatch, {"services": {"percept": {"tracing": tracing}}})
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with BentoMLContainer.tracer_provider.patch(provider), application(home, options.around) as client:
        for path in ("/livez", "/models", "/readyz", "/nothing"):
            client.get(path)
        client.post("/digits", content=digit_file(3))
    served = [span.name for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert served == ["GET /readyz", "GET /nothing", "POST /digits"]


def test_the_start_is_stopped_by_one_line(tmp_path: Path) -> None:
    file = tmp_path / "bentoml.yaml"
    file.write_text("services: {percept: {logging: {access: {enabled: true}}}}")
    command = [sys.executable, "-m", "bentoml", "serve", "service.service:Percept", "--port", "1"]
    environment = {"BENTOML_CONFIG": str(file), "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("percept: services.percept.logging.access.enabled=true would have no effect: use ")
    assert done.stderr.count("\n") == 1


def test_percept_serve_reads_the_file_from_where_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "bentoml.yaml").write_text("services: {percept: {logging: {access: {enabled: true}}}}")
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "serve", "--port", str(free_port())]
    environment = {"BENTOML_CONFIG": "bentoml.yaml", "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("percept: services.percept.logging.access.enabled=true would have no effect: use ")
