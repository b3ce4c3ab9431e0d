"""Seconds per epoch: in memory, from the file, and on a Ray cluster of one or two workers on this machine.

    python -m benchmarks.scale_training

`percept train` on 60,000 × 784 random features, 10 classes, 100 hidden units, Adam; one sample in a hundred is for
validation. The best of all epochs except the first. Each worker is a node with one CPU, so the machine should have two.
There is no peer. Takes about two minutes.
"""

import io
import json
import os
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from benchmarks.growth import random_features
from pipeline import task, train
from pipeline.engine import Engine
from pipeline.run import Run
from pipeline.train import devices

SAMPLES, EPOCHS = 60_000, 9


def main() -> None:
    print(f"{os.cpu_count()} cores; seconds per epoch")
    print(f"{'batch':<28}{'100':>8}{'1000':>8}")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        random_features(SAMPLES).save(run / "features.npz")
        show("in memory", run, Engine())
        before, devices.SHARE = devices.SHARE, 0.0
        show("from the file", run, Engine())
        devices.SHARE = before
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            engine = Engine.parse(f"ray:{cluster.address}")
            with engine.running():
                show("Ray, 1 worker", run, engine)
                cluster.add_node(num_cpus=1)
                cluster.wait_for_nodes()
                show("Ray, 2 workers", run, engine)
        finally:
            ray.shutdown()
            cluster.shutdown()


def show(name: str, run: Path, engine: Engine) -> None:
    print(f"{name:<28}{epoch(run, engine, 100):>8.3f}{epoch(run, engine, 1000):>8.3f}", flush=True)


def epoch(run: Path, engine: Engine, batch_size: int) -> float:
    overrides = [f"train.epochs={EPOCHS}", f"train.batch_size={batch_size}"]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        train.train(task.load("digits", "scans", overrides), Run(run), engine=engine)
    seconds = json.loads((run / "history.json").read_text())["seconds"]
    return min(b - a for a, b in pairwise(seconds))


if __name__ == "__main__":
    main()
