"""Versions of what builds a model: part of every report and card."""

from importlib.metadata import version

NAMES = ("percept", "torch", "onnx", "onnxruntime", "librosa", "numpy")


def versions() -> dict[str, str]:
    return {name: version(name) for name in NAMES}
