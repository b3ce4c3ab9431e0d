"""A Ray cluster of three nodes on this machine, and how one of them is killed."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from pipeline.runner import Runner

NODES = 3


class Cluster:
    """Nodes of one CPU each, the head among them, and the runner that uses them."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        self.small = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_failure_threshold": 5}
        self.cluster = RayCluster(initialize_head=True, head_node_args=self.small | {"_system_config": quick})
        self.workers: list[Any] = []
        self.address: str = self.cluster.address
        self.engine = Runner.parse(f"ray:{self.address}")

    def fill(self) -> None:
        """Put new nodes in the place of killed ones."""
        self.workers += [self.cluster.add_node(**self.small) for _ in range(NODES - 1 - len(self.workers))]
        self.cluster.wait_for_nodes()

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
                time.sleep(0.005)

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
        cluster = Cluster()
        cluster.fill()
        assert len(_rays()) > NODES
        yield cluster
        cluster.cluster.shutdown()
    _, alive = psutil.wait_procs(_rays(), timeout=10)
    assert not alive


def _rays() -> list[psutil.Process]:
    """The processes of Ray that this one has started."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if any(name in " ".join(_cmdline(p)[:2]) for name in ("ray::", "raylet", "gcs_server"))]


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
