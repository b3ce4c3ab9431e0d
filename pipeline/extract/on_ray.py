"""Extraction on the nodes of a Ray cluster: the list of samples in parts, each of which becomes one shard.

A part is done again if a worker or its node died, and only what no shard holds if the whole command did.
"""

import logging
import pickle
import platform
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models import FEATURES_VERSION
from pipeline.extract.recipe import Recipe
from pipeline.extract.shards import Shards, Stored, read, write
from pipeline.progress import Progress
from pipeline.sources import Sample
from pipeline.task import UserError, Variation
from pipeline.threads import threads
from service import media

SHARD = 64  # samples: seconds of work, and a file of some hundred kilobytes
TRIES = 8  # of a shard whose process or node died; one of its files may be the cause
ALL = sys.maxsize  # number of copies of unusable content: none is missing


@dataclass(frozen=True)
class _Plan:
    """What every worker needs to know."""

    recipe: Recipe
    cached: dict[str, int]  # digest → number of copies, of the content that earlier runs have extracted
    folder: Path
    attempt: str  # name of this run of the command
    tries: int
    versions: dict[str, str]


def extract(samples: Sequence[Sample], recipe: Recipe, held: Mapping[str, Stored], shards: Shards) -> list[str]:
    """Extract what is not held yet on Ray, which must be running, into shards.

    Parameters
    ----------
    held : by digest, what earlier runs have extracted

    Raises
    ------
    UserError : the nodes do not have this version of percept or its libraries, do not share the run directory, or
        the process that did a shard died each time

    Returns
    -------
    Digests of all samples.
    """
    import ray

    shards.folder.mkdir(parents=True, exist_ok=True)
    n_copies = {content: ALL if one.file is None else one.n_copies for content, one in held.items()}
    plan = ray.put(_Plan(recipe, n_copies, shards.folder, uuid.uuid4().hex[:8], TRIES, _versions()))
    cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    begun: Any = ray.remote(num_cpus=1, max_retries=0)(_begin)
    for _ in range(cpus):  # workers import and prepare while Ray Data plans
        begun.remote([plan])
    digests = [""] * len(samples)
    with Progress("extract", len(samples), "sample") as progress:
        for row in _shards(samples, plan):
            if row["problem"]:
                raise UserError(row["problem"])
            if row["file"]:
                try:
                    shards.found |= read(shards.folder / row["file"])
                except FileNotFoundError as error:
                    reason = "a node wrote it, and it is not here; share the folder of runs"
                    raise UserError(f"{error.filename}: {reason}") from None
            start = row["shard"] * SHARD
            digests[start : start + len(row["digests"])] = row["digests"]
            progress.update(len(row["digests"]))
    return digests


def _shards(samples: Sequence[Sample], plan: Any) -> Iterator[dict[str, Any]]:
    """The result of `_work` for each part, in the order in which parts finish."""
    from ray.data import DataContext, from_items

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.op_resource_reservation_enabled = False  # or half of the cores would be reserved for later operators
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    parts = [samples[i : i + SHARD] for i in range(0, len(samples), SHARD)]
    manifest = [{"shard": k, "samples": pickle.dumps(part)} for k, part in enumerate(parts)]
    done = from_items(manifest, override_num_blocks=len(manifest)).map(partial(_work, plan), num_cpus=1)
    yield from done.iter_rows()


def _work(plan: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Do one part; returns the digests of its samples and the name of the shard, "" if nothing was to be done, or the
    problem that prevented it."""
    common, extractor = _prepared(plan)
    number, samples = row["shard"], pickle.loads(row["samples"])
    done = {"shard": number, "digests": [], "file": "", "problem": ""}
    if _versions() != common.versions:
        there, here = (", ".join(f"{k} {v}" for k, v in o.items()) for o in (_versions(), common.versions))
        return done | {"problem": f"node {platform.node()} has {there}; the command has {here}"}
    path = common.folder / f"{number:06d}-{common.attempt}.npz"
    tries = path.with_suffix(".tries")
    try:
        with tries.open("ab") as f:
            f.write(b".")
            if f.tell() > common.tries:
                names = f"{samples[0].file} … {samples[-1].file}"
                return done | {"problem": f"{names}: the process that decoded these files died {common.tries} times"}
        done["digests"] = _extract_shard(path, samples, common, extractor)
        done["file"] = path.name if path.exists() else ""
        tries.unlink()
    except OSError as error:
        return done | {"problem": f"node {platform.node()}: {error.filename or path}: {error.strerror or error}"}
    return done


def _extract_shard(path: Path, samples: Sequence[Sample], plan: _Plan, extractor: Any) -> list[str]:
    """Write what is missing of these samples, if anything is, as one shard; returns the digests of all."""
    digests = [sample.digest() for sample in samples]
    missing = {
        content: sample
        for content, sample in zip(digests, samples, strict=True)
        if plan.cached.get(content, -1) < plan.recipe.n_copies(sample, content)
    }
    written = path.exists() and read(path).keys() == missing.keys()  # by a node that died afterwards
    if missing and not written:
        with threads(1):  # as with the local engine: the order of sums must not depend on the number of threads
            write(path, [(content, extractor(sample, content)) for content, sample in missing.items()])
    return digests


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
    features = f"{FEATURES_VERSION}.{media.VERSION}.{Variation.VERSION}"
    return {
        "features": features,
        **{name: version(name) for name in ("percept", "torch", "numpy", "soxr", "soundfile", "pillow")},
    }
