"""The accuracy that is estimated without labels."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.card import CARD_KEY, FAMILIARITY, FEATURES, FeatureGroup, ModelCard, Usual
from service.serving.drift import COUNTED, EVERY, MIN_SAMPLES, WINDOW, Drift, Sample
from service.serving.estimate import BIAS, REASONS, estimated, has_estimate
from tests.service.in_process import application
from tests.service.test_metrics import parsed
from tests.serving import CAREFUL, careful_model, put, sums_model

TOO_FEW = MIN_SAMPLES - 1
WHOLE = FeatureGroup(name="whole", start=0, stop=784, edges=(), shares=(1.0,))


def card_of(model: onnx.ModelProto, **changed: Any) -> ModelCard:
    card = ModelCard.model_validate_json(model.metadata_props[0].value)
    return card.model_copy(update={"groups": (WHOLE,), "metrics": {"accuracy": 0.9, "known": 0.98}} | changed)


CARD = card_of(careful_model(), known_threshold=0.1, samples={"test": 10_000})
LENIENT = CARD.model_copy(update={"known_threshold": 0.02})
USUAL = LENIENT.model_copy(update={"usual": Usual(confidence=0.9, familiarity=(0.02, 0.03))})
READ = LENIENT.model_copy(update={"usual": Usual(confidence=0.9, familiarity=(0.05, 0.1), agreement=0.95)})
WEAK = CARD.model_copy(update={"metrics": {"accuracy": 0.89, "known": 0.98}})


def samples(n: int, confidence: float, low: float, unknown: float, agreement: float = math.nan) -> list[Sample]:
    """n samples, with familiarity from `low` to 1, a share of unknown ones, and of those with both readings alike."""
    familiarity = np.linspace(low, 1, n)
    familiarity[: round(unknown * n)] = 0.05
    agrees = np.where(np.arange(n) < agreement * n, 1.0, 0.0) if agreement >= 0 else np.full(n, math.nan)
    pairs = zip(familiarity.tolist(), agrees.tolist(), strict=True)
    return [Sample(np.array([0]), confidence, *pair) for pair in pairs]


class TestEstimated:
    def test_it_is_the_mean_confidence(self) -> None:
        half = samples(500, 0.9, 0.1, 0) + samples(500, 0.7, 0.1, 0)
        found = estimated(CARD, half, {"whole": 0.1})
        assert found.reason is None
        assert found.accuracy == pytest.approx(0.8)
        margin = 1.96 * math.sqrt((0.09 + 0.21) / 2 / 1000 + 0.9 * 0.1 / 10_000 + BIAS**2)
        assert [found.low, found.high] == pytest.approx([0.8 - margin, 0.8 + margin])

    def test_it_is_off_by_no_more_than_the_confidences_of_the_test_split(self) -> None:
        """They were 3 points too low there, so they are now."""
        card = card_of(careful_model(), known_threshold=0.1, usual=Usual(confidence=0.87, familiarity=(0.2, 0.25)))
        found = estimated(card, samples(WINDOW, 0.8, 0.22, 0), {"whole": 0.1})
        assert found.accuracy == pytest.approx(0.83)
        assert found.low < 0.83 < found.high
        assert estimated(card, samples(MIN_SAMPLES, 0.99, 0.22, 0), {"whole": 0.1}).accuracy == 1

    @pytest.mark.parametrize(("agreement", "corrected"), [(0.95, 0.9), (0.94, 0.896), (0.96, 0.904)])
    def test_the_second_reading_corrects_it(self, agreement: float, corrected: float) -> None:
        """By a part of what it changed: some of that is chance."""
        found = estimated(READ, samples(WINDOW, 0.9, 0.06, 0, agreement), {"whole": 0.1})
        assert found.accuracy == pytest.approx(corrected, abs=1e-3)
        without = estimated(READ, samples(WINDOW, 0.9, 0.06, 0), {"whole": 0.1})
        assert without.accuracy == pytest.approx(0.9)
        assert found.high - found.low < without.high - without.low

    def test_the_second_reading_counts_for_less_where_chance_blurs_it(self) -> None:
        """On so small a test split as on so few samples."""
        card = READ.model_copy(update={"metrics": {"accuracy": 0.97}, "usual": Usual(
            confidence=0.97, familiarity=(0.05, 0.1), agreement=0.95)})  # fmt: skip
        sure = card, card, card.model_copy(update={"samples": {"test": 50}})
        sizes = WINDOW, MIN_SAMPLES, WINDOW
        many, few, small = (
            estimated(card, samples(n, 0.985, 0.06, 0, 0.95), {"whole": 0.1}).accuracy
            for card, n in zip(sure, sizes, strict=True)
        )
        assert many < 0.98 < few < 0.985
        assert few < small < 0.985

    def test_the_interval_holds_the_accuracy_of_calibrated_answers(self) -> None:
        rng, held = np.random.default_rng(0), 0
        for _ in range(100):
            confidence = rng.beta(8, 1, WINDOW)
            drawn = [Sample(np.array([0]), value, 0.5) for value in confidence.tolist()]
            found = estimated(CARD, drawn, {"whole": 0.1})
            held += found.low <= (rng.random(WINDOW) < confidence).mean() <= found.high
        assert held >= 90

    def test_it_ends_at_0_and_1(self) -> None:
        few = CARD.model_copy(update={"samples": {"test": 10}})
        found = estimated(few, samples(MIN_SAMPLES, 0.99, 0.1, 0), {"whole": 0.1})
        assert found.high == 1
        assert found.low < found.accuracy < 1

    @pytest.mark.parametrize(
        ("reason", "card", "seen", "psi"),
        [
            ("few", CARD, samples(TOO_FEW, 0.9, 0.1, 0), 0.1),
            ("few", CARD, [Sample(np.array([0]), 0.9, math.nan)] * WINDOW, 0.1),
            ("few", CARD, samples(MIN_SAMPLES, 0.9, 0.1, 0), 0.1),
            ("few", CARD, samples(WINDOW - 1, 0.6, 0.1, 0), 0.1),
            (None, CARD, samples(WINDOW, 0.6, 0.1, 0), 0.1),
            ("weak", WEAK, samples(WINDOW, 0.9, 0.1, 0), 0.1),
            ("uncalibrated", card_of(careful_model(), known_threshold=None), samples(500, 0.9, 0.1, 0), 0.1),
            ("unknown", CARD, samples(WINDOW, 0.9, 0.3, 0.06), 0.1),
            ("unfamiliar", LENIENT, samples(WINDOW, 0.9, 0.1, 0.13), 0.1),
            (None, LENIENT, samples(WINDOW, 0.9, 0.1, 0.11), 0.1),
            ("unfamiliar", LENIENT, samples(WINDOW, 0.97, 0.1, 0.13), 0.1),
            (None, USUAL, samples(WINDOW, 0.9, 0.3, 0.13), 0.1),
            (None, READ, samples(WINDOW, 0.9, 0.1, 0.14, 0.95), 0.1),
            ("unfamiliar", READ, samples(WINDOW, 0.9, 0.1, 0.14), 0.1),
            ("unfamiliar", READ, samples(WINDOW, 0.9, 0.1, 0.16, 0.95), 0.1),
            ("disagreement", READ, samples(WINDOW, 0.9, 0.1, 0.1, 0.91), 0.1),
            ("disagreement", READ, samples(WINDOW, 0.8, 0.1, 0.1, 0.95), 0.1),
            (None, READ, samples(WINDOW, 0.8, 0.1, 0.1, 0.86), 0.1),
            (None, READ, samples(WINDOW - TOO_FEW, 0.9, 0.1, 0.1) + samples(TOO_FEW, 0.9, 0.1, 0, 0), 0.1),
            ("drift", CARD, samples(WINDOW, 0.9, 0.1, 0), 1.5),
            (None, CARD, samples(WINDOW, 0.9, 0.3, 0.03), 0.5),
            (None, card_of(careful_model(), metrics={}, samples={}), samples(WINDOW, 0.9, 0.8, 0), 0.1),
        ],
    )
    def test_it_is_withheld(self, reason: str | None, card: ModelCard, seen: list[Sample], psi: float) -> None:
        found = estimated(card, seen, {"whole": psi})
        assert found.reason == reason
        assert math.isnan(found.accuracy) == math.isnan(found.low) == math.isnan(found.high) == (reason is not None)

    def test_drift_that_is_older_than_the_samples_says_nothing(self) -> None:
        assert estimated(CARD, samples(MIN_SAMPLES, 0.9, 0.1, 0), {}).reason == "few"

    def test_drift_counts_where_the_second_reading_agrees(self) -> None:
        watched = Drift([WHOLE.model_copy(update={"stop": 2})])
        answers = np.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3]], np.float32)
        second = np.array([[-3, -1], [-9, -2], [5, 4]], np.float32)
        for _ in range(EVERY * MIN_SAMPLES):
            watched.add(np.zeros((3, 2)), answers, np.ones(3, np.float32), second)
        assert [sample.agrees for sample in watched.samples()][:3] == [1, 0, 1]
        watched.add(np.zeros((3, 2)), answers, np.ones(3, np.float32))
        assert math.isnan(watched.samples()[-1].agrees)

    def test_a_regression_has_none(self) -> None:
        assert not has_estimate(card_of(sums_model("v1")))
        assert not has_estimate(CARD.model_copy(update={"groups": ()}))
        assert has_estimate(CARD)


def test_an_operator_sees_it(tmp_path: Path) -> None:
    """Strokes are familiar; pictures of much ink are not, and then there is no estimate any more."""
    model = careful_model()
    card = card_of(model, name="estimated", version="v1")
    onnx.helper.set_model_props(model, {CARD_KEY: card.model_dump_json()})
    put(tmp_path, model)
    rng = np.random.default_rng(0)
    binary = f'"parameters":{{"binary_data_size":{COUNTED * 784}}}'
    tensor = f'{{"inputs":[{{"name":"image","shape":[{COUNTED},28,28],"datatype":"UINT8",{binary}}}]}}'.encode()
    size = {"inference-header-content-length": str(len(tensor))}

    with application(tmp_path) as client:

        def found(ink: float, batches: int) -> dict[tuple[str, str], float]:
            for _ in range(batches):
                pixels = np.where(rng.random(COUNTED * 784) < ink, 255, 0).astype(np.uint8).tobytes()
                posted = client.post("/v2/models/estimated/infer", content=tensor + pixels, headers=size)
                assert posted.is_success
            return {
                (name.removeprefix("percept_estimated_accuracy"), "".join({*of.values()} - {"estimated", "v1"})): value
                for (name, labels), value in parsed(client.get("/metrics").text).items()
                if name.startswith("percept_estimated") and (of := dict(labels))["model"] == "estimated"
            }

        few = found(0.1, 1)
        assert math.isnan(few["", ""])
        assert {reason: few["_withheld", reason] for reason in REASONS} == {r: r == "few" for r in REASONS}
        usual = found(0.1, EVERY * WINDOW // COUNTED)
        assert 0 < usual["_interval", "low"] < usual["", ""] < usual["_interval", "high"] <= 1
        assert not any(usual["_withheld", reason] for reason in REASONS)
        other = found(0.5, EVERY * MIN_SAMPLES // COUNTED)
        assert math.isnan(other["", ""])
        assert math.isnan(other["_interval", "low"])
        assert other["_withheld", "unknown"] == 1
    assert CAREFUL["known_threshold"] == 0.7


def test_a_regression_that_is_watched_leaves_the_metrics_as_they_are(tmp_path: Path) -> None:
    """Its values are no probabilities: their variance as such would be negative."""
    model = sums_model("v1")
    whole = WHOLE.model_copy(update={"stop": 2})
    card = card_of(model, name="watched", known_threshold=0.5, groups=(whole,), metrics={})
    onnx.helper.set_model_props(model, {CARD_KEY: card.model_dump_json()})
    model.graph.node.extend(
        [
            onnx.helper.make_node("ReduceMean", ["vector", "axis"], ["mean"], keepdims=0),
            onnx.helper.make_node("Sigmoid", ["mean"], [FAMILIARITY]),
            onnx.helper.make_node("Identity", ["vector"], [FEATURES]),
        ]
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    for name, *width in ((FAMILIARITY,), (FEATURES, 2)):
        shape: list[str | int | None] = ["n0", *width]
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    put(tmp_path, model)
    tensor = {"name": "vector", "shape": [COUNTED, 2], "datatype": "FP32", "data": [3, 1] * COUNTED}
    with application(tmp_path) as client:
        for _ in range(EVERY * MIN_SAMPLES // COUNTED):
            assert client.post("/v2/models/watched/infer", json={"inputs": [tensor]}).is_success
        found = [dict(labels) | {"": name} for name, labels in parsed(client.get("/metrics").text)]
    of_watched = {labels[""] for labels in found if labels.get("model") == "watched"}
    assert "percept_drift_psi" in of_watched
    assert not any(name.startswith("percept_estimated") for name in of_watched)
