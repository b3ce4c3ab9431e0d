"""docs/unit.md from top to bottom: every command of the page runs, in its order, with few epochs and little data, and
the page has the figures that it shows and the tables that the commands print.

What is not served later on the page is run through training only; `make soak` validates and exports everything.
"""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sklearn.datasets import load_digits

from models.mlp import MLP
from models.steps import reference
from pipeline import cli
from pipeline.lessons import backprop
from pipeline.lessons.gradcheck import as_reference
from pipeline.threads import threads
from service.media.image import to_mnist_form
from tests.command import percept
from tests.pages import DOCS, Block, blocks
from tests.pipeline.runs import few_outliers
from tests.pipeline.sources.test_sources import idx

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, with NumPy 2

PAGE = (DOCS / "unit.md").read_text("utf-8")
# Added to the commands of a verb, after their own options.
CHEAP = {
    "run": ("train.epochs=2",),
    "tune": ("train.epochs=2", "tune.folds=2", "tune.trials=2"),
    "train": ("train.epochs=2",),
    "curves": ("train.epochs=2",),
}
CHEAP_TASKS = {
    "regions": ("validate.min_accuracy=0",),
    "sine": ("validate.max_rmse=100",),
    "digits": ("validate.min_accuracy=0",),
    "instruments": ("validate.min_accuracy=0", "validate.baselines=false"),
    "instruments-lab": ("validate.min_accuracy=0",),
}


def write_clips(folder: Path) -> None:
    """Three classes of a dozen short tones, in place of the embedded notes, which take seconds to synthesise."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("low", "middle", "high")):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            tone = np.sin(2 * np.pi * 300 * 2**k * (1 + i / 50) * np.arange(4000) / 8000)
            soundfile.write(folder / name / f"{i}.wav", 0.3 * tone + 0.01 * rng.normal(size=4000), 8000)


def write_mnist(folder: Path) -> None:
    """The embedded digits in MNIST's four files."""
    digits = load_digits()
    images = np.stack([to_mnist_form(image) for image in digits.images[:400]])
    for part, rows in (("train", slice(300)), ("t10k", slice(300, 400))):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            idx(len(images[rows]), 28, 28, values=images[rows].tobytes())
        )
        labels = digits.target[:400][rows]
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(len(labels), values=bytes(labels.tolist())))


def cheap(arguments: list[str], home: Path, whole: bool) -> list[list[str]]:
    """A command with cheaper data and settings; unless `whole`, a run that is not served as the stages up to training,
    and a search without the export of its best."""
    verb, task, rest = arguments[0], "".join(arguments[1:2]), list(arguments[1:])
    rest = [f"mnist:{home / 'mnist'}" if argument == "mnist" else argument for argument in rest]
    if task == "instruments" and "--data" not in rest:
        rest += ["--data", str(home / "clips")]
    settings = [*CHEAP.get(verb, ()), *(CHEAP_TASKS.get(task, ()) if verb in ("run", "tune") else ())]
    if task == "instruments" and verb in ("extract", "run") and "augment.copies=0" not in rest:
        settings.append("augment.copies=1")
    rest += [argument for setting in settings for argument in ("--set", setting)]
    if whole or (verb == "run" and rest[0] == "sine") or f"mnist:{home / 'mnist'}" in rest:
        return [[verb, *rest]]
    rest = [argument for argument in rest if argument not in ("--force", "--export")]
    return [[stage, *rest] for stage in (("extract", "train") if verb == "run" else (verb,))]


def run(block: Block, home: Path, whole: bool) -> str:
    """Run a block and return what it printed: percept in this process, except a service and what talks to it."""
    if block.language == "python":
        exec(compile("\n" * block.line + block.text, "docs/unit.md", "exec"), {})
        return ""
    commands = block.commands()
    shell = commands.index("percept serve &") if "percept serve &" in commands else len(commands)
    printed = ""
    for command in commands[:shell]:
        program, *arguments = shlex.split(command)
        if program == "pip":  # what the tests have installed, or not
            continue
        assert program == "percept", f"docs/unit.md:{block.line}: {command}"
        if "train.framework=keras" in arguments and find_spec("keras") is None:
            continue
        for cheaper in cheap(arguments, home, whole):
            done = percept(*cheaper, home=home)
            assert done.returncode == 0, f"docs/unit.md:{block.line}: {command}\n{done.stderr}"
            printed += done.stdout
    return printed + (in_shell("\n".join(commands[shell:]), home) if commands[shell:] else "")


def in_shell(script: str, home: Path) -> str:
    """Run commands in bash, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = home / "bin" / "percept"
    if not program.exists():
        program.parent.mkdir()
        program.write_text(f"#!{sys.executable}\nfrom pipeline import cli\ncli.main()\n")
        program.chmod(0o755)
    script = script.replace("localhost:3000", f"localhost:{port}").replace(
        "percept serve", f"percept serve --port {port}"
    )
    path = f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    root = str(Path(cli.__file__).parent.parent)
    environment = {"PATH": path, "BENTOML_HOME": str(home), "PYTHONPATH": root}
    done = subprocess.run(
        ["bash", "-c", f"set -e\n{script}\nwait || true"],
        cwd=home, capture_output=True, text=True, timeout=120, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def follow(home: Path, whole: bool) -> dict[str, str]:
    """Run the page in a folder; what each block printed, by its first line."""
    write_clips(home / "clips")
    (home / "mnist").mkdir()
    write_mnist(home / "mnist")
    with few_outliers(), pytest.MonkeyPatch.context() as patch, threads(1):
        patch.chdir(home)
        return {block.text.partition("\n")[0]: run(block, home, whole) for block in blocks("unit.md")}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return follow(tmp_path_factory.mktemp("unit"), whole=False)


def answers(text: str) -> list[dict[str, Any]]:
    """The service's answers in what a block printed, which curl ends without a new line."""
    starts = [match.start() for match in re.finditer(r'\{"model"', text)]
    return [json.JSONDecoder().raw_decode(text, start)[0] for start in starts]


def test_every_command_of_the_page_runs_in_order(printed: dict[str, str]) -> None:
    assert len(printed) == len(blocks("unit.md")) > 15


@pytest.mark.soak
def test_every_command_of_the_page_runs_through_export(tmp_path: Path) -> None:
    assert len(follow(tmp_path, whole=True)) == len(blocks("unit.md"))


def test_the_service_of_the_page_answers(printed: dict[str, str]) -> None:
    (sine,) = answers(printed["percept serve &"])
    assert (sine["model"], list(sine["value"])) == ("sine", ["y"])
    (digit,) = answers(printed["percept run digits --data mnist"])
    assert digit["model"] == "digits"
    assert digit["label"] in map(str, range(10))


def test_gradcheck_extracts_the_digits_by_itself(printed: dict[str, str]) -> None:
    lines = printed["percept gradcheck regions"].splitlines()
    assert "digits: 1797 samples, 1797 newly extracted" in " ".join(lines)
    assert lines.count("  all are below 1e-07") == 2


def test_the_table_of_dimensions_is_the_one_that_backprop_prints(printed: dict[str, str]) -> None:
    network = as_reference(MLP(2, [4], 1, "sigmoid").double())
    for node in backprop.nodes(network, np.zeros((1, 2)), np.array([1]), "binary"):
        cells = (node.name, node.dimensions(None), node.dimensions(100), node.forward, node.backward)
        assert f"| {' | '.join(cells)} |" in PAGE
        assert re.search(r"\s{2,}".join(map(re.escape, cells)), printed["percept backprop regions"])


def test_the_table_of_step_sizes_is_the_one_that_robbins_monro_prints(printed: dict[str, str]) -> None:
    rows = [line.split() for line in printed["percept robbins-monro"].splitlines() if line.startswith("  α")]
    table = [line for line in PAGE.splitlines() if re.match(r"\| α.* \|", line)]
    assert len(rows) == len(table) == 4
    for row, line in zip(rows, table, strict=True):
        shown = [float(cell) for cell in line.strip("| ").split(" | ")[1:]]
        for value, text in zip(map(float, row[-5:]), shown, strict=True):
            assert value == pytest.approx(text, abs=0.051 if abs(text) > 0.2 and text > 0 else 0.0006)


@pytest.mark.parametrize("z", [-10_000.0, -1.0, 0.0, 10_000.0])
def test_the_stable_form_of_the_loss_is_the_one_that_training_computes(z: float) -> None:
    assert "-ln σ(z) = max(-z, 0) + ln(1 + e^-|z|)" in PAGE
    loss = reference.loss(np.array([[z]]), np.array([1]), "binary")
    assert np.isfinite(loss)
    assert loss == pytest.approx(max(-z, 0) + np.log1p(np.exp(-abs(z))))


def test_every_figure_of_the_page_is_there() -> None:
    shown = set(re.findall(r"!\[[^\]]*\]\((unit/[^)]+)\)", PAGE))
    assert {path for path in shown if not (DOCS / path).is_file()} == set()
