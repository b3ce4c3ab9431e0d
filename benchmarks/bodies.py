"""Request bodies for benchmarks/serving.py: a digit, a sound, and both forms of the Open Inference Protocol."""

import io
import json
import wave
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SECONDS = 2  # of sound
HEADER = "Inference-Header-Content-Length"  # length of the JSON before the binary data


def body(kind: str, runs: Path) -> dict[str, Any]:
    """`content`, `files` and `headers` of a POST of this kind, for httpx, made from the samples in `runs`."""
    name, _, n = kind.partition("-")
    match name:
        case "raw":
            return {"content": picture(runs).read_bytes(), "headers": {"Content-Type": "image/png"}}
        case "form":
            return {"files": {"image": ("digit.png", picture(runs).read_bytes(), "image/png")}}
        case "wav":
            return {"content": sound(runs), "headers": {"Content-Type": "audio/wav"}}
        case "json":
            batch = pictures(runs, int(n))
            tensor = {"name": "image", "shape": batch.shape, "datatype": "UINT8", "data": batch.ravel().tolist()}
            request = {"inputs": [tensor], "outputs": [{"name": "probabilities"}]}
            content = json.dumps(request, separators=(",", ":")).encode()
            return {"content": content, "headers": {"Content-Type": "application/json"}}
        case "binary":
            batch = pictures(runs, int(n))
            tensor = {"name": "image", "shape": batch.shape, "datatype": "UINT8"}
            output = {"name": "probabilities", "parameters": {"binary_data": True}}
            tensor["parameters"] = {"binary_data_size": batch.nbytes}
            header = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
            headers = {"Content-Type": "application/octet-stream", HEADER: str(len(header))}
            return {"content": header + batch.tobytes(), "headers": headers}
    raise ValueError(kind)


def correct(kind: str, answer: httpx.Response) -> bool:
    """Whether the answer is complete, and for pictures has the right labels."""
    name, _, n = kind.partition("-")
    if name == "wav":
        return "label" in answer.json()
    if name in ("raw", "form"):
        return bool(answer.json()["label"] == "7")
    if name == "json":
        (output,) = [output for output in answer.json()["outputs"] if output["name"] == "probabilities"]
        probabilities = np.array(output["data"])
    else:
        probabilities = np.frombuffer(answer.content[int(answer.headers[HEADER]) :], np.float32)
    return bool((probabilities.reshape(int(n), -1).argmax(axis=1) == np.arange(int(n)) % 10).all())


def picture(runs: Path, digit: int = 7) -> Path:
    return runs / f"digits/samples/{digit}.png"


def pictures(runs: Path, n: int) -> NDArray[np.uint8]:
    """uint8 (n, 28, 28): one sample of each digit, repeated."""
    ten = np.stack([np.asarray(Image.open(picture(runs, digit))) for digit in range(10)])
    return ten[np.arange(n) % 10]


def sound(runs: Path) -> bytes:
    """A sample of `instruments`, repeated to a WAV file of SECONDS."""
    file = io.BytesIO()
    with wave.open(str(runs / "instruments/samples/violin.wav")) as sample, wave.open(file, "wb") as longer:
        longer.setparams(sample.getparams())
        size = sample.getnchannels() * sample.getsampwidth() * sample.getframerate() * SECONDS
        frames = sample.readframes(sample.getnframes())
        longer.writeframes((frames * (size // len(frames) + 1))[:size])
    return file.getvalue()
