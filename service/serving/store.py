"""Which models of BentoML's store are ours to serve, in which versions."""

import logging
import os
from pathlib import Path

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer

from models.card import STORE_LABEL

logger = logging.getLogger("bentoml.percept")

Stamp = tuple[str, frozenset[tuple[str, int, int]]]  # version, and name, size and time of each of its files


def newest_models() -> list[bentoml.Model]:
    """The version to serve of every model in BentoML's store that carries our label, in the order of their names: the
    newest, unless `roll_back` has named another."""
    # Not bentoml.models.list(): it fails as a whole on one unfinished folder, as a killed export leaves.
    present = [_present(folder) for folder in sorted(_folder().iterdir()) if folder.is_dir()]
    return [model for model in present if model is not None and STORE_LABEL in model.info.labels]


def stamps() -> dict[str, Stamp]:
    """Name → what changes with the version to serve or with its files, of every model of the store, ours or not; it
    costs little, so that one may ask often."""
    found: dict[str, Stamp] = {}
    for pointer in _folder().glob("*/latest"):
        if version := _pointer(pointer.parent):
            found[pointer.parent.name] = version, _files(pointer.parent / version)
    return found


def versions(name: str) -> list[bentoml.Model]:
    """Every version of a model of ours, the newest first; none if there is no such model.

    `name` has to be one that the store was found to hold: it becomes part of a path.
    """
    return [model for model in _versions(_folder() / name) if STORE_LABEL in model.info.labels]


def holds(name: str, version: str) -> bool:
    """Whether there is a folder for that version; `name` as for `versions`, `version` may be any text."""
    return version in _names(_folder() / name)


def version(name: str, version: str) -> bentoml.Model | None:
    """One version of a model of ours, None if there is none; its parameters are as for `holds`."""
    if not holds(name, version):
        return None
    model = _read(name, version)
    return model if model is not None and STORE_LABEL in model.info.labels else None


def roll_back(name: str, version: str | None) -> str:
    """Let `version` of a model be the one that is served, None: the one before the present; the service follows within
    seconds. An export takes its own new version again. Returns the version.

    Raises ValueError if there is no such version.
    """
    known = [model.tag.version or "" for model in versions(name)] if name in _names(_folder()) else []
    if not known:
        raise ValueError(f"the model store holds no model {name!r}")
    present = _pointer(_folder() / name)
    if version is None:
        older = known[known.index(present) + 1 :] if present in known else known[:1]
        if not older:
            raise ValueError(f"{name}:{present} is the oldest version in the model store")
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


def _present(folder: Path) -> bentoml.Model | None:
    """The version that the pointer names; the newest where it names none that can be read: BentoML does not write it at
    once, and it outlives a version that was taken away by hand."""
    version = _pointer(folder)
    model = _read(folder.name, version) if version in _names(folder) else None
    return model or next(iter(_versions(folder)), None)


def _versions(folder: Path) -> list[bentoml.Model]:
    found = [model for version in _names(folder) if (model := _read(folder.name, version)) is not None]
    return sorted(found, key=lambda model: model.creation_time, reverse=True)


def _read(name: str, version: str) -> bentoml.Model | None:
    """None, and a line in the log, for what is no model: a volume's lost+found, or a file that was cut short."""
    try:
        return BentoMLContainer.model_store.get().get(f"{name}:{version}")
    except Exception as error:  # BentoML lets through what YAML and the file system raise
        logger.warning("model store: %s:%s is skipped: %s", name, version, " ".join(str(error).split()))
        return None


def _pointer(folder: Path) -> str:
    """The version that the folder of a model names as the present one, empty where it names none."""
    try:
        return (folder / "latest").read_text("utf-8", errors="replace").strip()
    except OSError:
        return ""


def _names(folder: Path) -> list[str]:
    """The folders in a folder; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []


def _files(folder: Path) -> frozenset[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            return frozenset((e.name, (s := e.stat()).st_size, s.st_mtime_ns) for e in entries)
    except (OSError, ValueError):  # it is being written, was taken away, or never was the name of a folder
        return frozenset()
