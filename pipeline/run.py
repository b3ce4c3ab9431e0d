"""Run: the directory of one task's files, with the name of each. Files are written to a temporary name and renamed, so
that a stage that dies leaves the old ones whole."""

import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from io import BufferedWriter
from pathlib import Path
from typing import Any, TypeVar
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np

from pipeline import task
from pipeline.task import UserError

LIBRARIES = ("percept", "torch", "onnx", "onnxruntime", "librosa", "numpy")
BUFFER = 2**20  # bytes
LONGEST = 150  # bytes of a file's name that stand for a text; 255 in all are allowed, of which `replacing` takes some
PROBE = 2**16  # bytes: a file that a disk with hardly any space left refuses

T = TypeVar("T")


class Run:
    """The run directory, `runs/TASK/`: the path of each file, and its content, read at most once in a command.

    Parameters
    ----------
    folder : created when the first file is written

    Example
    -------
    >>> run = Run(Path("runs/digits"))
    >>> run.report.as_posix()
    'runs/digits/report.json'
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # extract
        self.features = folder / "features.npz"
        self.shards = folder / "shards"  # what is extracted so far, until extraction ends
        # train
        self.checkpoint = folder / "checkpoint.pt"
        self.weights = folder / "weights.pt"
        self.history = folder / "history.json"
        # tune
        self.search = folder / "search.json"
        self.search_database = folder / "search.db"
        self.search_figures = folder / "search"
        # validate
        self.report = folder / "report.json"
        self.page = folder / "report.html"
        self.plots = folder / "plots"
        self.samples = folder / "samples"  # one test sample of each class, as a file
        self.inside = folder / "figures.npz"  # arrays behind the figures of the network's inside
        self.mistakes = folder / "mistakes.npz"  # media of the worst mistakes
        # export
        self.model = folder / "model.onnx"
        self.card = folder / "card.json"
        self.bom = folder / "bom.json"
        # audit
        self.audit = folder / "audit.json"
        self.audit_page = folder / "audit.html"
        self.audited = folder / "audit"  # sounds of suspects that are not files of their own
        # lessons
        self.lessons = folder / "lessons"  # figures and tables of docs/unit.md
        # predict
        self.timelines = folder / "timelines"
        # run
        self.provenance = folder / "provenance.json"  # what each stage was made from
        self.profile = folder / "profile.json"  # where the time of the last profiled command went
        self.profile_figure = folder / "profile.svg"
        self._loaded: dict[tuple[Path, Any], tuple[Any, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what this process has read: another one reads for itself."""
        return self.__dict__ | {"_loaded": {}}

    @staticmethod
    def named(runs: Path, name: str) -> "Run":
        """The run of that name in the folder `runs`, or else of the task of that name (see `task.load`)."""
        run = Run(runs / name)
        return run if run.folder.is_dir() else Run(runs / task.load(name).name)

    def load(self, path: Path, stage: str, read: Callable[[Path], T]) -> T:
        """The result of `read` for one of the files; the same object while the file does not change.

        Parameters
        ----------
        stage : the command that writes the file

        Raises
        ------
        UserError : the file is not there, and what `read` raises
        """
        stamp = _stamp(require(path, stage))
        before, value = self._loaded.get((path, read), (None, None))
        if before != stamp:
            value = read(path)
            self._loaded[path, read] = stamp, value
        loaded: T = value
        return loaded

    def put(self, path: Path, read: Callable[[Path], T], value: T) -> None:
        """Make `load` return `value` while the file does not change."""
        self._loaded[path, read] = _stamp(path), value

    def json(self, path: Path, stage: str) -> Any:
        """The content of one of the JSON files; callers must not change it. See `load`."""
        return self.load(path, stage, _json)

    def digest(self, path: Path, stage: str) -> str:
        """SHA-256 of one of the files, in hexadecimal; see `load`."""
        return self.load(path, stage, _sha256)


def _stamp(path: Path) -> tuple[int, int, int]:
    """Identifies the version of a file without reading it."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of the libraries that build a model: part of every report and card."""
    return {name: version(name) for name in LIBRARIES}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step. An OSError names `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")  # other nodes may write there too
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):  # the first refusal is the one to report
            temporary.unlink()


def file_name(text: str, ending: str) -> str:
    """What a file is called after any text, such as the name of a class: without what no file's name may have, and not
    too long for a file system; texts that it would make equal are told apart by a digest.

    Example
    -------
    >>> file_name("oboe", "wav"), file_name("oboe/d'amore", "wav")
    ('oboe.wav', "oboe_d'amore-38c3e495.wav")
    """
    content = text.encode(errors="surrogatepass")  # a path need not be UTF-8
    name = content.replace(b"/", b"_").replace(b"\0", b"_")[:LONGEST].decode(errors="ignore")
    if name != text:
        name += f"-{sha256(content).hexdigest()[:8]}"
    return f"{name}.{ending}"


def nearest(folder: Path) -> Path:
    """The folder, or what is nearest above it and exists."""
    return next(above for above in (folder, *folder.absolute().parents) if os.access(above, os.F_OK))


def check_writable(folder: Path) -> None:
    """Write and remove a file in the folder, or in the nearest one above it that exists.

    Raises
    ------
    OSError : that cannot be done; it names the folder that was tried
    """
    tried = nearest(folder)
    probe = tried / f".writable.{platform.node()}.{os.getpid()}"
    try:
        probe.write_bytes(bytes(PROBE))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(tried)) from None
    finally:
        with suppress(OSError):
            probe.unlink()


def json_text(value: Any) -> str:
    """How a run's files hold plain values."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json_text(value), "utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Streamed:
    """An array in C order that is never in memory as a whole: its shape, its bytes part by part, and its type."""

    shape: tuple[int, ...]
    parts: Iterable[bytes | memoryview]
    dtype: str = "<f4"


def write_npz(path: Path, arrays: Mapping[str, Any], compress: bool = False) -> None:
    """Write the arrays, some of which may be `Streamed`, as `numpy.savez` does."""
    compression = ZIP_DEFLATED if compress else ZIP_STORED
    with replacing(path) as temporary, ZipFile(temporary, "w", compression) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(array, Streamed):
                    header = {"descr": array.dtype, "fortran_order": False, "shape": array.shape}
                    np.lib.format.write_array_header_1_0(member, header)
                    buffered = BufferedWriter(member, BUFFER)  # a zip file takes 4 µs for each part, however small
                    try:
                        for part in array.parts:
                            buffered.write(part)
                    finally:
                        buffered.detach()
                else:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def require(path: Path, stage: str) -> Path:
    """`path`, if `percept STAGE` has written it.

    Raises
    ------
    UserError : the file is not there
    """
    if not path.is_file():
        raise UserError(f"{path}: not there yet; run `percept {stage}` first")
    return path
