"""Which models of BentoML's store are ours to serve, in which versions."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException

from models.card import STORE_LABEL

logger = logging.getLogger("bentoml.percept")


def newest_models() -> list[bentoml.Model]:
    """The version to serve of every model in BentoML's store that carries our label, in the order of their names: the
    newest, unless `roll_back` has named another."""
    return list(_ours(""))


def current() -> dict[str, str]:
    """Name → version to serve, of every model of the store, ours or not; it costs little, so that one may ask often."""
    versions = {}
    for pointer in _folder().glob("*/latest"):
        text = pointer.read_text("utf-8").strip()
        if text:  # BentoML does not write it at once
            versions[pointer.parent.name] = text
    return versions


def versions(name: str) -> list[bentoml.Model]:
    """Every version of a model of ours, the newest first; none if there is no such model.

    `name` has to be one that the store was found to hold: it becomes part of a path.
    """
    folder = _folder() / name
    found = [m for path in folder.iterdir() if path.is_dir() for m in _ours(path.name, name)] if folder.is_dir() else []
    return sorted(found, key=lambda model: model.creation_time, reverse=True)


def roll_back(name: str, version: str | None) -> str:
    """Let `version` of a model be the one that is served, None: the one before the present; the service follows within
    seconds. An export takes its own new version again. Returns the version.

    Raises ValueError if there is no such version.
    """
    present = current().get(name)
    known = [model.tag.version or "" for model in versions(name)] if present else []
    if not known:
        raise ValueError(f"the model store holds no model {name!r}")
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


def _ours(version: str, name: str = "") -> Iterator[bentoml.Model]:
    """Models of the store with our label: of one name or of all, in one version or, where it is empty, the present."""
    # Not bentoml.models.list(): it fails as a whole on one unfinished folder, as a killed export leaves.
    store = BentoMLContainer.model_store.get()
    for folder in [_folder() / name] if name else sorted(_folder().iterdir()):
        try:
            model = store.get(f"{folder.name}:{version}" if version else folder.name)
        except BentoMLException as error:
            logger.warning("model store: %s is skipped: %s", folder, error)
        else:
            if STORE_LABEL in model.info.labels:
                yield model
