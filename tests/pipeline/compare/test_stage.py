"""Two models are compared on the test samples that their runs have in common."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy.stats import binomtest

from pipeline import extract, task
from pipeline.run import Run
from tests.command import Done, percept
from tests.serving import NEWEST, digits_model, instruments_model, put


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, the second one with a network that has lost some of its weights; and the first one's in
    the model store."""
    folder = tmp_path_factory.mktemp("compared")
    extract.extract(task.load("digits", "scans"), Run(folder / "runs" / "whole"))
    shutil.copytree(folder / "runs" / "whole", folder / "runs" / "worn")
    shutil.copytree(folder / "runs" / "whole", folder / "runs" / "digits")
    model = digits_model(NEWEST)
    onnx.save(model, folder / "runs" / "whole" / "model.onnx")
    put(folder, model)
    put(folder, instruments_model(NEWEST))
    weights = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    worn = numpy_helper.to_array(weights).copy()
    worn.reshape(-1)[::3] = 0
    weights.CopyFrom(numpy_helper.from_array(worn, weights.name))
    onnx.save(model, folder / "runs" / "worn" / "model.onnx")
    return folder


def compared(home: Path, a: str, b: str) -> Done:
    return percept("compare", a, b, home=home)


def test_the_better_one_is_named_with_the_exact_test(home: Path) -> None:
    done = compared(home, "worn", "whole")
    assert done.returncode == 0, done.stderr
    found = json.loads((home / "runs" / "compare.json").read_text())
    features = extract.Features.of(Run(home / "runs" / "whole"))
    assert found["samples"] == int(features.rows("test").sum())
    a, b = len(found["only_a"]), len(found["only_b"])
    assert b > a
    assert found["p_value"] == pytest.approx(binomtest(a, a + b).pvalue)
    assert (found["b"]["accuracy"] - found["a"]["accuracy"]) * found["samples"] == pytest.approx(b - a)
    assert sum(one["only_b"] for one in found["classes"]) == b
    assert sum(one["samples"] for one in found["classes"]) == found["samples"]
    assert f"whole is better: worn alone has {a} samples right, whole alone {b} (" in done.stdout
    page = (home / "runs" / "compare.html").read_text()
    assert found["only_b"][0]["file"] in page
    assert "<script" not in page


def test_a_version_of_the_store_is_asked_about_the_run_of_its_name(home: Path) -> None:
    done = compared(home, "whole", f"digits:{NEWEST}")
    assert done.returncode == 0, done.stderr
    assert "No difference beyond chance" in done.stdout
    assert f"digits:{NEWEST} was trained on other data" in done.stdout


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("absent", "no run in runs"),
        ("digits:x", "no such version"),
        ("../x", "no run in runs"),
        (f"instruments:{NEWEST}", "takes audio at 22,050 Hz, and runs/whole has image of 28 × 28"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(home: Path, other: str, reason: str) -> None:
    done = compared(home, "whole", other)
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
