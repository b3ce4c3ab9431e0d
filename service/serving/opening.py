"""Opens a version and checks it: it is served only if requests get from its graph what its card says.

The file is whole if its seal fits, but that says nothing of what is in it: a card may have been written by hand, and a
graph may compute anything, for any time, in any amount of memory.
"""

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import onnxruntime

from models.card import BOM_FILE, CARD_FILE, SAMPLES_FILE
from service.errors import Untrusted
from service.serving.checks import check_card, check_graph, check_predictor
from service.serving.drift import Drift
from service.serving.predictor import MODEL_FILE, Predictor
from service.serving.store import Stored
from service.serving.trust import Trust

MAX_BYTES = 2**28  # of a file: 67 million weights
MAX_BESIDE = 2**23  # of the samples, and of the bill of materials, that are served
MEMORY = 2**31  # bytes that the process may take beside what it has while a version is opened
CHECK_SECONDS = 3.0  # for all that check_predictor asks, which take milliseconds


def open_version(model: Stored, trust: Trust | None = None) -> Predictor:
    """A predictor of the version, which has answered, so that no request pays for lazy initialisation.

    Each file is read once: what is served are the bytes that `trust` has checked.

    Raises Untrusted if `trust` does not accept them; ValueError, in one line, if the files do not belong together or
    the graph does not fit the card; OSError if they cannot be read; and what ONNX Runtime raises for a graph that it
    cannot load.
    """
    with _bounded_memory():
        files = _files(model.folder, trust is not None)
        signer = None if trust is None else trust.check(files)
        predictor = Predictor(files[MODEL_FILE], files[CARD_FILE])
        card = predictor.card
        if (card.name, card.version) != (model.name, model.version):
            raise ValueError(f"its card is that of {card.name}:{card.version}")
        check_card(card)
        check_graph(predictor.session, card)
        with _bounded_time(predictor):
            check_predictor(predictor)
    beside = {name: content for name, content in files.items() if 0 < len(content) <= MAX_BESIDE}
    predictor.samples = beside.get(SAMPLES_FILE, predictor.samples)
    predictor.bom, predictor.signer = beside.get(BOM_FILE), signer
    return predictor


def _files(folder: Path, everything: bool) -> dict[str, bytes]:
    """The content of a version's files: of those that are served, or of everything that may be signed."""
    needed = (MODEL_FILE, CARD_FILE)
    beside = [file.name for file in folder.iterdir() if file.is_file()] if everything else [SAMPLES_FILE, BOM_FILE]
    contents = {}
    for name in dict.fromkeys((*needed, *beside)):
        file = folder / name
        try:
            if (size := file.stat().st_size) > MAX_BYTES:
                raise ValueError(f"{name} has {size} bytes; at most {MAX_BYTES} are opened")
            contents[name] = file.read_bytes()
        except OSError:  # versions exported earlier lack some files
            if name in needed:
                raise
    return contents


@contextmanager
def _bounded_time(predictor: Predictor) -> Iterator[None]:
    """End the predictor's runs after CHECK_SECONDS. A single operator cannot be ended, so it may take longer."""
    options = predictor.run_options = onnxruntime.RunOptions()
    timer = threading.Timer(CHECK_SECONDS, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if not options.terminate:
            raise
        raise ValueError(f"its answers to small files take more than {CHECK_SECONDS:g} seconds") from error
    finally:
        timer.cancel()
        predictor.run_options = None
        predictor.drift = Drift(predictor.card.groups)


class _Bound:
    """The limit of the process's memory while versions are opened: two at once if a read hangs."""

    lock, n, before = threading.Lock(), 0, (0, 0)


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let the process take at most MEMORY more, on Linux: an allocation beyond that fails, and the process lives."""
    with _Bound.lock:
        if not _Bound.n:
            _Bound.before = resource.getrlimit(resource.RLIMIT_DATA)
            with suppress(OSError):
                data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
                soft, hard = _Bound.before
                limits = [limit for limit in (soft, hard, data + MEMORY) if limit != resource.RLIM_INFINITY]
                resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
        _Bound.n += 1
    try:
        yield
    finally:
        with _Bound.lock:
            _Bound.n -= 1
            if not _Bound.n:
                resource.setrlimit(resource.RLIMIT_DATA, _Bound.before)


def not_loaded(model: Stored, error: Exception) -> str:
    """What a client may know about a version that could not be loaded; the log has any other reason."""
    if isinstance(error, Untrusted):
        return f"{model} is not trusted: {error}"
    return f"{model} could not be loaded; the log of the service says why"


def in_one_line(error: BaseException) -> str:
    """An error and what caused it, in one line."""
    cause = error.__cause__
    return " ".join(str(error).split()) + ("" if cause is None else f": {in_one_line(cause)}")
