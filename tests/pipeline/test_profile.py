"""`percept run TASK --profile`: stages and steps, and where they took their time."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from pipeline.profile import marked, profiling, stage, step
from service.media.resampling import Resampler
from tests import command

OPTIONS = ("train.epochs=3", "model.hidden=[8]", "augment.copies=1", "validate.min_accuracy=0", "name=tones")


def spin(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_a_step_has_its_own_time_and_that_of_all_threads() -> None:
    with profiling() as stages:
        with stage("extract"), step("decode"):
            spin(0.02)
            with step("resample"):
                spin(0.05)
        with stage("train"), ThreadPoolExecutor(2) as pool:
            list(pool.map(marked("epochs", lambda _: time.sleep(0.1)), range(4)))
    extract, train = ({one["name"]: one for one in found["steps"]} for found in stages)
    assert list(extract) == ["resample", "decode", "other"]
    assert 0.05 <= extract["resample"]["processor"] < 0.07
    assert 0.02 <= extract["decode"]["processor"] < 0.04
    assert stages[0]["processor"] >= 0.07
    assert train["epochs"]["times"] == 4
    assert train["epochs"]["seconds"] >= 0.4 > 0.1 > train["epochs"]["processor"]
    assert stages[1]["seconds"] >= 0.2


def test_threads_without_steps_of_their_own_count_for_the_one_that_waits_for_them() -> None:
    with profiling() as stages, stage("validate"), step("baselines", all_threads=True), ThreadPoolExecutor(2) as pool:
        list(pool.map(spin, [0.05] * 4))
        with step("page"):
            spin(0.02)
    found = {one["name"]: one["processor"] for one in stages[0]["steps"]}
    assert 0.2 <= found["baselines"] <= stages[0]["processor"] - found["page"] + 1e-3
    assert found["page"] >= 0.02
    assert found["other"] >= 0


def test_nothing_is_measured_without_it() -> None:
    def function() -> None: ...

    assert marked("decode", function) is function
    with stage("extract"), step("decode"):
        pass
    with profiling() as stages:
        pass
    assert stages == []


def test_a_run_says_where_its_time_went(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, low in (("low", 200), ("high", 2000)):
        (tmp_path / "clips" / label).mkdir(parents=True)
        for i in range(12):
            wave = np.sin(2 * np.pi * rng.uniform(low, 1.5 * low) * np.arange(8000) / 44_100)
            soundfile.write(tmp_path / "clips" / label / f"{i}.wav", 0.5 * wave, 44_100)
    plain = Resampler.resample_chunk
    arguments = ["run", "instruments", "--data", str(tmp_path / "clips"), "--profile"]
    arguments += [a for option in OPTIONS for a in ("--set", option)]
    done = command.percept(*arguments, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Resampler.resample_chunk is plain
    run = tmp_path / "runs" / "tones"
    found = {one["name"]: one for one in json.loads((run / "profile.json").read_text())}
    assert list(found) == ["extract", "train", "validate", "export"]
    named = {name: {step["name"] for step in one["steps"]} for name, one in found.items()}
    assert {"resample", "features", "copies"} <= named["extract"]
    assert {"epochs", "calibration"} <= named["train"]
    assert {"figures", "baselines", "learning curve"} <= named["validate"]
    assert {"graph", "check of the graph"} <= named["export"]
    own = sum(step["seconds"] for step in found["validate"]["steps"] if step["name"] not in ("epochs", "evaluation"))
    assert own <= found["validate"]["seconds"]  # waiting for the threads of the learning curve is counted once
    times = {step["name"]: step["times"] for step in found["extract"]["steps"]}
    assert times["resample"] == 2 * 24  # the samples, and the end
    assert found["export"]["peak"] > 100e6
    assert "  figures " in done.stdout  # three epochs may be too short to be shown
    figure = run / "profile.svg"
    assert "check of the graph" in figure.read_text("utf-8")
    figure.unlink()
    assert "nothing to profile" in command.percept(*arguments, home=tmp_path).stdout
    assert (
        "profile.svg" in command.percept("plot", "instruments", *arguments[2:4], *arguments[5:], home=tmp_path).stdout
    )
    assert figure.exists()
