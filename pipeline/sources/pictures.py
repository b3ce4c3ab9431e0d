"""Samples of pictures in colour of one size, whatever a source gives."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.encoded import EncodedFile
from pipeline.sources.sample import Media, Sample
from service.media.decoders import Picture


@dataclass(frozen=True, slots=True)
class Resized:
    """Pixels uint8 (H, W) or (H, W, 3) of another medium as a picture uint8 (size, size, 3)."""

    media: Media
    size: int

    def digest(self) -> str:
        return self.media.digest()

    def load(self) -> NDArray[np.generic]:
        from service.media.picture import resized

        return resized(np.asarray(self.media.load(), np.uint8), self.size)


def in_colour(sample: Sample, size: int) -> Sample:
    """The sample as a picture in colour, `size` pixels wide and high."""
    media = sample.media
    found = replace(media, decoder=Picture(size)) if isinstance(media, EncodedFile) else Resized(media, size)
    return replace(sample, media=found)
