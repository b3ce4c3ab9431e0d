"""A Ray cluster of three nodes on this machine, a process that uses it, and how a node is killed."""

import faulthandler
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import psutil
import pytest

from pipeline.engine import Engine
from pipeline.extract import on_ray
from pipeline.train import loop
from pipeline.tune import study

T = TypeVar("T")
NODES = 3
PATIENCE = 600  # seconds that a test waits for the cluster


class Cluster:
    """Nodes of one CPU each, the head among them, and the runner that uses them."""

    def __init__(self, driver: ProcessPoolExecutor) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        self.driver = driver
        self.small = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_failure_threshold": 5}
        self.cluster = RayCluster(initialize_head=True, head_node_args=self.small | {"_system_config": quick})
        self.workers: list[Any] = []
        self.address: str = self.cluster.address
        self.engine = Engine.parse(f"ray:{self.address}")

    def fill(self) -> None:
        """Put new nodes in the place of killed ones."""
        self.workers += [self.cluster.add_node(**self.small) for _ in range(NODES - 1 - len(self.workers))]
        self.cluster.wait_for_nodes()

    def do(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """What the work returns or raises in the process that uses the cluster: Ray may end the process it is in."""
        try:
            return self.driver.submit(work, *arguments, **options).result(PATIENCE)
        except TimeoutError:
            for process in active_children():
                process.kill()
            raise

    def kill(self, node: Any) -> None:
        """Kill every process of a node at once."""
        self.cluster.remove_node(node, allow_graceful=False)
        self.workers.remove(node)

    def kill_while(self, title: str, condition: Callable[[], bool] = lambda: True) -> Thread:
        """Kill the first node that is seen to do such work while the condition holds."""

        def kill() -> None:
            while True:
                for node in self.workers if condition() else []:
                    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
                    if any(title in " ".join(_cmdline(child)) for child in raylet.children()):
                        self.kill(node)
                        return
                time.sleep(0.02)

        thread = Thread(target=kill, daemon=True)
        thread.start()
        return thread


def started() -> Iterator[Cluster]:
    """A cluster, of which nothing is left in the end."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)  # of the nodes' workers
        with ProcessPoolExecutor(1, get_context("spawn"), _driver) as driver:
            cluster = Cluster(driver)
            cluster.fill()
            assert len(_rays()) > NODES
            yield cluster
        cluster.cluster.shutdown()
    _, alive = psutil.wait_procs(_rays(), timeout=10)
    assert not alive


def _driver() -> None:
    """Let the process that uses the cluster do little at a time, and say where it is if it crashes."""
    faulthandler.enable()
    on_ray.SHARD = 2
    study.GRACE, study.BATCH_SIZE = 1, 2  # three CPUs share six trials
    loop.CHECKPOINT_SECONDS = 0.1


def _rays() -> list[psutil.Process]:
    """The processes of Ray that this one has started."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if any(name in " ".join(_cmdline(p)[:2]) for name in ("ray::", "raylet", "gcs_server"))]


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
