"""The recipe for one sample, in this process or on a node of a cluster: decode, vary and extract features."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import FEATURES_VERSION, frontend
from models.frontend import FrontEnd
from pipeline.extract import copies
from pipeline.sources import Sample, Split
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


@dataclass(frozen=True, slots=True)
class Work:
    """A sample to extract.

    content : digest of its content
    group : what must not be divided: the name of its group, or where it has none the digest
    split : None if the content would decide, which cannot be read
    """

    sample: Sample
    content: str
    group: str
    split: Split | None


@dataclass(frozen=True)
class Recipe:
    """How samples are extracted; picklable, so that the nodes of a cluster do the same.

    parameters : of the front end
    """

    parameters: dict[str, Any]
    variation: Variation

    @staticmethod
    def of(task: Task) -> "Recipe":
        """The recipe of a task."""
        return Recipe(task.features.model_dump(mode="json"), task.augment)

    @property
    def key(self) -> str:
        """Digest of everything besides the content that features depend on: parameters, limits, versions of the
        code."""
        return digest([self.parameters, asdict(Limits.from_environment()), FEATURES_VERSION, media.VERSION])

    @property
    def copies_key(self) -> str:
        """The same for the features of its copies."""
        return digest([self.key, self.variation.model_dump(exclude={"copies"}), self.variation.VERSION])

    def n_copies(self, split: Split | None) -> int:
        """How many copies a sample of that split gets: none in the test split."""
        return 0 if split == "test" else self.variation.copies

    def extractor(self, keep: Keep | None = None) -> Callable[[Work], Extracted]:
        """A function that extracts a sample; it may run in several threads."""
        module = frontend.build(self.parameters)
        row = row_of(module)

        def extract(work: Work) -> Extracted:
            varied = np.empty((self.n_copies(work.split), module.n_features), np.float32)
            try:
                decoded = work.sample.media.load()
            except MediaError as error:
                return Extracted(None, varied[:0], str(error))
            for number in range(len(varied)):
                clip, rate = np.asarray(decoded, np.float32), module.input.sample_rate
                assert rate is not None
                varied[number] = row(copies.vary(clip, rate, self.variation, work.content, number))
            if keep is not None and work.split == "test":
                keep(work.sample, decoded)
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
