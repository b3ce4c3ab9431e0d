"""docs/recipe.md: its blocks run in order, and PyTorch, Keras and percept give the same numbers from the same seed."""

import json
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.threads import threads
from tests.command import percept
from tests.pages import Block, blocks
from tests.pipeline.runs import few_outliers

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, with NumPy 2

EPOCHS = 6

Names = dict[str, Any]


def run(block: Block, home: Path, names: Names) -> None:
    """One block of the page, with fewer epochs."""
    if block.language == "python":
        text = block.text.replace("epochs = 500", f"epochs = {EPOCHS}").replace("range(30)", f"range({EPOCHS})")
        exec(compile("\n" * block.line + text, "docs/recipe.md", "exec"), names)
        return
    for command in block.commands():
        program, *arguments = shlex.split(command)
        assert program == "percept"
        done = percept(*arguments, "--set", f"train.epochs={EPOCHS}", home=home)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Names:
    """Every name that the page defines, once all of its blocks have run in a folder of their own, `home`."""
    home = tmp_path_factory.mktemp("recipe")
    found: Names = {"home": home}
    keras = False
    with few_outliers(), threads(1), torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("MPLBACKEND", "agg")
        patch.setenv("KERAS_BACKEND", "torch")
        for block in blocks("recipe.md"):
            keras = ("keras" in block.text and block.language == "python") or (keras and "model" in block.text)
            if keras and find_spec("keras") is None:
                continue
            run(block, home, found)
            if "weights.pt" in block.text:  # the digits take these names again
                found |= {"regions_net": found["net"], "regions_saved": found["saved"]}
    return found


def column(home: Path, task: str, name: str) -> list[float]:
    values: list[float] = json.loads((home / "runs" / task / "history.json").read_text())[name]
    return values


def test_the_loop_gives_the_losses_and_accuracies_of_percept(names: Names) -> None:
    home = names["home"]
    (curves,) = json.loads((home / "runs/regions/lessons/curves.json").read_text()).values()
    assert len(names["train_losses"]) == EPOCHS
    np.testing.assert_allclose(names["train_losses"], column(home, "regions", "train_loss"), rtol=1e-5)
    np.testing.assert_allclose(names["train_accuracies"], column(home, "regions", "train_accuracy"))
    np.testing.assert_allclose(names["test_accuracies"], curves["test_accuracy"])


def test_the_saved_weights_are_those_of_percept(names: Names) -> None:
    net, saved = names["regions_net"].state_dict(), names["regions_saved"]
    for name, ours in (("hidden", "mlp.layers.0"), ("output", "mlp.layers.1")):
        for part in ("weight", "bias"):
            torch.testing.assert_close(net[f"{name}.{part}"], saved[f"{ours}.{part}"], rtol=1e-4, atol=1e-5)
    assert not torch.equal(net["hidden.weight"], names["start"].hidden.weight)


def test_digits_give_the_losses_of_percept(names: Names) -> None:
    np.testing.assert_allclose(names["digits_losses"], column(names["home"], "digits", "train_loss"), rtol=1e-4)
    assert names["digits_accuracies"][-1] > 0.7


@pytest.mark.skipif(find_spec("keras") is None, reason="the extra percept[keras] is not installed")
def test_keras_gives_the_losses_of_percept(names: Names) -> None:
    history = names["history"]
    np.testing.assert_allclose(history["loss"], column(names["home"], "regions", "train_loss"), rtol=1e-3)
    # Batches of the two loops round differently: a sample on the boundary may fall on the other side.
    np.testing.assert_allclose(history["accuracy"], names["train_accuracies"], atol=2 / 400)
    np.testing.assert_allclose(history["val_accuracy"], names["test_accuracies"], atol=2 / 1000)


@pytest.mark.skipif(find_spec("keras") is None, reason="the extra percept[keras] is not installed")
def test_the_hidden_layer_is_a_model_of_its_own(names: Names) -> None:
    with torch.no_grad():
        net = names["regions_net"]
        data = np.load(names["home"] / "runs/regions/features.npz")
        train, test = (data["x"][data["split"] == split] for split in ("train", "test"))
        expected = torch.sigmoid(net.hidden(torch.from_numpy((test - train.mean(axis=0)) / train.std(axis=0))))
    np.testing.assert_allclose(names["a"], expected.numpy(), atol=1e-3)
