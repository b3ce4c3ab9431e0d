"""Where labelled samples come from: embedded data, MNIST, recorded instruments, class folders, CSV manifests.

Importing this loads nothing heavy; `load` and the samples do.
"""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Protocol

from pipeline.errors import UserError
from pipeline.sources import delimited
from pipeline.sources.files import expanded
from pipeline.sources.folder import load_unlabelled
from pipeline.sources.groups import grouped
from pipeline.sources.pictures import in_colour
from pipeline.sources.registry import OWN, REGISTRY, Data, Section, Shares, Source
from pipeline.sources.sample import REPEATED, SPLITS, UNREADABLE, Decoded, Label, Sample, Split

__all__ = [
    "REGISTRY",
    "REPEATED",
    "SPLITS",
    "UNREADABLE",
    "Data",
    "Decoded",
    "Label",
    "Sample",
    "Section",
    "Shares",
    "Source",
    "Split",
    "expanded",
    "fingerprint",
    "load",
    "parse_data",
    "unlabelled",
]

_modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
_sources: list[Source] = [source for module in _modules for source in getattr(module, "SOURCES", ())]
# In messages and in the command's help those with a name come before a user's own files.
REGISTRY.update((source.name, source) for source in sorted(_sources, key=lambda s: s.form in OWN))


class _Features(Protocol):
    """The section [features] of a task."""

    @property
    def kind(self) -> str: ...

    @property
    def sample_rate(self) -> int | None: ...


def load(data: Data, features: _Features) -> list[Sample]:
    """The samples of a source, in a fixed order; nothing is decoded yet.

    Raises
    ------
    UserError : the source has no media for these features, or cannot be found or understood

    Example
    -------
    >>> from pipeline import task
    >>> regions = task.load("regions")
    >>> samples = load(regions.data, regions.features)
    >>> len(samples), samples[0].file, samples[0].label, samples[0].split
    (1600, 'regions/train/0000', 'outside', 'train')
    """
    source = REGISTRY[data.source]
    if features.kind not in source.features:
        given = " and ".join(map(repr, source.features))
        raise UserError(
            f"data.source = {source.name!r} does not give what features.kind = {features.kind!r} takes, but {given}"
        )
    samples = source.load(data, features.sample_rate)
    if data.group is not None:
        samples = grouped(samples, data.group)
    size = getattr(features, "size", None)
    if features.kind == "image":
        assert size is not None
        return [in_colour(sample, size) for sample in samples]
    if size is not None and samples and (width := len(samples[0].media.load())) != size:
        raise UserError(f"{source.name}: {width} numbers a sample, and features.size is {size}; set it to {width}")
    return samples


def unlabelled(folder: Path, features: _Features) -> list[Sample]:
    """The files below a folder as samples with an empty label, in the order of their absolute paths, by which they are
    called; nothing is decoded yet.

    Raises
    ------
    UserError : no such folder, no files in it, or these features are of rows and numbers, not of files
    """
    if features.kind not in REGISTRY["folder"].features:
        raise UserError(f"{folder}: unlabelled files are pictures or sounds, and features.kind is {features.kind!r}")
    samples = load_unlabelled(folder, features.sample_rate)
    size = getattr(features, "size", None)
    return samples if size is None else [in_colour(sample, size) for sample in samples]


def fingerprint(data: Data) -> Any:
    """Plain values that change when the samples of a source do, found without reading media; None where the data has
    yet to be downloaded."""
    return REGISTRY[data.source].fingerprint(data)


def parse_data(text: str, kind: str = "") -> dict[str, str]:
    """`--data` → the keys `source` and `path` of [data], for features of that kind.

    Raises
    ------
    UserError : the text names no source, folder or manifest

    Example
    -------
    >>> parse_data("mnist:copies/mnist")
    {'source': 'mnist', 'path': 'copies/mnist'}
    """
    if kind == "table" and not Path(text).is_dir() and (Path(text).is_file() or Path(text).suffix):
        return {"source": "table", "path": text}
    name, _, path = text.partition(":")
    named = {s.name: s for s in REGISTRY.values() if s.form in ("name", "copy", "own")}
    if text in named and named[text].form != "own":
        return {"source": text}
    if name in named and named[name].form != "name" and path:
        return {"source": name, "path": path}
    if Path(text).is_dir():
        return {"source": "folder", "path": text}
    if text.lower().endswith(delimited.ENDINGS):
        return {"source": "csv", "path": text}
    if Path(text).is_file():
        raise UserError(
            f"--data {text}: expected a .csv manifest, or a folder of class folders; unpack an archive first"
        )
    names = ", ".join(s.name + {"copy": "[:DIR]", "own": ":DIR"}.get(s.form, "") for s in named.values())
    raise UserError(f"--data {text}: no such folder, and not one of {names} or a .csv file")
