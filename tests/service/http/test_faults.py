"""The service when it is overloaded, killed, stopped, or held by silent clients."""

import os
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.http.connections import AHEAD
from tests.load import Outcome, closed_loop, get, open_loop, post
from tests.service.helpers import FLUTE, digit_file, sound_bytes, tone
from tests.serving import ROOT, Server, fill_store, resident_mb, serving, until, workers

SLOTS = 64  # requests in flight that the service allows
DIGIT = post("/digits", digit_file(3))
LARGE = post("/digits", digit_file(3) + bytes(2 * AHEAD))  # takes its slot before it is complete
SOUND = post("/instruments", FLUTE)

# The service with short timeouts instead of 20, 30 and 65 seconds.
IMPATIENT = """
from service import service
from service.http import body, connection_limits
body.ARRIVAL_SECONDS = connection_limits.TIMEOUT = 2
connection_limits.KEEP_ALIVE = 6
Percept = service.Percept
"""


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serving(home) as running:
        yield running


def in_flight(client: httpx.Client) -> float:
    """The slots in use, according to /metrics."""
    (line,) = re.findall(r"^percept_in_flight (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(line)


@contextmanager
def watched(server: Server, statuses: list[int]) -> Iterator[None]:
    """Poll the health endpoints during the block, as a load balancer does."""
    over = threading.Event()

    def watch() -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            while not over.wait(0.05):
                statuses.extend(client.get(path).status_code for path in ("/livez", "/readyz", "/v2/health/ready"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize("request_", [DIGIT, SOUND], ids=["digits", "instruments"])
def test_four_times_the_sustainable_rate(server: Server, request_: bytes, record_property: Any) -> None:
    closed_loop(server.url, [request_], 4, seconds=0.5)
    health: list[int] = []
    for _ in range(3):  # other work on the machine between two measurements of a try would look like ours
        full = closed_loop(server.url, [request_], SLOTS, seconds=0.5)
        assert set(full.statuses) == {200}
        with watched(server, health):
            storm = open_loop(server.url, request_, 8 * SLOTS, 4 * full.rate(), seconds=1)
        with httpx.Client(base_url=server.url, timeout=30) as client:
            until(lambda client=client: in_flight(client) == 0)
        after = closed_loop(server.url, [request_], SLOTS, seconds=0.5)
        ratio = np.percentile(storm.waited[200], 99) / np.percentile(full.waited[200], 99)
        overloaded = 503 in storm.statuses  # not where other work on the machine made the first rate too low
        if overloaded and storm.rate() > 0.1 * full.rate() and ratio < 20 and after.rate() > 0.5 * full.rate():
            break
    assert set(storm.statuses) == {200, 503}
    assert storm.lost == 0
    (refusal,) = storm.refusals
    assert b"\r\nretry-after: 1\r\n" in refusal
    assert b'{"error":{"code":"busy","message":"' in refusal
    record_property("offered", round(storm.sent / full.rate(), 2))
    record_property("goodput", round(storm.rate() / full.rate(), 2))
    record_property("p99", round(float(ratio), 2))
    assert storm.rate() > 0.1 * full.rate()
    assert ratio < 20
    assert len(health) >= 3
    assert set(health) == {200}
    record_property("after", round(after.rate() / full.rate(), 2))
    assert set(after.statuses) == {200}
    assert after.rate() > 0.5 * full.rate()


def test_a_killed_worker_comes_back(server: Server, record_property: Any) -> None:
    (worker,) = workers(server)
    outcomes: list[Outcome] = []
    load = threading.Thread(target=lambda: outcomes.append(closed_loop(server.url, [DIGIT], 16, seconds=3)))
    with ExitStack() as stack:
        held = [stack.enter_context(connected(server)) for _ in range(5)]  # counted in the gauge when it dies
        for connection in held:
            connection.sendall(LARGE[:-100])
        with httpx.Client(base_url=server.url, timeout=60) as client:
            until(lambda: in_flight(client) >= len(held))
        load.start()
        time.sleep(0.5)
        os.kill(worker, signal.SIGKILL)
        start = time.perf_counter()
        for connection in held:
            assert ended(connection) == b""
        assert httpx.get(f"{server.url}/livez", timeout=60).is_success  # the request waited in the backlog
        record_property("seconds", round(time.perf_counter() - start, 1))
        load.join()
    (outcome,) = outcomes
    assert set(outcome.statuses) == {200}
    assert 0 < outcome.lost <= 16
    assert len(outcome.bodies) == 1  # the same answer every time
    assert workers(server) != [worker]
    with httpx.Client(base_url=server.url) as client:
        until(lambda: in_flight(client) == 0, 5)


def test_what_is_in_flight_is_finished_before_it_stops(home: Path) -> None:
    recording = post("/instruments?timeline=0.1", sound_bytes(tone(seconds=600)))  # seconds of work
    with serving(home) as server, ExitStack() as stack:
        long, slow, idle = (stack.enter_context(connected(server)) for _ in range(3))
        idle.sendall(get("/livez"))
        answer = b""
        while not answer.endswith(b"\r\n\r\n\n"):
            answer += idle.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200 ")
        slow.sendall(LARGE[:-3])
        long.sendall(recording)
        with httpx.Client(base_url=server.url) as client:
            until(lambda: in_flight(client) >= 2)
        server.process.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""
        for i in (3, 2, 1):
            time.sleep(0.3)
            slow.sendall(LARGE[-i : -i + 1 or None])
        for connection in (slow, long):
            answer = received(connection)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"}")
        assert server.process.wait(60) == 0
        log = server.log.read_text()
    assert "Traceback" not in log
    assert "rror" not in log


def connected(server: Server) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def received(connection: socket.socket) -> bytes:
    """Everything until the other side closes the connection."""
    parts = []
    while part := connection.recv(2**16):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("n", [5000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_memory_is_flat_over_many_requests(server: Server, n: int, record_property: Any) -> None:
    """Mostly vectors, binary tensors and small pictures, which are answered fastest; also random paths, sounds, errors,
    and clients that hang up."""
    (worker,) = workers(server)
    digit = post("/digits", digit_file(3, "JPEG"))
    header = b'{"inputs":[{"name":"vector","shape":[2,2],"datatype":"FP32","parameters":{"binary_data_size":16}}]}'
    tensor = post("/v2/models/sums/infer", header + bytes(16), f"Inference-Header-Content-Length: {len(header)}")
    vector = post("/predict/sums", b"[1, 2]")
    rare = [SOUND, post("/digits", b"nonsense"), post("/predict/absent", b"x"), get("/metrics"), get("/models")]
    random = np.random.default_rng(0)

    def hang_up() -> None:
        for i in range(200):
            with connected(server) as connection:
                connection.sendall((SOUND, DIGIT, b"GET / HT")[i % 3][: random.integers(1, 3000)])

    def some(n: int) -> None:
        answers = 0
        while answers < n:
            random_paths = [get(f"/{random.bytes(8).hex()}") for _ in range(200)]
            mixture = [r for i in range(200) for r in (digit, vector, tensor, vector, random_paths[i], tensor, vector)]
            outcome = closed_loop(server.url, [*rare, *mixture], 16, n=5000)
            assert set(outcome.statuses) <= {200, 404, 415}
            answers += sum(outcome.statuses.values())
            hang_up()

    some(min(n, 10_000))
    before = resident_mb(worker)
    some(n)
    after = resident_mb(worker)
    record_property("growth", f"{before:.1f} MB to {after:.1f} MB, {after / before - 1:.1%}")
    assert after < before * 1.05
    assert "Traceback" not in server.log.read_text()


def test_silent_connections_are_closed_and_delay_no_others(tmp_path: Path) -> None:
    home = tmp_path / "home"
    fill_store(home)
    (tmp_path / "impatient.py").write_text(IMPATIENT)
    with (
        serving(home, target="impatient:Percept", directory=tmp_path, PYTHONPATH=str(ROOT)) as server,
        ExitStack() as stack,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        says = {"nothing": b"", "half a header": b"POST /digits HTTP/1.1\r\nHost", "half a body": DIGIT[:-500]}
        many = {"nothing": 220, "half a header": 220, "half a body": 2 * SLOTS}
        silent = {key: [stack.enter_context(connected(server)) for _ in range(n)] for key, n in many.items()}
        for key, text in says.items():
            for connection in silent[key]:
                connection.sendall(text)
        idle = [stack.enter_context(connected(server)) for _ in range(20)]
        for connection in idle:
            connection.sendall(get("/livez"))
        dripping = [stack.enter_context(connected(server)) for _ in range(30)]
        stopped: list[bool] = [False] * len(dripping)

        def drip() -> None:  # one byte of the header at a time
            for byte in (DIGIT[i : i + 1] for i in range(10**6)):
                for i, connection in enumerate(dripping):
                    try:
                        connection.sendall(byte)
                    except OSError:
                        stopped[i] = True
                if all(stopped):
                    return
                time.sleep(0.2)

        dripper = threading.Thread(target=drip, daemon=True)
        dripper.start()
        assert client.post("/digits", content=digit_file(3)).json()["label"] == "3"
        assert set(closed_loop(server.url, [DIGIT], 4, seconds=1).statuses) == {200}
        resting = stack.enter_context(connected(server))
        for pause in (3, 0):  # longer than a header may take
            resting.sendall(get("/livez"))
            answer = b""  # header and body may arrive separately
            while not answer.endswith(b"\r\n\r\n\n") and (part := resting.recv(2**16)):
                answer += part
            assert answer.startswith(b"HTTP/1.1 200 ")
            time.sleep(pause)
        resting.sendall(b"GET /li")
        for connection in [*silent["nothing"], *silent["half a header"], resting]:
            assert ended(connection) == b""
        for connection in silent["half a body"]:
            assert ended(connection).startswith(b"HTTP/1.1 408 ")
        for connection in idle:
            assert ended(connection).startswith(b"HTTP/1.1 200 ")
        dripper.join(60)
        assert all(stopped)
        assert in_flight(client) == 0
        assert client.post("/digits", content=digit_file(3)).json()["label"] == "3"


def test_incomplete_large_bodies_lock_no_others_out(server: Server) -> None:
    with ExitStack() as stack, httpx.Client(base_url=server.url, timeout=30) as client:
        slow = [stack.enter_context(connected(server)) for _ in range(2 * SLOTS)]
        for connection in slow:
            connection.sendall(LARGE[:-100])
        until(lambda: in_flight(client) == SLOTS // 2)
        outcome = closed_loop(server.url, [DIGIT], SLOTS // 2, seconds=1)
        assert set(outcome.statuses) == {200}
        for connection in slow:
            connection.shutdown(socket.SHUT_WR)
        answers = Counter(ended(connection)[:12] for connection in slow)
        assert answers == {b"HTTP/1.1 503": len(slow) - SLOTS // 2, b"": SLOTS // 2}
        until(lambda: in_flight(client) == 0)
        assert client.post("/instruments", content=FLUTE + bytes(2 * AHEAD)).is_success


# The service that lets nobody wait for more than 2 seconds.
SHORT = IMPATIENT.replace("KEEP_ALIVE = 6", "KEEP_ALIVE = 2")


@pytest.mark.parametrize(
    ("descriptors", "scale", "seconds"), [(110, 0.1, 0.2), pytest.param(256, 1, 5, marks=pytest.mark.soak)]
)
def test_clients_that_hold_connections_keep_no_others_out(
    descriptors: int, scale: float, seconds: float, tmp_path: Path, record_property: Any
) -> None:
    """Idle ones, such that never read, such that send a byte a second, and many that come and go."""
    home = tmp_path / "home"
    fill_store(home)
    (tmp_path / "short.py").write_text(SHORT)
    start = f"ulimit -n {descriptors}; exec {sys.executable} -m bentoml serve short:Percept --port $BENTOML_PORT"
    command = ["bash", "-c", start]
    with (
        serving(home, directory=tmp_path, command=command, PYTHONPATH=str(ROOT)) as server,
        ExitStack() as stack,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        (worker,) = workers(server)
        logged = server.log.stat().st_size
        waited: list[float] = []

        def ask() -> None:
            """Another client's requests, over connections of their own."""
            for _ in range(int(seconds * 20)):
                outcome = closed_loop(server.url, [DIGIT], 1, n=1)
                assert outcome.statuses == {200: 1}
                assert outcome.lost == 0
                waited.extend(outcome.waited[200])
                time.sleep(0.05)

        for _ in range(int(1000 * scale)):
            idle = stack.enter_context(connected(server))
            idle.sendall(get("/livez"))
            assert idle.recv(12) == b"HTTP/1.1 200"  # before the next one comes, which else might find none that waits
        ask()

        def hold(n: float, text: bytes) -> list[socket.socket]:
            held = [stack.enter_context(connected(server)) for _ in range(int(n * scale))]
            for connection in held:
                connection.setblocking(False)
                with suppress(OSError):  # closed already, for one that came later
                    connection.send(text)
            ask()
            return held

        hold(300, get("/docs.json") * 2000)
        slow = [*hold(150, b"POST /digits HTTP/1.1\r\nX: "), *hold(150, DIGIT[:-200])]
        for _ in range(int(seconds * 3)):
            for connection in slow:
                with suppress(OSError):
                    connection.send(b"x")
            ask()
        for i in range(int(10_000 * scale)):
            with connected(server) as connection:
                connection.sendall((b"", get("/livez"), b"GET / HT", b"no HTTP\r\n\r\n")[i % 4])
            if i % 500 == 0:
                ask()
        until(lambda: "percept_connections 1.0" in client.get("/metrics").text, 30)
        assert len(list(Path(f"/proc/{worker}/fd").iterdir())) < 40
        closed = dict(
            re.findall(r'^percept_connections_closed_total{reason="(.+)"} (\S+)$', client.get("/metrics").text, re.M)
        )
        assert float(closed["limit"]) >= 100 * scale
        assert float(closed["refused"]) == 0
        assert server.log.stat().st_size - logged < 10_000
        record_property("p99", f"{np.percentile(waited, 99) * 1e3:.0f} ms")
        record_property("max", f"{max(waited) * 1e3:.0f} ms")


def ended(connection: socket.socket) -> bytes:
    """What arrived before the other side closed or reset the connection."""
    parts = []
    try:
        while part := connection.recv(2**16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)
