"""Which models in BentoML's store are ours to serve, and in which versions."""

import logging
import os
from pathlib import Path

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer

from models.card import STORE_LABEL

logger = logging.getLogger("bentoml.percept")

Stamp = tuple[str, frozenset[tuple[str, int, int]]]  # version; name, size and modification time of each of its files


def newest_models() -> list[bentoml.Model]:
    """The version to serve of every model in BentoML's store that carries our label, sorted by name: the newest, unless
    `roll_back` chose another."""
    # Not bentoml.models.list(): one unfinished folder, as a killed export leaves behind, makes it fail altogether.
    current = [_current(folder) for folder in sorted(_folder().iterdir()) if folder.is_dir()]
    return [model for model in current if model is not None and STORE_LABEL in model.info.labels]


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


def roll_back(name: str, version: str | None) -> str:
    """Make `version` of a model the one that is served (None: the one before the current) and return it. A running
    service follows within seconds; the next export makes its own version current again.

    Raises ValueError if there is no such version.
    """
    known = [model.tag.version or "" for model in versions(name)] if name in _names(_folder()) else []
    if not known:
        raise ValueError(f"the model store holds no model {name!r}")
    current = _pointer(_folder() / name)
    if version is None:
        older = known[known.index(current) + 1 :] if current in known else known[:1]
        if not older:
            raise ValueError(f"{name}:{current} is the oldest version in the model store")
        version = older[0]
    if version not in known:
        raise ValueError(f"the model store holds no {name}:{version}; its versions are {', '.join(known)}")
    pointer = _folder() / name / "latest"
    temporary = pointer.with_name(f".latest-{os.getpid()}")
    temporary.write_text(version, "utf-8")
    temporary.replace(pointer)
    return version


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
    return sorted(found, key=lambda model: model.creation_time, reverse=True)


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
