"""The recipe for one sample, in this process or on a node of a cluster: decode, vary and extract features."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import FEATURES_VERSION, frontend
from models.frontend import FrontEnd
from pipeline.extract import copies
from pipeline.extract.splits import assign_split
from pipeline.sources import REPEATED, Data, Sample, Split
from pipeline.task import Task, Variation, digest
from service import media
from service.errors import MediaError
from service.media import Limits

Row = NDArray[np.float32]  # (D,)
Keep = Callable[[Sample, NDArray[np.generic]], None]  # receives the decoded media of each test sample


@dataclass(frozen=True, slots=True, eq=False)
class Extracted:
    """The result of extraction for one content.

    row : features float32 (D,), None if the content cannot be used
    copies : features of its copies, float32 (C, D)
    reason : why it cannot be used
    """

    row: Row | None
    copies: NDArray[np.float32]
    reason: str = ""


@dataclass(frozen=True)
class Recipe:
    """How samples are extracted; picklable, so that the nodes of a cluster do the same.

    parameters : of the front end
    named : the splits that the data names
    """

    parameters: dict[str, Any]
    data: Data
    variation: Variation
    named: frozenset[Split | None]

    @staticmethod
    def of(task: Task, samples: Iterable[Sample]) -> "Recipe":
        """The recipe of a task for the samples of its source."""
        parameters = task.features.model_dump(mode="json")
        return Recipe(parameters, task.data, task.augment, frozenset(s.split for s in samples))

    @property
    def key(self) -> str:
        """Digest of everything besides the content that features depend on: parameters, limits, versions of the
        code."""
        return digest([self.parameters, asdict(Limits.from_environment()), FEATURES_VERSION, media.VERSION])

    @property
    def copies_key(self) -> str:
        """The same for the features of its copies."""
        return digest([self.key, self.variation.model_dump(exclude={"copies"}), self.variation.VERSION])

    def split(self, sample: Sample, content: str) -> Split:
        """The split of a sample whose content has that digest."""
        return assign_split(sample.split, self.named, content.partition(REPEATED)[0], self.data)

    def n_copies(self, sample: Sample, content: str) -> int:
        """How many copies the sample gets: none in the test split."""
        copies = self.variation.copies
        return copies if copies and self.split(sample, content) != "test" else 0

    def extractor(self, keep: Keep | None = None) -> Callable[[Sample, str], Extracted]:
        """A function that extracts a sample, given the digest of its content; it may run in several threads."""
        module = frontend.build(self.parameters)
        row = row_of(module)

        def extract(sample: Sample, content: str) -> Extracted:
            varied = np.empty((self.n_copies(sample, content), module.n_features), np.float32)
            try:
                decoded = sample.media.load()
            except MediaError as error:
                return Extracted(None, varied[:0], str(error))
            for number in range(len(varied)):
                clip, rate = np.asarray(decoded, np.float32), module.input.sample_rate
                assert rate is not None
                varied[number] = row(copies.vary(clip, rate, self.variation, content, number))
            if keep is not None and self.split(sample, content) == "test":
                keep(sample, decoded)
            return Extracted(row(decoded), varied)

        return extract


def row_of(module: FrontEnd) -> Callable[[NDArray[np.generic]], Row]:
    """A function from decoded media to features (D,), bit for bit those of `module`; safe in several threads.

    It takes one sample at a time: features must not depend, not even by rounding, on the other samples of a batch.
    Features of sound take many small operators, and threads would wait for Python's lock between them; traced, they run
    without Python in between.
    """
    computed = module.traced()

    @torch.inference_mode()
    def row(media: NDArray[np.generic]) -> Row:
        features: Row = computed(torch.from_numpy(media).unsqueeze(0))[0].numpy()
        return features

    return row
