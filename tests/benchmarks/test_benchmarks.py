"""Programs of benchmarks/ run, and what they draw is there; their figures are for people to read."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks import frontend, growth
from service.media.image import to_mnist_form
from tests.service.helpers import sound_bytes
from tests.serving import NEWEST, digits_model, put

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_growth_writes_its_table_and_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path), "--samples", "2000", "4000", "--hidden", "10"]
    monkeypatch.setattr(sys, "argv", ["growth", *options])
    monkeypatch.chdir(ROOT)
    growth.main()  # which trains in processes of its own
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "growth.json").read_text())
    assert [(row["samples"], row["hidden"]) for row in rows] == [(2000, 10), (4000, 10)]
    assert all(row["seconds"] > 0 for row in rows)
    assert "10 units" in (tmp_path / "growth.svg").read_text()
    assert "2,000" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and the benchmark would take it")
def test_without_a_gpu_its_benchmark_says_so() -> None:
    assert run("gpu").startswith("not measured: device cuda")


def test_the_front_end_is_timed_beside_librosa(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "beep").mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).standard_normal(((1 + i) * 44_100, 1)) / 10
        (tmp_path / "beep" / f"{i}.wav").write_bytes(sound_bytes(noise))
    monkeypatch.setattr(frontend, "TIME", 0)
    monkeypatch.setattr(frontend, "SECONDS", (0.2, 1))
    monkeypatch.setattr(frontend, "threadpool_limits", lambda n: None)  # of this process, for good
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(sys, "argv", ["frontend", "--notes", str(tmp_path)])
    frontend.main()
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.startswith(("0.2 s", "1 s"))]
    assert len(rows) == 2
    assert all(float(row[-1]) < 1e-3 for row in rows)  # the largest difference from librosa's
    assert "3 notes, 6 s of sound" in printed


def test_a_search_is_timed_beside_scikit_learn() -> None:
    printed = run("sweep", "--epochs", "1")
    assert "60 networks, 1 epochs" in printed
    assert "GridSearchCV" in printed


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk, which sends the requests, is not installed")
def test_the_service_answers_every_request_of_its_benchmark(tmp_path: Path) -> None:
    model = digits_model(NEWEST)
    put(tmp_path, model)
    samples = tmp_path / "runs/digits/samples"
    samples.mkdir(parents=True)
    onnx.save(model, tmp_path / "runs/digits/model.onnx")
    for digit, image in enumerate(load_digits().images[:10]):
        Image.fromarray(to_mnist_form(image)).save(samples / f"{digit}.png")
    printed = run("serving", "--only", "percept raw", "--seconds", "1", "--rounds", "1", "--home", str(tmp_path))
    rows = [line.split() for line in printed.splitlines() if line.startswith("percept raw   ")]
    assert [(row[2], row[-1]) for row in rows] == [("1", "0"), ("32", "0")]  # connections, failed
