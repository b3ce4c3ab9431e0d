"""Decoded media of a run's samples, for the stages after extraction: each decoded once in a command, if it fits."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import sources
from pipeline.extract.features import Features
from pipeline.run import Run
from pipeline.sources import Decoded, Sample
from pipeline.sources.table import ColumnType, RowMedia
from pipeline.task import TableFeatures, UserError
from service.errors import MediaError

BUDGET = 64 << 20  # bytes of decoded media that are kept; anything beyond is decoded again

Array = NDArray[np.generic]  # input of the graph: uint8 (28, 28), float32 (T,) or float32 (D,)


class _Place(NamedTuple):
    """Where an array is in a file."""

    offset: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


class MediaCache:
    """Samples that a command has already loaded, and media that it has decoded. These lie in a file without a name,
    which ends with the command: in memory they would be there until the last stage.

    Parameters
    ----------
    folder : of that file; created if it is needed
    """

    def __init__(self, folder: Path) -> None:
        self.samples: dict[str, Sample] = {}  # by file
        self.digests: dict[str, str] = {}  # of what was extracted, by file, where an earlier command did
        self.n_bytes = 0  # of media in the file
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._places: dict[str, _Place] = {}
        self._lock = Lock()

    @staticmethod
    def of(run: Run) -> "MediaCache":
        """The media of a run, kept while its features do not change; empty at first."""
        return run.load(run.features, "extract", _empty)

    def keep_samples(self, run: Run, features: Features, samples: Sequence[Sample]) -> None:
        """Keep the test samples too, for later stages of this command; the run's features have just been written."""
        files = set(features.file[features.rows("test")].tolist())
        self.samples = {sample.file: sample for sample in samples if sample.file in files}
        run.put(run.features, _empty, self)

    def keep(self, sample: Sample, decoded: Array) -> None:
        """Keep the decoded media of a sample, within the budget and while the disk has room; safe in several
        threads."""
        if isinstance(sample.media, Decoded):
            return
        with self._lock:
            if sample.file in self._places or self.n_bytes + decoded.nbytes > BUDGET:
                return
            try:
                if self._file is None:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    self._file = TemporaryFile(dir=self._folder)  # noqa: SIM115
                written = os.pwrite(self._file.fileno(), decoded.tobytes(), self.n_bytes)
            except OSError:  # no room: it is decoded again
                return
            if written == decoded.nbytes:
                self._places[sample.file] = _Place(self.n_bytes, decoded.dtype, decoded.shape)
                self.n_bytes += decoded.nbytes

    def decoded(self, file: str) -> Array | None:
        """The decoded media of a sample, newly allocated; None if they are not kept."""
        place = self._places.get(file)
        if place is None or self._file is None:
            return None
        array = np.empty(place.shape, place.dtype)
        if array.nbytes:
            os.preadv(self._file.fileno(), [array.data.cast("B")], place.offset)
        return array


def _empty(features: Path) -> MediaCache:
    return MediaCache(features.parent)


class _Decoded(Mapping[str, Array]):
    """Decoded media by file, each decoded when it is asked for, unless it is kept already."""

    def __init__(self, media: MediaCache, files: Sequence[str]) -> None:
        self._media, self._files = media, dict.fromkeys(files)

    def __getitem__(self, file: str) -> Array:
        media = self._media
        kept = media.decoded(file)
        if kept is not None:
            return kept
        sample = media.samples[file]
        if (extracted := media.digests.get(file)) and sample.digest() != extracted:
            raise UserError(f"{file}: has changed since extraction; run `percept extract` again")
        try:
            decoded = sample.media.load()
        except MediaError as error:
            raise UserError(f"a sample has changed since extraction ({error}); run `percept extract` again") from None
        media.keep(sample, decoded)
        return decoded

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def load_media(run: Run, files: Sequence[str]) -> Mapping[str, Array]:
    """File → decoded media of a run's samples, not to be changed: uint8 (28, 28), float32 (T,) or float32 (D,).

    They are decoded one by one, as they are asked for, which raises UserError if one has changed since an earlier
    command extracted it; callers that need many should not keep them.

    Raises
    ------
    UserError : no features, or a file is no longer in the source
    """
    load_samples(run, files)
    return _Decoded(MediaCache.of(run), files)


def load_samples(run: Run, files: Iterable[str]) -> Mapping[str, Sample]:
    """The samples of a run's source by file, none of them decoded; kept for the rest of the command.

    Raises
    ------
    UserError : no features, one of the files is no longer in the source, or the columns of a table are others
    """
    media = MediaCache.of(run)
    if any(file not in media.samples for file in files):
        features = Features.of(run)
        media.samples = _of_source(features, files)
        media.digests = dict(zip(features.file.tolist(), features.digest.tolist(), strict=True))
    return media.samples


def _of_source(features: Features, files: Iterable[str]) -> dict[str, Sample]:
    """See `load_samples`."""
    origin = features.origin()
    samples = {sample.file: sample for sample in sources.load(origin.data, origin.features)}
    if gone := set(files) - samples.keys():
        raise UserError(f"{min(gone)}: no longer in the source; run `percept extract` again")
    if isinstance(origin.features, TableFeatures):
        columns = tuple(ColumnType(c.name, c.categories, c.comma) for c in origin.features.columns)
        media = next(iter(samples.values())).media
        if isinstance(media, RowMedia) and media.columns != columns:  # a category may have another index now
            changed = "its columns have changed since extraction; run `percept extract` again"
            raise UserError(f"{origin.data.path}: {changed}")
    return samples
