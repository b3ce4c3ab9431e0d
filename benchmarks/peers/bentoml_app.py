"""Digits with BentoML's own typed endpoint and ONNX Runtime: `bentoml serve bentoml_app:Digits`."""

import os
from typing import Any

import bentoml
import numpy as np
import onnxruntime
from PIL.Image import Image


@bentoml.service
class Digits:
    def __init__(self) -> None:
        self.session = onnxruntime.InferenceSession(os.environ["DIGITS_ONNX"])

    @bentoml.api
    def predict(self, image: Image) -> dict[str, Any]:
        batch = np.asarray(image.convert("L").resize((28, 28)), dtype=np.uint8)[np.newaxis]
        (probabilities,) = self.session.run(["probabilities"], {"image": batch})
        return {"label": str(probabilities[0].argmax()), "probabilities": probabilities[0].tolist()}
