"""Stage 4: weights → one self-contained ONNX graph in the model store."""

from pipeline.export.stage import export

__all__ = ["export"]
