"""The `percept` command."""

import atexit
import gc
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

# Stages are imported inside their commands: predicting and serving need neither torch nor librosa.
from pipeline import task as tasks
from pipeline.engine import Engine
from pipeline.run import Run, require
from pipeline.task import Task, UserError
from service.errors import MediaError
from service.media.limits import Limits

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
From labelled pixels and sound to a served classifier.

**The way through**: `extract` decodes samples into features, `train` fits a multilayer perceptron, `validate` judges it
on the test split, `export` writes one self-contained ONNX file and puts it into BentoML's model store, `serve` answers
over HTTP. `run` does the first four. Each stage reads the files of the stage before it in `runs/TASK/` and can be
run alone and again.

**TASK** is a built-in task (see `percept tasks`) or the path of a TOML file.

**Examples**

`percept run digits` — scanned digits that come with scikit-learn; no download

`percept run digits --data mnist` — MNIST, downloaded once; `mnist:DIR` reads a copy

`percept run instruments --data tinysol` — 2,913 notes of 14 instruments, downloaded once; `tinysol:DIR` reads a copy

`percept run instruments --data clips/` — a folder with one sub-folder of recordings for each class

`percept run instruments --data clips.csv --set train.epochs=50 --set name=birds` — a manifest path,label[,split]

`percept predict instruments note.wav --json` — through the exported graph, as the service does

`percept predict instruments concert.flac --timeline 2` — what is heard when, in windows of two seconds, and a picture
""",
)

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="Built-in task, or path of a TOML file.")]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Replaces the source: digits, notes, regions, sine; mnist, tinysol or medley_solos_db, each with :DIR for "
        "a copy; a folder of class folders, or a .csv manifest.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replaces a key of the task, as in train.epochs=5. Repeatable."),
]
RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where the run directories lie.")]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", metavar="auto|cpu|cuda", help="Where to train; auto takes a GPU if there is one."),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="A file that cannot be used is an error, not skipped.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Export although the gate has not passed; recorded in the card.")
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="local|ray[:ADDRESS]",
        help="Where the work is done: on this machine; by Ray, started here; or by the cluster at HOST:PORT or auto.",
    ),
]
RUNS = Path("runs")
EXTRACTED = ("data", "features", "augment")  # sections that extraction obeys
WINDOW = 0.5  # seconds; of a timeline that names none


@app.command("tasks")
def list_tasks() -> None:
    """List the built-in tasks."""
    for name, description in tasks.builtin().items():
        print(f"{name:<14} {description}")


@app.command()
def run(
    task: TaskName,
    data: DataOption = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    runs: RunsOption = RUNS,
    strict: StrictOption = False,
    force: ForceOption = False,
    engine: EngineOption = "local",
) -> None:
    """Extract, train, validate and export: the whole way, in one go."""
    resolved, where = _load(task, data, set_, device), Engine.parse(engine)
    from pipeline import export, extract, train, validate

    directory = Run(runs / resolved.name)
    with where.running():
        extract.extract(resolved, directory, strict, where)
        train.train(resolved, directory, engine=where)
    validate.validate(resolved, directory)
    export.export(resolved, directory, force)


@app.command()
def extract(
    task: TaskName,
    data: DataOption = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    runs: RunsOption = RUNS,
    strict: StrictOption = False,
    engine: EngineOption = "local",
) -> None:
    """Stage 1: decode the samples into features (features.npz). What is known already is not decoded again."""
    resolved, where = _load(task, data, set_, device), Engine.parse(engine)
    from pipeline import extract

    extract.extract(resolved, Run(runs / resolved.name), strict, where)


@app.command()
def train(
    task: TaskName,
    data: DataOption = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    runs: RunsOption = RUNS,
    engine: EngineOption = "local",
) -> None:
    """Stage 2: fit the network (weights.pt, history.json). A killed run continues where it was."""
    resolved, where = _load(task, data, set_, device), Engine.parse(engine)
    from pipeline import train

    _check_made_with(resolved, runs, data, set_, EXTRACTED)
    train.train(resolved, Run(runs / resolved.name), engine=where)


@app.command()
def validate(
    task: TaskName,
    data: DataOption = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Stage 3: judge the network on the test split (report.json, report.html, plots/, samples/)."""
    resolved = _load(task, data, set_, device)
    from pipeline import validate

    _check_made_with(resolved, runs, data, set_, (*EXTRACTED, "model", "train"))
    validate.validate(resolved, Run(runs / resolved.name))


@app.command()
def export(
    task: TaskName,
    data: DataOption = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    runs: RunsOption = RUNS,
    force: ForceOption = False,
) -> None:
    """Stage 4: write and check the ONNX graph (model.onnx, card.json), and put it into the model store."""
    resolved = _load(task, data, set_, device)
    from pipeline import export

    _check_made_with(resolved, runs, data, set_, (*EXTRACTED, "model", "train"))
    export.export(resolved, Run(runs / resolved.name), force)


@app.command()
def plot(task: TaskName, data: DataOption = None, set_: SetOption = None, runs: RunsOption = RUNS) -> None:
    """Draw a run's figures and its report page again, from its saved results."""
    resolved = _load(task, data, set_, None)
    from pipeline.report import curves, page, search

    directory = Run(runs / resolved.name)
    searched = search.draw(directory) if directory.search.is_file() else []
    for figure in curves.draw(directory) + searched:
        print(figure)
    print(page.write(directory))


@app.command()
def tune(
    task: TaskName,
    data: DataOption = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    runs: RunsOption = RUNS,
    storage: Annotated[
        str | None, typer.Option("--storage", metavar="URL", help="Optuna's storage; SQLite in the run by default.")
    ] = None,
    export: Annotated[
        bool, typer.Option("--export", help="Then train the best on all training data, validate and export it.")
    ] = False,
    engine: EngineOption = "local",
) -> None:
    """Search over the task's [tune] space by cross-validation.

    An interrupted search continues, and the same command in two terminals shares the work. The space, sampler, number
    of trials and folds are keys of the task, as in --set 'tune.space={"train.l2"=[0, 1e-4, 1e-3]}'.
    """
    resolved, where = _load(task, data, set_, device), Engine.parse(engine)
    from pipeline import export as exporting
    from pipeline import tune as searching
    from pipeline import validate as validating

    _check_made_with(resolved, runs, data, set_, EXTRACTED)
    directory = Run(runs / resolved.name)
    searching.tune(resolved, directory, storage, where)
    if export:
        best = searching.train_best(resolved, directory)
        validating.validate(best, directory)
        exporting.export(best, directory)


@app.command()
def gradcheck(task: TaskName, data: DataOption = None, set_: SetOption = None, runs: RunsOption = RUNS) -> None:
    """Compare closed-form gradients with central differences and with autograd, in float64, on extracted features."""
    resolved = _load(task, data, set_, None)
    from pipeline.lessons import gradcheck

    _check_made_with(resolved, runs, data, set_, EXTRACTED)
    gradcheck.gradcheck(resolved, Run(runs / resolved.name))


@app.command()
def exercises(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the figures go.")] = RUNS / "exercises",
) -> None:
    """Work the two exercises with a network of sigmoid units set by hand, and draw their figures."""
    from pipeline.lessons import exercises

    for figure in exercises.draw(out):
        print(figure)


class _Predict(TyperCommand):
    """Takes `--timeline` with and without the seconds, which neither Typer nor Click can tell from a FILE."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for i, (argument, following) in enumerate(zip(args, [*args[1:], ""], strict=True)):
            if argument == "--timeline" and not _is_number(following):
                args[i] = f"--timeline={WINDOW}"
        return super().parse_args(ctx, args)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@app.command(cls=_Predict)
def predict(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Task, or name of a run, that has been exported.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures or sound files.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")] = False,
    timeline: Annotated[
        str | None,
        typer.Option(
            "--timeline",
            metavar="[SECONDS]",
            help=f"Also what is heard when in a recording, in windows of so many seconds, {WINDOW} if not given; "
            "without --json it is drawn, in the run's folder timelines/.",
        ),
    ] = None,
    runs: RunsOption = RUNS,
) -> None:
    """Classify files through the exported graph, exactly as the service does."""
    from pipeline.report.timeline import draw, lines
    from service.serving.predictor import Predictor

    directory = Run(runs / task)
    if not directory.model.is_file():
        directory = Run(runs / tasks.load(task).name)
    predictor = Predictor(require(directory.model, "export"))
    try:
        window = predictor.window(timeline)
    except MediaError as error:
        raise UserError(str(error)) from None
    limits = Limits.from_environment()
    failed, drawn = False, set[Path]()
    for file in files:
        try:
            sample = predictor.decode(file.read_bytes(), limits)
            answer = predictor.predict(sample, window)
        except (MediaError, OSError) as error:
            failed = True
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            print(
                json.dumps({"file": str(file), "error": reason}, ensure_ascii=False) if as_json else f"{file}  {reason}"
            )
            continue
        if as_json:
            fields = answer.model_dump(exclude_unset=True, exclude={"model", "version"})
            print(json.dumps({"file": str(file), **fields}, ensure_ascii=False))
        elif answer.value is not None:
            print(f"{file}  " + "  ".join(f"{name} = {value:.6g}" for name, value in answer.value.items()))
        else:
            unknown = "  unknown: unlike what it was trained on" if answer.known is False else ""
            print(f"{file}  {answer.label}  {answer.confidence:.4f}{unknown}")
        if answer.timeline is not None and not as_json:
            print(*(f"  {line}" for line in lines(answer.timeline)), sep="\n")
            if answer.label is not None:
                title = f"{file.name}: {answer.label}, {answer.confidence:.4f}"
                picture = directory.timelines / f"{file.stem}.png"
                while picture in drawn:
                    picture = picture.with_stem(f"{picture.stem}-2")
                try:
                    print(f"  → {draw(picture, title, sample, answer.timeline)}")
                except ModuleNotFoundError as error:
                    print(f"percept: no picture is drawn: {error.name} is not installed", file=sys.stderr)
                drawn.add(picture)
    if failed:
        raise typer.Exit(1)


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model in the model store.")],
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="The one before the present if not given.")
    ] = None,
) -> None:
    """Serve an older version of a model; a running service follows within seconds. The next export is served again."""
    from service.serving import store

    try:
        print(f"{model}: serving {store.roll_back(model, version)}")
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3000,
) -> None:
    """Serve every model of the store over HTTP; the same as `bentoml serve service.service:Percept`."""
    target = str(Path(__file__).parent.parent)
    command = [
        "bentoml",
        "serve",
        "service.service:Percept",
        "--host",
        host,
        "--port",
        str(port),
        "--working-dir",
        target,
    ]
    os.execv(sys.executable, [sys.executable, "-m", *command])


def main() -> None:
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # a command of ours reports to nobody
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # PyTorch and its exporter make a million objects that stay. The collector would walk them all again and again
    # while they come, and in the end twice more: 3 of the 13 seconds of an export.
    gc.set_threshold(20_000)
    atexit.register(gc.freeze)
    try:
        _check_environment()
        app()
    except UserError as error:
        sys.exit("\n".join(f"percept: {line}" for line in str(error).splitlines()))


def _check_environment() -> None:
    try:
        Limits.from_environment()
    except ValueError as error:
        raise UserError(str(error)) from None


def _load(task: str, data: str | None, overrides: list[str] | None, device: str | None) -> Task:
    extra = [f"train.device={device!r}"] if device else []
    return tasks.load(task, data, [*(overrides or []), *extra])


def _check_made_with(
    task: Task, runs: Path, data: str | None, overrides: list[str] | None, sections: tuple[str, ...]
) -> None:
    """Options that would change what an earlier stage has already made are refused, rather than ignored."""
    given = {override.split(".")[0] for override in overrides or []} | ({"data"} if data else set())
    if not given.intersection(sections):
        return
    from pipeline import extract
    from pipeline.train import weights

    directory = Run(runs / task.name)
    made = dict(extract.Features.of(directory).task)
    if "train" in sections:
        _, facts = weights.of(directory)
        made |= {"model": facts.model, "train": facts.train}
    asked = {**task.resolved(), "data": extract.origin(task)["data"]}
    for section in sections:
        if section in given and asked[section] != made[section]:
            verb = "extract" if section in EXTRACTED else "train"
            raise UserError(
                f"{directory.folder} was made with another [{section}]; run `percept {verb}` with these options first"
            )
