"""Digits with MLServer and ONNX Runtime: `mlserver start .`; the Open Inference Protocol is MLServer's own."""

import os

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Digits(MLModel):
    async def load(self) -> bool:
        self.session = onnxruntime.InferenceSession(os.environ["DIGITS_ONNX"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        batch = NumpyCodec.decode_input(payload.inputs[0])
        (probabilities,) = self.session.run(["probabilities"], {"image": batch})
        output = NumpyCodec.encode_output("probabilities", probabilities)
        return InferenceResponse(model_name=self.name, outputs=[output])
