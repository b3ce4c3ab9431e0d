"""What pictures look like: symbols on plain ground, as handwriting and drawings are, or anything else."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipeline.sources.encoded import EncodedFile
from service.errors import MediaError
from service.media import Limits
from service.media.decoders import Picture

LOOKED_AT = 60  # files, at most, evenly spread
SIDE = 64  # pixels
BORDER = 4  # pixels: its median is the ground
NEAR, FAINT, INK = 0.15, 0.25, 0.5  # of the strongest difference from the ground: ground, faint ink and ink
BROAD = 19  # pixels of SIDE: strokes are narrower
PLAIN, COLOUR, SOLID = 0.6, 0.1, 0.2  # of symbols: the least ground in the border; the most colour and broad ink


@dataclass(frozen=True, slots=True)
class Appearance:
    """Medians over pictures, 0 … 1.

    plain : share of the border that is of one grey
    ink : share of the picture that differs from it
    solid : share of the ink that is broader than a stroke
    colour : mean difference between the strongest and the weakest of red, green and blue
    """

    plain: float
    ink: float
    solid: float
    colour: float

    @property
    def are_symbols(self) -> bool:
        return self.plain >= PLAIN and self.colour <= COLOUR and self.solid <= SOLID

    def __str__(self) -> str:
        shares = {
            "of the border is plain": self.plain,
            "of the picture is ink": self.ink,
            "of that in broad areas": self.solid,
        }
        return (
            ", ".join(f"{100 * share:.0f} % {of}" for of, share in shares.items())
            + f", colour {100 * self.colour:.0f} %"
        )

    @staticmethod
    def of(files: Sequence[Path]) -> "Appearance | None":
        """Of some of these files; None if none of them can be decoded."""
        found, limits = [], Limits.from_environment()
        for file in files[:: max(1, len(files) // LOOKED_AT)]:
            with suppress(MediaError):
                found.append(_measured(EncodedFile(file, Picture(SIDE), limits).load()))
        return Appearance(*np.median(found, axis=0).tolist()) if found else None


def _measured(picture: NDArray[np.generic]) -> tuple[float, float, float, float]:
    colour = float(np.ptp(picture, axis=2).mean()) / 255
    gray = picture.mean(2)
    border = np.concatenate(
        [side.ravel() for side in (gray[:BORDER], gray[-BORDER:], gray[:, :BORDER], gray[:, -BORDER:])]
    )
    away = np.abs(gray - np.median(border))
    top = max(float(np.quantile(away, 0.98)), 1.0)
    ink = away > INK * top
    mask = Image.fromarray(away > FAINT * top).convert("L")
    # What a brush as broad as that fills (morphological opening).
    brush = mask.filter(ImageFilter.MinFilter(BROAD)).filter(ImageFilter.MaxFilter(BROAD))
    broad, every = (float(np.asarray(part).sum()) for part in (brush, mask))
    plain = float((np.abs(border - np.median(border)) < NEAR * top).mean())
    return plain, float(ink.mean()), broad / max(1.0, every), colour
