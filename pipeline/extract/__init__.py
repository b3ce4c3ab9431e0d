"""Stage 1: samples → features."""

from pipeline.extract import skipped
from pipeline.extract.copies import log_uniform
from pipeline.extract.features import Features
from pipeline.extract.media import load_media, load_samples
from pipeline.extract.neighbours import nearest, principal
from pipeline.extract.recipe import Job, Recipe, row_of
from pipeline.extract.rows import PIECE_BYTES, FileRows, Matrix
from pipeline.extract.splits import assign_split, assign_splits
from pipeline.extract.stage import extract

__all__ = [
    "PIECE_BYTES",
    "Features",
    "FileRows",
    "Job",
    "Matrix",
    "Recipe",
    "assign_split",
    "assign_splits",
    "extract",
    "load_media",
    "load_samples",
    "log_uniform",
    "nearest",
    "principal",
    "row_of",
    "skipped",
]
