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
import pytest

from tests.service.helpers import digit_file, refusal
from tests.serving import NEWEST, ROOT, Server, digits_model, fill_store, put, serving, until, workers

KEY = {"x-api-key": "k"}


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


def test_two_workers_are_one_service(tmp_path: Path) -> None:
    """Each answers alone, follows the store, and knows the metrics of both; both finish when the service is stopped."""
    fill_store(tmp_path)
    config = tmp_path / "bentoml.yaml"
    config.write_text("services: {percept: {workers: 2}}")
    settings = {"BENTOML_CONFIG": str(config), "PERCEPT_POLL_SECONDS": "1", "PERCEPT_API_KEYS": "k"}
    with serving(tmp_path, **settings) as server, asking(server) as client:
        until(lambda: len(workers(server)) == 2)
        pids = workers(server)

        def answer() -> dict[str, object]:
            response = client.post("/digits", content=digit_file(3), headers=KEY)
            answer: dict[str, object] = response.json()
            return answer

        for expected in (NEWEST, "v3"):
            if expected == "v3":
                put(tmp_path, digits_model("v3"))
            for other in pids:
                with stopped(other):
                    until(lambda expected=expected: answer()["version"] == expected, 20)
                    assert answer()["label"] == "3"
                    assert client.post("/digits", content=digit_file(3)).status_code == 401
        counts = []
        for other in pids:
            with stopped(other):
                text = client.get("/metrics", headers=KEY).text
                counts.append(
                    re.findall(r'^percept_requests_total\{code="401",route="/digits"\} (\S+)$', text, re.MULTILINE)
                )
        assert counts == [["4.0"], ["4.0"]]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("what", ["model store", "Bento"])
def test_nothing_to_serve(tmp_path: Path, what: str) -> None:
    """It lives, is not ready, and says why; a store that is filled later is served."""
    target = "."
    if what == "Bento":
        target = "percept:none"
        environment = os.environ | {"BENTOML_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "bentoml", "build", "--version", "none"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    with (
        serving(tmp_path, target=target, wait_for="/livez", PERCEPT_POLL_SECONDS="1") as server,
        asking(server) as client,
    ):
        expected = {"ready": False, "models": {}, "failed": {}, "store": f"the {what} holds no model of percept"}
        for path in ("/readyz", "/v2/health/ready"):
            ready = client.get(path)
            assert (ready.status_code, ready.json()) == (503, expected)
        assert refusal(client.post("/digits", content=digit_file(3))) == 404
        assert client.get("/models").json()["models"] == []
        assert client.get("/").is_success
        assert client.get("/metrics").is_success
        put(tmp_path, digits_model(NEWEST))
        if what == "model store":
            until(lambda: client.get("/readyz").status_code == 200)
            assert client.get("/readyz").json() == {
                "ready": True,
                "models": {"digits": NEWEST},
                "failed": {},
            }
        log = server.log.read_text()
        assert log.count(expected["store"]) == 1
        assert "Traceback" not in log
