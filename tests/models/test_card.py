"""The card: cards of earlier versions are read and served unchanged."""

import json
from pathlib import Path

import onnx

from models.card import CARD_KEY, ModelCard
from service.serving.predictor import Predictor
from tests.serving import NEWEST, instruments_model


def test_a_card_with_features_of_an_earlier_version_is_read_and_served(tmp_path: Path) -> None:
    model = instruments_model(NEWEST)
    (entry,) = [prop for prop in model.metadata_props if prop.key == CARD_KEY]
    written = json.loads(entry.value) | {"features": {"kind": "mfcc", "lifter": 10.0}}
    entry.value = json.dumps(written)
    assert ModelCard.model_validate_json(entry.value).features == written["features"]
    onnx.save(model, tmp_path / "model.onnx")
    assert Predictor(tmp_path / "model.onnx").card.features == written["features"]
