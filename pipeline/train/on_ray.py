"""Training on the nodes of a Ray cluster: Ray Train starts the workers, and again when one is lost.

Only the driver's machine needs the run directory. Beside it an actor, the keeper, reads the features where they lie and
hands them out in parts, keeps the checkpoint, and takes the result: neither features nor checkpoints need a storage
that all machines share. What a worker has been dealt lies in its memory, or in a temporary file of its machine.
"""

import io
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

# For workers to be placed: after a node was lost Ray still counts on it for a moment, waits, and only then looks again.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")

import ray
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from ray import train as ray_train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tqdm import tqdm

from models.classifier import Classifier
from pipeline.extract import Features
from pipeline.run import replacing
from pipeline.task import Train, UserError
from pipeline.train import data, distortion, loop, shared, weights
from pipeline.train.data import PIECE, Batch, Stored, Table
from pipeline.train.memory import fits

FAILURES = 3  # losses of workers that a training survives
AHEAD = 2  # messages of features that are on their way to a worker
POLL = 0.5  # seconds between two looks at how far the training is


class Keeper:
    """The actor that serves the workers: the samples, the checkpoint, and a place for what they find."""

    def __init__(self, features: Path, checkpoint: Path, with_validation: bool) -> None:
        splits = data.splits_of(Features.load(features), with_validation, stored=True)
        self.splits = dict(zip(("training", "validation"), splits, strict=True))
        self.checkpoint = checkpoint
        self.rows: list[tuple[float, ...]] = []
        self.found: bytes | UserError | None = None

    def sizes(self) -> tuple[int, int]:
        return len(self.splits["training"].y), len(self.splits["validation"].y)

    def samples(self, split: str, ranges: list[tuple[int, int]]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """The samples from … to of each range: features as they are, and targets."""
        chosen = torch.cat([torch.arange(*r) for r in ranges])
        data = self.splits[split]
        assert isinstance(data, Stored)
        return data.x.take(chosen).numpy(), data.y[chosen].numpy()

    def saved(self) -> bytes:
        """The checkpoint; nothing if there is none."""
        return self.checkpoint.read_bytes() if self.checkpoint.exists() else b""

    def save(self, checkpoint: bytes) -> None:
        with replacing(self.checkpoint) as temporary:
            temporary.write_bytes(checkpoint)

    def tell(self, row: tuple[float, ...]) -> None:
        self.rows.append(row)

    def told(self, start: int) -> list[tuple[float, ...]]:
        """Rows of the history from the start-th that this keeper was told of."""
        return self.rows[start:]

    def finish(self, found: bytes | UserError) -> None:
        self.found = found

    def result(self) -> bytes | UserError | None:
        return self.found


class Nodes:
    """The cluster that Ray is connected to, for one run.

    Parameters
    ----------
    features : the run's features.npz, on this machine
    options : what the task says of training

    Attributes
    ----------
    n_workers : one for each GPU where there are any, else one for each node with a CPU to give, and all of its CPUs

    Raises
    ------
    UserError : the options ask for what is not distributed, or for a GPU where there is none
    """

    def __init__(self, features: Path, options: Train) -> None:
        refused = {
            "train.framework = 'keras'": options.framework == "keras",
            "train.engine = 'autograd'": options.engine == "autograd",
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
            raise UserError("--engine ray: no node of the cluster has a CPU to give")
        self.features = features.resolve()
        self.n_workers = gpus or len(cpus)
        self.device = "cuda" if gpus else "cpu"
        self.resources: dict[str, float] = {"GPU": 1, "CPU": 1} if gpus else {"CPU": min(cpus)}

    def take(self, facts: weights.Facts, with_validation: bool) -> None:
        """What is to be trained next."""
        self.facts, self.with_validation = facts, with_validation

    def fit(self, classifier: Classifier, options: Train, checkpoint: Path, fingerprint: str) -> loop.State:
        """Train the classifier's standardisation and network; where training stands then."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(Keeper).options(num_cpus=0, max_concurrency=4, scheduling_strategy=here)
        keeper = actor.remote(self.features, checkpoint.resolve(), self.with_validation)
        config = {
            "keeper": keeper, "facts": asdict(self.facts), "options": options.model_dump(mode="json"),
            "fingerprint": fingerprint, "seconds": loop.CHECKPOINT_SECONDS,
            "threads": int(self.resources["CPU"]),
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as storage, _progress(keeper, options):
            trainer = TorchTrainer(
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
            try:
                trainer.fit()
            except ray_train.TrainingFailedError as error:
                reason = str(error).strip().splitlines()[-1]
                raise UserError(f"--engine ray: the training failed on the cluster: {reason}") from error
        found: Any = ray.get(keeper.result.remote())
        ray.kill(keeper)
        if isinstance(found, UserError):
            raise found
        result = torch.load(io.BytesIO(found), weights_only=True)
        classifier.load_state_dict(result["classifier"])
        return loop.State(**result["state"])


class _progress:
    """Shows the rows of the history that a keeper is told of while the block runs."""

    def __init__(self, keeper: Any, options: Train) -> None:
        self.keeper, self.options = keeper, options
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        shown = 0
        with tqdm(total=self.options.epochs, desc="train", unit="epoch", disable=None) as bar:
            over = False
            while not over:
                over = self.over.wait(POLL)
                for row in ray.get(self.keeper.told.remote(shown)):
                    shown += 1
                    loop.show(row, self.options, bar)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def work(config: dict[str, Any]) -> None:
    """What every worker does."""
    keeper, options = config["keeper"], Train.model_validate(config["options"])
    facts = weights.Facts(**config["facts"])
    context = ray_train.get_context()
    device = ray_train.torch.get_device()
    first = context.get_world_rank() == 0
    torch.set_num_threads(config["threads"])
    classifier = weights.network(facts)
    n_training, n_validation = ray.get(keeper.sizes.remote())
    width, sharers = classifier.frontend.n_features, context.get_local_world_size()
    deals = shared.deals(n_training, n_validation, width)
    with tempfile.TemporaryDirectory() as folder:
        own = [receive(keeper, s, d, width, Path(folder), device, sharers)
               for s, d in zip(("training", "validation"), deals, strict=True)]  # fmt: skip
        shared.standardise(classifier, own[0], deals[0])
        training, validation = (data.standardised(s, classifier.standardize, device) for s in own)
        del own
        mlp = classifier.mlp.to(device)
        change = distortion.disturb(options, classifier.standardize, device)
        engine = shared.Share(mlp, training, deals[0], facts.kind, options, change)
        state = loop.resume(io.BytesIO(_shared(keeper, first)), config["fingerprint"], engine, device)
        after = _Reports(keeper, engine, config["fingerprint"], config["seconds"]) if first else _ignore
        try:
            shared.fit(mlp, engine, validation, n_validation, facts.kind, options, state, after)
        except UserError as error:  # the same with every worker: to try again would not help
            if first:
                ray.get(keeper.finish.remote(error))
            return
    if first:
        tensors = {name: tensor.cpu().clone() for name, tensor in classifier.state_dict().items()}
        state.best = {}
        ray.get(keeper.finish.remote(_bytes({"classifier": tensors, "state": asdict(state)})))


def receive(
    keeper: Any, split: str, deal: shared.Deal, width: int, folder: Path, device: torch.device, sharers: int
) -> Batch | Stored:
    """The samples that this worker has been dealt, in memory or in a file of the folder."""
    n = sum(deal.counts)
    in_memory = fits(n * width * 4, device, sharers) or not n
    x: NDArray[np.float32] = (
        np.empty((n, width), np.float32)
        if in_memory
        else np.lib.format.open_memmap(folder / f"{split}.npy", "w+", np.float32, (n, width))
    )
    targets: list[NDArray[Any]] = []
    filled = 0
    for rows, y in _messages(keeper, split, deal, width):
        x[filled : filled + len(rows)] = rows
        filled += len(rows)
        targets.append(y)
    if not targets:
        targets.append(ray.get(keeper.samples.remote(split, [(0, 0)]))[1])
    targets_here = torch.from_numpy(np.concatenate(targets))
    if in_memory:
        return Batch(torch.from_numpy(x), targets_here)
    return Stored(Table([x]), targets_here)


def _messages(
    keeper: Any, split: str, deal: shared.Deal, width: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
    """A worker's parts, several in a message, and a few messages under way at a time."""
    ranges = deal.ranges()
    some = max(1, PIECE // (4 * width * deal.rows))
    asked = [ranges[i : i + some] for i in range(0, len(ranges), some)]
    under_way = [keeper.samples.remote(split, r) for r in asked[:AHEAD]]
    for i in range(len(asked)):
        message = ray.get(under_way.pop(0))
        if i + AHEAD < len(asked):
            under_way.append(keeper.samples.remote(split, asked[i + AHEAD]))
        yield message


def _shared(keeper: Any, first: bool) -> bytes:
    """The checkpoint, the same one for all workers."""
    box: list[Any] = [ray.get(keeper.saved.remote()) if first else b""]
    dist.broadcast_object_list(box, 0)
    saved: bytes = box[0]
    return saved


class _Reports:
    """Tells the keeper of every epoch, and now and then gives it a checkpoint."""

    def __init__(self, keeper: Any, engine: shared.Share, fingerprint: str, seconds: float) -> None:
        self.keeper, self.engine, self.fingerprint, self.seconds = keeper, engine, fingerprint, seconds
        self.saved = 0.0
        self.under_way: list[Any] = []

    def __call__(self, state: loop.State, row: tuple[float, ...]) -> None:
        self.keeper.tell.remote(row)
        if row[-1] - self.saved > self.seconds:
            self.saved = row[-1]
            ray.get(self.under_way)  # one at a time
            checkpoint = loop.checkpoint_of(self.fingerprint, self.engine, state)
            self.under_way = [self.keeper.save.remote(_bytes(checkpoint))]


def _ignore(state: loop.State, row: tuple[float, ...]) -> None:
    pass


def _bytes(value: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
