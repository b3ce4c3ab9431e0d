"""The workflow: the four stages in order, each run only if something that it depends on has changed.

A finished stage is recorded in the run's `provenance.json`: a digest of its inputs, and size and time of the files that
it wrote. It is up to date while the digest is the same and the files are untouched. Inputs are the results of earlier
stages (by content: extracting the same features again triggers nothing), sections of the task, the source's files and
versions of code. No stage is imported to check this.
"""

import json
import time
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import profile, sources
from pipeline.engine import LOCAL, Engine
from pipeline.errors import counted
from pipeline.interrupt import resumable
from pipeline.profile import step
from pipeline.run import Run, check_writable, write_json
from pipeline.signing import Signer
from pipeline.task import Task, UserError, digest
from pipeline.versions import EXTRACTION, WEIGHING_VERSION
from service.media import Limits
from service.media.native import trim
from service.serving.home import bentoml_home

STAGES = ("extract", "train", "validate", "export")
LIBRARIES = (  # results may change with their versions
    "percept", "torch", "numpy", "scipy", "librosa", "scikit-learn", "soxr", "soundfile", "pillow", "keras", "onnx",
    "onnxruntime", "bentoml", "av", "pi-heif",
)  # fmt: skip

LOADING = "load libraries"  # a step

Stamp = tuple[int, int] | None  # bytes, time of the last change in ns; None: there is no such file


class Entry(BaseModel):
    """The record of a finished stage."""

    model_config = ConfigDict(frozen=True)

    inputs: str  # digest
    outputs: dict[str, Stamp]  # by name of the file
    content: str  # SHA-256 of what later stages depend on
    summary: str  # for people
    skipped: int = 0  # files that extraction could not use
    device: str = "cpu"  # or cuda; that the network was trained on
    forced: bool = False  # whether it was exported although the gate had not passed
    version: str = ""  # in the model store
    signed_by: str = ""


class Workflow:
    """Stages of a task in a run directory.

    Parameters
    ----------
    strict : a file that cannot be used is an error
    force : redo what is up to date, and export although the gate has not passed
    engine : where features are extracted and the network is trained
    signer : signs what is exported

    Example
    -------
    >>> from tempfile import TemporaryDirectory
    >>> from pipeline import task
    >>> with TemporaryDirectory() as folder:
    ...     workflow = Workflow(task.load("sine"), Run(Path(folder)))
    ...     workflow.extract()  # doctest: +ELLIPSIS
    ...     workflow.is_up_to_date("extract"), workflow.is_up_to_date("train")
    sine: 401 samples, 401 newly extracted, 0 skipped → ...
    (True, False)
    """

    def __init__(
        self,
        task: Task,
        run: Run,
        strict: bool = False,
        force: bool = False,
        engine: Engine = LOCAL,
        signer: Signer | None = None,
    ) -> None:
        self.task, self.run, self.strict, self.force, self.engine = task, run, strict, force, engine
        self.signer = signer
        self.entries = _read(run.provenance)
        self.outputs = {
            "extract": (run.features,),
            "train": (run.weights, run.history),
            "validate": (run.report, run.inside, run.mistakes),
            "export": (run.model, run.card),
        }

    @resumable()
    def run_all(self) -> None:
        """Run the stages that are not up to date, print one line for each of the others, and say how long each took."""
        seconds: dict[str, float] = {}
        with ExitStack() as running:  # Ray, if it is the engine, from the first stage that needs it
            for stage in ("extract", "train"):
                if not self._say_up_to_date(stage):
                    self._check_store()  # now, not after an hour of training
                    running.enter_context(self.engine.running())
                    seconds[stage] = self._timed(stage)
        for stage in ("validate", "export"):
            if not self._say_up_to_date(stage):
                seconds[stage] = self._timed(stage)
        if seconds:  # libraries are loaded by the first stage that needs them
            each = ", ".join(f"{stage} {t:.1f} s" for stage, t in seconds.items())
            print(f"{self.task.name}: {sum(seconds.values()):.1f} s, loading libraries included: {each}")

    @resumable()
    def extract(self) -> None:
        """Stage 1: samples → features."""
        check_writable(self.run.folder)
        with step(LOADING):
            from pipeline import extract

        inputs = self._inputs("extract")
        features = extract.extract(self.task, self.run, self.strict, self.engine)
        if self.task.data.path is None:  # it may have been downloaded only now
            inputs = self._inputs("extract")
        n_skipped = len(features.skipped)
        summary = f"{len(features.x):,} samples" + (f", {n_skipped:,} skipped" if n_skipped else "")
        if extract.skipped.warning(n_skipped, n_skipped + len(features.x)):
            summary += f"; WARNING: more than {100 * extract.skipped.SHARE:.0f} %"
        self._record("extract", inputs, features.fingerprint(), summary, skipped=n_skipped)

    def train(self) -> None:
        """Stage 2: features → weights."""
        check_writable(self.run.folder)
        with step(LOADING):
            from pipeline import train

        inputs = self._inputs("train")
        with resumable() if self.task.train.framework == "torch" else nullcontext():  # Keras writes no checkpoints
            facts = train.train(self.task, self.run, engine=self.engine)
        device = "cpu" if facts.device == "cpu" else "cuda"
        content = self.run.digest(self.run.weights, "train")
        self._record("train", inputs, content, f"{counted(facts.epochs, 'epoch')} on {facts.device}", device=device)

    def validate(self) -> None:
        """Stage 3: weights → report on the test split."""
        check_writable(self.run.folder)
        with step(LOADING):
            from pipeline import validate

        inputs = self._inputs("validate")
        report = validate.validate(self.task, self.run)
        content = self.run.digest(self.run.report, "validate")
        summary = "the gate has passed" if report["gate"]["passed"] else "the gate has not passed"
        self._record("validate", inputs, content, summary)

    def export(self) -> None:
        """Stage 4: weights → ONNX graph in the model store."""
        self._check_store()
        with step(LOADING):
            from pipeline import export

        inputs = self._inputs("export")
        card = export.export(self.task, self.run, self.force, self.signer)
        summary, signed_by = f"{card.name}:{card.version}", "" if self.signer is None else self.signer.who
        self._record("export", inputs, "", summary, forced=card.gate_forced, version=card.version, signed_by=signed_by)

    def is_up_to_date(self, stage: str) -> bool:
        """Whether the stage would write the same files again."""
        entry = self.entries.get(stage)
        if entry is None or entry.inputs != self._inputs(stage) or entry.outputs != self._stamps(stage):
            return False
        match stage:
            case "extract":
                return not (self.strict and entry.skipped)
            case "train":
                return self.task.train.device in ("auto", entry.device)
            case "validate":  # `percept plot` may have drawn these again
                return self.run.page.is_file() and self.run.plots.is_dir() and self.run.samples.is_dir()
            case _:
                is_signed = self.signer is None or self.signer.who == entry.signed_by
                return is_signed and _is_exported(self.task.name, entry.version) and (self.force or not entry.forced)

    def _check_store(self) -> None:
        check_store(f"models/{self.task.name}", "tmp")

    def _timed(self, stage: str) -> float:
        """Run a stage; the seconds that it took."""
        started = time.perf_counter()
        with profile.stage(stage):
            getattr(self, stage)()
            trim()  # the next one runs in this process too
        return time.perf_counter() - started

    def _say_up_to_date(self, stage: str) -> bool:
        if self.force or not self.is_up_to_date(stage):
            return False
        summary, version = self.entries[stage].summary, self.entries[stage].version
        if stage == "export" and version != (served := _served(self.task.name)):
            summary += f", rolled back to {served}"
        print(f"{self.task.name}: {stage} is up to date ({summary})")
        return True

    def _inputs(self, stage: str) -> str:
        """Digest of everything that the stage depends on, except the device and the options of this object."""
        task, options = self.task, self.task.resolved()
        inputs: list[Any] = [stage, _versions()]
        inputs += [self._content(name) for name in STAGES[: STAGES.index(stage)]]
        match stage:
            case "extract":
                limits = asdict(Limits.from_environment())
                inputs += [task.origin(), sources.fingerprint(task.data), limits, EXTRACTION]
                if task.features.kind == "image":
                    inputs.append(WEIGHING_VERSION)
            case "train":
                options["train"].pop("device")
                inputs += [options["model"], options["train"]]
            case "validate":  # the report quotes the data's path and the description
                inputs += [task.origin(), options["name"], options["description"], options["validate"]]
            case _:
                inputs += [options["name"]]
        return digest(inputs)

    def _content(self, stage: str) -> Any:
        """What later stages depend on: its content as recorded, or the stamps of files that nobody recorded."""
        entry, stamps = self.entries.get(stage), self._stamps(stage)
        return entry.content if entry is not None and entry.outputs == stamps else stamps

    def _stamps(self, stage: str) -> dict[str, Stamp]:
        return {path.name: _stamp(path) for path in self.outputs[stage]}

    def _record(self, stage: str, inputs: str, content: str, summary: str, **more: Any) -> None:
        self.entries[stage] = Entry(
            inputs=inputs, outputs=self._stamps(stage), content=content, summary=summary, **more
        )
        write_json(
            self.run.provenance,
            {name: entry.model_dump(mode="json", exclude_defaults=True) for name, entry in self.entries.items()},
        )


def _read(path: Path) -> dict[str, Entry]:
    """The record of each stage; empty if the file is absent, damaged or of another version."""
    try:
        return {name: Entry(**entry) for name, entry in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError, ValidationError):
        return {}


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


@cache
def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # an optional one
            versions[name] = None
    return versions


def _served(name: str) -> str:
    """The version of a model that BentoML's store names as the one to serve, found without importing BentoML; empty if
    there is none."""
    try:
        return (bentoml_home() / "models" / name / "latest").read_text("utf-8").strip()
    except (OSError, ValueError):
        return ""


def _is_exported(name: str, version: str) -> bool:
    """Whether the store holds that version, and serves it or an older one that `percept rollback` chose since."""
    served = _served(name)
    folder = bentoml_home() / "models" / name if served else Path()
    if not served or not (folder / version / "model.onnx").is_file():
        return False
    if served == version or not (folder / served).is_dir():
        return served == version
    from service.serving import store  # imports BentoML, so only now

    versions = store.versions(name)
    return versions[:1] == [version] and served in versions


def check_store(*folders: str) -> Path:
    """BentoML's home folder, found without importing BentoML.

    Raises
    ------
    UserError : it is not known, or one of these folders in it cannot be written
    """
    try:
        home = bentoml_home()
        for folder in folders:
            check_writable(home / folder)
    except OSError as error:
        raise UserError(
            f"the model store cannot be written: {error.filename}: {error.strerror}; "
            "BENTOML_HOME names the folder to use instead"
        ) from None
    except ValueError as error:
        raise UserError(str(error)) from None
    return home
