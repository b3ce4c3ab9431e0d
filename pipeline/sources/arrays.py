"""Ready-made features in NumPy's files, as courses hand them out: X_train_data.npy, X_train_labels.npy and so on.

The lab on instruments of a university unit, for one, comes as `uiowa_train_data.npy` (N, 120), `uiowa_train_labels.npy`
(N,), and the same for `test`.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.sources.files import expanded, readable, stat
from pipeline.sources.registry import Data, Source
from pipeline.sources.sample import SPLITS, Decoded, Sample, Split

DATA, LABELS, NAMES = "{}{}_data.npy", "{}{}_labels.npy", "{}names.txt"


def load(data: Data, sample_rate: int | None = None) -> list[Sample]:
    """The rows of the arrays as samples, float32 (D,), in the splits that the files name.

    `…train_data.npy` and `…test_data.npy`, and optionally `…validation_data.npy`, hold numbers (N, D); `…_labels.npy`
    next to each holds N whole numbers or names. `…names.txt`, which need not exist, names the classes 0, 1, … one a
    line. Nothing in these files is unpickled.

    Parameters
    ----------
    data.path : folder that holds the files

    Raises
    ------
    UserError : no such files, several sets of them, or arrays that are not as described
    """
    folder, prefix = _found(data)
    names = _names(folder / NAMES.format(prefix))
    samples: list[Sample] = []
    for split in _splits(folder, prefix):
        file, of_labels = (folder / form.format(prefix, split) for form in (DATA, LABELS))
        rows, labels = _rows(file), _labels(of_labels, names)
        if len(rows) != len(labels):
            raise UserError(f"{readable(of_labels)}: {len(labels):,} labels for the {len(rows):,} rows of {file.name}")
        if samples and (width := len(samples[0].media.load())) != rows.shape[1]:
            raise UserError(f"{readable(file)}: {rows.shape[1]:,} features a row, and {width:,} in the training data")
        for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
            samples.append(Sample(f"{file.stem}/{i:06d}", label, split, Decoded(row)))
    return samples


def _found(data: Data) -> tuple[Path, str]:
    """The folder, and what stands before `train_data.npy` in it."""
    folder = expanded(data.path or "")
    ending = DATA.format("", "train")
    prefixes = sorted(file.name.removesuffix(ending) for file in folder.glob(f"*{ending}"))
    if not prefixes:
        reason = f"no {ending}, nor any file …_{ending}" if folder.is_dir() else "no such folder"
        raise UserError(f"npy:{readable(folder)}: {reason}")
    if len(prefixes) > 1:
        several = ", ".join(f"{prefix}{ending}" for prefix in prefixes)
        raise UserError(f"npy:{readable(folder)}: {several}: several sets of arrays; give each a folder of its own")
    return folder, prefixes[0]


def _splits(folder: Path, prefix: str) -> list[Split]:
    """The splits that have a file; a split with only one of its two files is a mistake, found when it is read."""
    return [s for s in SPLITS if any((folder / form.format(prefix, s)).exists() for form in (DATA, LABELS))]


def _read(file: Path) -> NDArray[Any]:
    """The array in a file, not read yet; an array of Python objects would have to be unpickled and is refused."""
    if not file.is_file():
        raise UserError(f"{readable(file)}: {'not a regular file' if file.exists() else 'no such file'}")
    try:
        return np.asarray(open_memmap(file, mode="r"))
    except (ValueError, OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(f"{readable(file)}: not an array of numbers in NumPy's format: {reason}") from None


def _rows(file: Path) -> NDArray[np.float32]:
    array = _read(file)
    if array.ndim != 2 or not array.size:
        raise UserError(f"{readable(file)}: shape {array.shape}, expected (N, D), one sample a row")
    if array.dtype.kind not in "iuf":
        raise UserError(f"{readable(file)}: {array.dtype} values, expected numbers")
    with np.errstate(over="ignore"):  # found below
        rows = np.array(array, np.float32, order="C")  # a copy: the file is mapped, and may change
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(wrong):
        column = int(np.flatnonzero(~np.isfinite(rows[wrong[0]]))[0])
        raise UserError(
            f"{readable(file)}: {len(wrong):,} of {len(rows):,} rows hold a value that is no finite float32 number; "
            f"the first is [{wrong[0]}, {column}] = {array[wrong[0], column]}"
        )
    return rows


def _labels(file: Path, names: list[str]) -> list[str]:
    """The label of each row as text: its name where there are names."""
    array = _read(file)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise UserError(f"{readable(file)}: shape {array.shape}, expected (N,), one label for each row")
    if array.dtype.kind == "U" and all(found := [str(label).strip() for label in array]):
        return found
    if array.dtype.kind not in "biuf" or not (np.isfinite(array) & (array == np.trunc(array))).all():
        raise UserError(f"{readable(file)}: {array.dtype} values, expected whole numbers or names of classes")
    numbers = [int(label) for label in array]
    if not names:
        return [str(number) for number in numbers]
    if numbers and not 0 <= min(numbers) <= max(numbers) < len(names):
        raise UserError(
            f"{readable(file)}: labels {min(numbers)} to {max(numbers)}, but {len(names)} names in the file of names"
        )
    return [names[number] for number in numbers]


def _names(file: Path) -> list[str]:
    """Names of the classes 0, 1, …; empty if there is no such file."""
    if not file.exists():
        return []
    try:
        names = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{readable(file)}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f"{readable(file)}: expected one name a line, each of them different")
    return names


def _fingerprint(data: Data) -> Any:
    folder, prefix = _found(data)
    files = [folder / form.format(prefix, split) for split in SPLITS for form in (DATA, LABELS)]
    return [stat(file) for file in (*files, folder / NAMES.format(prefix))]


SOURCES = (Source("npy", "own", ("vector",), "arrays train_data.npy, train_labels.npy and so on", load, _fingerprint),)
