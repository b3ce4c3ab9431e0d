"""Digits and sound with FastAPI, ONNX Runtime and librosa: `uvicorn fastapi_app:app`."""

import io
import os
from typing import Any

import librosa
import numpy as np
import onnxruntime
from fastapi import FastAPI, Request, UploadFile
from PIL import Image

app = FastAPI()
digits = onnxruntime.InferenceSession(os.environ["DIGITS_ONNX"])
sounds = onnxruntime.InferenceSession(os.environ["SOUNDS_ONNX"])  # an MLP alone: float32 (N, 80) → (N, K)


def classify_image(data: bytes) -> dict[str, Any]:
    image = Image.open(io.BytesIO(data)).convert("L").resize((28, 28))
    batch = np.asarray(image, dtype=np.uint8)[np.newaxis]
    (probabilities,) = digits.run(["probabilities"], {"image": batch})
    return answer(probabilities[0])


def answer(probabilities: Any) -> dict[str, Any]:
    return {"label": str(probabilities.argmax()), "probabilities": probabilities.tolist()}


@app.post("/digits")
async def raw(request: Request) -> dict[str, Any]:
    return classify_image(await request.body())


@app.post("/form")
async def form(image: UploadFile) -> dict[str, Any]:
    return classify_image(await image.read())


@app.post("/instruments")
async def instruments(request: Request) -> dict[str, Any]:
    waveform, rate = librosa.load(io.BytesIO(await request.body()), sr=22050)
    mfcc = librosa.feature.mfcc(y=waveform, sr=rate, n_mfcc=40)
    features = np.concatenate([mfcc.mean(axis=1), mfcc.std(axis=1)])
    (probabilities,) = sounds.run(["probabilities"], {"features": features[np.newaxis].astype(np.float32)})
    return answer(probabilities[0])
