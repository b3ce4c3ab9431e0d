"""Tables in files that hold arrays: NumPy's .npy and .npz, and Parquet where pyarrow is installed."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unicodedata import normalize
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.sources.columns import CATEGORIES, LARGEST, SNIFFED, Column, decimal_commas
from pipeline.sources.delimited import column_names

INPUTS = ("x", "data", "features", "inputs")  # names of the array of inputs, in lower case, and of the targets
TARGETS = ("y", "target", "targets", "labels", "label")
NAMES = ("feature_names", "columns", "names")  # names of an array of columns' names
PARQUET = (".parquet", ".pq")
NONE = np.empty(0)  # for targets that are absent
ENDINGS = (".npz", ".npy", *PARQUET)


def is_columnar(path: Path) -> bool:
    """Whether a file has the name of one that `read` reads."""
    return path.suffix.lower() in ENDINGS


def read(path: Path, target: str | None) -> tuple[list[Column], str]:
    """The columns of a file, each finished, and the name of the target's.

    An .npz file holds the inputs (N, D) as `x`, `data` or `features` and the targets (N,) as `y`, `target` or `labels`,
    and may name the columns in `feature_names`. Beside an .npy file of inputs is one of targets of the same name, with
    the ending `y` or `labels` instead of `X` or `data`. Nothing in these files is unpickled.

    Raises
    ------
    UserError : the file cannot be read, or does not hold that
    """
    if path.suffix.lower() in PARQUET:
        return _parquet(path), target or ""
    x, y, names = _arrays(path)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or len(x) != len(y):
        raise UserError(f"{path}: inputs of shape {x.shape} and targets of shape {y.shape}; expected (N, D) and (N,)")
    name = target or "y"
    if name in names:
        raise UserError(f"{path}: data.target = {name!r} is a column of the inputs; the targets are the array y")
    if x.dtype.kind in "US":
        inputs = _of_texts(names, _decoded(x).T.tolist())
    else:
        inputs = [column(name, x[:, i], path) for i, name in enumerate(names)]
    return [*inputs, column(name, y, path, targets=True)], name


def read_cells(path: Path) -> tuple[list[str], list[bool], list[list[str]]]:
    """Names of the columns, whether each holds texts, and the rows in the words of a text table; without targets, where
    the file has arrays.

    Raises UserError; see `read`.
    """
    if path.suffix.lower() in PARQUET:
        table = _parquet_table(path)
        names = column_names(table.column_names)
        columns = table.columns[: len(names)]  # without those at the end that have no name
        texts = [_holds_texts(values.type) for values in columns]
        rows = list(zip(*(values.to_pylist() for values in columns), strict=True))
    else:
        x, _, names = _arrays(path, targets=False)
        texts = [x.dtype.kind in "US"] * len(names)
        rows = _decoded(x).tolist()
    return names, texts, [[_word(value) for value in row] for row in rows]


def column(
    name: str, values: NDArray[Any], path: Path, targets: bool = False, absent: NDArray[np.bool_] | bool = False
) -> Column:
    """An array (N,) of numbers, truth values or texts as a column; `absent` says where there is none."""
    if values.dtype.kind in "US":
        return _of_texts([name], [_decoded(values).tolist()])[0]
    found = Column(name)
    if values.dtype.kind not in "biuf":
        raise UserError(f"{path}: {name!r} holds {values.dtype} values; expected numbers or texts")
    numbers = values.astype(np.float64)
    numbers[~(np.abs(numbers) <= LARGEST) | absent] = np.nan
    found.n_numbers = int((~np.isnan(numbers)).sum())
    found.code_pieces = [np.full(len(values), -1, np.int32)]
    different = np.unique(values[~np.isnan(numbers)])
    if targets or len(different) <= CATEGORIES:
        found.texts = {str(value): i for i, value in enumerate(different.tolist())}
        codes = np.searchsorted(different, values).astype(np.int32)
        found.code_pieces = [np.where(np.isnan(numbers), np.int32(-1), codes)]
    if values.dtype.kind == "b":
        found.n_words, found.n_numbers = found.n_numbers, 0
    found.pieces = [numbers]
    return found


def _of_texts(names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[Column]:
    """Columns of texts, which may be numbers as a text table has them."""
    commas = decimal_commas([texts[:SNIFFED] for texts in cells], "")
    found = [Column(name, comma=comma) for name, comma in zip(names, commas, strict=True)]
    for one, texts in zip(found, cells, strict=True):
        one.limit = max(CATEGORIES, len(texts))
        one.add(texts)
        one.finish()
    return found


def _decoded(values: NDArray[Any]) -> NDArray[Any]:
    """The same values, texts that are bytes as such; all of them in one encoding."""
    if values.dtype.kind != "S":
        return values
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError:
        return np.char.decode(values, "latin-1")


def _arrays(path: Path, targets: bool = True) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    """The inputs (N, D), the targets, which may be absent unless `targets`, and the names of the inputs' columns."""
    x, y, names = (_npz if path.suffix.lower() == ".npz" else _npy)(path, targets)
    x = x.reshape(len(x), 1) if x.ndim == 1 else x
    if x.ndim != 2 or not x.size:
        raise UserError(f"{path}: inputs of shape {x.shape}; expected (N, D)")
    is_named = len(set(names)) == x.shape[1] == len(names)
    return x, y, names if is_named else [f"x{i}" for i in range(1, x.shape[1] + 1)]


def _npz(path: Path, targets: bool) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            named = {name.lower(): name for name in archive.files}
            x, y, names = (
                next((named[name] for name in known if name in named), None) for known in (INPUTS, TARGETS, NAMES)
            )
            if x is None or (y is None and targets):
                raise UserError(
                    f"{path}: holds {', '.join(archive.files)}; expected the inputs as x and the targets as y"
                )
            return (
                archive[x],
                NONE if y is None else archive[y],
                [] if names is None else [normalize("NFC", str(name)) for name in archive[names]],
            )
    except (ValueError, OSError, EOFError, KeyError, BadZipFile) as error:
        raise UserError(f"{path}: not NumPy's arrays: {getattr(error, 'strerror', None) or error}") from None


def _npy(path: Path, targets: bool) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    pairs = [
        path.with_name(f"{path.stem[: -len(own)]}{like(other)}{path.suffix}")
        for own in INPUTS
        if path.stem.lower().endswith(own)
        for other in TARGETS
        for like in (str.lower, str.upper)
    ]
    beside = next((file for file in pairs if file.is_file()), None)
    if beside is None and targets:
        raise UserError(f"{path}: there is no file of targets beside it; call the two X.npy and y.npy")
    try:
        y = NONE if beside is None else np.load(beside, allow_pickle=False)
        return np.load(path, allow_pickle=False), y, []
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: not NumPy's arrays: {getattr(error, 'strerror', None) or error}") from None


def _parquet_table(path: Path) -> Any:
    """A table of pyarrow."""
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        raise UserError(f"{path}: Parquet needs pyarrow (pip install pyarrow); or save the table as CSV") from None
    try:
        table = parquet.ParquetFile(path).read()
    except (ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None
    if not table.num_rows:
        raise UserError(f"{path}: no rows")
    return table


def _word(value: Any) -> str:
    """A value as a text table has it. Spark and Hive may write texts as bytes."""
    if not isinstance(value, bytes):
        return "" if value is None else str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _holds_texts(kind: Any) -> bool:
    """Whether a type of pyarrow is read as words."""
    from pyarrow import types

    return not (types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _parquet(path: Path) -> list[Column]:
    table = _parquet_table(path)
    columns = dict(zip(column_names(table.column_names), table.columns, strict=False))
    cells = {
        name: [_word(value) for value in values.to_pylist()]
        for name, values in columns.items()
        if _holds_texts(values.type)
    }
    found = {one.name: one for one in _of_texts([*cells], [*cells.values()])}
    for name, values in columns.items():
        if name not in found:
            found[name] = _of_numbers(name, values, path)
    return [found[name] for name in columns]


def _of_numbers(name: str, values: Any, path: Path) -> Column:
    """An array of pyarrow; whole numbers stay such, since float64 makes those above 2⁵³ equal."""
    from pyarrow import ArrowInvalid, types

    if types.is_decimal(values.type) and values.type.scale == 0:  # as databases write whole numbers
        with suppress(ArrowInvalid):  # it is larger than 64 bits hold
            values = values.cast("int64")
    is_whole = types.is_integer(values.type)
    numbers = values.fill_null(0) if is_whole else values.cast("float64", safe=False)
    absent = values.is_null().to_numpy(zero_copy_only=False)
    return column(name, np.array(numbers.to_numpy(zero_copy_only=False)), path, targets=True, absent=absent)
