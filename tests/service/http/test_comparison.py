"""Shadows and canaries, and that no request fails while versions are switched."""

import logging
import random
import shutil
import threading
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest

from models.card import ModelCard
from service.http import shadow
from service.serving.rollout import CANARY
from tests.command import percept
from tests.service.helpers import digit_file
from tests.service.in_process import Client, application
from tests.service.test_metrics import Series, parsed, total
from tests.serving import FIRST, NEWEST, build, digits_model, put, serving, sides_model, sums_model, until
from tests.signing import key, public, sign

SUM = b"[3, 1]"
PICTURE: bytes = digit_file(3)  # type: ignore[no-untyped-call]


def changed(model: onnx.ModelProto, factor: float = 1, bias: float = 0, name: str | None = None) -> onnx.ModelProto:
    """The model with other weights."""
    card = ModelCard.model_validate_json(model.metadata_props[0].value)
    nodes = list(model.graph.node)
    (weights,) = (onnx.numpy_helper.to_array(one) for one in model.graph.initializer)
    constants = {"w": (weights * factor).astype("f4")}
    if bias:
        nodes = [
            onnx.helper.make_node("Add", ["vector", "shift"], ["shifted"]),
            onnx.helper.make_node("MatMul", ["shifted", "w"], ["logits"]),
            *nodes[1:],
        ]
        constants["shift"] = np.array([bias], np.float32)
    return build(name or card.name, card.version, card.input, card.labels, nodes, constants)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store with sums in two versions, of which the older one is served, and sides, likewise."""
    for tag, factor, bias in ((FIRST, 1, 0), (NEWEST, 2, 1)):
        put(tmp_path, changed(sums_model(tag), factor))
        put(tmp_path, changed(sides_model(tag), bias=bias))
    for name in ("sums", "sides"):
        assert percept("promote", f"{name}@{FIRST}", home=tmp_path).returncode == 0
    return tmp_path


def counts(client: Client) -> Series:
    return parsed(client.get("/metrics").text)


def tensor(*values: list[float]) -> dict[str, object]:
    data = [value for row in values for value in row]
    return {"inputs": [{"name": "vector", "shape": [len(values), len(values[0])], "datatype": "FP32", "data": data}]}


class TestCanary:
    def test_it_answers_its_share(self, home: Path) -> None:
        random.seed(1)
        with application(home, PERCEPT_CANARY=f"sums@{NEWEST}:25%") as client:
            before = counts(client)
            answers = [client.post("/predict/sums", content=SUM).json() for _ in range(200)]
            found = Counter((one["version"], one["value"]["sum"]) for one in answers)
            assert set(found) == {(FIRST, 4.0), (NEWEST, 8.0)}
            assert 30 <= found[NEWEST, 8.0] <= 70  # 50 ± 3 standard deviations of 6
            after = counts(client)
            for version, value in ((FIRST, 4.0), (NEWEST, 8.0)):
                for name in ("percept_canary_requests_total", "percept_canary_request_seconds_count"):
                    more = total(after, name, model="sums", version=version)
                    assert more - total(before, name, model="sums", version=version) == found[version, value]
            assert client.post("/predict/sides", content=b"[1]").json()["version"] == FIRST
            assert client.get("/readyz").json()["canary"] == [
                {"model": "sums", "version": NEWEST, "active": True, "share": 0.25}
            ]

    def test_requests_that_name_a_version_get_it(self, home: Path) -> None:
        with application(home, PERCEPT_CANARY=f"sums@{NEWEST}:100%") as client:
            infer = "/v2/models/sums{}/infer"
            assert client.post("/predict/sums", content=SUM).json()["version"] == NEWEST
            assert client.post("/predict?model=sums", content=SUM).json()["version"] == NEWEST
            form = client.post("/predict", data={"model": "sums"}, files={"file": SUM}).json()
            assert form["version"] == NEWEST
            assert client.post(infer.format(""), json=tensor([3, 1])).json()["model_version"] == NEWEST
            for version in (FIRST, NEWEST):
                named = client.post(f"/predict/sums/versions/{version}", content=SUM).json()
                assert named["version"] == version
                path = infer.format(f"/versions/{version}")
                assert client.post(path, json=tensor([3, 1])).json()["model_version"] == version

    def test_errors_count_for_the_version(self, home: Path) -> None:
        with application(home, PERCEPT_CANARY=f"sums@{NEWEST}:100%") as client:
            name, labels = "percept_canary_requests_total", {"model": "sums", "version": NEWEST}
            before = counts(client)
            assert client.post("/predict/sums", content=b"[1, 2, 3]").status_code == 422
            assert client.post("/v2/models/sums/infer", json={"inputs": []}).status_code == 400
            after = counts(client)
            for code in ("422", "400"):
                assert total(after, name, code=code, **labels) - total(before, name, code=code, **labels) == 1

    def test_one_of_another_kind_takes_no_part(self, home: Path) -> None:
        put(home, changed(sides_model("v9"), name="digits"))
        put(home, digits_model(NEWEST))
        with application(home, PERCEPT_CANARY="digits@v9:100%") as client:
            assert client.post("/digits", content=PICTURE).json()["version"] == NEWEST
            (state,) = client.get("/readyz").json()["canary"]
            assert not state["active"]
            assert "another kind of input" in state["reason"]

    def test_one_of_another_number_of_values_takes_no_part(self, home: Path) -> None:
        """It would refuse every request that the other one answers."""
        put(home, changed(sums_model("v9"), name="sides"))
        assert percept("promote", f"sides@{FIRST}", home=home).returncode == 0
        with application(home, PERCEPT_CANARY="sides@v9:100%", PERCEPT_SHADOW="sums@v2") as client:
            assert client.post("/predict/sides", content=b"[1]").json()["version"] == FIRST
            state = client.get("/readyz").json()
            assert "another kind of input" in state["canary"][0]["reason"]
            assert state["shadow"][0]["active"]

    def test_one_that_is_missing_comes_and_goes(self, home: Path, caplog: pytest.LogCaptureFixture) -> None:
        def found() -> tuple[str, bool, str | None]:
            client.poll()
            (state,) = client.get("/readyz").json()["canary"]
            answer = client.post("/predict/sums", content=SUM)
            assert answer.status_code == 200
            return answer.json()["version"], state["active"], state.get("reason")

        folder = home / "models" / "sums" / NEWEST
        whole = shutil.move(folder, home / "aside")
        with caplog.at_level(logging.INFO), application(home, PERCEPT_CANARY=f"sums@{NEWEST}:100%") as client:
            assert client.get("/readyz").status_code == 200
            missing = f"there is no version sums@{NEWEST}"
            assert found() == found() == (FIRST, False, missing)
            shutil.move(whole, folder)
            assert found() == (NEWEST, True, None)
            assert percept("promote", f"sums@{NEWEST}", home=home).returncode == 0
            assert found() == (NEWEST, False, "it is the version that is served")
            assert percept("rollback", "sums", home=home).returncode == 0
            assert found() == (NEWEST, True, None)
            assert percept("remove", "sums", NEWEST, "--yes", home=home).returncode == 0
            assert found() == (FIRST, False, missing)
            put(home, changed(sums_model("v3"), 3))
            assert found() == ("v3", False, missing)
        said = [record.getMessage() for record in caplog.records if missing in record.getMessage()]
        assert said == [f"{CANARY}: {missing}; what is served goes on being served"] * 2

    def test_one_that_is_broken_takes_no_part(self, home: Path, caplog: pytest.LogCaptureFixture) -> None:
        file = home / "models" / "sums" / NEWEST / "model.onnx"
        with application(home, PERCEPT_CANARY=f"sums@{NEWEST}:100%") as client:
            assert client.post("/predict/sums", content=SUM).json()["version"] == NEWEST
            file.write_bytes(b"not a graph")
            client.poll()
            client.poll()
            assert client.post("/predict/sums", content=SUM).json()["version"] == FIRST
            (state,) = client.get("/readyz").json()["canary"]
            assert state["reason"] == f"sums:{NEWEST} could not be loaded; the log of the service says why"
        assert len([r for r in caplog.records if CANARY in r.getMessage()]) == 1

    def test_one_that_nobody_trusted_has_signed_takes_no_part(self, home: Path) -> None:
        ours = key("ours")
        sign(home / "models" / "sums" / FIRST, home, ours)
        keys = str(public(home, ours))
        with application(home, PERCEPT_CANARY=f"sums@{NEWEST}:100%", PERCEPT_TRUSTED_KEYS=keys) as client:
            assert client.post("/predict/sums", content=SUM).json()["version"] == FIRST
            (state,) = client.get("/readyz").json()["canary"]
            assert state["reason"] == f"sums:{NEWEST} is not trusted: it carries no signature"


class TestShadow:
    def outcomes(self, client: Client, n: int, model: str = "sides") -> dict[tuple[str, str], float]:
        """(label, outcome) → how many answers of the shadow, once there are n."""
        name = "percept_shadow_answers_total"
        until(lambda: total(counts(client), name, model=model) >= n, 10)
        found = [(dict(labels), n) for (have, labels), n in counts(client).items() if have == name]
        return {(labels["label"], labels["outcome"]): n for labels, n in found if labels["model"] == model}

    def test_agreement_by_label(self, home: Path) -> None:
        """The shadow takes -0.5 for right, since it adds 1."""
        put(home, changed(sides_model("v3"), name="agreeing"))
        put(home, changed(sides_model("v4"), bias=1, name="agreeing"))
        assert percept("promote", "agreeing@v3", home=home).returncode == 0
        with application(home, PERCEPT_SHADOW="agreeing@v4") as client:
            for value in (-3, -2, -0.5, 0.5, 2):
                answer = client.post("/predict/agreeing", json=[value]).json()
                assert (answer["version"], answer["label"]) == ("v3", "left" if value < 0 else "right")
            batch = client.post("/v2/models/agreeing/infer", json=tensor([-3], [-0.5], [1]))
            assert batch.json()["model_version"] == "v3"
            client.post("/predict/agreeing/versions/v3", json=[-0.5])
            assert self.outcomes(client, 8, "agreeing") == {
                ("left", "same"): 3, ("left", "different"): 2, ("right", "same"): 3,
            }  # fmt: skip
            assert client.get("/readyz").json()["shadow"] == [{"model": "agreeing", "version": "v4", "active": True}]
            assert total(counts(client), "percept_predictions_total", model="agreeing", version="v4") == 0

    def test_regressions_and_failures(self, home: Path) -> None:
        """The shadow doubles the values, and overflows where the version that is served does not."""
        put(home, changed(sums_model("v3"), 1, name="doubled"))
        put(home, changed(sums_model("v4"), 2, name="doubled"))
        assert percept("promote", "doubled@v3", home=home).returncode == 0
        with application(home, PERCEPT_SHADOW="doubled@v4") as client:
            for values in ([0, 0], [3, 1], [2e38, 0]):
                assert client.post("/predict/doubled", json=values).status_code == 200
            found = self.outcomes(client, 3, "doubled")
        assert found == {("value", "same"): 1, ("value", "different"): 1, ("value", "error"): 1}

    @pytest.mark.parametrize(("constant", "reason"), [("WAITING", "full"), ("BYTES", "large"), ("WORK", "large")])
    def test_what_does_not_fit_is_dropped(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, constant: str, reason: str
    ) -> None:
        monkeypatch.setattr(shadow, constant, 0 if constant == "WAITING" else 10)
        name, labels = "percept_shadow_dropped_total", {"model": "digits", "version": "v3", "reason": reason}
        put(home, digits_model("v3"))
        put(home, digits_model("v4"))
        with application(home, PERCEPT_SHADOW="digits@v3") as client:
            before = total(counts(client), name, **labels)
            assert client.post("/digits", content=PICTURE).status_code == 200
            until(lambda: total(counts(client), name, **labels) == before + 1, 10)


def test_no_request_fails_while_versions_are_switched(home: Path) -> None:
    """Promotions, rollbacks, exports, and a canary and a shadow that are removed, while four clients go on asking: each
    answer is that of the version which it names."""
    found: list[Counter[tuple[int, str | None, float | None]]] = [Counter() for _ in range(4)]
    done = threading.Event()
    for n in (3, 4):
        put(home, changed(sums_model(f"v{n}"), n))
    with (
        serving(home, PERCEPT_CANARY="sums@v3:20%", PERCEPT_SHADOW="sums@v4", PERCEPT_POLL_SECONDS="1") as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):

        def ask(counter: Counter[tuple[int, str | None, float | None]]) -> None:
            with httpx.Client(base_url=server.url, timeout=30) as own:
                while not done.wait(0.01):
                    response = own.post("/predict/sums", content=SUM)
                    body = response.json()
                    counter[response.status_code, body.get("version"), body.get("value", {}).get("sum")] += 1

        def switch(n: int, *command: str) -> None:
            if command:
                assert percept(*command, home=home).returncode == 0
            until(lambda: client.get("/readyz").json()["models"]["sums"] == f"v{n}")
            before = sum(counter[200, f"v{n}", 4.0 * n] for counter in found)
            until(lambda: sum(counter[200, f"v{n}", 4.0 * n] for counter in found) > before + 5)

        threads = [threading.Thread(target=ask, args=[counter]) for counter in found]
        for thread in threads:
            thread.start()
        try:
            switch(2, "promote", "sums@v2")
            switch(3, "promote", "sums@v3")  # the canary
            switch(2, "rollback", "sums")
            switch(2, "remove", "sums", "v3", "--yes")
            put(home, changed(sums_model("v5"), 5))
            switch(5)
            switch(4, "rollback", "sums")  # the shadow
            switch(5, "remove", "sums", "v4", "--yes")
        finally:
            done.set()
            for thread in threads:
                thread.join()
        states = client.get("/readyz").json()
    every = sum(found, Counter())
    assert {status for status, _, _ in every} == {200}, every
    assert set(every) <= {(200, f"v{n}", 4.0 * n) for n in range(1, 6)}, every
    assert not states["canary"][0]["active"]
    assert not states["shadow"][0]["active"]
    log = server.log.read_text()
    assert log.count(f"{CANARY}: there is no version sums@v3") == 1
    assert "Traceback" not in log
