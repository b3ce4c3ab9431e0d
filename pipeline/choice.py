"""Which built-in task fits a user's files: sound, symbols, other pictures, or numbers."""

from pathlib import Path

from pipeline.sources import columnar, delimited
from pipeline.sources.appearance import Appearance
from pipeline.sources.files import walk
from pipeline.sources.layout import PICTURES, SOUND
from pipeline.sources.manifest import as_on_disk, read_manifest
from pipeline.task import UserError

TEXT = frozenset(delimited.ENDINGS)
NUMBERS = frozenset(columnar.ENDINGS)


def is_data(text: str) -> bool:
    """Whether what stands where a task is expected is a user's data: a folder, a manifest or table, or arrays."""
    path = Path(text)
    return path.is_dir() or (path.is_file() and path.suffix.lower() in TEXT | NUMBERS)


def choose(data: Path) -> tuple[str, str]:
    """The built-in task for that folder or file, and why, in words.

    Raises
    ------
    UserError : there is nothing that a task takes
    """
    if data.suffix.lower() in NUMBERS and data.is_file():
        return "table", f"{data.name} holds numbers"
    files = walk(data) if data.is_dir() else _listed(data)
    if files is None:
        return "table", f"{data.name} is a table of numbers, without the columns path and label"
    kinds = {"sound": SOUND, "pictures": PICTURES, "numbers": NUMBERS}
    counts = {kind: sum(file.suffix.lower() in endings for file in files) for kind, endings in kinds.items()}
    most = max(counts, key=lambda kind: counts[kind])
    n = f"{counts[most]:,} of {len(files):,} files are {most}"
    if not counts[most]:
        raise UserError(
            f"{data}: no pictures, sound or numbers in it; name the task, as in `percept run TASK --data {data}`"
        )
    if most == "numbers":
        one = next(file for file in files if file.suffix.lower() in NUMBERS)
        raise UserError(
            f"{data}: {n}, and a table is one file, as in `percept run {one}`; arrays train_data.npy, train_labels.npy "
            f"and so on are `percept run instruments-lab --data npy:{data}`"
        )
    if most == "sound":
        return "instruments", n
    look = Appearance.of([file for file in files if file.suffix.lower() in PICTURES])
    if look is None:
        return "pictures", n
    what = "symbols on plain ground" if look.are_symbols else "no symbols on plain ground"
    return "digits" if look.are_symbols else "pictures", f"{n}, {what}: {look}"


def _listed(manifest: Path) -> list[Path] | None:
    """The files that a manifest lists; None if it is another table."""
    columns, lines = read_manifest(manifest)
    if not {"path", "label"} <= set(columns):
        return None
    at = columns.index("path")
    paths = [cells[at].strip() for _, cells in lines if len(cells) > at]
    return [manifest.parent / as_on_disk(path, manifest.parent) for path in paths if path and "\0" not in path]
