"""Drift: the index itself, and what an operator sees of it."""

from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from models.card import FeatureGroup
from service.media.image import to_mnist_form
from service.serving import drift
from service.serving.drift import COUNTED, EVERY, MIN_SAMPLES, WINDOW, Drift, Scores
from tests.conftest import Trained
from tests.service.in_process import application
from tests.service.test_metrics import parsed


class TestDrift:
    @pytest.fixture(scope="class")
    @classmethod
    def exported(cls, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
        """A client of `digits` as the pipeline exports it."""
        home = tmp_path_factory.mktemp("drift")
        trained(home, "digits", "--data", "scans", outliers=False)
        with application(home) as client:
            yield client

    def indices(self, client: httpx.Client) -> dict[str, float]:
        return {
            dict(labels)["group"]: value
            for (name, labels), value in parsed(client.get("/metrics").text).items()
            if name == "percept_drift_psi" and dict(labels)["model"] == "digits"
        }

    def test_it_rises_when_the_requests_change(self, exported: httpx.Client) -> None:
        digits = load_digits()
        pictures = np.stack([to_mnist_form(image) for image in digits.images])
        rng = np.random.default_rng(0)
        parameters = f'"parameters":{{"binary_data_size":{COUNTED * 784}}}'
        tensor = f'{{"inputs":[{{"name":"image","shape":[{COUNTED},28,28],"datatype":"UINT8",{parameters}}}]}}'.encode()
        size = {"inference-header-content-length": str(len(tensor))}

        def ask(rows: NDArray[np.intp], batches: int) -> None:
            for _ in range(batches):
                batch = pictures[rng.choice(rows, COUNTED)]
                body = tensor + batch.tobytes()
                assert exported.post("/v2/models/digits/infer", content=body, headers=size).is_success

        assert self.indices(exported) == {}
        ask(np.arange(len(pictures)), EVERY * WINDOW // COUNTED)
        usual = self.indices(exported)
        ask(np.flatnonzero(digits.target == 1), EVERY * WINDOW // COUNTED)
        changed = self.indices(exported)
        assert set(usual) == set(changed) == {f"rows {i}–{i + 3}" for i in range(0, 28, 4)}
        assert max(usual.values()) < 0.1
        assert max(changed.values()) > 0.5


class TestScores:
    def test_root_mean_squares_and_single_values(self) -> None:
        x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
        found = Scores([(0, 3), (3, 4), (4, 6)])(x)
        assert found[:, 0] == pytest.approx(np.sqrt((x[:, :3].astype(float) ** 2).mean(1)))
        assert found[:, 1] == pytest.approx(x[:, 3])
        assert found.shape == (5, 3)

    def test_the_index_follows_the_textbook(self) -> None:
        p, q = np.array([0.2, 0.3, 0.5]), np.array([0.3, 0.3, 0.4])
        expected = sum((a - b) * np.log(a / b) for a, b in zip(p, q, strict=True))
        assert drift.index(p, q) == pytest.approx(expected)
        assert drift.index(q, q) == 0
        assert drift.index(np.array([1.0, 0.0]), np.array([0.0, 1.0])) > 5

    def test_a_score_on_an_edge_lies_above_it(self) -> None:
        """Of constant features, such as the margin of MNIST's pictures, all scores fall into one bin."""
        group = FeatureGroup(name="g", start=0, stop=1, edges=(0.0,), shares=(0.0, 1.0))
        watched = Drift([group])
        for _ in range(EVERY * MIN_SAMPLES):
            watched.add(np.zeros((1, 1)), np.ones((1, 1), np.float32))
        assert watched.indices() == {"g": 0.0}

    def test_an_answer_that_is_not_finite_is_not_counted(self) -> None:
        """The service refuses it; a confidence that is no number would make the estimated accuracy none either."""
        watched = Drift([FeatureGroup(name="g", start=0, stop=1, edges=(0.0,), shares=(0.0, 1.0))])
        answers = np.array([[0.1, 0.9], [np.nan, np.nan]], np.float32)
        for _ in range(EVERY * MIN_SAMPLES):
            watched.add(np.zeros((2, 1)), answers)
        assert len(watched.samples()) == MIN_SAMPLES
