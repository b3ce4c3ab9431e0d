"""Stage 1: samples → features."""

from pipeline.extract.stage import FILE, Features, Recipe, assign_split, extract, in_turn, origin, row_of

__all__ = ["FILE", "Features", "Recipe", "assign_split", "extract", "in_turn", "origin", "row_of"]
