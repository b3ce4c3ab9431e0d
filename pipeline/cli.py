"""The `percept` command."""

import atexit
import errno
import gc
import io
import json
import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

# Stages are imported inside their commands: predicting and serving need neither torch nor librosa.
from pipeline import caches, choice
from pipeline import task as tasks
from pipeline.engine import Engine
from pipeline.interrupt import Stopped, resumable, stoppable
from pipeline.memory import one_heap
from pipeline.profile import Stage, lines, profiling
from pipeline.run import Run, check_writable, write_json
from pipeline.signing import Signer
from pipeline.sources import REGISTRY
from pipeline.task import Task, UserError
from pipeline.workflow import Workflow, check_store
from service.media import Limits
from service.serving.trust import KEYS, paths

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
From labelled pixels, sound and tables to a served classifier.

**Stages**: `extract` decodes samples into features, `train` fits a multilayer perceptron, `validate` evaluates it on
the test split, `export` writes one self-contained ONNX file and adds it to BentoML's model store, `serve` answers over
HTTP. `run` does the first four, each only if something that it depends on has changed. Each stage reads the files of
the stage before it in `runs/TASK/`, and can be run alone and again.

**TASK** is a built-in task (see `percept tasks`) or the path of a TOML file.

**Examples**

`percept run digits` — scanned digits that come with scikit-learn, and synthetic ones; no download

`percept run digits --data mnist` — MNIST, downloaded once; `mnist:DIR` reads a copy

`percept run instruments --data tinysol` — 2,913 notes of 14 instruments, downloaded once; `tinysol:DIR` reads a copy

`percept run photos/ --set name=birds` — one sub-folder of files for each class, which choose the task

`percept run instruments --data clips/ --set name=birds` — a folder with one sub-folder of recordings for each class

`percept run instruments --data clips.csv --set train.epochs=50 --set name=birds` — a manifest

`percept run table --data flats.csv --set data.target=price --set name=flats` — a table: CSV, NumPy's arrays or Parquet

`percept predict instruments note.wav --json` — through the exported graph, as the service does

`percept predict instruments concert.flac --timeline 2` — a timeline in windows of two seconds, and a picture of it
""",
)

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="Built-in task, or path of a TOML file.")]
RunName = Annotated[str, typer.Argument(metavar="TASK", help="Task, or name of a run.")]
_FORMS = {  # of `Source.form`
    "name": "{0}", "copy": "{0}[:DIR]", "own": "{0}:DIR", "folder": "FOLDER", "csv": "FILE.csv", "table": "TABLE",
}  # fmt: skip
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Replaces the source. "
        + "; ".join(f"{_FORMS[s.form].format(s.name)}: {s.help}" for s in REGISTRY.values())
        + ". DIR is a folder that holds the data set; without [:DIR], it is downloaded.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replaces a key of the task, as in train.epochs=5. Repeatable."),
]
RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of the run directories.")]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", metavar="auto|cpu|cuda", help="Where to train; auto takes a GPU if there is one."),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="A file that cannot be used is an error, not skipped.")]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="local|ray[:ADDRESS]",
        help="Where the work is done: on this machine; by Ray, started here; or by the cluster at HOST:PORT or auto.",
    ),
]
SignOption = Annotated[
    Path | None,
    typer.Option(
        "--sign", metavar="KEY", help="Sign the model with this private key, PEM on P-256, P-384 or P-521 (model.sig)."
    ),
]
CertificateOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--certificate",
        metavar="PEM",
        help="The certificate of KEY, to be trusted by who issued it; then, repeated, those between it and that one.",
    ),
]
NumbersOption = Annotated[str | None, typer.Option(metavar="NUMBERS", help="One for each; 0 by default.")]
RUNS = Path("runs")
EXTRACTED = ("data", "features", "augment")  # sections that features depend on
TRAINED = (*EXTRACTED, "model", "train")  # that weights depend on
BENTOML_FOLDERS = ("bentos", "models", "envs", "tmp")  # that BentoML makes in its home folder when it starts
LESSONS = "Lessons of docs/unit.md"  # heading in the command's help
WINDOW = 0.5  # seconds: default length of a timeline's windows


@app.command("tasks")
def list_tasks() -> None:
    """List the built-in tasks."""
    for name, description in tasks.builtin().items():
        print(f"{name:<16} {description}")


@app.command()
def run(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK|DATA",
            help="Built-in task, or path of a TOML file; or a folder or file of data, for which a task is chosen.",
        ),
    ],
    data: DataOption = None,
    chosen: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="The task for DATA, instead of the one chosen for it.")
    ] = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    runs: RunsOption = RUNS,
    strict: StrictOption = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Redo all stages, and export although the gate has not passed, which the card records.",
        ),
    ] = False,
    engine: EngineOption = "local",
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Say where the time went, step by step; also in profile.json and profile.svg."),
    ] = False,
    sign: SignOption = None,
    certificate: CertificateOption = None,
) -> None:
    """Extract, train, validate and export: every stage that is not up to date."""
    if chosen is not None and data is None:
        task, data = chosen, task
    elif chosen is not None:
        raise UserError(f"--task {chosen}: it is for DATA alone, as in `percept run {data} --task {chosen}`")
    elif data is None and task not in tasks.builtin() and choice.is_data(task):
        data, (task, reason) = task, choice.choose(Path(task))
        print(f"{data}: {reason}; running the task {task} (--task names another)", flush=True)
    resolved, signer = _load(task, data, set_, device, runs), _signer(sign, certificate)
    directory = Run(runs / resolved.name)
    workflow = Workflow(resolved, directory, strict, force, Engine.parse(engine), signer)
    if not profile:
        return workflow.run_all()
    with profiling() as stages:
        try:
            workflow.run_all()
        finally:  # what has been done until a stage failed, too
            _show_profile(directory, stages)


def _show_profile(directory: Run, stages: list[Stage]) -> None:
    if not stages:
        return print("nothing to profile: every stage is up to date; --force redoes them")
    from pipeline.report import profile

    write_json(directory.profile, stages)
    print("\n".join(lines(stages)))
    print(f"→ {profile.draw(directory)}")


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
    """Stage 1: decode the samples into features (features.npz). What an earlier run decoded is not decoded again."""
    resolved = _load(task, data, set_, device, runs)
    Workflow(resolved, Run(runs / resolved.name), strict, engine=Engine.parse(engine)).extract()


@app.command()
def train(
    task: TaskName,
    data: DataOption = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    runs: RunsOption = RUNS,
    engine: EngineOption = "local",
) -> None:
    """Stage 2: fit the network (weights.pt, history.json). A killed run continues from its last checkpoint."""
    resolved, where = _load_made(task, data, set_, device, runs, EXTRACTED), Engine.parse(engine)
    Workflow(resolved, Run(runs / resolved.name), engine=where).train()


@app.command()
def validate(
    task: TaskName,
    data: DataOption = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Stage 3: evaluate the network on the test split (report.json, report.html, plots/, samples/)."""
    resolved = _load_made(task, data, set_, device, runs, TRAINED)
    Workflow(resolved, Run(runs / resolved.name)).validate()


@app.command()
def export(
    task: TaskName,
    data: DataOption = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    runs: RunsOption = RUNS,
    force: Annotated[
        bool, typer.Option("--force", help="Export although the gate has not passed; the card records it.")
    ] = False,
    sign: SignOption = None,
    certificate: CertificateOption = None,
) -> None:
    """Stage 4: write and check the ONNX graph (model.onnx, card.json, bom.json), and put it into the model store."""
    resolved, signer = _load_made(task, data, set_, device, runs, TRAINED), _signer(sign, certificate)
    Workflow(resolved, Run(runs / resolved.name), force=force, signer=signer).export()


@app.command()
def audit(
    task: RunName,
    data: DataOption = None,
    set_: SetOption = None,
    runs: RunsOption = RUNS,
    unlabelled: Annotated[
        Path | None,
        typer.Option("--unlabelled", metavar="DIR", help="Files without labels, ranked by how much a label is worth."),
    ] = None,
) -> None:
    """Look for wrong labels, duplicates, outliers and damaged media (audit.json, audit.html).

    Open audit.html in a browser: each suspect is heard and seen beside what it resembles, and is kept, relabelled or
    dropped by keyboard or finger. With `--unlabelled`, the files of a folder are labelled there too, those first from
    which the network would learn most. The page saves a manifest for `--data`. Needs no training; extracts if nothing
    has been extracted yet.
    """
    directory = _saved(task, data, set_, runs)
    if data or set_ or not directory.features.exists():
        _, directory = _extracted(task, data, set_, runs)
    check_writable(directory.folder)
    from pipeline.audit import audit

    audit(directory, unlabelled)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Run, or MODEL[:VERSION] of the model store.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    runs: RunsOption = RUNS,
) -> None:
    """Compare two exported models on the test samples that they have in common (compare.json, compare.html).

    Who is right where the other is wrong (McNemar's exact test), each class, calibration, share of known samples, size
    and time. A version of the model store is asked about the test samples of the run of its name.
    """
    check_writable(runs)
    from pipeline.compare import compare

    compare(a, b, runs)


@app.command()
def plot(task: RunName, data: DataOption = None, set_: SetOption = None, runs: RunsOption = RUNS) -> None:
    """Draw a run's figures and its report page again, from its saved results."""
    directory = _saved(task, data, set_, runs)
    from pipeline.report import curves, page, profile, search

    searched = search.draw(directory) if directory.search.is_file() else []
    profiled = [profile.draw(directory)] if directory.profile.is_file() else []
    for figure in curves.draw(directory) + searched + profiled:
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

    An interrupted search continues; the same command in two terminals shares the work. The space, sampler, number of
    trials and folds are keys of the task, as in --set 'tune.space={"train.l2"=[0, 1e-4, 1e-3]}'.
    """
    resolved, where = _load_made(task, data, set_, device, runs, EXTRACTED), Engine.parse(engine)
    from pipeline import export as exporting
    from pipeline import validate as validating
    from pipeline.tune import stage as searching

    directory = Run(runs / resolved.name)
    check_writable(directory.folder)
    if export:
        check_store(f"models/{resolved.name}", "tmp")
    with resumable():
        searching.tune(resolved, directory, storage, where)
    if export:
        best = searching.train_best(resolved, directory)
        validating.validate(best, directory)
        exporting.export(best, directory)


@app.command(rich_help_panel=LESSONS)
def gradcheck(task: TaskName, data: DataOption = None, set_: SetOption = None, runs: RunsOption = RUNS) -> None:
    """Compare closed-form gradients with central differences and with autograd, in float64, on the task's samples."""
    resolved, directory = _extracted(task, data, set_, runs)
    from pipeline.lessons import gradcheck

    gradcheck.gradcheck(resolved, directory)


@app.command(rich_help_panel=LESSONS)
def backprop(task: TaskName, data: DataOption = None, set_: SetOption = None, runs: RunsOption = RUNS) -> None:
    """Draw the computation graph of one sample, with the value and the gradient of every node."""
    resolved, directory = _extracted(task, data, set_, runs)
    from pipeline.lessons import backprop

    backprop.backprop(resolved, directory)


@app.command(rich_help_panel=LESSONS)
def curves(
    task: TaskName,
    data: DataOption = None,
    set_: SetOption = None,
    learning_rates: Annotated[
        list[float] | None,
        typer.Option("--learning-rate", metavar="RATE", help="Instead of the task's. Repeatable: one figure."),
    ] = None,
    runs: RunsOption = RUNS,
) -> None:
    """Train, and evaluate the test samples after every epoch, as lectures do; only to be looked at."""
    rates = [[*(set_ or []), f"train.learning_rate={rate}"] for rate in learning_rates or []]
    for overrides in rates:  # a wrong one is told before anything is extracted
        _load(task, data, overrides, None, runs)
    resolved, directory = _extracted(task, data, set_, runs)
    options = [_load(task, resolved.origin()["data"], overrides, None, runs).train for overrides in rates]
    from pipeline.lessons import curves

    curves.curves(resolved, directory, options or [resolved.train])


@app.command(rich_help_panel=LESSONS)
def minibatches(task: TaskName, data: DataOption = None, set_: SetOption = None, runs: RunsOption = RUNS) -> None:
    """Measure the mean and the spread of mini-batches' gradients."""
    resolved, directory = _extracted(task, data, set_, runs)
    from pipeline.lessons import descent

    descent.minibatches(resolved, directory)


@app.command("robbins-monro", rich_help_panel=LESSONS)
def robbins_monro(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the figure goes.")] = RUNS / "exercises",
) -> None:
    """Compare step sizes with the differential equation that gradient descent follows."""
    from pipeline.lessons import descent

    print(descent.robbins_monro(out))


@app.command(rich_help_panel=LESSONS)
def exercises(
    network: Annotated[
        Path | None,
        typer.Option("--network", metavar="FILE.toml", help="A network set by hand, in the keys of the options below."),
    ] = None,
    unit: Annotated[
        str | None, typer.Option("--unit", metavar="NAME", help="step, linear, sigmoid (the default), relu or tanh.")
    ] = None,
    w_hidden: Annotated[
        str | None,
        typer.Option("--w-hidden", metavar="NUMBERS", help="'1, 1, 1', or a row for each input: '[[1, 1], [1, 1]]'."),
    ] = None,
    b_hidden: NumbersOption = None,
    w_output: Annotated[
        str | None,
        typer.Option(
            "--w-output", metavar="NUMBERS", help="One for each unit, or a row for each; without: see --points."
        ),
    ] = None,
    b_output: NumbersOption = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="NAME", help="linear (the default), step, sigmoid or softmax.")
    ] = None,
    mixture: Annotated[bool, typer.Option("--mixture", help="Divide by the sum of the responses.")] = False,
    points: Annotated[
        str | None,
        typer.Option(
            "--points",
            metavar="ROWS",
            help="'[[0, 1], [2, 3]]': inputs, then values. Without --w-output, W_O and b_O are fitted to them.",
        ),
    ] = None,
    x: Annotated[
        str | None, typer.Option("--x", metavar="NUMBERS", help="Inputs whose forward pass is printed.")
    ] = None,
    y: Annotated[
        str | None, typer.Option("--y", metavar="NUMBERS", help="Their targets: prints the gradients.")
    ] = None,
    range_: Annotated[str | None, typer.Option("--range", metavar="LOW,HIGH", help="Of the figures.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the figures go.")] = RUNS / "exercises",
) -> None:
    """Work out a network with one hidden layer whose weights are set by hand, and draw what its units do.

    Without options: the two exercises of docs/unit.md.
    """
    from pipeline.lessons import byhand, byhand_report, exercises

    options = {
        "unit": unit, "w_hidden": w_hidden, "b_hidden": b_hidden, "w_output": w_output, "b_output": b_output,
        "output": output, "mixture": mixture or None, "points": points, "x": x, "y": y, "range": range_,
    }  # fmt: skip
    is_set = network is not None or any(value is not None for value in options.values())
    figures = byhand_report.report(byhand.read(network, options), out) if is_set else exercises.draw(out)
    for figure in figures:
        print(figure)


class _Predict(TyperCommand):
    """Accepts `--timeline` with and without seconds, which neither Typer nor Click can tell apart from a FILE."""

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
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures, sounds, or tables, row by row.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")] = False,
    timeline: Annotated[
        str | None,
        typer.Option(
            "--timeline",
            metavar="[SECONDS]",
            help=f"Add a timeline of each recording, in windows of SECONDS, {WINDOW} by default; without --json "
            "a picture is drawn too, in the run's folder timelines/.",
        ),
    ] = None,
    runs: RunsOption = RUNS,
) -> None:
    """Classify files through the exported graph, exactly as the service does."""
    from pipeline.predict import predict

    if not predict(runs, task, files, as_json, timeline):
        raise typer.Exit(1)


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model in the model store.")],
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="The one before the present one by default.")
    ] = None,
) -> None:
    """Serve an older version of a model; a running service follows within seconds. The next export takes its place."""
    check_store()
    from service.serving import store

    try:
        print(f"{model}: serving {store.roll_back(model, version)}")
    except ValueError as error:
        raise UserError(str(error)) from None


@app.command()
def promote(
    version: Annotated[str, typer.Argument(metavar="MODEL@VERSION", help="A version in the model store.")],
) -> None:
    """Serve this version of a model, newer or older; a running service follows within seconds. The next export takes
    its place."""
    check_store()
    from service.serving import store
    from service.serving.rollout import Tag

    try:
        tag = Tag.parse(version)
        store.promote(*tag)
    except ValueError as error:
        raise UserError(str(error)) from None
    print(f"{tag.model}: serving {tag.version}")


@app.command()
def remove(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model in the model store.")],
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="Only this version.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop serving a model: delete it from the model store. A running service follows within seconds.

    The run that it came from stays: `percept export TASK` adds it again. A Bento keeps the models it was built with.
    """
    check_store()
    from service.serving import store

    try:
        names = ", ".join([version] if version else store.existing(model))
        if not yes:
            typer.confirm(f"Delete {model} ({names}) from the model store?", abort=True)
        now = store.remove(model, version)
    except ValueError as error:
        raise UserError(str(error)) from None
    print(f"{model}: removed {names}; " + (f"serving {now}" if now else "no longer served"))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
) -> None:
    """Serve every model of the store over HTTP; the same as `bentoml serve service.service:Percept`."""
    home = check_store()
    check_store(*(folder for folder in BENTOML_FOLDERS if not (home / folder).is_dir()))
    command = [
        "bentoml",
        "serve",
        "service.service:Percept",
        "--host",
        _free_address(host, port),
        "--port",
        str(port),
        "--working-dir",
        str(Path(__file__).parent.parent),
    ]
    # Absolute paths, since the server works in another folder.
    absolute = {"BENTOML_HOME": str(home)}
    if trusted := os.environ.get(KEYS):
        absolute[KEYS] = ",".join(map(str, paths(trusted)))
    os.execve(sys.executable, [sys.executable, "-m", *command], os.environ | absolute)


def main() -> None:
    """`command` in a process of its own, which ends without taking its libraries apart: that would take 0.4 s, and
    bring 100 MB of them into memory once more."""
    try:
        command()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        atexit._run_exitfuncs()  # as multiprocessing ends a process that it has forked
        try:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        except OSError:
            raise end from None  # Python reports it
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


def command() -> None:
    """What the arguments ask for.

    Raises
    ------
    SystemExit : in the end, with the status or with a message that tells what is wrong
    """
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # percept sends no telemetry
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if not os.environ.get("BENTOML_HOME"):
        os.environ.pop("BENTOML_HOME", None)  # BentoML takes an empty one for the current folder
    # Threads of OpenMP that have nothing to do wait actively for 0.1 ms, not for some 10 ms: they would take the cores
    # from what does not use them, such as drawing pictures, and from other programs.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # PyTorch creates some hundred thousand objects that live until the end. The garbage collector would scan them
    # repeatedly while they are created, and twice more at exit.
    gc.set_threshold(20_000)
    one_heap()
    atexit.register(gc.freeze)
    for name in ("stdout", "stderr"):  # where stderr is closed, print would take stdout instead
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may be no text, and a terminal may have no arrows
            stream.reconfigure(errors="backslashreplace")
    try:
        _check_environment()
        caches.provide()
        with stoppable():
            app()
    except UserError as error:
        sys.exit("\n".join(f"percept: {line}" for line in str(error).splitlines()))
    except OSError as error:  # a full disk, a missing permission
        sys.exit(f"percept: {_reason(error)}")
    except Stopped as stop:
        print(f"percept: {stop}", file=sys.stderr)
        sys.exit(stop.status)


def _reason(error: OSError) -> str:
    """What the operating system refused, in one line."""
    reason, path = error.strerror or " ".join(str(error).split()), error.filename2 or error.filename
    return reason if path is None else f"{os.fsdecode(path)}: {reason}"


def _check_environment() -> None:
    try:
        Limits.from_environment()
    except ValueError as error:
        raise UserError(str(error)) from None
    if path := os.environ.get("BENTOML_CONFIG"):
        _check_mapping(f"BENTOML_CONFIG={path}", Path(path))
    if text := os.environ.get("BENTOML_CONFIG_OVERRIDES"):
        _check_mapping("BENTOML_CONFIG_OVERRIDES", text)


def _check_mapping(where: str, source: Path | str) -> None:
    """Refuse options of BentoML that it cannot read: it would print a traceback when it is imported."""
    import yaml  # type: ignore[import-untyped]

    if isinstance(source, Path) and source.suffix not in (".yaml", ".yml"):
        raise UserError(f"{where}: expected the path of a .yaml file")
    try:
        options = yaml.safe_load(source.read_text("utf-8")) if isinstance(source, Path) else json.loads(source)
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{where}: cannot be read: {' '.join(str(error).split())}") from None
    services = options.get("services", {}) if isinstance(options, dict) else None
    if not isinstance(services, dict) or not all(isinstance(key, str) for key in services):
        raise UserError(f"{where}: expected a mapping with the key services, itself a mapping")


def _free_address(host: str, port: int) -> str:
    """The IP address of `host`, as BentoML wants it. Raises UserError unless a server can listen there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as BentoML does
            listener.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is taken; --port chooses another") from None
        where = f"port {port}" if error.errno == errno.EACCES else f"--host {host}"
        raise UserError(f"{where}: {error.strerror}") from None
    return str(address[0])


def _load(
    task: str, data: str | dict[str, Any] | None, overrides: list[str] | None, device: str | None, runs: Path
) -> Task:
    if task not in tasks.builtin() and Run(runs / task).features.is_file():
        raise UserError(f"{runs / task} is a run; here name its task, and add --set name={task}")
    extra = [f"train.device={device!r}"] if device else []
    return tasks.load(task, data, [*(overrides or []), *extra])


def _signer(key: Path | None, certificates: list[Path] | None) -> Signer | None:
    if key is None and certificates:
        raise UserError(f"--certificate {certificates[0]}: needs its private key: --sign KEY")
    return None if key is None else Signer(key, certificates or ())


def _saved(name: str, data: str | None, overrides: list[str] | None, runs: Path) -> Run:
    """The run of that name, or of the task of that name with these options."""
    return Run(runs / _load(name, data, overrides, None, runs).name) if data or overrides else Run.named(runs, name)


def _extracted(task: str, data: str | None, overrides: list[str] | None, runs: Path) -> tuple[Task, Run]:
    """A task, and its run, with what has been extracted into it, or is now."""
    resolved = _load(task, data, overrides, None, runs)
    directory = Run(runs / resolved.name)
    if not directory.features.exists():
        Workflow(resolved, directory).extract()
    return _load_made(task, data, overrides, None, runs, EXTRACTED), directory


def _load_made(
    task: str, data: str | None, overrides: list[str] | None, device: str | None, runs: Path, sections: tuple[str, ...]
) -> Task:
    """The task for a later stage: with the data that its run has, since settings depend on them, unless others are
    named. Refuses options that would change `sections`, which an earlier stage has made."""
    resolved = _load(task, data, overrides, device, runs)
    directory = Run(runs / resolved.name)
    if data is None and directory.features.exists():
        from pipeline.extract import Features

        resolved = _load(task, Features.of(directory).task["data"], overrides, device, runs)
    _check_made_with(resolved, runs, data, overrides, sections)
    return resolved


def _check_made_with(
    task: Task, runs: Path, data: str | None, overrides: list[str] | None, sections: tuple[str, ...]
) -> None:
    """Refuse options that would change what an earlier stage has made, instead of ignoring them."""
    given = {override.split(".")[0] for override in overrides or []} | ({"data"} if data else set())
    if not given.intersection(sections):
        return
    from pipeline.extract import Features
    from pipeline.train import weights

    directory = Run(runs / task.name)
    made = dict(Features.of(directory).task)
    if "train" in sections:
        _, facts = weights.of(directory)
        made |= {"model": facts.model, "train": facts.train}
    asked = {**task.resolved(), "data": task.origin()["data"]}
    for section in sections:
        if section in given and asked[section] != made[section]:
            verb = "extract" if section in EXTRACTED else "train"
            raise UserError(
                f"{directory.folder} was made with another [{section}]; run `percept {verb}` with these options first"
            )
