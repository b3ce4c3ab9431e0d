"""Extraction on the nodes of a Ray cluster: the samples in parts, each of which becomes one shard.

A part is done again if a worker or its node died, and only what no shard holds if the whole command did.
"""

import logging
import pickle
import platform
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.extract.recipe import Job, Recipe
from pipeline.extract.shards import Shards, read, write
from pipeline.progress import Progress
from pipeline.sources import Sample
from pipeline.task import UserError
from pipeline.threads import threads
from pipeline.versions import EXTRACTION

SHARD = 64  # samples: seconds of work, and a file of some hundred kilobytes
TRIES = 8  # of a shard whose process or node died; one of its files may be the cause


@dataclass(frozen=True)
class _Plan:
    """What every worker needs to know."""

    recipe: Recipe
    folder: Path
    attempt: str  # name of this run of the command
    tries: int
    versions: dict[str, str]


def digests(samples: Sequence[Sample]) -> list[str]:
    """The digests of the samples' content, read on Ray, which must be running.

    Raises
    ------
    UserError : the nodes do not have this version of percept or its libraries
    """
    found = [""] * len(samples)
    with Progress("read", len(samples), "file") as progress:
        for row in _parts(samples, partial(_read, _versions())):
            start = SHARD * row["part"]
            found[start : start + SHARD] = row["digests"]
            progress.update(len(row["digests"]))
    return found


def extract(jobs: Sequence[Job], recipe: Recipe, shards: Shards) -> None:
    """Extract these samples on Ray, which must be running, into shards.

    Raises
    ------
    UserError : the nodes do not have this version of percept or its libraries, do not share the run directory, or
        the process that did a shard died each time
    """
    if not jobs:
        return
    import ray

    shards.folder.mkdir(parents=True, exist_ok=True)
    plan = ray.put(_Plan(recipe, shards.folder, uuid.uuid4().hex[:8], TRIES, _versions()))
    cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    begun: Any = ray.remote(num_cpus=1, max_retries=0)(_begin)
    for _ in range(cpus):  # workers import and prepare while Ray Data plans
        begun.remote([plan])
    with Progress("extract", len(jobs), "sample") as progress:
        for row in _parts(jobs, partial(_work, plan)):
            try:
                shards.found |= read(shards.folder / row["file"])
            except FileNotFoundError as error:
                reason = "a node wrote it, and it is not here; share the folder of runs"
                raise UserError(f"{error.filename}: {reason}") from None
            progress.update(len(jobs[SHARD * row["part"] :][:SHARD]))


def _parts(items: Sequence[Any], function: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The result of `function` for each part of the items, in the order in which parts finish.

    Raises
    ------
    UserError : one of them has a problem
    """
    from ray.data import DataContext, from_items

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.op_resource_reservation_enabled = False  # or half of the cores would be reserved for later operators
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    parts = [
        {"part": n, "items": pickle.dumps(items[i : i + SHARD])} for n, i in enumerate(range(0, len(items), SHARD))
    ]
    if not parts:
        return
    for row in from_items(parts, override_num_blocks=len(parts)).map(function, num_cpus=1).iter_rows():
        if row["problem"]:
            raise UserError(row["problem"])
        yield row


def _read(versions: dict[str, str], row: dict[str, Any]) -> dict[str, Any]:
    """The digests of one part's samples, or the problem that prevented it."""
    problem = _other_versions(versions)
    found = [] if problem else [sample.digest() for sample in pickle.loads(row["items"])]
    return {"part": row["part"], "digests": found, "problem": problem}


def _work(plan: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Do one part; returns the name of the shard, or the problem that prevented it."""
    common, extractor = _prepared(plan)
    done = {"part": row["part"], "file": "", "problem": _other_versions(common.versions)}
    if done["problem"]:
        return done
    jobs: Sequence[Job] = pickle.loads(row["items"])
    path = common.folder / f"{row['part']:06d}-{common.attempt}.npz"
    tries = path.with_suffix(".tries")
    try:
        with tries.open("ab") as f:
            f.write(b".")
            if f.tell() > common.tries:
                names = f"{jobs[0].sample.file} … {jobs[-1].sample.file}"
                return done | {"problem": f"{names}: the process that decoded these files died {common.tries} times"}
        _extract_shard(path, jobs, extractor)
        done["file"] = path.name
        tries.unlink()
    except OSError as error:
        return done | {"problem": f"node {platform.node()}: {error.filename or path}: {error.strerror or error}"}
    return done


def _extract_shard(path: Path, jobs: Sequence[Job], extractor: Any) -> None:
    """Write the results of a part as one shard."""
    if path.exists() and read(path).keys() == {job.content for job in jobs}:  # by a node that died afterwards
        return
    with threads(1):  # as with the local engine: the order of sums must not depend on the number of threads
        write(path, [(job.content, extractor(job)) for job in jobs])


def _other_versions(versions: dict[str, str]) -> str:
    """One line if this node has other versions than the command, else ""."""
    if _versions() == versions:
        return ""
    there, here = (", ".join(f"{name} {v}" for name, v in found.items()) for found in (_versions(), versions))
    return f"node {platform.node()} has {there}; the command has {here}"


def _begin(plan: list[Any]) -> None:
    _prepared(plan[0])


@lru_cache(maxsize=1)
def _prepared(plan: Any) -> tuple[_Plan, Any]:
    """The plan and its extractor, once in every process."""
    import ray

    common: _Plan = ray.get(plan)
    return common, common.recipe.extractor()


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    """Versions that the features depend on; all nodes must have the same."""
    return {
        "features": EXTRACTION,
        **{name: version(name) for name in ("percept", "torch", "numpy", "soxr", "soundfile", "pillow")},
    }
