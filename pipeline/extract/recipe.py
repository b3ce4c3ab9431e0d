"""The recipe for one sample, in this process or on a node of a cluster: decode, vary and extract features."""

from collections.abc import Callable, Sequence
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
from pipeline.extract import copies, fingerprints, mirror
from pipeline.extract.fingerprints import Print
from pipeline.profile import marked, step
from pipeline.sources import REGISTRY, Sample, Split
from pipeline.task import Task, Variation, digest
from pipeline.threads import threads
from pipeline.versions import FINGERPRINTS_VERSION
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
    fingerprint : int8 (P,); see `fingerprints.of`
    reason : why it cannot be used
    """

    row: Row | None
    copies: NDArray[np.float32]
    fingerprint: Print
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Job:
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
    compared : near duplicates are looked for, which takes a fingerprint of each sample; not among percept's own data
    state : what the front end has learned from training samples, by name; see `learned`
    """

    parameters: dict[str, Any]
    variation: Variation
    compared: bool = True
    state: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @staticmethod
    def of(task: Task) -> "Recipe":
        """The recipe of a task."""
        compared = REGISTRY[task.data.source].form != "name"
        return Recipe(task.features.model_dump(mode="json"), task.augment, compared)

    @property
    def key(self) -> str:
        """Digest of everything besides the content that features depend on: parameters, limits, versions of the
        code."""
        made_of = [self.parameters, asdict(Limits.from_environment()), FEATURES_VERSION, media.VERSION]
        made_of.append(FINGERPRINTS_VERSION if self.compared else None)
        learned = [[name, sha256(array.tobytes()).hexdigest()] for name, array in sorted(self.state.items())]
        return digest(made_of + learned)

    @property
    def copies_key(self) -> str:
        """The same for the features of its copies."""
        variation, kind = self.variation, self.parameters["kind"]
        degraded = [variation.degraded.of(kind)] if variation.degrade else []
        return digest([self.key, variation.of(kind), *degraded, variation.VERSION])

    def n_copies(self, split: Split | None) -> int:
        """How many copies a sample of that split gets: none in the test split."""
        return 0 if split == "test" else len(self.variation.forms)

    def front_end(self) -> FrontEnd:
        """The front end, with what it has learned."""
        return frontend.build(self.parameters, self.state)

    @step("learn from samples")
    def learned(self, jobs: Sequence[Job]) -> "Recipe":
        """The recipe with what its front end learns from the training samples: nothing, for most front ends.

        It looks at `LEARNED` of them at most, those with the least digests, so that more data change little. Then the
        validation samples decide whether mirror images are among the copies, if that is left open.
        """
        front = frontend.build(self.parameters)
        if not isinstance(front, Picture):
            return self
        pictures, labels = _decoded(jobs, "train", LEARNED)
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
            held_out, expected = _decoded(jobs, "validation", n_validation)
            helps = bool(expected) and mirror.helps(
                front, pictures[:n_training], labels[:n_training], held_out, expected
            )
        print(f"  mirror images {'help' if helps else 'do not help'} on the validation samples", flush=True)
        variation = self.variation.model_copy(update={"mirror": "always" if helps else "never"})
        return replace(learned, variation=variation)

    def extractor(self, keep: Keep | None = None) -> Callable[[Job], Extracted]:
        """A function that extracts a sample; it may run in several threads."""
        module = self.front_end()
        row, varied_copy = marked("features", row_of(module)), marked("copies", copies.copy)
        load = marked("decode", lambda sample: sample.media.load())
        fingerprint = marked("fingerprints", fingerprints.of(module.input)) if self.compared else fingerprints.none

        def extract(job: Job) -> Extracted:
            varied = np.empty((self.n_copies(job.split), module.n_features), np.float32)
            try:
                decoded = load(job.sample)
            except MediaError as error:
                return Extracted(None, varied[:0], np.empty(0, np.int8), str(error))
            for number in range(len(varied)):
                varied[number] = row(varied_copy(decoded, module.input, self.variation, job.content, number))
            if keep is not None and job.split == "test":
                keep(job.sample, decoded)
            return Extracted(row(decoded), varied, fingerprint(decoded))

        return extract


def _decoded(jobs: Sequence[Job], split: Split, most: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Pictures (N, S, S, 3) and labels of a split, the first `most` in the order of their digests."""
    pictures, labels = [], []
    for one in sorted((one for one in jobs if one.split == split), key=lambda one: one.content):
        with suppress(MediaError):
            pictures.append(np.asarray(one.sample.media.load(), np.uint8))
            labels.append(str(one.sample.label))
        if len(labels) == most:
            break
    return np.stack(pictures) if pictures else np.empty((0, 1, 1, 3), np.uint8), labels


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
