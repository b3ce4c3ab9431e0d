"""Recorded instruments through mirdata, which lists the files of a data set with their checksums and annotations.

- `tinysol`          2,913 single notes of 14 instruments (Cella et al. 2020, "OrchideaSOL")
- `medley_solos_db`  21,571 solos of three seconds on 8 instruments (Lostanlen & Cella, ISMIR 2016)
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.sources.encoded import EncodedFile
from pipeline.sources.files import download_folder, expanded, stats, writable
from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import Sample, Split
from service.media import Limits
from service.media.decoders import Sound

TIMEOUT = 60  # s without a byte
BLOCK = 1 << 20  # bytes read at a time
FOLDS = 5  # of TinySOL, balanced by its makers in instrument, pitch and dynamics
SUBSETS: dict[str, Split] = {"training": "train", "validation": "validation", "test": "test"}  # of Medley-solos-DB


def load(data: Data, sample_rate: int | None) -> list[Sample]:
    """The samples of `tinysol` or `medley_solos_db`, in the order of mirdata's index.

    Medley-solos-DB names its splits: its test clips are of other recordings than its training clips. Of TinySOL's five
    folds, number `data.seed` (modulo 5) is the test split and the next one validation; the seeds 0 to 4 together are
    the cross-validation that its makers recommend.

    Parameters
    ----------
    data.path : folder with mirdata's layout, `audio/` and `annotation/`; None downloads into ~/.cache/percept

    Raises
    ------
    UserError : mirdata is not installed, a file is missing or not understood, or the download failed
    """
    assert sample_rate is not None
    name, root = data.source, _root(data)
    with _quiet_logging():
        try:
            module = import_module(f"mirdata.datasets.{name}")
        except ImportError as error:
            raise UserError(f"{name}: mirdata cannot be used ({error}); pip install 'percept[mir]'") from None
        dataset = module.Dataset(data_home=str(root))
        table = _place(module.REMOTES["annotations"], root)
        if data.path is None:
            _download(name, module, dataset, root)
        elif missing := _missing(dataset, table):
            more = f", and so are {len(missing) - 1:,} more" if len(missing) > 1 else ""
            raise UserError(f"{name}: {missing[0]} is missing{more}; `--data {name}` downloads the data set")
        return list(_samples(name, dataset, table, data.seed, sample_rate))


def _root(data: Data) -> Path:
    return download_folder(data.source) / data.source if data.path is None else expanded(data.path)


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """Keep mirdata from configuring the root logger, which mirdata does if there is no handler."""
    guard = logging.NullHandler()
    logging.getLogger().addHandler(guard)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(guard)


def _place(remote: Any, root: Path) -> Path:
    """Where mirdata keeps what it downloads."""
    return Path(root, remote.destination_dir, remote.filename)


def _samples(name: str, dataset: Any, table: Path, seed: int, sample_rate: int) -> Iterator[Sample]:
    limits = Limits.from_environment()
    for track_id in dataset.track_ids:
        track = dataset.track(track_id)
        try:
            label, split = _tinysol(track, seed) if name == "tinysol" else _medley_solos_db(track)
        # Raised by mirdata for a table with other columns, and here where the table lacks a row.
        except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError):
            raise UserError(f"{name}: {table} has no valid row for {track_id}; download it again") from None
        path = Path(track.audio_path)
        file = path.relative_to(dataset.data_home).as_posix()
        yield Sample(file, label, split, EncodedFile(path, Sound(sample_rate), limits))


def _tinysol(track: Any, seed: int) -> tuple[str, Split]:
    splits: dict[int, Split] = {0: "test", 1: "validation"}
    label: str = track.instrument_full
    return label, splits.get((track.split - seed) % FOLDS, "train")


def _medley_solos_db(track: Any) -> tuple[str, Split]:
    label: str = track.instrument
    return label, SUBSETS[track.subset]


def _missing(dataset: Any, table: Path) -> list[Path]:
    """Files of the data set that are not there. Only a download compares checksums: extraction reads every file anyway,
    and reports what it cannot use."""
    index = Path(dataset.index_path)
    if not index.is_file():
        return [index]
    audio = [Path(dataset.track(track_id).audio_path) for track_id in dataset.track_ids]
    return [path for path in (table, *audio) if not path.is_file()]


def _download(name: str, module: Any, dataset: Any, root: Path) -> None:
    """Download the data set to `root` unless it is there, and check its files once against mirdata's checksums."""
    checked = root / f".checked-{dataset.version}"
    if checked.is_file() and not _missing(dataset, _place(module.REMOTES["annotations"], root)):
        return
    writable(root, name)
    import tarfile
    from http.client import HTTPException

    index = module.INDEXES[dataset.version].remote  # None where it comes with mirdata
    try:
        for remote in [*module.REMOTES.values(), *([index] if index else [])]:
            _fetch(name, remote, _place(remote, root))
        print(f"{name}: unpacking and checking", flush=True)
        dataset.download()  # finds every archive there; checks and unpacks them
        wrong = [path for found in dataset.validate(verbose=sys.stderr.isatty()) for path in _paths(found)]
    except (OSError, HTTPException, EOFError, tarfile.TarError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name}: the download failed ({reason}); the same command continues it, or give {name}:DIR"
        ) from None
    if wrong:
        more = f", and so are {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        raise UserError(f"{name}: {wrong[0]} is missing or damaged{more}; the same command unpacks the archive again")
    checked.touch()


def _paths(found: dict[str, dict[str, list[str]]]) -> list[str]:
    """The paths in one of the two answers of mirdata's `validate`."""
    return [path for group in found.values() for paths in group.values() for path in paths]


def _fetch(name: str, remote: Any, path: Path) -> None:
    """Download one file, or the rest of it; mirdata itself would mistake a partial file for the whole one."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    path.parent.mkdir(parents=True, exist_ok=True)
    have = path.stat().st_size if path.is_file() else 0
    if have:
        with path.open("rb") as file:
            if file_digest(file, "md5").hexdigest() == remote.checksum:
                return
    try:
        response = urlopen(Request(remote.url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=TIMEOUT)
    except HTTPError as error:
        if not have or error.code != 416:  # Range Not Satisfiable: nothing is missing, so the file is damaged
            raise
        path.unlink()
        return _fetch(name, remote, path)
    if response.status != 206:  # Partial Content
        have = 0
    _save(name, remote.filename, response, path, have)


def _save(name: str, filename: str, response: Any, path: Path, have: int) -> None:
    """Write a response's body to a file, of which the first `have` bytes are there already."""
    from tqdm import tqdm

    with response:
        length = response.headers["Content-Length"]
        total = have + int(length) if length else None
        size = f", {total / 1e6:,.1f} MB" if total else ""
        print(f"{name}: {'continuing' if have else 'downloading'} {filename}{size} → {path.parent}", flush=True)
        with (
            path.open("ab" if have else "wb") as file,
            tqdm(total=total, initial=have, desc=name, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    if total and path.stat().st_size < total:  # a connection that breaks off is no error to http.client
        raise OSError(f"{filename} broke off after {path.stat().st_size:,} of {total:,} bytes")


def _fingerprint(data: Data) -> Any:
    root = _root(data)
    if data.path is None and not list(root.glob(".checked-*")):  # yet to be downloaded
        return None
    return stats(root) if root.is_dir() else None


SOURCES = (
    Source("tinysol", "copy", ("mfcc",), "TinySOL, 2,913 single notes of 14 instruments", load, _fingerprint),
    Source("medley_solos_db", "copy", ("mfcc",), "Medley-solos-DB, 21,571 solos on 8 instruments", load, _fingerprint),
)
