"""Models that are added, removed, broken and repaired while the service answers.

Versions change on a real server; what a poll finds in a store is asked of the application in this process."""

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bentoml
import httpx
import numpy as np
import onnx
import pytest
from bentoml._internal.models import ModelStore
from bentoml._internal.models.model import ModelInfo

from models.card import STORE_LABEL, ModelCard, seal
from service.serving import store
from service.serving.repository import Repository
from tests.command import model_store, percept
from tests.load import closed_loop, get, post
from tests.service.helpers import digit_file
from tests.service.in_process import application
from tests.serving import (
    FIRST,
    NEWEST,
    Server,
    build,
    digits_model,
    put,
    resident_mb,
    serving,
    sums_model,
    until,
    workers,
)

SUM = b"[3, 1]"
KEY = {"x-api-key": "key"}


def scaled(version: str, factor: float, name: str = "sums") -> onnx.ModelProto:
    """A model of two numbers whose answers identify its version: the sum and the difference, times a factor."""
    model = sums_model(version)
    card = ModelCard.model_validate_json(model.metadata_props[0].value)
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0]) * factor
    return build(name, version, card.input, card.labels, list(model.graph.node), {"w": weights.astype("f4")})


def version(client: httpx.Client, name: str = "sums") -> str | None:
    """The version that is served."""
    served: dict[str, str] = client.get("/readyz").json()["models"]
    return served.get(name)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store with a model in two versions, and another."""
    put(tmp_path, scaled("v1", 1))
    put(tmp_path, scaled("v2", 2))
    put(tmp_path, digits_model(FIRST))
    return tmp_path


@contextmanager
def asking(home: Path, **environment: str) -> Iterator[tuple[Server, httpx.Client]]:
    with serving(home, **environment) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        yield server, client


def answer(client: httpx.Client, path: str = "/predict/sums") -> tuple[int, str | None, float | None]:
    """Status, version and the sum in an answer."""
    response = client.post(path, content=SUM)
    body = response.json()
    return response.status_code, body.get("version"), body.get("value", {}).get("sum")


def broken(home: Path, version: str, how: str) -> None:
    """Puts a version that cannot be served into the store."""
    put(home, scaled(version, 9))
    folder = home / "models" / "sums" / version
    match how:
        case "no ONNX":
            (folder / "model.onnx").write_bytes(b"not a graph")
        case "other file":
            file = bytearray((folder / "model.onnx").read_bytes())
            file[len(file) // 4] ^= 1
            (folder / "model.onnx").write_bytes(file)
        case "other card":
            card = json.loads((folder / "card.json").read_text())
            (folder / "card.json").write_text(json.dumps(card | {"sha256": "0" * 64}, indent=1))
        case "no card":
            (folder / "card.json").unlink()


def test_versions_change_under_load_without_a_failed_request(home: Path) -> None:
    """New versions and rollbacks: every answer comes from the version that it names."""
    found: list[Counter[tuple[int, str | None, float | None]]] = [Counter() for _ in range(4)]
    done = threading.Event()
    with asking(home, PERCEPT_POLL_SECONDS="1") as (server, client):

        def ask(counter: Counter[tuple[int, str | None, float | None]]) -> None:
            with httpx.Client(base_url=server.url, timeout=30) as own:
                while not done.wait(0.01):  # hundreds of requests in a second of all four, and a core for other tests
                    counter[answer(own)] += 1

        def served(present: str) -> None:
            until(lambda: version(client) == present)
            until(lambda: any(counter[200, present, 4.0 * int(present[1:])] for counter in found))

        threads = [threading.Thread(target=ask, args=[counter]) for counter in found]
        for thread in threads:
            thread.start()
        try:
            served("v2")
            for present in ("v3", "v4"):
                put(home, scaled(present, int(present[1:])))
                served(present)
            with model_store(home):
                assert store.roll_back("sums", None) == "v3"
                served("v3")
                assert store.roll_back("sums", "v1") == "v1"
                served("v1")
            put(home, scaled("v5", 5))
            served("v5")
        finally:
            done.set()
            for thread in threads:
                thread.join()
    every = sum(found, Counter())
    assert set(every) == {(200, f"v{n}", 4.0 * n) for n in range(1, 6)}, every


def test_a_key_loads_at_once(home: Path) -> None:
    load = "/v2/repository/models/sums/load"
    with application(home, PERCEPT_API_KEYS="key") as client:
        put(home, scaled("v3", 3))
        assert client.post(load).status_code == 401
        assert client.post(load, headers={"x-api-key": "other"}).status_code == 401
        assert version(client) == "v2"
        assert client.post(load, headers=KEY).status_code == 200
        assert version(client) == "v3"
        broken(home, "v4", "no ONNX")
        refused = client.post(load, headers=KEY)
        assert refused.status_code == 503
        assert "sums:v4" in refused.json()["error"]
        assert version(client) == "v3"
        assert client.post("/v2/repository/models/absent/load", headers=KEY).status_code == 404
    with application(home) as client:
        assert client.post(load).status_code == 403


def test_older_versions_answer(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """tests/service/http/test_app.py asks a real server for versions that are not there."""
    put(home, digits_model(NEWEST))
    tensor = {"inputs": [{"name": "vector", "shape": [1, 2], "datatype": "FP32", "data": [3, 1]}]}
    with application(home) as client:
        for n in (1, 2):
            assert answer(client, f"/predict/sums/versions/v{n}") == (200, f"v{n}", 4.0 * n)
            response = client.post(f"/v2/models/sums/versions/v{n}/infer", json=tensor).json()
            assert (response["model_version"], response["outputs"][0]["data"]) == (f"v{n}", [4.0 * n, 2.0 * n])
            assert client.get(f"/v2/models/sums/versions/v{n}/ready").status_code == 200
        for tag in (FIRST, NEWEST):
            response = client.post(f"/digits/versions/{tag}", content=digit_file(3)).json()
            assert (response["version"], response["label"]) == (tag, "3")
        shutil.rmtree(home / "models" / "sums" / "v1")
        assert answer(client, "/predict/sums/versions/v1")[0] == 404
        assert answer(client, "/predict/absent/versions/v1")[0] == 404
    assert not any(record.exc_info for record in caplog.records)


def test_a_broken_version_leaves_the_old_one(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with application(home) as client:
        for n, how in enumerate(("no ONNX", "other file", "other card", "no card"), 3):
            broken(home, f"v{n}", how)
            client.poll()
            reason = f"sums:v{n} could not be loaded; the log of the service says why"
            for path in ("/readyz", "/v2/health/ready"):
                response = client.get(path)
                assert response.status_code == 200
                assert response.json()["models"]["sums"] == "v2"
                assert response.json()["failed"] == {"sums": reason}
            rows = {(row["name"], row["version"]): row for row in client.get("/v2/repository/index").json()}
            assert [rows["sums", v]["state"] for v in ("v1", "v2", f"v{n}")] == ["UNAVAILABLE", "READY", "UNAVAILABLE"]
            assert rows["sums", f"v{n}"]["reason"] == reason
            assert "could not be loaded" not in rows["sums", "v1"]["reason"]
            assert client.get("/v2/models/sums/ready").status_code == 200
            assert answer(client) == (200, "v2", 8.0)
            assert answer(client, f"/predict/sums/versions/v{n}")[0] == 404
            assert any(line.startswith(f"sums:v{n} cannot be served") for line in caplog.messages)
        put(home, scaled("v9", 9))
        client.poll()
        assert version(client) == "v9"
        assert client.get("/readyz").json()["failed"] == {}


def test_a_broken_version_at_a_start_leaves_the_one_before_it(home: Path) -> None:
    """As it would without the start: a worker that is killed must not take a model away."""
    broken(home, "v3", "no ONNX")
    broken(home, "v4", "other card")
    with application(home) as client:
        assert answer(client) == (200, "v2", 8.0)
        assert list(client.get("/readyz").json()["failed"]) == ["sums"]
        assert "sums:v4" in client.get("/readyz").json()["failed"]["sums"]
        client.poll()
        assert version(client) == "v2"
        put(home, scaled("v5", 9))
        client.poll()
        assert version(client) == "v5"
        assert client.get("/readyz").json()["failed"] == {}


def test_broken_models_at_start_leave_the_others_served(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model whose only version is corrupt, a folder that is no model, a truncated file. Then the corrupt one is
    repaired in place, as when a copy is completed."""
    whole = home / "models" / "sums"
    shutil.rmtree(whole / "v1")
    good = (whole / "v2" / "model.onnx").read_bytes()
    (whole / "v2" / "model.onnx").write_bytes(good[:-100])
    (home / "models" / "lost+found").mkdir()
    put(home, scaled("v1", 1, "torn"))
    (home / "models" / "torn" / "v1" / "model.yaml").write_text("name: [")
    with application(home) as client:
        assert client.post("/digits", content=digit_file(3)).json()["label"] == "3"
        assert client.get("/readyz").json()["models"] == {"digits": FIRST}
        assert list(client.get("/models").json()["failed"]) == ["sums"]
        assert client.get("/v2/models/sums/ready").status_code == 503
        assert answer(client)[0] == 404
        assert not any(record.exc_info for record in caplog.records)
        (whole / "v2" / "model.onnx").write_bytes(good)
        client.poll()
        assert version(client) == "v2"
        assert client.get("/v2/models/sums/ready").status_code == 200


def test_models_come_and_go(home: Path) -> None:
    with application(home) as client:
        put(home, scaled("v1", 7, "sevens"))
        client.poll()
        assert answer(client, "/predict/sevens") == (200, "v1", 28.0)
        (home / "models" / "sums" / "latest").write_text("")  # as BentoML leaves it while it writes
        (home / "models" / "digits" / "latest").unlink()
        models = ModelStore(home / "models")
        models.delete("sevens:v1")
        client.poll()
        assert answer(client, "/predict/sevens")[0] == 404
        assert client.get("/v2/models/sevens").status_code == 404
        assert client.get("/readyz").json() == {"ready": True, "models": {"sums": "v2", "digits": FIRST}, "failed": {}}
        models.delete("sums:v2")
        client.poll()
        assert version(client) == "v1"
        with bentoml.models.create("unlabelled:v1", _model_store=models):
            pass
        put(home, scaled("v3", 7, "sevens"))
        client.poll()
        assert version(client, "sevens") == "v3"
        assert version(client, "unlabelled") is None


def test_a_store_that_is_gone_for_a_moment_keeps_what_is_open(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Missing, empty, of empty folders, no folder. Not so what is removed where others are, or by `remove`."""
    folder, aside = home / "models", home / "aside"
    with application(home, PERCEPT_API_KEYS="key") as client:
        client.headers.update(KEY)

        def followed() -> Any:
            client.post("/v2/repository/models/sums/load")
            return client.get("/readyz").json()

        whole = followed()
        folder.rename(aside)
        for reason in ("cannot be read: No such file", "is empty", "is empty", "cannot be read: Not a directory"):
            found = followed()
            assert found["models"] == whole["models"] == {"sums": "v2", "digits": FIRST}
            assert reason in found["store"]
            assert answer(client) == (200, "v2", 8.0)
            assert "percept_store_up 0.0" in client.get("/metrics").text.splitlines()
            match reason, (folder / "sums").exists():
                case "is empty", False:
                    (folder / "sums").mkdir()
                case "is empty", True:
                    shutil.rmtree(folder)
                    folder.touch()
                case _, _ if not folder.exists():
                    folder.mkdir()
        folder.unlink()
        aside.rename(folder)
        assert followed() == whole
        assert len([line for line in caplog.messages if line.startswith("the model store ")]) == 3  # each reason once
        ModelStore(folder).delete("digits:" + FIRST)
        assert followed()["models"] == {"sums": "v2"}
        shutil.move(folder / "sums", aside)
        assert followed()["models"] == {"sums": "v2"}
        shutil.move(aside, folder / "sums")
        store.remove("sums", None)
        nothing = "the model store holds no model of percept"
        assert followed() == {"ready": False, "models": {}, "failed": {}, "store": nothing}
        assert answer(client)[0] == 404


def test_rollback_on_the_command_line(home: Path) -> None:
    def lines(*arguments: str) -> tuple[int, str, str]:
        done = percept("rollback", *arguments, home=home)
        return done.returncode, done.stdout, done.stderr

    assert lines("sums") == (0, "sums: serving v1\n", "")
    assert lines("sums") == (1, "", "percept: sums:v1 is the oldest version in the model store\n")
    assert lines("sums", "v2") == (0, "sums: serving v2\n", "")
    assert lines("sums", "v3") == (1, "", "percept: the model store holds no sums:v3; its versions are v2, v1\n")
    assert lines("sums", "../sums/v1")[0] == 1
    assert lines("absent") == (1, "", "percept: the model store holds no model 'absent'\n")
    assert lines("../models/sums")[2] == "percept: the model store holds no model '../models/sums'\n"
    with bentoml.models.create("unlabelled:v1", labels={}, _model_store=ModelStore(home / "models")):
        pass
    assert lines("unlabelled")[0] == 1
    with model_store(home):
        assert {model.tag.name: model.tag.version for model in store.newest_models()} == {
            "digits": FIRST,
            "sums": "v2",
        }
        assert STORE_LABEL in store.newest_models()[0].info.labels


@pytest.mark.soak
def test_two_hundred_models_in_a_hundred_versions(tmp_path: Path, record_property: Any) -> None:
    """18,000 mixed requests, which ask for versions at random: the memory, the start, and how long others wait."""
    random, names = np.random.default_rng(0), ["digits", *(f"sums{i:03}" for i in range(199))]
    fill(tmp_path, names, 100)
    digit, ready = post("/digits", digit_file(3)), post("/v2/repository/index", b"{}")

    def some(n: int) -> list[bytes]:
        found = [digit, ready, get("/v2/models/digits"), get("/metrics"), get("/models"), get("/readyz")]
        for name in random.choice(names[1:], n):
            version = f"v{random.integers(100):03}"
            found += [post(f"/predict/{name}", SUM), post(f"/predict/{name}/versions/{version}", SUM), digit]
            found += [get(f"/v2/models/{name}"), post(f"/predict/{name}/versions/x{version}", SUM)]
        return found

    with asking(tmp_path) as (server, client):
        (worker,) = workers(server)
        record_property("start", f"{server.seconds:.1f} s")
        assert len(client.get("/readyz").json()["models"]) == len(names)

        def load(n: int) -> float:
            outcome = closed_loop(server.url, some(200), 8, n=n)
            assert set(outcome.statuses) == {200, 404}
            return resident_mb(worker)

        before = load(12_000)  # until every cache is full
        after = load(18_000)
        listing = min(seconds(client, "/v2/models/digits") for _ in range(20))
        record_property("listing", f"{listing * 1000:.1f} ms for 100 versions")
        record_property("growth", f"{before:.1f} MB to {after:.1f} MB, {after / before - 1:.1%}")
        assert "Traceback" not in server.log.read_text()
    with model_store(tmp_path):
        repository = Repository()
        polls = []
        for _ in range(5):
            start = time.perf_counter()
            repository.reader.run_here(repository._follow)
            polls.append(time.perf_counter() - start)
    record_property("poll", f"{min(polls) * 1000:.1f} ms")
    assert server.seconds < 15  # 5 on a quiet machine
    assert min(polls) < 0.05
    assert listing < 0.02
    assert after < before * 1.05


def seconds(client: httpx.Client, path: str) -> float:
    start = time.perf_counter()
    client.get(path).raise_for_status()
    return time.perf_counter() - start


def fill(home: Path, names: list[str], n: int) -> None:
    """A store of these models, each in n versions, which all were exported days ago."""
    whole = {"digits": digits_model(FIRST)}
    with model_store(home):
        for name in names:
            model = whole.get(name) or scaled(FIRST, 1, name)
            card = ModelCard.model_validate_json(model.metadata_props[0].value)
            del model.metadata_props[:]
            graph = model.SerializeToString()
            for i in range(n):
                tag = bentoml.Tag(name, f"v{i:03}")
                file, text = seal(graph, card.model_copy(update={"version": tag.version}))
                context = bentoml.models.ModelContext(framework_name="", framework_versions={})
                created = datetime(2020, 1, 1, 0, 0, i % 60, i, UTC)
                info = ModelInfo(tag, "", {STORE_LABEL: card.kind}, {}, {}, context, {}, "v1", created)
                folder = home / "models" / name / str(tag.version)
                folder.mkdir(parents=True)
                (folder / "model.onnx").write_bytes(file)
                (folder / "card.json").write_bytes(text)
                (folder / "model.yaml").write_text(str(info.dump()))
            (home / "models" / name / "latest").write_text(f"v{n - 1:03}")


@pytest.mark.parametrize("n", [20, pytest.param(200, marks=pytest.mark.soak)])
def test_memory_is_flat_over_swaps(home: Path, n: int, record_property: Any) -> None:
    """Each swap loads the other version of digits, with 31 kB of weights, and sends it a request."""
    put(home, digits_model(NEWEST))
    file = digit_file(3)
    with asking(home, PERCEPT_POLL_SECONDS="3600", PERCEPT_API_KEYS="key") as (server, client), model_store(home):
        (worker,) = workers(server)
        load = client.build_request("POST", "/v2/repository/models/digits/load", headers=KEY)

        def swaps(n: int) -> float:
            for i in range(n):
                present = store.roll_back("digits", (FIRST, NEWEST)[i % 2])
                assert client.send(load).status_code == 200
                assert client.post("/digits", content=file, headers=KEY).json()["version"] == present
            return resident_mb(worker)

        before = swaps(40)
        after = swaps(n)
        record_property("growth", f"{before:.1f} MB to {after:.1f} MB, {after / before - 1:.1%}")
        assert after < before * 1.05
