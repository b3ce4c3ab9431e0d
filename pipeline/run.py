"""Files of a run directory: written to a temporary name and renamed, so that a stage that dies leaves the old ones."""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.task import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")  # other nodes may write there too
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")


def write_npz(path: Path, arrays: Mapping[str, Any], compress: bool = False) -> None:
    with replacing(path) as temporary, temporary.open("wb") as f:
        (np.savez_compressed if compress else np.savez)(f, **arrays)


def read_json(path: Path, stage: str) -> Any:
    """The JSON of an earlier stage's file; `stage` is the verb that writes it."""
    return json.loads(require(path, stage).read_text("utf-8"))


def require(path: Path, stage: str) -> Path:
    """`path`, if the stage before has written it.

    Raises
    ------
    UserError : the file is not there
    """
    if not path.is_file():
        raise UserError(f"{path}: not there yet; run `percept {stage}` first")
    return path
