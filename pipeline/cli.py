"""The `percept` command."""

import atexit
import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

# Stages are imported inside their commands: predicting and serving need neither torch nor librosa.
from pipeline import caches, choice, environment
from pipeline import task as tasks
from pipeline.arguments import (
    EXTRACTED,
    RUNS,
    TRAINED,
    Arguments,
    CertificateOption,
    DataOption,
    DeviceOption,
    EngineOption,
    RunName,
    RunsOption,
    SetOption,
    SignOption,
    StrictOption,
    TaskName,
    signer,
)
from pipeline.engine import Engine
from pipeline.interrupt import Stopped, resumable, stoppable
from pipeline.profile import Stage, lines, profiling
from pipeline.run import Run, check_writable, write_json
from pipeline.task import UserError
from pipeline.workflow import Workflow, check_store
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

BENTOML_FOLDERS = ("bentos", "models", "envs", "tmp")  # that BentoML makes in its home folder when it starts
NumbersOption = Annotated[str | None, typer.Option(metavar="NUMBERS", help="One for each; 0 by default.")]
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
    resolved, directory = Arguments(task, data, set_, runs, device).load()
    signs = signer(sign, certificate)
    workflow = Workflow(resolved, directory, strict, force, Engine.parse(engine), signs)
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
    resolved, directory = Arguments(task, data, set_, runs, device).load()
    Workflow(resolved, directory, strict, engine=Engine.parse(engine)).extract()


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
    resolved, directory = Arguments(task, data, set_, runs, device).made(EXTRACTED)
    Workflow(resolved, directory, engine=Engine.parse(engine)).train()


@app.command()
def validate(
    task: TaskName,
    data: DataOption = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Stage 3: evaluate the network on the test split (report.json, report.html, plots/, samples/)."""
    resolved, directory = Arguments(task, data, set_, runs, device).made(TRAINED)
    Workflow(resolved, directory).validate()


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
    resolved, directory = Arguments(task, data, set_, runs, device).made(TRAINED)
    Workflow(resolved, directory, force=force, signer=signer(sign, certificate)).export()


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
    arguments = Arguments(task, data, set_, runs)
    directory = arguments.saved()
    if data or set_ or not directory.features.exists():
        _, directory = arguments.extracted()
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
    directory = Arguments(task, data, set_, runs).saved()
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
    resolved, directory = Arguments(task, data, set_, runs, device).made(EXTRACTED)
    where = Engine.parse(engine)
    from pipeline import export as exporting
    from pipeline import validate as validating
    from pipeline.tune import stage as searching

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
    resolved, directory = Arguments(task, data, set_, runs).extracted()
    from pipeline.lessons import gradcheck

    gradcheck.gradcheck(resolved, directory)


@app.command(rich_help_panel=LESSONS)
def backprop(task: TaskName, data: DataOption = None, set_: SetOption = None, runs: RunsOption = RUNS) -> None:
    """Draw the computation graph of one sample, with the value and the gradient of every node."""
    resolved, directory = Arguments(task, data, set_, runs).extracted()
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
    arguments = Arguments(task, data, set_, runs)
    variants = [
        replace(arguments, overrides=[*(set_ or []), f"train.learning_rate={rate}"]) for rate in learning_rates or []
    ]
    for variant in variants:  # a wrong one is told before anything is extracted
        variant.load()
    resolved, directory = arguments.extracted()
    options = [replace(variant, data=resolved.origin()["data"]).load()[0].train for variant in variants]
    check_writable(directory.folder)
    from pipeline.lessons import curves

    curves.curves(resolved, directory, options or [resolved.train])


@app.command(rich_help_panel=LESSONS)
def minibatches(task: TaskName, data: DataOption = None, set_: SetOption = None, runs: RunsOption = RUNS) -> None:
    """Measure the mean and the spread of mini-batches' gradients."""
    resolved, directory = Arguments(task, data, set_, runs).extracted()
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


@contextmanager
def _changing_the_store() -> Iterator[None]:
    """What the model store refuses is a user's mistake."""
    check_store()
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from None


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model in the model store.")],
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="The one before the present one by default.")
    ] = None,
) -> None:
    """Serve an older version of a model; a running service follows within seconds. The next export takes its place."""
    with _changing_the_store():
        from service.serving import store

        print(f"{model}: serving {store.roll_back(model, version)}")


@app.command()
def promote(
    version: Annotated[str, typer.Argument(metavar="MODEL@VERSION", help="A version in the model store.")],
) -> None:
    """Serve this version of a model, newer or older; a running service follows within seconds. The next export takes
    its place."""
    with _changing_the_store():
        from service.serving import store
        from service.serving.rollout import Tag

        tag = Tag.parse(version)
        store.promote(*tag)
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
    with _changing_the_store():
        from service.serving import store

        names = ", ".join([version] if version else store.existing(model))
        if not yes:
            typer.confirm(f"Delete {model} ({names}) from the model store?", abort=True)
        now = store.remove(model, version)
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
    if config := os.environ.get("BENTOML_CONFIG"):
        absolute["BENTOML_CONFIG"] = str(Path(config).absolute())
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
    environment.prepare()
    try:
        environment.check()
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
