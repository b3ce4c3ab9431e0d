"""Folders of a user's files, and their samples as the sources read them."""

import struct
from pathlib import Path

from pipeline import sources, task
from pipeline.sources import Sample


def samples(name: str, data: str | Path, *overrides: str) -> list[Sample]:
    """The samples of a built-in task with other data."""
    asked = task.load(name, str(data), overrides)
    return sources.load(asked.data, asked.features)


def touch(root: Path, *files: str) -> None:
    """Make these files below a folder; each holds its name."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(file.encode())


def idx(*shape: int, values: bytes) -> bytes:
    """An IDX file of bytes."""
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + values
