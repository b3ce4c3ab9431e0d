"""Which models in BentoML's store are ours to serve, and in which versions; how they get into it and out of it.

The file `latest` in a model's folder names the version to serve.
"""

import errno
import logging
import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models.model import MODEL_YAML_FILENAME, ModelInfo

from models.card import STORE_LABEL

logger = logging.getLogger("bentoml.percept")

Stamp = tuple[str, frozenset[tuple[str, int, int]]]  # version; name, size and modification time of each of its files


def newest_models() -> list[bentoml.Model]:
    """The version to serve of every model in BentoML's store that carries our label, sorted by name: the newest, unless
    `roll_back` chose another."""
    # Not bentoml.models.list(): one unfinished folder, as a killed export leaves behind, makes it fail altogether.
    current = [_current(folder) for folder in sorted(_folder().iterdir()) if folder.is_dir()]
    return [model for model in current if model is not None and STORE_LABEL in model.info.labels]


def chosen(names: Collection[str]) -> list[bentoml.Model]:
    """The version to serve of each of these models, or of all for no names. Raises ValueError if one is not there."""
    models = newest_models()
    there = [model.tag.name for model in models]
    if missing := sorted({*names} - {*there}):
        holds = ", ".join(there) or "no model"
        raise ValueError(f"the model store holds no model {', '.join(map(repr, missing))}; it holds {holds}")
    return [model for model in models if not names or model.tag.name in names]


def stamps() -> dict[str, Stamp]:
    """Name → a stamp that changes with the version to serve or its files, for every model in the store, ours or not. It
    is cheap enough for polling."""
    found: dict[str, Stamp] = {}
    for pointer in _folder().glob("*/latest"):
        if version := _pointer(pointer.parent):
            found[pointer.parent.name] = version, _files(pointer.parent / version)
    return found


def versions(name: str) -> list[bentoml.Model]:
    """Every version of a model of ours, newest first; none if there is no such model.

    `name` becomes part of a path, so it must be the name of a model in the store.
    """
    return [model for model in _versions(_folder() / name) if STORE_LABEL in model.info.labels]


def holds(name: str, version: str) -> bool:
    """Whether there is a folder for that version; `name` as in `versions`, `version` may be any text."""
    return version in _names(_folder() / name)


def version(name: str, version: str) -> bentoml.Model | None:
    """One version of a model of ours, or None; parameters as in `holds`."""
    if not holds(name, version):
        return None
    model = _read(name, version)
    return model if model is not None and STORE_LABEL in model.info.labels else None


def add(tag: bentoml.Tag, kind: str, files: Mapping[str, bytes]) -> None:
    """Add a version to the store, and make it the one that is served. A running service follows within seconds.

    Not bentoml.models.create(): it leaves the older version served where this machine's clock is behind, fails where
    `latest` is empty, also for the moment in which another process writes it, and makes folders that no other user may
    read. An interrupted or failed call leaves what was served before.

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
    created = max([datetime.now(UTC), *(_created(m) + timedelta(microseconds=1) for m in versions(tag.name))])
    context = bentoml.models.ModelContext(framework_name="", framework_versions={})
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


def known(name: str, version: str | None = None) -> list[str]:
    """Every version of a model of ours, newest first. Raises ValueError if there is none, or not `version`."""
    every = [model.tag.version or "" for model in versions(name)] if name in _names(_folder()) else []
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
    every = known(name, version)
    if version is None:
        current = served(name)
        older = every[every.index(current) + 1 :] if current in every else every
        if not older:
            raise ValueError(f"{name}:{current} is the oldest version in the model store")
        version = older[0]
    _serve(name, version)
    return version


def remove(name: str, version: str | None) -> str | None:
    """Delete `version` of a model, or every version for None, and return the one that is served now, or None. A running
    service follows within seconds.

    Raises ValueError if there is no such version.
    """
    folder, every = _folder() / name, known(name, version)
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
    return served(name) if kept else None


def served(name: str) -> str:
    """The version of a model of ours that is served. `name` as in `versions`."""
    model = _current(_folder() / name)
    return model.tag.version or "" if model is not None else ""


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


def _current(folder: Path) -> bentoml.Model | None:
    """The version that the pointer names, or the newest where that cannot be read: BentoML writes the pointer last, and
    it outlives a version that was removed by hand."""
    version = _pointer(folder)
    model = _read(folder.name, version) if version in _names(folder) else None
    return model or next(iter(_versions(folder)), None)


def _versions(folder: Path) -> list[bentoml.Model]:
    found = [model for version in _names(folder) if (model := _read(folder.name, version)) is not None]
    return sorted(found, key=_created, reverse=True)


def _created(model: bentoml.Model) -> datetime:
    time = model.creation_time
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _read(name: str, version: str) -> bentoml.Model | None:
    """None, and a line in the log, for what is not a model: a volume's lost+found, or a truncated file."""
    try:
        return BentoMLContainer.model_store.get().get(f"{name}:{version}")
    except Exception as error:  # BentoML passes on whatever YAML and the file system raise
        logger.warning("model store: %s:%s is skipped: %s", name, version, " ".join(str(error).split()))
        return None


def _pointer(folder: Path) -> str:
    """The current version according to a model's folder, empty if it names none."""
    try:
        return (folder / "latest").read_text("utf-8", errors="replace").strip()
    except OSError:
        return ""


def _names(folder: Path) -> list[str]:
    """The names of the folders in a folder; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []


def _files(folder: Path) -> frozenset[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            return frozenset((e.name, (s := e.stat()).st_size, s.st_mtime_ns) for e in entries)
    except (OSError, ValueError):  # it is being written, was removed, or is not the name of a folder
        return frozenset()
