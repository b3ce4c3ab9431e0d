"""Versions of the code that features depend on: raise one when the same samples give something else.

They are defined where reading them imports nothing that takes long.
"""

from models import FEATURES_VERSION
from pipeline.task import Variation
from service import media

FINGERPRINTS_VERSION = 1  # of the fingerprints (extract/fingerprints.py)
WEIGHING_VERSION = 1  # of what chooses the share of a picture's features (extract/weighing.py)
EXTRACTION = f"{FEATURES_VERSION}.{media.VERSION}.{FINGERPRINTS_VERSION}.{Variation.VERSION}"
