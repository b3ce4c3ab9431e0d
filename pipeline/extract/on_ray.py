"""Extraction on the nodes of a Ray cluster: the manifest in shards, each of which becomes one Parquet file.

The files stay in the run directory until `features.npz` is written. Like that file they are a cache by content: if a
shard is done again, because a worker, its node or the whole command died, only what its file lacks is decoded.
"""

import logging
import pickle
import platform
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from models import FEATURES_VERSION
from pipeline.extract.recipe import Extracted, Recipe
from pipeline.run import Run, replacing
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


def extract(
    samples: Sequence[Sample], recipe: Recipe, cached: Mapping[str, Extracted], run: Run, key: str
) -> tuple[list[str], dict[int, Extracted]]:
    """Extract what is not cached yet on Ray, which must be running.

    Parameters
    ----------
    key : digest of everything besides the content that features depend on

    Raises
    ------
    UserError : the nodes do not have this version of percept or its libraries, do not share the run directory, or
        the process that did a shard died each time

    Returns
    -------
    Digests of all samples, and by index what was extracted.
    """
    import ray

    folder = run.shards.resolve() / key[:16]
    folder.mkdir(parents=True, exist_ok=True)
    n_copies = {content: ALL if one.row is None else len(one.copies) for content, one in cached.items()}
    plan = ray.put(_Plan(recipe, n_copies, folder, uuid.uuid4().hex[:8], TRIES, _versions()))
    cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    begun: Any = ray.remote(num_cpus=1, max_retries=0)(_begin)
    for _ in range(cpus):  # workers import and prepare while Ray Data plans
        begun.remote([plan])
    digests = [""] * len(samples)
    found: dict[int, Extracted] = {}
    n_reused = 0
    with tqdm(total=len(samples), desc="extract", unit="sample", disable=None) as bar:
        for row in _shards(samples, plan):
            if row["problem"]:
                raise UserError(row["problem"])
            n_reused += row["reused"]
            try:
                shard = _read(_path(folder, row["shard"]))
            except FileNotFoundError as error:
                reason = "a node wrote it, and it is not here; share the folder of runs"
                raise UserError(f"{error.filename}: {reason}") from None
            for i, (content, result) in enumerate(shard, row["shard"] * SHARD):
                digests[i] = content
                if result is not None:
                    found[i] = result
            bar.update(len(shard))
    if n_reused:
        print(f"  {n_reused} samples were in the shards of an interrupted run")
    return digests, found


def _shards(samples: Sequence[Sample], plan: Any) -> Iterator[dict[str, Any]]:
    """The result of `_work` for each shard, in the order in which shards finish."""
    from ray.data import DataContext, from_items

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.op_resource_reservation_enabled = False  # or half of the cores would be reserved for later operators
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    parts = [samples[i : i + SHARD] for i in range(0, len(samples), SHARD)]
    manifest = [{"shard": k, "samples": pickle.dumps(part)} for k, part in enumerate(parts)]
    done = from_items(manifest, override_num_blocks=len(manifest)).map(partial(_work, plan), num_cpus=1)
    yield from done.iter_rows()


def discard(run: Run) -> None:
    """Delete the shards, whose content is in `features.npz` now."""
    shutil.rmtree(run.shards, ignore_errors=True)


def _work(plan: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Write the file of one shard; returns how many of its samples were in it already, or the problem that prevented
    it."""
    common, extractor = _prepared(plan)
    number, samples = row["shard"], pickle.loads(row["samples"])
    done = {"shard": number, "reused": 0, "problem": ""}
    if _versions() != common.versions:
        there, here = (", ".join(f"{k} {v}" for k, v in o.items()) for o in (_versions(), common.versions))
        return done | {"problem": f"node {platform.node()} has {there}; the command has {here}"}
    path = _path(common.folder, number)
    tries = path.with_suffix(f".{common.attempt}")
    try:
        with tries.open("ab") as f:
            f.write(b".")
            if f.tell() > common.tries:
                names = f"{samples[0].file} … {samples[-1].file}"
                return done | {"problem": f"{names}: the process that decoded these files died {common.tries} times"}
        done["reused"] = _extract_shard(path, samples, common, extractor)
        tries.unlink()
    except OSError as error:
        return done | {"problem": f"node {platform.node()}: {error.filename or path}: {error.strerror or error}"}
    return done


def _extract_shard(path: Path, samples: Sequence[Sample], plan: _Plan, extractor: Any) -> int:
    """Write one shard; returns how many of its samples were in the file already."""
    held = _read(path) if path.exists() else []
    before = {content: result for content, result in held if result}
    after: list[tuple[str, Extracted | None]] = []
    n_reused = 0
    with threads(1):  # as with the local engine: the order of sums must not depend on the number of threads
        for sample in samples:
            content = sample.digest()
            n_copies = plan.recipe.n_copies(sample, content)
            result = before.get(content)
            if plan.cached.get(content, -1) >= n_copies:
                after.append((content, None))
            elif result is not None and result.covers(n_copies):
                n_reused += 1
                after.append((content, result))
            else:
                after.append((content, extractor(sample, content)))
    if n_reused < len(samples) or [content for content, _ in held] != [content for content, _ in after]:
        _write(path, after)
    return n_reused


def _begin(plan: list[Any]) -> None:
    _prepared(plan[0])


@lru_cache(maxsize=1)
def _prepared(plan: Any) -> tuple[_Plan, Any]:
    """The plan and its extractor, once in every process."""
    import ray

    common: _Plan = ray.get(plan)
    return common, common.recipe.extractor()


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.parquet"


def _write(path: Path, rows: Sequence[tuple[str, Extracted | None]]) -> None:
    """One row for each sample: digest, reason why there are no features, features, those of the copies in one list."""
    import pyarrow as pa
    from pyarrow import parquet

    floats = pa.list_(pa.float32())
    results = [result for _, result in rows]
    table = pa.table({
        "digest": [content for content, _ in rows],
        "reason": pa.array([r.reason if r and r.row is None else None for r in results], pa.string()),
        "features": pa.array([r.row if r else None for r in results], floats),
        "copies": pa.array([r.copies.ravel() if r and r.row is not None else None for r in results], floats),
    })  # fmt: skip
    with replacing(path) as temporary:
        parquet.write_table(table, temporary, compression="none", use_dictionary=False)


def _read(path: Path) -> list[tuple[str, Extracted | None]]:
    """The rows that `_write` wrote."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    rows: list[tuple[str, Extracted | None]] = []
    features, copies = (table[name].combine_chunks() for name in ("features", "copies"))
    for i, (content, reason) in enumerate(zip(table["digest"].to_pylist(), table["reason"].to_pylist(), strict=True)):
        if reason is not None:
            rows.append((content, Extracted(None, np.empty((0, 0), np.float32), reason)))
        elif features[i].is_valid:
            row = features[i].values.to_numpy()
            rows.append((content, Extracted(row, copies[i].values.to_numpy().reshape(-1, len(row)))))
        else:
            rows.append((content, None))
    return rows


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    """Versions that the features depend on; all nodes must have the same."""
    features = f"{FEATURES_VERSION}.{media.VERSION}.{Variation.VERSION}"
    return {
        "features": features,
        **{name: version(name) for name in ("percept", "torch", "numpy", "soxr", "soundfile", "pillow")},
    }
