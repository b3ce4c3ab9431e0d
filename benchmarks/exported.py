"""The exported model of a run, which some benchmarks ask."""

import sys
from pathlib import Path

from service.serving.predictor import Predictor


def predictor_of(run: Path, command: str) -> Predictor:
    """The model of a run directory; where there is none, the program ends with a line that names the `command`."""
    graph = run / "model.onnx"
    if not graph.is_file():
        sys.exit(f"{graph}: does not exist; run `{command}` first")
    return Predictor(graph)
