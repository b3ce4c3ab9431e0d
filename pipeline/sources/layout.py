"""What the folders of a data set mean: classes, or splits that hold them; one line where that is not clear."""

from collections.abc import Collection, Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.sources import files
from pipeline.sources.groups import is_group
from pipeline.sources.sample import SPLITS, Split
from pipeline.sources.split_names import are_affixed, is_fold, split_of_each

# Suffixes of what service.media reads, in lower case; mimetypes lacks some where a system has no list of its own.
PICTURES = frozenset((
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".heic",
    ".heif", ".hif", ".avif", ".pgm", ".ppm", ".pbm", ".pnm", ".pfm", ".qoi", ".pcx", ".psd", ".sgi", ".tga", ".mpo",
))  # fmt: skip
SOUND = frozenset((
    ".wav", ".wave", ".bwf", ".w64", ".rf64", ".bw64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".m4a", ".m4b",
    ".aac", ".amr", ".awb", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".wma", ".webm", ".weba", ".mp4", ".mov",
    ".3gp", ".3g2", ".mkv", ".mka",
))  # fmt: skip
LISTED = 5  # names in a message
IN_TRAIN = "put all class folders into one folder train/"  # which leaves the shares of the splits as they are
MANIFEST = "list the files in a .csv manifest with path,label,split"
GROUPS = "--set data.group='([^/]+)/[^/]*$' makes the inner folders groups, which no split divides"
FOLDS = f"{MANIFEST}: one fold as test, another as validation, the rest as train"

ClassFolder = tuple[Split | None, Path]


def class_folders(root: Path, grouped: bool) -> list[ClassFolder]:
    """The class folders below `root` by name, each with its split, in the order of the splits, if folders name these.

    Parameters
    ----------
    grouped : the user says what the groups are, so the folders inside a class are no classes

    Raises
    ------
    UserError : the folder cannot be read, or what its folders mean is not clear
    """
    top = _folders(root)
    splits = split_of_each([path.name for path in top], root)
    if not splits:
        if len(top) == 1 and len(inside := _inner(top[0])) > 1:
            held = _listed([path.name for path in inside])
            raise UserError(f"{root}: only one folder, which holds {held}; did you mean --data {top[0]}?")
        _check_classes(root, top, grouped)
        return [(None, path) for path in top]
    if others := [path.name for path in top if path.name not in splits]:
        raise UserError(
            f"{root}: class folders ({_listed(others)}) are next to folders of splits ({_listed(splits)}); use one or "
            f"the other. If all of them are classes, {IN_TRAIN}"
        )
    if "train" not in splits.values():
        raise UserError(
            f"{root}: {_listed(splits)} would be splits, and none is for training; if it is a class, {IN_TRAIN}"
        )
    found: list[ClassFolder] = []
    for split_folder in sorted(top, key=lambda path: SPLITS.index(splits[path.name])):
        classes = _folders(split_folder)
        if not classes and any(map(is_media, files.loose(split_folder))):
            raise UserError(
                f"{split_folder}: files, but no class folders, in a folder whose name is that of a split; sort them "
                f"into class folders, or {MANIFEST}. If it is a class, {IN_TRAIN}"
            )
        _check_classes(split_folder, classes, grouped)
        found += [(splits[split_folder.name], path) for path in classes]
    return found


def are_groups(classes: Sequence[Sequence[Path]]) -> bool:
    """Whether the folders inside class folders are groups: a class is divided by them.

    One folder that holds all of its class, as in CLASS/images, tells nothing.

    Parameters
    ----------
    classes : the files of each class, relative to its folder

    Example
    -------
    >>> are_groups([[Path("session-1/a.wav"), Path("session-2/b.wav")], [Path("c.wav")]])
    True
    >>> are_groups([[Path("images/a.png"), Path("images/b.png")], [Path("images/c.png")]])
    False
    """
    inside = [{path.parts[0] if len(path.parts) > 1 else "" for path in files} for files in classes]
    return any(len(names) > 1 for names in inside)


def is_media(path: Path) -> bool:
    """Whether a file has the name of a picture or a recording."""
    return path.suffix.lower() in PICTURES | SOUND


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, and the links that may have led to some."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    try:
        return sorted([*files.folders(folder), *files.lost(folder)])
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None


def _check_classes(parent: Path, classes: Sequence[Path], grouped: bool) -> None:
    """UserError if these folders look like anything but one for each class."""
    names = [path.name for path in classes]
    if are_affixed(names):
        raise UserError(f"{parent}: {_listed(names)} look like splits; call them train, validation and test")
    if sum(map(is_fold, names)) > 1:
        raise UserError(f"{parent}: {_listed(names)} look like folds of a cross-validation; {FOLDS}")
    inner = {path: [folder.name for folder in _inner(path)] for path in classes}
    for path, held in inner.items():
        if sum(is_fold(name) or bool(split_of_each([name])) for name in held) > 1:
            how = (
                FOLDS if any(map(is_fold, held)) else f"make the splits the outer folders (train/CLASS), or {MANIFEST}"
            )
            raise UserError(f"{path}: {_listed(held)} look like splits inside a class; {how}")
    common = sorted(set.intersection(*map(set, inner.values()))) if inner else []
    if len(common) < 2 or grouped or all(map(is_group, common)):  # a single one, as in CLASS/images, is no class
        return
    raise UserError(
        f"{parent}: are {_listed(names)} the classes, or {_listed(common)}, which each of them holds? If the former, "
        f"{GROUPS}; if the latter, name the outer folders train, validation and test, or merge them"
    )


def _inner(folder: Path) -> list[Path]:
    try:
        return files.folders(folder)
    except OSError:  # reported when its files are read
        return []


def _listed(names: Collection[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(files.readable(Path(name)) for name in [*names][:LISTED]) + (", …" if len(names) > LISTED else "")
