"""The Ray engine, on a cluster of three nodes on this machine: a lost node, worker or command changes no result."""

import io
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from models import frontend
from pipeline import cli, engine, extract, task, train
from pipeline.engine import Engine
from pipeline.extract import on_ray
from pipeline.extract.shards import Shards
from pipeline.run import Run
from pipeline.sources.sample import Sample
from pipeline.task import Task, UserError
from pipeline.tune import stage as tune
from pipeline.tune import study
from tests import command, nodes
from tests.nodes import Cluster
from tests.vectors import columns, tensors, write

RATE = 22_050
COPIES = "augment.copies=24"
RATES = 'tune.space={"train.learning_rate"=[0.003, 0.01, 0.02, 0.03, 0.1, 0.2]}'
SEARCH = (RATES, "tune.folds=3", "train.epochs=500")  # a second for two trials: both workers have some to do


@pytest.fixture(scope="module")
def all_nodes() -> Iterator[Cluster]:
    yield from nodes.started()


@pytest.fixture(scope="module")
def cluster(all_nodes: Cluster) -> Cluster:
    """The cluster, to which the driver stays connected, with the nodes that earlier tests have not killed."""
    all_nodes.connect()
    return all_nodes


@pytest.fixture
def full_cluster(cluster: Cluster) -> Cluster:
    """The cluster with all three nodes, restarted if an earlier test has killed one."""
    cluster.fill()
    return cluster


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


def extracted(clips: Path, folder: Path, where: Engine = engine.LOCAL) -> bytes:
    extract.extract(task.load("instruments", str(clips), [COPIES]), Run(folder), engine=where)
    assert [path.name for path in folder.iterdir()] == ["features.npz"]
    return (folder / "features.npz").read_bytes()


def start(home: Path, *arguments: str) -> BaseProcess:
    """The `percept` command as a process of its own."""
    process = nodes.PROCESSES.Process(target=percept, args=(home, arguments))
    process.start()
    return process


def percept(home: Path, arguments: tuple[str, ...]) -> None:
    nodes.small_steps()
    os.chdir(home)
    sys.argv = ["percept", *arguments]
    cli.main()


def kill_when(process: BaseProcess, condition: Callable[[], bool]) -> None:
    while not condition():
        assert process.is_alive(), f"it ended before, with {process.exitcode}"
        time.sleep(0.005)
    process.kill()
    process.join()


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Task]:
    """A run directory with two classes of long vectors, and the task, whose batches are of 7."""
    run = tmp_path_factory.mktemp("vectors")
    generator = np.random.default_rng(4)
    y = generator.integers(0, 2, 1201)
    x = generator.normal(0, 1, (1201, 600)).astype(np.float32)
    x[:, 0] += 3 * y
    split = ["validation" if i % 8 == 0 else "train" for i in range(1201)]
    options = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 7, "epochs": 12, "early_stopping": 12}
    return run, write(run, x, y, split, 2, train=options)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"framework": "keras"}, "train.framework = 'keras'"),
        ({"gradients": "autograd"}, "train.gradients = 'autograd'"),
        ({"device": "cuda"}, "no node of the Ray cluster has a GPU"),
    ],
)  # fmt: skip
def test_what_is_not_distributed_is_refused_in_one_line(
    all_nodes: Cluster, vectors: tuple[Path, Task], option: dict[str, Any], named: str
) -> None:
    run, resolved = vectors
    refused = resolved.model_copy(update={"train": resolved.train.model_copy(update=option)})
    with pytest.raises(UserError, match=named) as refusal:
        all_nodes.do(train.train, refused, Run(run), engine=all_nodes.engine)
    assert "\n" not in str(refusal.value)


class Deadly:
    """Media that kill the process that decodes them."""

    def digest(self) -> str:
        return "deadly"

    def load(self) -> Any:
        os._exit(1)


def extract_deadly(run: Path, engine: Engine) -> None:
    jobs = [extract.Job(Sample("a/1.wav", "a", None, Deadly()), "deadly", "deadly", "train")]
    recipe = extract.Recipe.of(task.load("instruments"))
    with pytest.MonkeyPatch.context() as patch, engine.running():
        patch.setattr(on_ray, "TRIES", 1)
        on_ray.extract(jobs, recipe, Shards(Run(run), recipe))


def test_media_that_kill_every_process_are_one_line(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^a/1.wav … a/1.wav: .* died 1 times$"):
        cluster.do(extract_deadly, tmp_path, cluster.engine)


def resumed(clips: Path, folder: Path, engine: Engine) -> tuple[bytes, str, dict[Path, int]]:
    """The features file, the output, and the time of each shard that was used."""
    seen: dict[Path, int] = {}
    discard = Shards.discard

    def look(shards: Shards) -> None:
        seen.update((path, path.stat().st_mtime_ns) for path in shards.folder.glob("*.npz"))
        discard(shards)

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setattr(Shards, "discard", look)
        return extracted(clips, folder, engine), printed.getvalue(), seen


@pytest.mark.parametrize("command_too", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_extraction_with_a_node_killed_equals_the_local_one(
    cluster: Cluster, clips: Path, tmp_path: Path, command_too: bool
) -> None:
    """And with the command killed before, which tests/pipeline/extract/test_shards.py shows on one machine."""
    run = tmp_path / "runs" / "instruments"
    if command_too:
        process = start(
            tmp_path, "extract", "instruments", "--data", str(clips), "--set", COPIES,
            "--engine", f"ray:{cluster.address}",
        )  # fmt: skip
        kill_when(process, lambda: len(list(run.rglob("*.npz"))) > 2)
        time.sleep(1)  # the work that the cluster still had to do for it has ended
    left = {path: path.stat().st_mtime_ns for path in run.rglob("*.npz")}
    assert 2 < len(left) < 10 or not command_too
    killing = cluster.kill_while("ray::Map", lambda: len(list(run.rglob("*.npz"))) > len(left))
    found, printed, seen = cluster.do(resumed, clips, run, cluster.engine)
    killing.join(timeout=10)
    assert not killing.is_alive()
    assert found == extracted(clips, tmp_path / "local")
    assert len(seen) == 13
    kept = re.findall(r"  (\d+) samples were extracted by a run that was stopped", printed)
    assert len(kept) == command_too
    assert all(2 * len(left) - 1 <= int(n) <= 2 * len(left) for n in kept)  # two of them are identical
    assert {path: seen[path] for path in left} == left  # not written again
    before = (run / "features.npz").stat().st_mtime_ns
    assert cluster.do(extracted, clips, run, cluster.engine) == found  # everything is cached
    assert (run / "features.npz").stat().st_mtime_ns > before


@pytest.mark.parametrize("command_too", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_a_search_with_a_node_killed_equals_the_local_one(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_too: bool
) -> None:
    """And with the command killed before, which tests/pipeline/tune/test_study.py shows on one machine."""
    monkeypatch.setattr(study, "BATCH_SIZE", 2)  # as three CPUs share six trials
    chosen = task.load("regions", overrides=SEARCH)
    run = Run(tmp_path / "runs" / "regions")
    extract.extract(chosen, run)
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "features.npz").symlink_to(run.features)
    local = tune.tune(chosen, Run(tmp_path / "local"))
    if command_too:
        options = [word for override in SEARCH for word in ("--set", override)]
        process = start(tmp_path, "tune", "regions", *options, "--engine", f"ray:{cluster.address}")
        kill_when(process, run.search.is_file)
        so_far = json.loads(run.search.read_text())["trials"]
        assert 0 < len(so_far) < 6
        rate = so_far[0]["parameters"]["train.learning_rate"]
        assert tune.best(chosen, run).train.learning_rate == rate
    killing = cluster.kill_while("ray::_in_worker")
    found = cluster.do(tune.tune, chosen, run, engine=cluster.engine)
    killing.join(timeout=10)
    assert not killing.is_alive()
    assert found["study"] == local["study"]
    expected, scores = ({str(t["parameters"]): t["score"] for t in result["trials"]} for result in (local, found))
    assert scores == pytest.approx(expected, abs=0.02)  # trials that were begun again may have other neighbours


def both(source: Path, folder: Path, resolved: Task, cluster: Cluster) -> tuple[Path, Path]:
    """The task trained on this machine and on the cluster, from the same features."""
    here, there = folder / "here", folder / "there"
    for run in (here, there):
        run.mkdir()
        (run / "features.npz").symlink_to(source / "features.npz")
    train.train(resolved, Run(here))
    cluster.do(train.train, resolved, Run(there), engine=cluster.engine)
    return here, there


def assert_same(here: Path, there: Path) -> None:
    expected, found = columns(here), columns(there)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-5), name
    a, b = tensors(here), tensors(there)
    assert torch.equal(a["standardize.mean"], b["standardize.mean"])
    assert torch.equal(a["standardize.deviation"], b["standardize.deviation"])
    for name, values in a.items():
        if name.startswith("mlp."):
            assert torch.allclose(values, b[name], rtol=1e-3, atol=1e-5), name


def regression(run: Path) -> tuple[Path, Task]:
    """A run directory with two noisy targets of long vectors, and the task, which mixes the samples."""
    generator = np.random.default_rng(3)
    x = generator.normal(1000, 1, (1203, 600)).astype(np.float32)
    y = (x[:, :2] - 1000 + generator.normal(0, 0.1, (1203, 2))).astype(np.float32)
    options = {
        "optimizer": "momentum", "learning_rate": 0.01, "batch_size": 21, "epochs": 12, "l1": 1e-4, "l2": 1e-3,
        "mix": 0.4, "noise": 0.1, "activity_l1": 1e-4, "activity_l2": 1e-4,
    }  # fmt: skip
    split = ["validation" if i % 6 == 0 else "train" for i in range(1203)]
    return run, write(run, x, y, split, 2, train=options, model={"hidden": [30, 20]})


@pytest.mark.parametrize("targets", ["regression", pytest.param("classes", marks=pytest.mark.soak)])
def test_three_workers_of_which_one_dies_train_the_network_of_one(
    full_cluster: Cluster, vectors: tuple[Path, Task], tmp_path: Path, targets: str
) -> None:
    """A death costs only the time since the last checkpoint, after which the two that are left go on."""
    (tmp_path / "source").mkdir()
    source, resolved = regression(tmp_path / "source") if targets == "regression" else vectors
    checkpoint = tmp_path / "there" / "checkpoint.pt"
    killed: list[int] = []

    def kill() -> None:
        while not checkpoint.exists():
            time.sleep(0.005)
        full_cluster.kill(full_cluster.workers[0])
        killed.append(torch.load(checkpoint, weights_only=True)["state"]["epoch"])

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    here, there = both(source, tmp_path, resolved, full_cluster)
    thread.join()
    assert 0 < killed[0] < resolved.train.epochs
    assert_same(here, there)
    assert not checkpoint.exists()


def test_what_a_front_end_has_learned_comes_back_from_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    for label, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(15):
            noise = np.random.default_rng(i).integers(0, 40, (32, 32, 3), np.uint8)
            Image.fromarray(noise + np.array(colour, np.uint8)).save(tmp_path / "data" / label / f"{i:02d}.png")
    options = ["features.atoms=20", "augment.copies=0", "train.epochs=2", "train.refit=false"]
    resolved = task.load("pictures", str(tmp_path / "data"), options)
    run = Run(tmp_path / "run")
    features = extract.extract(resolved, run)
    cluster.do(train.train, resolved, run, engine=cluster.engine)
    learned = frontend.state_of(train.weights.of(run)[0].frontend)
    assert learned.keys() == features.state.keys() == {"kernel", "bias", "squares", "share"}
    for name, array in features.state.items():
        assert np.array_equal(learned[name], array), name


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
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    done = command.percept("extract", "regions", "--engine", "ray", home=tmp_path)
    assert done.stderr == "percept: --engine ray: Ray is not installed: pip install '.[ray]' -c constraints.txt\n"
