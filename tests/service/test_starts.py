"""How the service may be started: with several workers, and with nothing to serve."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.service.helpers import digit_file, refusal
from tests.serving import NEWEST, ROOT, Server, digits_model, put, serving, until, workers
from tests.traffic import batches, pictures, watched

KEY = {"x-api-key": "k"}
COUNTED = {"200": "2.0", "401": "2.0"}


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does nothing in the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def asking(server: Server) -> httpx.Client:
    """A client with a new connection for each request, which any worker may accept."""
    return httpx.Client(base_url=server.url, timeout=20, limits=httpx.Limits(max_keepalive_connections=0))


def check_that_nothing_is_served(client: httpx.Client, what: str) -> None:
    expected = {"ready": False, "models": {}, "failed": {}, "store": f"the {what} holds no model of percept"}
    for path in ("/readyz", "/v2/health/ready"):
        ready = client.get(path)
        assert (ready.status_code, ready.json()) == (503, expected)
    assert refusal(client.post("/digits", content=digit_file(3), headers=KEY)) == 404
    assert client.get("/models", headers=KEY).json()["models"] == []
    for path in ("/", "/metrics", "/v2/repository/index"):
        assert client.request("POST" if "index" in path else "GET", path, headers=KEY).is_success


def counted(client: httpx.Client) -> dict[str, str]:
    """Status → requests of digits, as the metrics have them."""
    text = client.get("/metrics", headers=KEY).text
    return dict(re.findall(r'^percept_requests_total\{code="(200|401)",route="/digits"\} (\S+)$', text, re.MULTILINE))


def processes(client: httpx.Client) -> list[int]:
    """Of which processes the metrics tell the CPU time."""
    text = client.get("/metrics", headers=KEY).text
    return [int(pid) for pid in re.findall(r'^process_cpu_seconds_total\{pid="(\d+)"\} \S+$', text, re.MULTILINE)]


def tells_of_drift(client: httpx.Client, stopped_worker: int) -> bool:
    """Whether the metrics of the other workers do."""
    with stopped(stopped_worker):
        return "percept_drift_psi{" in client.get("/metrics", headers=KEY).text


def test_two_workers_are_one_service(tmp_path: Path) -> None:
    """Each answers alone, from a store that was empty when they started, and knows the metrics of both; both end when
    the service is stopped."""
    config = tmp_path / "bentoml.yaml"
    config.write_text("services: {percept: {workers: 2}}")
    settings = {"BENTOML_CONFIG": str(config), "PERCEPT_POLL_SECONDS": "1", "PERCEPT_API_KEYS": "k"}
    with serving(tmp_path, wait_for="/livez", **settings) as server, asking(server) as client:
        until(lambda: len(workers(server)) == 2)
        pids = workers(server)
        for other in pids:
            with stopped(other):
                check_that_nothing_is_served(client, "model store")
        put(tmp_path, watched(digits_model(NEWEST)))
        for other in pids:
            with stopped(other):
                until(lambda: client.get("/readyz").is_success, 20)
                answer = client.post("/digits", content=digit_file(3), headers=KEY).json()
                assert (answer["label"], answer["version"]) == ("3", NEWEST)
                assert client.post("/digits", content=digit_file(3)).status_code == 401
        until(lambda: counted(client) == COUNTED)  # a request is counted after its answer is sent
        for other in pids:
            with stopped(other):
                assert counted(client) == COUNTED
                assert sorted(processes(client)) == sorted(pids)
        with stopped(pids[1]):
            for path, body, headers in 3 * batches("digits", pictures()):
                assert client.post(path, content=body, headers=KEY | headers).is_success
        until(lambda: tells_of_drift(client, pids[0]))  # which the other one has not seen
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        log = server.log.read_text()
    assert log.count("the model store holds no model of percept") == 2  # once for each worker
    assert "Traceback" not in log


def test_a_bento_without_models(tmp_path: Path) -> None:
    """It does not serve the models of the store either."""
    environment = os.environ | {"BENTOML_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "bentoml", "build", "--version", "none"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    put(tmp_path, digits_model(NEWEST))
    with serving(tmp_path, target="percept:none", wait_for="/livez") as server, asking(server) as client:
        check_that_nothing_is_served(client, "Bento")
        log = server.log.read_text()
    assert log.count("the Bento holds no model of percept") == 1
    assert "Traceback" not in log
