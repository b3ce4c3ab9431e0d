"""Digits with LitServe and ONNX Runtime: `python litserve_app.py PORT`."""

import os
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime
from fastapi import Request
from PIL import Image


class Digits(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.session = onnxruntime.InferenceSession(os.environ["DIGITS_ONNX"])

    def decode_request(self, request: Request) -> Any:
        image = Image.open(request["image"].file).convert("L").resize((28, 28))
        return np.asarray(image, dtype=np.uint8)[np.newaxis]

    def predict(self, batch: Any) -> Any:
        (probabilities,) = self.session.run(["probabilities"], {"image": batch})
        return probabilities[0]

    def encode_response(self, probabilities: Any) -> dict[str, Any]:
        return {"label": str(probabilities.argmax()), "probabilities": probabilities.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Digits(), accelerator="cpu")
    server.run(port=int(sys.argv[1]), generate_client_file=False)
