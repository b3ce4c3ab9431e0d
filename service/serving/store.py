"""Which models in BentoML's store are ours to serve, and in which versions; how they get into it and out of it.

The file `latest` in a model's folder names the version to serve.
"""

import errno
import logging
import os
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import bentoml
import yaml  # type: ignore[import-untyped]
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models.model import MODEL_YAML_FILENAME, ModelContext, ModelInfo

from models.card import STORE_LABEL

logger = logging.getLogger("bentoml.percept")

REMOVED = ".removed"  # a file in the store's folder: it is empty because `remove` deleted its last model
TICK = 2.0  # seconds within which a file system may give two writes the same time
YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where libyaml is there

# Version; name, size, times and inode of each of its files.
Stamp = tuple[str, frozenset[tuple[str, int, int, int, int]]]


class Stored(NamedTuple):
    """A version in the store, or in a Bento."""

    name: str
    version: str
    folder: Path  # of its files

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


class Record(NamedTuple):
    """What a version's `model.yaml` says."""

    created: datetime
    is_ours: bool  # it carries our label


def newest_models() -> list[bentoml.Model]:
    """The version to serve of every model in BentoML's store that carries our label, sorted by name: the newest, unless
    `roll_back` chose another."""
    # Not bentoml.models.list(): one unfinished folder, as a killed export leaves behind, makes it fail altogether.
    current = [stored for name in names() if (stored := to_serve(name))]
    return [model for stored in current if (model := _model(stored)) is not None]


def chosen(names: Collection[str]) -> list[bentoml.Model]:
    """The version to serve of each of these models, or of all for no names. Raises ValueError if one is not there."""
    models = newest_models()
    there = [model.tag.name for model in models]
    if missing := sorted({*names} - {*there}):
        holds = ", ".join(there) or "no model"
        raise ValueError(f"the model store holds no model {', '.join(map(repr, missing))}; it holds {holds}")
    return [model for model in models if not names or model.tag.name in names]


def names() -> list[str]:
    """The names of all models, ours or not, sorted. Raises OSError if the store cannot be read."""
    with os.scandir(_folder()) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def to_serve(name: str) -> Stored | None:
    """The version to serve of a model in the store; None if it has none, or is not ours. Raises OSError."""
    folder = _folder() / name
    version = _pointer(folder)
    is_name = Path(version).name == version and version != ".."
    record = _record(f"{folder}/{version}") if is_name else None
    if record is None:  # BentoML writes the pointer last, and it outlives a version that was removed by hand
        version, record = next(iter(_records(folder)), ("", None))
    return Stored(name, version, folder / version) if record is not None and record.is_ours else None


def stamp(stored: Stored) -> Stamp:
    """Changes with the files of a version. It is cheap enough for polling."""
    return stored.version, _files(stored.folder)


def is_empty() -> bool:
    """Whether there is no model at all, ours or not, and `remove` did not delete the last one: as where a volume is not
    mounted at this moment."""
    folder = _folder()
    return not (folder / REMOVED).exists() and not any(_names(folder / name) for name in _names(folder))


def versions(name: str) -> list[str]:
    """Every version of a model of ours, newest first; none if there is no such model.

    `name` becomes part of a path, so it must be the name of a model in the store.
    """
    return [version for version, record in _records(_folder() / name) if record.is_ours]


def find(name: str, version: str) -> Stored | None:
    """A version of a model of ours, or None; `name` as in `versions`, `version` may be any text."""
    folder = _folder() / name
    record = _record(f"{folder}/{version}") if version in _names(folder) else None
    return Stored(name, version, folder / version) if record is not None and record.is_ours else None


def add(tag: bentoml.Tag, kind: str, files: Mapping[str, bytes]) -> None:
    """Add a version to the store, and make it the one that is served. A running service follows within seconds.

    Not bentoml.models.create(): it leaves the older version served where this machine's clock is behind. It fails where
    `latest` is empty, if only while another process writes it. And it makes folders that no other user may read.

    An interrupted or failed call leaves what was served before.

    Parameters
    ----------
    kind : of the target; the value of our label
    files : name → content

    Raises
    ------
    OSError : the store cannot be written
    """
    assert tag.version is not None
    # After every other version, whatever this machine's clock says: BentoML and `roll_back` go by these times.
    created = max(
        [datetime.now(UTC), *(r.created + timedelta(microseconds=1) for _, r in _records(_folder() / tag.name))]
    )
    context = ModelContext(framework_name="", framework_versions={})
    info = ModelInfo(tag, "", {STORE_LABEL: kind}, {}, {}, context, {}, "v1", created)
    whole = _aside(tag.version)
    try:
        whole.mkdir(parents=True)
        for name, content in files.items():
            _write(whole / name, content)
        _write(whole / MODEL_YAML_FILENAME, str(info.dump()).encode())
        _move(whole, _folder() / tag.name / tag.version)
    finally:
        shutil.rmtree(whole, ignore_errors=True)
    _serve(tag.name, tag.version)
    (_folder() / REMOVED).unlink(missing_ok=True)


def existing(name: str, version: str | None = None) -> list[str]:
    """Every version of a model of ours, newest first. Raises ValueError if there is none, or not `version`."""
    every = versions(name) if name in _names(_folder()) else []
    if not every:
        raise ValueError(f"the model store holds no model {name!r}")
    if version is not None and version not in every:
        raise ValueError(f"the model store holds no {name}:{version}; its versions are {', '.join(every)}")
    return every


def roll_back(name: str, version: str | None) -> str:
    """Make `version` of a model the one that is served (None: the one before the current) and return it. A running
    service follows within seconds; the next export makes its own version current again.

    Raises ValueError if there is no such version.
    """
    every = existing(name, version)
    if version is None:
        current = served(name)
        older = every[every.index(current) + 1 :] if current in every else every
        if not older:
            raise ValueError(f"{name}:{current} is the oldest version in the model store")
        version = older[0]
    promote(name, version)
    return version


def promote(name: str, version: str) -> None:
    """Make `version` of a model, newer or older, the one that is served. A running service follows within seconds; the
    next export makes its own version current.

    Raises ValueError if there is no such version.
    """
    existing(name, version)
    _serve(name, version)


def remove(name: str, version: str | None) -> str | None:
    """Delete `version` of a model, or every version for None, and return the one that is served now, or None. A running
    service follows within seconds.

    Raises ValueError if there is no such version.
    """
    folder, every = _folder() / name, existing(name, version)
    gone = every if version is None else [version]
    kept, current = [v for v in every if v not in gone], served(name)
    if kept and current in gone:
        _serve(name, kept[0])
    for old in sorted(gone, key=lambda v: v == current):  # the current one last, so that no other is served meanwhile
        whole = _aside(old)
        _move(folder / old, whole)
        shutil.rmtree(whole)
    if not _names(folder):
        _unlink_empty(folder)
    if is_empty():
        _write(_folder() / REMOVED, b"percept remove deleted the last model here, so a service stops serving it.\n")
    return served(name) if kept else None


def served(name: str) -> str:
    """The version of a model of ours that is served. `name` as in `versions`."""
    stored = to_serve(name)
    return "" if stored is None else stored.version


def _serve(name: str, version: str) -> None:
    """Name the version to serve, in one step: the pointer is never empty, even if the power fails."""
    pointer = _folder() / name / "latest"
    temporary = pointer.with_name(f".latest-{uuid4().hex}")  # another machine may do the same
    try:
        _write(temporary, version.encode())
        temporary.replace(pointer)
    finally:
        temporary.unlink(missing_ok=True)


def _unlink_empty(folder: Path) -> None:
    """Delete the folder of a model without versions. It stays where another process adds one at this moment."""
    for name in ("latest", *(path.name for path in folder.glob(".latest-*"))):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _aside(version: str) -> Path:
    """A new path on the store's disk, where neither BentoML nor a service looks for models."""
    return _folder().parent / "tmp" / f"percept-{version}-{uuid4().hex}"


def _write(path: Path, content: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # of a full disk, it names no file
        raise OSError(error.errno, error.strerror, str(_folder())) from None


def _move(source: Path, target: Path) -> None:
    """Move a folder in one step, unless a disk of its own is mounted in between."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        try:
            shutil.copytree(source, target)
        except OSError:
            shutil.rmtree(target, ignore_errors=True)
            raise
        shutil.rmtree(source)


def _folder() -> Path:
    return Path(BentoMLContainer.model_store.get()._path)


def _model(stored: Stored) -> bentoml.Model | None:
    try:
        return BentoMLContainer.model_store.get().get(str(stored))
    except Exception as error:  # BentoML passes on whatever YAML and the file system raise
        _skipped(stored.folder, error)
        return None


def _records(folder: Path) -> list[tuple[str, Record]]:
    """Every version in the folder of a model, newest first."""
    found = [(version, record) for version in _names(folder) if (record := _record(f"{folder}/{version}")) is not None]
    return sorted(found, key=lambda version: version[1].created, reverse=True)


def _record(folder: str) -> Record | None:
    """What the `model.yaml` of a version's folder says, read again only if it may have changed. None for what is not a
    model: a volume's lost+found, or a truncated file."""
    file = f"{folder}/{MODEL_YAML_FILENAME}"
    try:
        status = os.stat(file)  # noqa: PTH116  # of 20,000 versions in a listing, pathlib's take twice as long
    except (OSError, ValueError):
        return None
    times = status.st_mtime_ns, status.st_ctime_ns
    # The file may be written again with the same times for as long as a tick of the file system's clock lasts.
    read = _read.__wrapped__ if time.time() - max(times) / 1e9 < TICK else _read
    try:
        return read(file, (*times, status.st_size, status.st_ino))
    except OSError as error:
        _skipped(folder, error)
        return None


@lru_cache(2**15)
def _read(file: str, stamp: tuple[int, ...]) -> Record | None:
    content = Path(file).read_bytes()
    try:
        content = yaml.load(content, YAML)
        created = content["creation_time"]
        created = created if isinstance(created, datetime) else datetime.fromisoformat(created)
        return Record(created if created.tzinfo else created.replace(tzinfo=UTC), STORE_LABEL in content["labels"])
    except Exception as error:  # YAML raises all kinds, and the content may be anything
        _skipped(file, error)
        return None


def _skipped(path: str | Path, error: Exception) -> None:
    logger.warning("model store: %s is skipped: %s", path, " ".join(str(error).split()))


def _pointer(folder: Path) -> str:
    """The current version according to a model's folder, empty if it names none."""
    try:
        return (folder / "latest").read_text("utf-8", errors="replace").strip()
    except OSError:
        return ""


def _names(folder: Path) -> list[str]:
    """The names of the folders in a folder; none if there is no such folder. Raises OSError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _files(folder: Path) -> frozenset[tuple[str, int, int, int, int]]:
    try:
        with os.scandir(folder) as entries:
            found = ((entry.name, entry.stat()) for entry in entries)
            return frozenset((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in found)
    except OSError:  # it is being written, or was removed
        return frozenset()
