"""Two exported models are compared on the test samples that they have in common."""

import json
from pathlib import Path

import pytest
from scipy.stats import binomtest

from pipeline.train import confidence
from tests.command import Done, percept

FAST = ("--set", "validate.min_accuracy=0.1", "--set", "model.hidden=[6]")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, the second trained for longer, in its model store too."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confidence, "PICTURES", (400, 400))
        for name, epochs in (("short", 1), ("long", 8)):
            options = ("--set", f"name={name}", "--set", f"train.epochs={epochs}")
            done = percept("run", "digits", *options, *FAST, home=folder)
            assert done.returncode == 0, done.stderr
    return folder


def compared(home: Path, a: str, b: str) -> Done:
    return percept("compare", a, b, home=home)


def test_the_better_one_is_named_with_the_exact_test(home: Path) -> None:
    done = compared(home, "short", "long")
    assert done.returncode == 0, done.stderr
    found = json.loads((home / "runs" / "compare.json").read_text())
    report = json.loads((home / "runs" / "long" / "report.json").read_text())
    assert found["samples"] == report["samples"]["test"]
    assert found["b"]["accuracy"] == pytest.approx(report["test"]["accuracy"])
    assert found["b"]["ece"] == pytest.approx(report["test"]["ece"], abs=1e-5)
    assert found["b"]["known"] == pytest.approx(report["test"]["known"])
    a, b = len(found["only_a"]), len(found["only_b"])
    assert found["p_value"] == pytest.approx(binomtest(a, a + b).pvalue)
    assert (found["b"]["accuracy"] - found["a"]["accuracy"]) * found["samples"] == pytest.approx(b - a)
    assert sum(one["only_b"] for one in found["classes"]) == b
    assert f"long is better: short alone is right {a} times, long alone {b} times" in done.stdout
    page = (home / "runs" / "compare.html").read_text()
    assert found["only_b"][0]["file"] in page
    assert "<script" not in page


def test_a_version_of_the_store_is_asked_about_the_run_of_its_name(home: Path) -> None:
    version = json.loads((home / "runs" / "long" / "card.json").read_text())["version"]
    done = compared(home, "long", f"long:{version}")
    assert done.returncode == 0, done.stderr
    assert "No difference beyond chance" in done.stdout
    assert "p = 1" in done.stdout


@pytest.mark.parametrize(
    ("other", "reason"), [("absent", "no run in runs"), ("long:absent", "no such version"), ("../x", "no run in runs")]
)
def test_what_is_not_there_is_said_in_one_line(home: Path, other: str, reason: str) -> None:
    done = compared(home, "long", other)
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
