"""Two models on the same test samples: `percept compare`."""

from pipeline.compare.stage import compare

__all__ = ["compare"]
