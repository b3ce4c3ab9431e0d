"""A user's files as samples, which the service's decoders decode."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.sample import Sample, Split
from service.errors import Unreadable
from service.media import Limits, check_bytes
from service.media.decoders import Decoder, Sound, Symbol

SECONDS = 120  # of a recording, unless PERCEPT_MAX_SECONDS is set: the front end needs 2 MB a second in each thread


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """A file that Pillow or libsndfile reads, decoded as the service decodes it."""

    path: Path
    decoder: Decoder
    limits: Limits

    def digest(self) -> str:
        return sha256(self._read()).hexdigest()

    def load(self) -> NDArray[np.generic]:
        return self.decoder.decode(self._read(), self.limits)

    def _read(self) -> bytes:
        try:
            status = self.path.stat()
            if not S_ISREG(status.st_mode) and not S_ISDIR(status.st_mode):  # a pipe would never end
                raise Unreadable("cannot be read: not a regular file")
            check_bytes(status.st_size, self.decoder.kind, self.limits)
            return self.path.read_bytes()
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror}") from None


Entry = tuple[str, str, Split | None, str | None, Path]  # file, label, split, group, path


def samples(entries: Iterable[Entry], sample_rate: int | None) -> list[Sample]:
    """A sample for each entry; pictures where `sample_rate` is None, else audio."""
    limits, decoder = Limits.from_environment(SECONDS), Symbol() if sample_rate is None else Sound(sample_rate)
    return [  # macOS writes ö as o and dots: two names that look alike are one class, or one group
        Sample(
            file,
            normalize("NFC", label),
            split,
            EncodedFile(path, decoder, limits),
            group and normalize("NFC", group),
        )
        for file, label, split, group, path in entries
    ]
