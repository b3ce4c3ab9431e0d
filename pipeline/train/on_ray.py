"""Training on the nodes of a Ray cluster: Ray Train starts the workers, and starts them again when one is lost.

Only the driver's machine needs the run directory. There an actor, the coordinator, reads the features and sends them
out in parts, writes the checkpoint, and receives the result, so neither features nor checkpoints need shared storage.
A worker keeps its samples in memory, or in a temporary file of its machine.
"""

import io
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

# Seconds that Ray waits for workers to start. For a moment it still counts on a lost node, and retries only after this.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")

import ray
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from ray import train as ray_train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from models import frontend
from models.classifier import Classifier
from pipeline.extract import PIECE_BYTES, Features, FileRows
from pipeline.run import Run, replacing
from pipeline.task import Train, UserError
from pipeline.threads import subnormals_flushed
from pipeline.train import distortion, loop, shared, weights
from pipeline.train.data import Dataset, StoredMatrix, load_datasets, standardised
from pipeline.train.devices import fits
from pipeline.train.shared import DataParallel, Partition

FAILURES = 3  # losses of workers that a training survives
AHEAD = 2  # messages of features that are requested before they are needed
POLL = 0.5  # seconds between two requests for new rows of the history


class Coordinator:
    """The actor that serves the workers: it sends them samples and the checkpoint, and receives their results."""

    def __init__(self, features: Path, checkpoint: Path, with_validation: bool) -> None:
        self.data = load_datasets(Features.load(features), with_validation)._asdict()
        self.checkpoint = checkpoint
        self.rows: list[loop.Row] = []
        self.found: bytes | UserError | None = None

    def sizes(self) -> dict[str, int]:
        """Number of samples: "training", "validation"."""
        return {name: len(dataset.y) for name, dataset in self.data.items()}

    def samples(self, name: str, ranges: list[tuple[int, int]]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """The samples of some ranges (start, stop) of a dataset: features, not standardised, and targets."""
        chosen = torch.cat([torch.arange(*r) for r in ranges])
        dataset = self.data[name]
        assert isinstance(dataset.x, StoredMatrix)
        return dataset.x.read(chosen).numpy(), dataset.y[chosen].numpy()

    def load_checkpoint(self) -> bytes:
        """The checkpoint; empty if there is none."""
        return self.checkpoint.read_bytes() if self.checkpoint.exists() else b""

    def save_checkpoint(self, checkpoint: bytes) -> None:
        with replacing(self.checkpoint) as temporary:
            temporary.write_bytes(checkpoint)

    def add_row(self, row: loop.Row) -> None:
        self.rows.append(row)

    def rows_from(self, start: int) -> list[loop.Row]:
        """Rows of the history from the start-th of this session on."""
        return self.rows[start:]

    def finish(self, found: bytes | UserError) -> None:
        self.found = found

    def result(self) -> bytes | UserError | None:
        return self.found


class Cluster:
    """The cluster that Ray is connected to, for one run.

    Attributes
    ----------
    n_workers : one for each GPU if there are any, else one for each node that has a CPU, with all of its CPUs
    device : "cuda" or "cpu", of the workers

    Raises
    ------
    UserError : the options ask for something that is not distributed, or for a GPU where there is none
    """

    def __init__(self, run: Run, options: Train) -> None:
        refused = {
            "train.framework = 'keras'": options.framework == "keras",
            "train.gradients = 'autograd'": options.gradients == "autograd",
        }
        if any(refused.values()):
            what = next(name for name, asked in refused.items() if asked)
            raise UserError(f"--engine ray: {what} is not distributed; train with --engine local")
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        gpus = 0 if options.device == "cpu" else int(sum(node.get("GPU", 0) for node in nodes))
        if options.device == "cuda" and not gpus:
            raise UserError("device cuda: no node of the Ray cluster has a GPU; use --device cpu or auto")
        cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
        if not gpus and not cpus:
            raise UserError("--engine ray: no node of the cluster has a free CPU")
        self.run = run
        self.n_workers = gpus or len(cpus)
        self.device = "cuda" if gpus else "cpu"
        self.resources: dict[str, float] = {"GPU": 1, "CPU": 1} if gpus else {"CPU": min(cpus)}

    def fit(
        self, classifier: Classifier, facts: weights.Facts, with_validation: bool, options: Train, fingerprint: str
    ) -> loop.State:
        """Train the classifier's standardisation and network in place, on the run's features.

        Raises
        ------
        UserError : the loss is no longer a number, or workers were lost too often
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(Coordinator).options(num_cpus=0, max_concurrency=4, scheduling_strategy=here)
        coordinator = actor.remote(self.run.features.resolve(), self.run.checkpoint.resolve(), with_validation)
        config = {
            "coordinator": coordinator, "facts": asdict(facts), "learned": frontend.state_of(classifier.frontend),
            "options": options.model_dump(mode="json"),
            "fingerprint": fingerprint, "seconds": loop.CHECKPOINT_SECONDS, "threads": int(self.resources["CPU"]),
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as storage, _progress(coordinator, options.epochs):
            try:
                self._trainer(config, storage).fit()
            except ray_train.TrainingFailedError as error:
                reason = str(error).strip().splitlines()[-1]
                raise UserError(f"--engine ray: the training failed on the cluster: {reason}") from error
        found: Any = ray.get(coordinator.result.remote())
        ray.kill(coordinator)
        if isinstance(found, UserError):
            raise found
        result = torch.load(io.BytesIO(found), weights_only=True)
        classifier.load_state_dict(result["classifier"])
        return loop.State(**result["state"])

    def _trainer(self, config: dict[str, Any], storage: str) -> TorchTrainer:
        return TorchTrainer(
            work,
            train_loop_config=config,
            torch_config=TorchConfig(backend="nccl" if self.device == "cuda" else "gloo"),
            scaling_config=ray_train.ScalingConfig(
                num_workers=(1, self.n_workers),  # type: ignore[arg-type]  # a pair lets it shrink and grow
                use_gpu=self.device == "cuda",
                resources_per_worker=self.resources, placement_strategy="SPREAD",
            ),
            run_config=ray_train.RunConfig(
                storage_path=storage, failure_config=ray_train.FailureConfig(max_failures=FAILURES)
            ),
        )  # fmt: skip


@contextmanager
def _progress(coordinator: Any, epochs: int) -> Iterator[None]:
    """Show the rows of the history that the coordinator receives while the block runs."""
    over = threading.Event()

    def watch() -> None:
        shown = 0
        with loop.progress(epochs) as show:
            last = False
            while not last:
                last = over.wait(POLL)  # after the end, look once more
                for row in ray.get(coordinator.rows_from.remote(shown)):
                    shown += 1
                    show(row)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@subnormals_flushed()
def work(config: dict[str, Any]) -> None:
    """The main function of every worker: load its samples, train, and, in the first worker, report."""
    coordinator, options = config["coordinator"], Train.model_validate(config["options"])
    facts = weights.Facts(**config["facts"])
    device = ray_train.torch.get_device()
    first = ray_train.get_context().get_world_rank() == 0
    torch.set_num_threads(config["threads"])
    classifier = weights.network(facts, config["learned"])
    width, sizes = classifier.frontend.n_features, ray.get(coordinator.sizes.remote())
    partitions = {name: Partition.of_worker(n, width) for name, n in sizes.items()}
    with tempfile.TemporaryDirectory() as folder:
        own = {name: receive(coordinator, name, partition, width, Path(folder), device)
               for name, partition in partitions.items()}  # fmt: skip
        shared.fit_standardisation(classifier, own["training"], partitions["training"])
        training, validation = (standardised(dataset, classifier.standardize, device) for dataset in own.values())
        del own
        mlp = classifier.mlp.to(device)
        transform = distortion.transform_of(options, classifier.standardize, device)
        trainer = DataParallel(mlp, training, partitions["training"], facts.kind, options, transform)
        checkpoints = loop.Checkpoints(
            trainer, config["fingerprint"], _CheckpointSender(coordinator), config["seconds"]
        )  # fmt: skip

        def report(state: loop.State, row: loop.Row) -> None:
            coordinator.add_row.remote(row)
            checkpoints.save_if_due(state)

        def evaluate() -> list[tuple[float, float]]:
            return [loop.evaluate(mlp, validation, facts.kind, dist.all_reduce)]

        state = checkpoints.resume(io.BytesIO(_broadcast_checkpoint(coordinator, first)), device)
        (result,) = loop.run_epochs(trainer, [mlp], [options], evaluate, [state], report if first else None)
    if first:
        ray.get(coordinator.finish.remote(_result(classifier, result)))


def _result(classifier: Classifier, result: loop.State | UserError) -> bytes | UserError:
    """The result for the driver. A user's mistake is the same in every worker, and trying again would not help."""
    if isinstance(result, UserError):
        return result
    result.best = {}  # the classifier has these weights already
    tensors = {name: tensor.cpu().clone() for name, tensor in classifier.state_dict().items()}
    return _bytes({"classifier": tensors, "state": asdict(result)})


def receive(
    coordinator: Any, name: str, partition: Partition, width: int, folder: Path, device: torch.device
) -> Dataset:
    """This worker's samples of a dataset, in memory or in a file of the folder."""
    n = sum(partition.counts)
    in_memory = not n or fits(n * width * 4, device, ray_train.get_context().get_local_world_size())
    x = np.empty((n if in_memory else 0, width), np.float32)
    targets: list[NDArray[Any]] = []
    filled = 0
    with (folder / name).open("w+b") as file:
        for rows, y in _messages(coordinator, name, partition, width):
            if in_memory:
                x[filled : filled + len(rows)] = rows
            else:
                rows.tofile(file)
            filled += len(rows)
            targets.append(y)
        in_file = FileRows(file, 0, (n, width))
    if not targets:  # an empty array of the right type and shape
        targets.append(ray.get(coordinator.samples.remote(name, [(0, 0)]))[1])
    samples = torch.from_numpy(x) if in_memory else StoredMatrix([in_file])
    return Dataset(samples, torch.from_numpy(np.concatenate(targets)))


def _messages(
    coordinator: Any, name: str, partition: Partition, width: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
    """A worker's parts of a dataset, several in a message, the next messages requested in advance."""
    ranges = partition.ranges()
    size = max(1, PIECE_BYTES // (4 * width * partition.rows))
    requests = [ranges[i : i + size] for i in range(0, len(ranges), size)]
    pending = [coordinator.samples.remote(name, r) for r in requests[:AHEAD]]
    for i in range(len(requests)):
        message = ray.get(pending.pop(0))
        if i + AHEAD < len(requests):
            pending.append(coordinator.samples.remote(name, requests[i + AHEAD]))
        yield message


def _broadcast_checkpoint(coordinator: Any, first: bool) -> bytes:
    """The checkpoint, the same for all workers; empty if there is none."""
    box: list[Any] = [ray.get(coordinator.load_checkpoint.remote()) if first else b""]
    dist.broadcast_object_list(box, 0)
    saved: bytes = box[0]
    return saved


class _CheckpointSender:
    """Sends checkpoints to the coordinator, one at a time, without waiting for them to be written."""

    def __init__(self, coordinator: Any) -> None:
        self.coordinator = coordinator
        self.pending: list[Any] = []

    def __call__(self, checkpoint: dict[str, Any]) -> None:
        ray.get(self.pending)
        self.pending = [self.coordinator.save_checkpoint.remote(_bytes(checkpoint))]


def _bytes(value: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
