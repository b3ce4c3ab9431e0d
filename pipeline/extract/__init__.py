"""Stage 1: samples → features."""

from pipeline.extract.features import Features
from pipeline.extract.recipe import Recipe, row_of
from pipeline.extract.splits import assign_split
from pipeline.extract.stage import extract, in_turn, origin

__all__ = ["Features", "Recipe", "assign_split", "extract", "in_turn", "origin", "row_of"]
