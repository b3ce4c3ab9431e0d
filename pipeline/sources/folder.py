"""A user's files in a folder of class folders; or without labels, in any folder."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, counted
from pipeline.sources.encoded import Entry, samples
from pipeline.sources.files import Identity, expanded, identity, loose, readable, stats, walk
from pipeline.sources.layout import ClassFolder, are_groups, class_folders, is_media
from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import Sample


def load(data: Data, sample_rate: int | None) -> list[Sample]:
    """The samples of the folder `data.path`; pictures where `sample_rate` is None, else audio.

    Raises
    ------
    UserError : the folder cannot be understood
    """
    return samples(_entries(data), sample_rate)


def load_unlabelled(folder: Path, sample_rate: int | None) -> list[Sample]:
    """The files below a folder as samples with an empty label, called by their absolute paths; see `load`.

    Raises
    ------
    UserError : no such folder, or no files in it
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    paths = walk(folder.resolve())
    if not paths:
        raise UserError(f"{folder}: no files to label")
    return samples([(readable(path), "", None, None, path) for path in paths], sample_rate)


def _root(data: Data) -> Path:
    return expanded(data.path or "")


def _entries(data: Data) -> Iterator[Entry]:
    root = _root(data)
    found = class_folders(root, data.group is not None)
    inside = {folder: walk(folder, _identities(found)) for _, folder in found}
    if not any(inside.values()):
        found_outside = f"{counted(n, 'file')}, none in a class folder" if (n := len(loose(root))) else "no files"
        raise UserError(f"{root}: {found_outside}; expected one sub-folder for each class, with its files inside")
    filled = {folder.name for folder, paths in inside.items() if paths}
    if empty := [folder for folder in inside if folder.name not in filled]:
        raise UserError(f"{empty[0]}: no files of this class; add some, or remove the folder")
    _mention_loose_files(root, inside)
    with_groups = are_groups([[path.relative_to(folder) for path in paths] for folder, paths in inside.items()])
    for split, folder in found:
        for path in inside[folder]:
            name, group = path.relative_to(folder), None
            if with_groups and len(name.parts) > 1:  # of one name in several classes: one group, but not across splits
                group = readable(Path(folder.parent.name if split else "", name.parts[0]))
            yield readable(path.relative_to(root)), readable(Path(folder.name)), split, group, path


def _mention_loose_files(root: Path, classes: Iterable[Path]) -> None:
    """Print how many recordings or pictures are in no class folder."""
    places = sorted({root, *(folder.parent for folder in classes)})
    outside = [path for place in places for path in loose(place) if is_media(path)]
    if outside:
        files = counted(len(outside), "file")
        print(f"{root}: {files} left out, since in no class folder; the first: {outside[0]}")


def _identities(found: Iterable[ClassFolder]) -> set[Identity | None]:
    return {identity(folder) for _, folder in found}


def _fingerprint(data: Data) -> Any:
    found = class_folders(_root(data), data.group is not None)
    return [stats(folder, _identities(found)) for _, folder in found]


SOURCES = (Source("folder", "folder", ("pixels", "image", "mfcc"), "a folder of class folders", load, _fingerprint),)
