"""A Ray cluster of three nodes on this machine, a process that uses it, and a way to kill nodes."""

import faulthandler
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
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
CONNECTION = ExitStack()  # of the driver, for as long as it lives
PATIENCE = 600  # seconds that a test waits for the cluster
# Test processes are forks of a process that has imported PRELOADED.
PROCESSES = get_context("forkserver")
PRELOADED = ["tests.nodes", "pipeline.cli", "pipeline.train.on_ray", "pipeline.tune", "ray.data"]


class Cluster:
    """Nodes with one CPU each, including the head, and the driver, the process that uses them.

    Ray starts workers for a job, that is, a driver's connection, and uses them again for later work of that job. So the
    driver stays connected from `connect` on, which saves each worker the seconds to import PyTorch again.
    """

    def __init__(self, driver: ProcessPoolExecutor) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        self.driver = driver
        self.small = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        quick = {
            "health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_failure_threshold": 5,
            "enable_worker_prestart": False,
        }  # fmt: skip
        head = self.small | {"_system_config": quick, "include_log_monitor": False}
        self.cluster = RayCluster(initialize_head=True, head_node_args=head)
        self.workers: list[Any] = []
        self.address: str = self.cluster.address
        self.engine = Engine.parse(f"ray:{self.address}")

    def fill(self) -> None:
        """Replace the nodes that were killed."""
        missing = range(NODES - 1 - len(self.workers))
        self.workers += [self.cluster.add_node(wait=False, **self.small) for _ in missing]
        self.cluster.wait_for_nodes()

    def connect(self) -> None:
        """Connect the driver to the cluster, for good."""
        self.do(_connect, self.engine)

    def do(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """What `work` returns or raises in the driver. It runs there because Ray may end its process."""
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
        """Kill the first node that has a process with this title while the condition holds."""

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
    """Yield a cluster, and check that none of its processes is left afterwards."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # how often Ray Train looks after its workers
        patch.setenv("RAY_TRAIN_METRICS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)  # of the nodes' workers
        PROCESSES.set_forkserver_preload(PRELOADED)
        with ProcessPoolExecutor(1, PROCESSES, _driver) as driver:
            driver.submit(int)  # starts the driver while the cluster starts
            cluster = Cluster(driver)
            cluster.fill()
            assert len(_rays()) > NODES
            yield cluster
        cluster.cluster.shutdown()
    _, alive = psutil.wait_procs(_rays(), timeout=10)
    assert not alive


def small_steps() -> None:
    """Make this process work in small portions."""
    on_ray.SHARD = 2
    study.HEARTBEAT, study.GRACE = 1, 3  # the storage counts whole seconds
    study.BATCH_SIZE = 2  # so that three CPUs share six trials
    loop.CHECKPOINT_SECONDS = 0.1


def _driver() -> None:
    """Set up the driver, which prints its stack if it crashes."""
    faulthandler.enable()
    small_steps()


def _connect(engine: Engine) -> None:
    """Connect this process to the cluster, and have Ray Train told of lost nodes every second.

    By default it is told every 20 seconds, and tests would wait for most of their time.
    """
    CONNECTION.enter_context(engine.running())
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as ray_data

    coordinator = ray_data.get_or_create_autoscaling_coordinator()
    coordinator.__ray_call__.remote(lambda self: setattr(self, "TICK_INTERVAL_S", 1))


def _rays() -> list[psutil.Process]:
    """The processes of Ray that this one has started."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if any(name in " ".join(_cmdline(p)[:2]) for name in ("ray::", "raylet", "gcs_server"))]


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
