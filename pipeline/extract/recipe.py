"""What is done to one sample, wherever that is: decode, extract, vary."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import frontend
from models.frontend import FrontEnd
from pipeline.extract import copies
from pipeline.extract.splits import assign_split
from pipeline.sources.sample import Sample, Split
from pipeline.task import Data, Variation
from service.errors import MediaError

Row = NDArray[np.float32]  # (D,)
Extracted = tuple[Row | str, NDArray[np.float32]]  # features, or the reason why there are none; of the copies, (C, D)


@dataclass(frozen=True)
class Recipe:
    """What is done to a sample, wherever that is.

    parameters: of the front end; named: the splits that the data names
    """

    parameters: dict[str, Any]
    data: Data
    variation: Variation
    named: frozenset[Split | None]

    def split(self, sample: Sample, content: str) -> Split:
        return assign_split(sample.split, self.named, content, self.data)

    def n_copies(self, sample: Sample, content: str) -> int:
        copies = self.variation.copies
        return copies if copies and self.split(sample, content) != "test" else 0

    def extractor(self) -> Callable[[Sample, str], Extracted]:
        """What makes a sample and the digest of its content into features, in several threads at once."""
        module = frontend.build(self.parameters)
        row = row_of(module)

        def extracted(sample: Sample, content: str) -> Extracted:
            varied = np.empty((self.n_copies(sample, content), module.n_features), np.float32)
            try:
                decoded = sample.media.load()
            except MediaError as error:
                return str(error), varied[:0]
            for number in range(len(varied)):
                clip, rate = np.asarray(decoded, np.float32), module.input.sample_rate
                assert rate is not None
                varied[number] = row(copies.vary(clip, rate, self.variation, content, number))
            return row(decoded), varied

        return extracted


def digest_of(sample: Sample) -> str:
    """Digest of the content."""
    try:
        return sample.media.digest()
    except MediaError as error:
        return f"unreadable: {error} ({sample.file})"  # differs for each file, so that none counts as a duplicate


def complete(found: Extracted | None, n_copies: int) -> bool:
    """Whether nothing needs to be decoded for a sample and its copies."""
    return found is not None and (isinstance(found[0], str) or len(found[1]) >= n_copies)


def row_of(module: FrontEnd) -> Callable[[NDArray[np.generic]], Row]:
    """What makes decoded media into their features (D,), `module`'s bit for bit, in several threads at once.

    One sample at a time: its features must not depend, not even by rounding, on what stands beside it in a batch.
    Those of sound take many small operators, before and after each of which threads wait for Python's lock; traced,
    the same operators follow one another without Python.
    """
    computed = module.traced()

    @torch.inference_mode()
    def row(media: NDArray[np.generic]) -> Row:
        features: Row = computed(torch.from_numpy(media).unsqueeze(0))[0].numpy()
        return features

    return row
