"""The workflow: files are read once per command, and a later command redoes only stages that are out of date."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline import export, task
from pipeline.run import Run
from pipeline.signing import Signer
from pipeline.task import Task
from pipeline.workflow import STAGES, Workflow
from tests import command
from tests.signing import key, private

HEAVY = ("torch", "librosa", "sklearn", "scipy", "matplotlib", "bentoml", "onnx", "onnxruntime", "mirdata", "ray")
OPTIONS = ("train.epochs=3", "train.refit=false", "model.hidden=[8]", "augment.copies=1", "validate.baselines=false",
           "validate.min_accuracy=0", "name=tones")  # fmt: skip
# Runs the command and writes down what it opened and imported, how often it loaded the source, and its seconds on the
# processor, which do not depend on what else the machine does.
PROGRAM = """
import atexit, json, sys, time
from collections import Counter
from pathlib import Path

opened, loads = Counter(), Counter()
sys.addaudithook(lambda event, args: event == "open" and opened.update([str(args[0])]))

def report():
    files = {Path(name).name: n for name, n in opened.items() if name.endswith((".npz", ".pt", ".wav"))}
    heavy = [name for name in HEAVY if name in sys.modules]
    saw = {"files": files, "loads": loads.total(), "heavy": heavy, "s": time.process_time()}
    Path("seen.json").write_text(json.dumps(saw))

atexit.register(report)
from pipeline import cli, sources
load = sources.load
sources.load = lambda *args: (loads.update(["load"]), load(*args))[1]
cli.main()
"""


def arguments(root: Path) -> list[str]:
    return ["run", "instruments", "--data", str(root / "clips"), *(a for o in OPTIONS for a in ("--set", o))]


def seen(root: Path, *more: str) -> tuple[dict[str, Any], str]:
    """The files that a `percept run` in its own process opened, its loads and imports, and its output."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"HEAVY = {HEAVY}{PROGRAM}", *arguments(root), *more],
        cwd=root, text=True, capture_output=True, env=os.environ | {"BENTOML_HOME": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((root / "seen.json").read_text()), done.stdout


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a first run of a folder of clips, and what that run saw."""
    root = tmp_path_factory.mktemp("first")
    rng = np.random.default_rng(1)
    for label, low in (("low", 200), ("high", 2000)):
        (root / "clips" / label).mkdir(parents=True)
        for i in range(20):
            wave = np.sin(2 * np.pi * rng.uniform(low, 1.5 * low) * np.arange(4000) / 22_050)
            wave = 0.5 * wave + 0.15 * rng.standard_normal(4000)  # pure tones of nearly one pitch are near duplicates
            soundfile.write(root / "clips" / label / f"{label}{i}.wav", wave, 22_050)
    (root / "clips" / "low" / "broken.wav").write_bytes(b"RIFF")
    return root, seen(root)[0]


@pytest.fixture
def home(first: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Path:
    root, _ = first
    monkeypatch.setenv("BENTOML_HOME", str(root))
    return root


def loaded(home: Path, *overrides: str) -> Task:
    return task.load("instruments", str(home / "clips"), [*OPTIONS, *overrides])


def due(home: Path, *overrides: str, **options: bool) -> list[str]:
    """The stages that are not up to date, each by its direct inputs."""
    workflow = Workflow(loaded(home, *overrides), Run(home / "runs" / "tones"), **options)
    return [stage for stage in STAGES if not workflow.is_up_to_date(stage)]


def test_a_run_reads_each_thing_once(first: tuple[Path, dict[str, Any]]) -> None:
    _, saw = first
    files = saw["files"]
    assert saw["loads"] == 1
    assert files["features.npz"] == 1
    assert files["weights.pt"] == 2  # to load it, and for its digest
    clips = [n for name, n in files.items() if name.endswith(".wav") and name not in ("low.wav", "high.wav")]
    assert len(clips) == 41
    assert max(clips) == 2  # for its digest, and to decode it


def test_a_second_run_is_up_to_date_within_a_second_and_imports_nothing_heavy(home: Path) -> None:
    runs = [seen(home) for _ in range(3)]
    for saw, printed in runs:
        assert saw["heavy"] == []
        assert saw["loads"] == 0
        assert [line.split(" is up to date")[0] for line in printed.splitlines()] == [f"tones: {s}" for s in STAGES]
    assert "extract is up to date (40 samples, 1 skipped)" in printed
    assert min(saw["s"] for saw, _ in runs) < 1


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("tune.folds=3", []),
        ("train.device=cpu", []),
        ("train.device=cuda", ["train"]),
        ("description=other", ["validate"]),
        ("validate.min_accuracy=0.1", ["validate"]),
        ("train.epochs=4", ["train"]),
        ("model.hidden=[9]", ["train"]),
        ("augment.copies=2", ["extract", "validate"]),
        ("features.n_mfcc=20", ["extract", "validate"]),
        ("data.seed=1", ["extract", "validate"]),
        ("name=other", ["validate", "export"]),
    ],
)
def test_a_changed_key_makes_due_what_depends_on_it(home: Path, override: str, stages: list[str]) -> None:
    """Dependencies through earlier stages are in the next test."""
    assert due(home, override) == stages


def test_only_stages_that_depend_on_a_changed_key_are_redone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = (home / "models" / "tones" / "latest").read_text().strip()
    card = SimpleNamespace(name="tones", version=version, gate_forced=False)
    monkeypatch.setattr(export, "export", lambda *_: print("exported") or card)  # the exporter takes seconds

    def run(*more: str) -> list[str]:
        """The stages that were up to date."""
        done = command.percept(*arguments(home), *more, home=home, BENTOML_HOME=str(home))
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        found = [line.split()[1] for line in lines if " is up to date" in line]
        assert ("exported" in lines) == ("export" not in found)
        return found

    assert run("--set", "validate.min_accuracy=0.1") == ["extract", "train"]
    assert run("--set", "train.epochs=2") == ["extract"]
    assert run() == ["extract"]
    os.utime(home / "clips" / "low" / "low3.wav")  # its features are made again, and are the same
    assert run() == ["train", "validate", "export"]
    assert run() == list(STAGES)
    assert run("--force") == []
    assert run() == list(STAGES)


def test_a_changed_file_of_the_source_or_another_limit_extracts_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert due(home) == []
    file = home / "clips" / "low" / "broken.wav"
    before = file.stat()
    file.write_bytes(b"RIFFRIFF")
    assert due(home) == ["extract"]
    file.write_bytes(b"RIFF")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert due(home) == []
    monkeypatch.setenv("PERCEPT_MAX_SECONDS", "3")
    assert due(home) == ["extract"]


def test_strict_does_not_accept_skipped_files(home: Path) -> None:
    assert due(home, strict=True) == ["extract"]


@pytest.mark.parametrize(
    ("file", "stage"),
    [("features.npz", "extract"), ("weights.pt", "train"), ("report.json", "validate"), ("model.onnx", "export"),
     ("report.html", "validate")],
)  # fmt: skip
def test_a_file_that_was_touched_or_removed_is_made_again(home: Path, file: str, stage: str) -> None:
    path = home / "runs" / "tones" / file
    before, content = path.stat(), path.read_bytes()
    path.unlink()
    assert due(home)[:1] == [stage]
    path.write_bytes(content)  # as `tune --export` writes weights of its own
    assert due(home)[:1] == ([] if file == "report.html" else [stage])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert due(home) == []


def test_a_model_that_is_not_served_is_exported_again(home: Path) -> None:
    latest = home / "models" / "tones" / "latest"  # where BentoML keeps it
    version = latest.read_text()
    assert (home / "models" / "tones" / version.strip() / "model.onnx").is_file()
    latest.write_text("older")
    assert due(home) == ["export"]
    latest.write_text(version)
    assert due(home) == []


def test_an_export_that_was_forced_is_up_to_date_only_under_force(home: Path) -> None:
    workflow = Workflow(loaded(home), Run(home / "runs" / "tones"))
    workflow.entries["export"] = workflow.entries["export"].model_copy(update={"forced": True})
    assert not workflow.is_up_to_date("export")
    workflow.force = True
    assert workflow.is_up_to_date("export")


def test_an_export_that_another_key_signed_is_done_again(home: Path) -> None:
    ours, another = (Signer(private(home, key(name))) for name in ("ours", "another"))
    workflow = Workflow(loaded(home), Run(home / "runs" / "tones"))
    assert workflow.is_up_to_date("export")
    workflow.signer = ours
    assert not workflow.is_up_to_date("export")
    workflow.entries["export"] = workflow.entries["export"].model_copy(update={"signed_by": ours.who})
    assert workflow.is_up_to_date("export")
    workflow.signer = another
    assert not workflow.is_up_to_date("export")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"extract": 1}', '{"extract": {"inputs": "x"}}'])
def test_a_damaged_record_means_that_nothing_is_up_to_date(home: Path, text: str) -> None:
    file = home / "runs" / "tones" / "provenance.json"
    content = file.read_text()
    file.write_text(text)
    try:
        assert due(home) == list(STAGES)
    finally:
        file.write_text(content)


def test_a_stage_on_its_own_does_its_work_and_records_it(home: Path) -> None:
    time.sleep(0.01)
    options = arguments(home)[2:]
    done = command.percept("train", "instruments", *options, home=home, BENTOML_HOME=str(home))
    assert "3 epochs" in done.stdout
    assert "train" not in due(home)


def test_what_is_trained_on_features_that_nobody_recorded_is_never_up_to_date(home: Path) -> None:
    features, workflow = home / "runs" / "tones" / "features.npz", Workflow(loaded(home), Run(home / "runs" / "tones"))
    recorded, status, content = workflow._inputs("train"), features.stat(), features.read_bytes()
    features.write_bytes(content + b"\0")  # by another version of percept, or by a command that was killed
    assert workflow._inputs("train") != recorded
    features.write_bytes(content)
    os.utime(features, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert workflow._inputs("train") == recorded
