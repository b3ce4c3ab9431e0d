"""On real data: the built-in tasks reach their accuracies, and HTTP answers equal those of `percept predict`."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.command import percept
from tests.conftest import Trained
from tests.pipeline.runs import PLAIN
from tests.serving import serving


@pytest.fixture(scope="module")
def home(real_data: Path, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both built-in tasks, trained on MNIST and on real notes, in `home/runs` and in its model store; how well they
    know what is unlike either, tests/pipeline/train/test_confidence.py measures."""
    folder = tmp_path_factory.mktemp("home")
    trained(folder, "digits", "--data", f"mnist:{real_data}", *PLAIN, outliers=False)
    fewer = ("--set", "augment.copies=0")  # than the task has: the accuracy below is reached without
    return trained(folder, "instruments", "--data", str(real_data / "notes"), *PLAIN, *fewer, outliers=False)


@pytest.mark.parametrize(("task", "accuracy"), [("digits", 0.9725), ("instruments", 0.95)])
def test_accuracy_on_the_test_split(home: Path, task: str, accuracy: float) -> None:
    report = json.loads((home / "runs" / task / "report.json").read_text())
    assert report["test"]["accuracy"] >= accuracy
    assert report["samples"]["test"] == 10_000 or task != "digits"
    assert report["test"]["known"] >= 0.95


def test_the_graph_equals_torch_and_librosa(home: Path) -> None:
    for task in ("digits", "instruments"):
        checks = json.loads((home / "runs" / task / "card.json").read_text())["checks"]
        assert checks["probabilities"] <= 1e-5
        assert checks.get("mfcc", 0.0) <= 1e-3


def test_http_answers_equal_predictions(home: Path, real_data: Path) -> None:
    from torchvision.datasets import MNIST

    digits = MNIST(real_data, train=False)
    (home / "png").mkdir()
    pictures, labels = [], []
    for i in range(200):
        Image.fromarray(digits.data[i].numpy()).save(home / "png" / f"{i}.png")
        pictures.append(home / "png" / f"{i}.png")
        labels.append(str(int(digits.targets[i])))
    notes = sorted((real_data / "notes").glob("*/*.mp3"))[::12]
    assert (len(pictures), len(notes)) == (200, 100)
    right = {}
    with serving(home) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        for task, files, expected in (
            ("digits", pictures, labels),
            ("instruments", notes, [note.parent.name for note in notes]),
        ):
            answers = _ask(client, task, files)
            lines = percept("predict", task, *files, "--json", home=home).stdout.splitlines()
            predictions = [json.loads(line) for line in lines]
            assert len(answers) == len(predictions) == len(files)
            for answer, prediction in zip(answers, predictions, strict=True):
                assert {k: answer[k] for k in ("label", "confidence", "known", "probabilities", "set")} == {
                    k: v for k, v in prediction.items() if k != "file"
                }
            right[task] = np.mean([a["label"] == label for a, label in zip(answers, expected, strict=True)])
    print(f"right over HTTP: {right}")
    assert min(right.values()) >= 0.95


def _ask(client: httpx.Client, task: str, files: list[Path]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda file: client.post(f"/{task}", content=file.read_bytes()), files))
    return [response.raise_for_status().json() for response in responses]
