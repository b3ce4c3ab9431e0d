"""The programs in benchmarks/ run and draw their figures; their measurements are not checked."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks import frontend, gpu, growth, paper, serving, sweep
from pipeline import extract
from service.media.image import to_mnist_form
from tests.pipeline.runs import few_outliers
from tests.service.helpers import sound_bytes
from tests.serving import NEWEST, digits_model, put

ROOT = Path(__file__).parents[2]
soak = pytest.mark.soak


def run(module: str, *arguments: str) -> str:
    """The output of a benchmark, started as its users start it."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


Printed = Callable[..., str]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """The output of a benchmark in this process, which has imported PyTorch already."""

    def run(module: Any, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        module.main()
        return capsys.readouterr().out

    return run


def measured_here(folder: Path, n: int, hidden: int) -> dict[str, float]:
    """`growth.measured` without a process of its own."""
    if not (folder / f"{n}").is_dir():
        growth.random_features(n).save(folder / f"{n}" / "features.npz")
    with redirect_stdout(io.StringIO()) as out, few_outliers():
        growth.one(folder / f"{n}", hidden)
    found: dict[str, float] = json.loads(out.getvalue().splitlines()[-1])
    return found


def test_digits_on_paper_are_counted(
    tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    onnx.save(digits_model(NEWEST), tmp_path / "model.onnx")
    ruled = paper.Sheet(side=(150, 200), rules=2, line=(1, 2), tilt=(1, 2), specks=2, shadow=(0.3, 0.4), colour=True)
    monkeypatch.setattr(paper, "kinds", lambda base: {"ruled": ruled})
    text = printed(paper, "--run", str(tmp_path), "--data", str(real_data), "--photos", "20")
    name, right, wrong, refused, _ = text.splitlines()[-1].split()
    assert name == "ruled"
    assert float(right[:-1]) > 20  # per cent, by a model of scikit-learn's small digits; by chance 10
    assert float(wrong[:-1]) + float(refused[:-1]) <= 100 - float(right[:-1])


@pytest.mark.parametrize("in_processes", [False, pytest.param(True, marks=soak)])
def test_growth_writes_its_table_and_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed, in_processes: bool
) -> None:
    monkeypatch.chdir(ROOT)
    if not in_processes:
        monkeypatch.setattr(growth, "measured", measured_here)
    text = printed(growth, "--out", str(tmp_path), "--samples", "500", "1000", "--hidden", "10")
    rows = json.loads((tmp_path / "growth.json").read_text())
    assert [(row["samples"], row["hidden"]) for row in rows] == [(500, 10), (1000, 10)]
    assert all(row["seconds"] > 0 for row in rows)
    assert "10 units" in (tmp_path / "growth.svg").read_text()
    assert "1,000" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and the benchmark would take it")
def test_the_benchmark_of_a_gpu_says_if_there_is_none(printed: Printed) -> None:
    assert printed(gpu).startswith("not measured: device cuda")


def test_the_front_end_is_timed_beside_librosa(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    (tmp_path / "beep").mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).standard_normal(((1 + i) * 44_100, 1)) / 10
        (tmp_path / "beep" / f"{i}.wav").write_bytes(sound_bytes(noise))
    monkeypatch.setattr(frontend, "TIME", 0)
    monkeypatch.setattr(frontend, "SECONDS", (0.2, 1))
    monkeypatch.setattr(frontend, "threadpool_limits", lambda n: None)  # would hold for the whole process
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(joblib, "Parallel", partial(joblib.Parallel, backend="threading"))
    text = printed(frontend, "--notes", str(tmp_path))
    rows = [line.split() for line in text.splitlines() if line.startswith(("0.2 s", "1 s"))]
    assert len(rows) == 2
    assert all(float(row[-1]) < 1e-3 for row in rows)  # the largest difference from librosa's
    assert "3 notes, 6 s of sound" in text


def test_a_search_is_timed_beside_scikit_learn(monkeypatch: pytest.MonkeyPatch, printed: Printed) -> None:
    monkeypatch.setattr(sweep, "RATES", (1e-3,))
    monkeypatch.setattr(extract, "extract", lambda task, run: growth.random_features(300))
    monkeypatch.setattr(sweep, "_speed", lambda: 1e11)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # so that scikit-learn starts no processes
    text = printed(sweep, "--epochs", "1")
    assert "20 networks, 1 epochs" in text
    assert "GridSearchCV" in text


@soak
def test_a_search_over_the_notes_is_timed_beside_scikit_learn() -> None:
    text = run("sweep", "--epochs", "1")
    assert "60 networks, 1 epochs" in text
    assert "GridSearchCV" in text


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk, which sends the requests, is not installed")
@pytest.mark.parametrize("connections", [(32,), pytest.param((1, 32), marks=soak)])
def test_the_service_answers_every_request_of_its_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed, connections: tuple[int, ...]
) -> None:
    model = digits_model(NEWEST)
    put(tmp_path, model)
    samples = tmp_path / "runs/digits/samples"
    samples.mkdir(parents=True)
    onnx.save(model, tmp_path / "runs/digits/model.onnx")
    for digit, image in enumerate(load_digits().images[:10]):
        Image.fromarray(to_mnist_form(image)).save(samples / f"{digit}.png")
    monkeypatch.setattr(serving, "CONNECTIONS", connections)
    text = printed(serving, "--only", "percept raw", "--seconds", "1", "--rounds", "1", "--home", str(tmp_path))
    rows = [line.split() for line in text.splitlines() if line.startswith("percept raw   ")]
    assert [(row[2], row[-1]) for row in rows] == [(str(n), "0") for n in connections]  # connections, failed
