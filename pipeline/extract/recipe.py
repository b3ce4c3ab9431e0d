"""The recipe for one sample, in this process or on a node of a cluster: decode, vary and extract features."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import FEATURES_VERSION, frontend
from models.frontend import FrontEnd
from models.image import Picture
from pipeline.extract import copies, mirror
from pipeline.extract.splits import assign_split
from pipeline.sources import UNREADABLE, Data, Sample, Split
from pipeline.task import Task, Variation, digest
from pipeline.threads import ordered_map, threads
from service import media
from service.errors import MediaError
from service.media import Limits

LEARNED = 2_000  # training samples that a front end learns from, at most
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
    state : what the front end has learned from training samples, by name; see `learn`
    """

    parameters: dict[str, Any]
    data: Data
    variation: Variation
    named: frozenset[Split | None]
    state: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @staticmethod
    def of(task: Task, samples: Iterable[Sample]) -> "Recipe":
        """The recipe of a task for the samples of its source."""
        parameters = task.features.model_dump(mode="json")
        return Recipe(parameters, task.data, task.augment, frozenset(s.split for s in samples))

    @property
    def key(self) -> str:
        """Digest of everything besides the content that features depend on: parameters, limits, versions of the
        code."""
        made_of = [self.parameters, asdict(Limits.from_environment()), FEATURES_VERSION, media.VERSION]
        learned = [[name, sha256(array.tobytes()).hexdigest()] for name, array in sorted(self.state.items())]
        return digest(made_of + learned)

    @property
    def copies_key(self) -> str:
        """The same for the features of its copies."""
        return digest([self.key, self.variation.of(self.parameters["kind"]), self.variation.VERSION])

    def split(self, sample: Sample, content: str) -> Split:
        """The split of a sample whose content has that digest."""
        return assign_split(sample.split, self.named, content, self.data)

    def n_copies(self, sample: Sample, content: str) -> int:
        """How many copies the sample gets: none in the test split."""
        copies = self.variation.copies
        return copies if copies and self.split(sample, content) != "test" else 0

    def front_end(self) -> FrontEnd:
        """The front end, with what it has learned."""
        module = frontend.build(self.parameters)
        frontend.set_state(module, self.state)
        return module

    def learned(self, samples: Sequence[Sample]) -> "Recipe":
        """The recipe with what its front end learns from the training samples: nothing, for most front ends.

        It looks at `LEARNED` of them at most, those with the least digests, so that more data change little. Then the
        validation samples decide whether mirror images are among the copies, if that is left open.
        """
        front = frontend.build(self.parameters)
        if not isinstance(front, Picture):
            return self
        digests = list(ordered_map(Sample.digest, samples))
        pictures, labels = self._decoded(samples, digests, "train", LEARNED)
        if not len(pictures):
            return self
        print(f"  learning a dictionary of {front.atoms} patches from {len(pictures):,} training pictures", flush=True)
        with threads(1):  # the order of sums depends on the number of threads
            state = front.learn(torch.from_numpy(pictures))
            front.load_state_dict(state)
            learned = replace(self, state={name: tensor.numpy() for name, tensor in state.items()})
            if self.variation.mirror != "auto" or not self.variation.copies:
                return learned
            n_training, n_validation = mirror.LOOKED_AT
            held_out, expected = self._decoded(samples, digests, "validation", n_validation)
            helps = bool(expected) and mirror.helps(
                front, pictures[:n_training], labels[:n_training], held_out, expected
            )
        print(f"  mirror images {'help' if helps else 'do not help'} on the validation samples", flush=True)
        variation = self.variation.model_copy(update={"mirror": "always" if helps else "never"})
        return replace(learned, variation=variation)

    def _decoded(
        self, samples: Sequence[Sample], digests: Sequence[str], split: Split, most: int
    ) -> tuple[NDArray[np.uint8], list[str]]:
        """Pictures (N, S, S, 3) and labels of a split, the first `most` in the order of their digests."""
        own = {
            c: s
            for s, c in zip(samples, digests, strict=True)
            if not c.startswith(UNREADABLE) and self.split(s, c) == split
        }
        pictures, labels = [], []
        for content in sorted(own):
            with suppress(MediaError):
                pictures.append(np.asarray(own[content].media.load(), np.uint8))
                labels.append(str(own[content].label))
            if len(labels) == most:
                break
        return np.stack(pictures) if pictures else np.empty((0, 1, 1, 3), np.uint8), labels

    def extractor(self, keep: Keep | None = None) -> Callable[[Sample, str], Extracted]:
        """A function that extracts a sample, given the digest of its content; it may run in several threads."""
        module = self.front_end()
        row = row_of(module)

        def extract(sample: Sample, content: str) -> Extracted:
            varied = np.empty((self.n_copies(sample, content), module.n_features), np.float32)
            try:
                decoded = sample.media.load()
            except MediaError as error:
                return Extracted(None, varied[:0], str(error))
            for number in range(len(varied)):
                varied[number] = row(copies.copy(decoded, module.input, self.variation, content, number))
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
