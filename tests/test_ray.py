"""The Ray engine, on a cluster of three nodes on this machine: a lost node, worker or command changes no result."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline import extract, runner, shards, study, task, tune
from pipeline.runner import Runner
from pipeline.sources.sample import Sample
from pipeline.task import UserError
from tests import command
from tests.nodes import Cluster

RATE = 22_050
PERCEPT = "from pipeline.cli import main; main()"
COPIES = "augment.copies=24"
RATES = 'tune.space={"train.learning_rate"=[0.003, 0.01, 0.02, 0.03, 0.1, 0.2]}'
SEARCH = (RATES, "tune.folds=3", "train.epochs=250")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 tones in two classes, a second name for one, and a file that is no recording."""
    root = tmp_path_factory.mktemp("data") / "clips"
    rng = np.random.default_rng(0)
    t = np.arange(RATE // 2) / RATE
    for label, low in (("beep", 800), ("buzz", 80)):
        (root / label).mkdir(parents=True)
        for i in range(12):
            soundfile.write(root / label / f"{i:02d}.wav", np.sin(2 * np.pi * rng.uniform(low, 2 * low) * t) / 2, RATE)
    (root / "buzz" / "broken.wav").write_bytes(b"RIFF")
    (root / "beep" / "again.wav").write_bytes((root / "beep" / "00.wav").read_bytes())
    return root


@pytest.fixture(scope="module")
def expected(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the local engine makes of the clips."""
    return extracted(clips, tmp_path_factory.mktemp("local"))


def extracted(clips: Path, run: Path, where: Runner = runner.LOCAL) -> bytes:
    extract.extract(task.load("instruments", str(clips), [COPIES]), run, engine=where)
    assert [path.name for path in run.iterdir()] == [extract.FILE]
    return (run / extract.FILE).read_bytes()


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PERCEPT, *arguments],
        cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_extraction_with_a_node_killed_equals_the_local_one(
    cluster: Cluster, clips: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD", 2)
    killing = cluster.kill_while("ray::Map", lambda: len(list(tmp_path.rglob("*.parquet"))) > 1)
    assert extracted(clips, tmp_path, cluster.engine) == expected
    killing.join(timeout=10)
    assert not killing.is_alive()
    before = (tmp_path / extract.FILE).stat().st_mtime_ns
    assert extracted(clips, tmp_path, cluster.engine) == expected  # all is known
    assert (tmp_path / extract.FILE).stat().st_mtime_ns > before


def test_a_killed_extraction_goes_on_with_its_shards(
    cluster: Cluster, clips: Path, expected: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    program = f"from pipeline import shards; shards.SHARD = 2; {PERCEPT}"
    monkeypatch.setattr(sys.modules[__name__], "PERCEPT", program)
    process = start(
        tmp_path, "extract", "instruments", "--data", str(clips), "--set", COPIES,
        "--engine", f"ray:{cluster.address}",
    )  # fmt: skip
    run = tmp_path / "runs" / "instruments"
    kill_when(process, lambda: len(list(run.rglob("*.parquet"))) > 3)
    time.sleep(1)  # what the cluster still did for it is done, or ended
    left = {path: path.stat().st_mtime_ns for path in run.rglob("*.parquet")}
    assert 3 < len(left) < 13
    seen: dict[Path, int] = {}
    monkeypatch.setattr(shards, "SHARD", 2)
    discard = shards.discard

    def look(folder: Path) -> None:
        seen.update((path, path.stat().st_mtime_ns) for path in folder.rglob("*.parquet"))
        discard(folder)

    monkeypatch.setattr(shards, "discard", look)
    assert extracted(clips, run, cluster.engine) == expected
    assert len(seen) == 13
    assert f"  {2 * len(left)} samples were in the shards" in capsys.readouterr().out
    assert {path: seen[path] for path in left} == left  # not written again


class Deadly:
    """Media that kill the process that decodes them."""

    def digest(self) -> str:
        return "deadly"

    def load(self) -> Any:
        os._exit(1)


def test_media_that_kill_every_process_are_one_line(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "TRIES", 1)
    samples = [Sample("a/1.wav", "a", None, Deadly())]
    chosen = task.load("instruments")
    recipe = extract.Recipe(chosen.features.model_dump(mode="json"), chosen.data, chosen.augment, frozenset([None]))
    with cluster.engine.running(), pytest.raises(UserError, match=r"^a/1.wav … a/1.wav: .* died 1 times$"):
        shards.extract(samples, recipe, {}, tmp_path, "key")


def test_a_search_with_command_and_node_killed_equals_the_local_one(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "GRACE", 1)
    monkeypatch.setattr(study, "TOGETHER", 2)  # as three CPUs share six trials
    chosen = task.load("regions", overrides=SEARCH)
    run = tmp_path / "runs" / "regions"
    extract.extract(chosen, run)
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / extract.FILE).symlink_to(run / extract.FILE)
    local = tune.tune(chosen, tmp_path / "local")
    options = [word for override in SEARCH for word in ("--set", override)]
    process = start(tmp_path, "tune", "regions", *options, "--engine", f"ray:{cluster.address}")
    kill_when(process, (run / tune.FILE).is_file)
    so_far = json.loads((run / tune.FILE).read_text())["trials"]
    assert 0 < len(so_far) < 6
    rate = so_far[0]["parameters"]["train.learning_rate"]
    assert tune.best(chosen, run).train.learning_rate == rate
    killing = cluster.kill_while("ray::_in_worker")
    found = tune.tune(chosen, run, engine=cluster.engine)
    killing.join(timeout=10)
    assert not killing.is_alive()
    assert found["study"] == local["study"]
    expected, scores = ({str(t["parameters"]): t["score"] for t in result["trials"]} for result in (local, found))
    assert scores == pytest.approx(expected, abs=0.02)  # trials that were begun again may have other neighbours


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("spark", "--engine spark: expected local, ray, ray:auto or ray:HOST:PORT"),
        ("ray:", "--engine ray:: expected local, ray, ray:auto or ray:HOST:PORT"),
        ("ray:127.0.0.1:1", "--engine ray:127.0.0.1:1: no cluster answers there: Connection refused"),
    ],
)
def test_a_mistake_in_the_engine_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    if text != "spark":
        pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    done = command.percept("extract", "regions", "--engine", text, home=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"percept: {line}\n")


def test_without_ray_the_engine_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "find_spec", lambda name: None)
    done = command.percept("extract", "regions", "--engine", "ray", home=tmp_path)
    assert done.stderr == "percept: --engine ray: Ray is not installed: pip install '.[ray]' -c constraints.txt\n"
