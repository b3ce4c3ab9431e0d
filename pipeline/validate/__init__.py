"""Stage 3: weights → a report on the test split, and the gate."""

from pipeline.validate.stage import gate, validate

__all__ = ["gate", "validate"]
