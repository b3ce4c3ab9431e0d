"""Sets of pictures that are hard for pixels, drawn or cut out of photographs that come with scikit-image and
scikit-learn: `objects`, `textures` and `signs`. Each is a function of a number and a seed."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.picturesets.objects import objects
from benchmarks.picturesets.signs import signs
from benchmarks.picturesets.textures import textures

Pictures = tuple[NDArray[np.uint8], NDArray[np.str_], NDArray[np.str_]]  # (N, S, S, 3), labels (N,), splits (N,)

SETS: dict[str, Callable[[int, int], Pictures]] = {"objects": objects, "textures": textures, "signs": signs}
