"""Media files → arrays, in the form that the models take: one implementation for training and for serving.

The decoders stay in their modules, `image`, `audio` and `vector`: importing them loads Pillow, libsndfile and NumPy,
which BentoML's supervisor process does not need.
"""

from service.media.limits import Limits, check_bytes, positive
from service.media.signatures import EXPECTED, EXTRA, undecodable

VERSION = 11  # part of the key of every cache of features: raise it whenever a file decodes to other numbers

__all__ = ["EXPECTED", "EXTRA", "VERSION", "Limits", "check_bytes", "positive", "undecodable"]
