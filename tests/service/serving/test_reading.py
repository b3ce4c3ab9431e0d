"""A model store whose reads hang, as a network share's: what is open goes on being served."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.errors import StoreBlocked
from service.serving import reading
from service.serving.reading import Reader
from tests.load import Outcome, closed_loop, post
from tests.service.in_process import application
from tests.service.serving.test_repository import scaled
from tests.serving import put, serving, until

SUM = b"[3, 1]"
KEY = {"x-api-key": "key"}


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A reader that waits a fifth of a second instead of five."""
    monkeypatch.setattr(reading, "HANGING_SECONDS", 0.2)
    monkeypatch.setattr(reading, "CHECK", 0.02)
    return Reader()


def hang(file: Path) -> bytes:
    """A named pipe in place of a file: reading hangs until somebody writes. What the file held."""
    content = file.read_bytes()
    file.unlink()
    os.mkfifo(file)
    return content


def let_go(file: Path, content: bytes) -> None:
    """Let the read of a file that hangs end; the file is whole again."""
    aside = file.with_name(f".{file.name}")
    aside.write_bytes(content)
    pipe = os.open(file, os.O_RDWR)
    aside.replace(file)  # whoever reads later reads the file
    os.write(pipe, content[:1000])
    os.close(pipe)


def test_calls_are_done_one_at_a_time_in_order(reader: Reader) -> None:
    running, done = threading.Lock(), []

    def work(i: int) -> int:
        assert running.acquire(blocking=False)
        with reader.at(str(i)):
            done.append(i)
        running.release()
        return i

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(lambda i: reader.run_here(lambda: work(i)), range(50))) == list(range(50))
    assert sorted(done) == list(range(50))
    with pytest.raises(ZeroDivisionError):
        reader.run_here(lambda: 1 / 0)


def test_a_read_that_hangs_holds_nothing_else_up(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"whole")
    content, after = hang(file), []

    def read() -> bytes:
        with reader.at("file"):
            found = file.read_bytes()
            after.append(found)
        with reader.at("next"):
            after.append(b"next")
        return found

    with pytest.raises(StoreBlocked, match="reading file hangs"):
        reader.run_here(read)
    assert reader.run_here(lambda: 7) == 7
    with pytest.raises(StoreBlocked, match="reading file hangs"):
        reader.run_here(read)  # at once: the other thread still hangs there
    assert reader.hanging == {"file"}
    let_go(file, content)
    until(lambda: not reader.hanging)
    assert after == [b"whole"]  # what hung is finished, what would follow is not begun
    assert reader.run_here(read) == b"whole"


def test_few_wait_and_few_hang(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "WAITING", 3)
    monkeypatch.setattr(reading, "HANGING", 2)
    end, done = threading.Event(), []

    def wait(place: str) -> None:
        with reader.at(place):
            end.wait(30)

    first = reader._submit(lambda: wait("a"))
    until(first.running)
    waiting = [reader._submit(lambda i=i: done.append(i)) for i in range(3)]
    with pytest.raises(StoreBlocked):
        reader._submit(lambda: None)
    until(lambda: [reader._leave_hanging(), first.done()][1])
    assert isinstance(first.exception(), StoreBlocked)
    assert [future.exception(5) for future in waiting] == [None] * 3
    assert done == [0, 1, 2]
    with pytest.raises(StoreBlocked):
        reader.run_here(lambda: wait("b"))
    with pytest.raises(StoreBlocked):
        reader._submit(lambda: None)
    end.set()
    until(lambda: not reader.hanging)
    assert reader.run_here(lambda: 7) == 7


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store of two models, one of them in three versions."""
    put(tmp_path, scaled("v1", 1))
    put(tmp_path, scaled("v2", 2))
    put(tmp_path, scaled("v3", 3))
    put(tmp_path, scaled("v1", 7, "sevens"))
    return tmp_path


@contextmanager
def asked(home: Path) -> Iterator[httpx.Client]:
    with application(home, PERCEPT_API_KEYS="key") as client:
        client.headers.update(KEY)
        yield client


def test_a_version_whose_file_hangs_is_busy_and_nothing_else(reader: Reader, home: Path) -> None:
    with asked(home) as client:
        assert client.post("/predict/sums/versions/v2", content=SUM).status_code == 200  # is open from now on
        folder = home / "models" / "sums"
        content = hang(folder / "v1" / "model.onnx")
        for path in ("/predict/sums/versions/v1", "/v2/models/sums/versions/v1/infer"):
            refused = client.post(path, content=SUM)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert client.get("/v2/models/sums/versions/v1").status_code == 503
        assert client.get("/v2/models/sums").json()["versions"] == ["v3", "v2", "v1"]
        for path in ("/predict/sums", "/predict/sums/versions/v2", "/predict/sevens"):
            assert client.post(path, content=SUM).status_code == 200
        put(home, scaled("v4", 4))
        assert client.post("/v2/repository/models/sums/load").status_code == 200
        assert "reading sums:v1 hangs" in client.get("/readyz").json()["store"]
        assert "percept_store_up 0.0" in client.get("/metrics").text.splitlines()
        let_go(folder / "v1" / "model.onnx", content)
        until(lambda: "store" not in client.get("/readyz").json())
        assert client.post("/predict/sums/versions/v1", content=SUM).json()["value"]["sum"] == 4
        assert "percept_store_up 1.0" in client.get("/metrics").text.splitlines()


@pytest.mark.parametrize("file", ["v4/model.onnx", "v4/card.json", "v4/model.yaml", "latest"])
def test_a_new_version_that_hangs_leaves_the_old_one(reader: Reader, home: Path, file: str) -> None:
    load = "/v2/repository/models/sums/load"
    with asked(home) as client:
        client.get("/v2/models/sums")
        put(home, scaled("v4", 4))
        path = home / "models" / "sums" / file
        content = hang(path)
        assert client.post(load).status_code == 503
        put(home, scaled("v2", 8, "sevens"))
        assert client.post("/v2/repository/models/sevens/load").status_code == 200
        assert client.post("/predict/sums", content=SUM).json()["version"] == "v3"
        assert client.post("/predict/sevens", content=SUM).json()["version"] == "v2"
        assert "reading sums hangs" in client.get("/readyz").json()["store"]
        assert {row["name"] for row in client.post("/v2/repository/index").json()} == {"sums", "sevens"}
        assert client.get("/v2/models/sums").json()["versions"] == ["v3", "v2", "v1"]
        let_go(path, content)
        until(lambda: client.post(load).status_code == 200)
        assert client.post("/predict/sums", content=SUM).json()["version"] == "v4"


def test_a_model_that_hangs_at_the_start_leaves_the_others(reader: Reader, home: Path) -> None:
    file = home / "models" / "sevens" / "v1" / "model.onnx"
    content = hang(file)
    with asked(home) as client:
        assert client.post("/predict/sums", content=SUM).status_code == 200
        assert client.post("/predict/sevens", content=SUM).status_code == 503
        assert client.get("/v2/models/sevens/ready").status_code == 503
        assert client.get("/readyz").json()["models"] == {"sums": "v3"}
        let_go(file, content)
        until(lambda: client.post("/v2/repository/models/sevens/load").status_code == 200)
        assert client.post("/predict/sevens", content=SUM).status_code == 200


def test_a_service_whose_store_hangs_stops_when_it_is_told(home: Path) -> None:
    """And answers as ever until then, whoever asks for the file that hangs."""
    hang(home / "models" / "sums" / "v1" / "model.onnx")
    with serving(home, PERCEPT_POLL_SECONDS="1") as server, httpx.Client(base_url=server.url, timeout=30) as client:
        request, outcomes = post("/predict/sums/versions/v1", SUM), list[Outcome]()
        asking = threading.Thread(target=lambda: outcomes.append(closed_loop(server.url, [request], 80, n=80)))
        asking.start()
        slowest = 0.0
        while asking.is_alive():
            start = time.monotonic()
            assert client.get("/metrics").status_code == 200
            assert client.post("/predict/sums", content=SUM).status_code == 200
            slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.05)
        assert slowest < 2
        assert set(outcomes[0].statuses) == {503}
        # A request waits from when it came, a read counts as hanging from when it began, which may be a moment later.
        until(lambda: "reading sums:v1 hangs" in client.get("/readyz").json().get("store", ""))
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert time.monotonic() - start < 8
        log = server.log.read_text()
    assert "Traceback" not in log
    assert log.count("reading sums:v1 hangs") == 1
