"""Stage 1: samples → features."""

from pipeline.extract import skipped
from pipeline.extract.features import Features
from pipeline.extract.media import load_media
from pipeline.extract.recipe import Recipe, row_of
from pipeline.extract.rows import PIECE, FileRows, Matrix
from pipeline.extract.splits import assign_split
from pipeline.extract.stage import extract

__all__ = [
    "PIECE",
    "Features",
    "FileRows",
    "Matrix",
    "Recipe",
    "assign_split",
    "extract",
    "load_media",
    "row_of",
    "skipped",
]
