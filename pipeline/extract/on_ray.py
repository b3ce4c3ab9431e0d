"""Extraction on the nodes of a Ray cluster: the manifest in shards, each of which becomes one Parquet file.

The files lie in the run directory until `features.npz` is there. They are a memory by content, like that file: whoever
does a shard again, since a worker, its node or the whole command died, decodes only what its file does not hold yet.
"""

import logging
import pickle
import platform
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from models import frontend
from pipeline.extract import copies
from pipeline.run import Run, replacing
from pipeline.sources.sample import Sample
from pipeline.task import UserError
from pipeline.threads import threads
from service import media

if TYPE_CHECKING:
    from pipeline.extract.recipe import Extracted, Recipe

SHARD = 64  # samples: seconds of work, and a file of some hundred kilobytes
TRIES = 8  # of a shard whose process or node died; a file of it may be what kills the process
ALL = sys.maxsize  # copies of what cannot be used: no more of them will ever be found


@dataclass(frozen=True)
class _Plan:
    """What every worker needs to know; have: digest → copies known, for the content that earlier runs have found."""

    recipe: "Recipe"
    have: dict[str, int]
    folder: Path
    attempt: str  # name of this run of the command
    tries: int
    origin: dict[str, str]


def extract(
    samples: Sequence[Sample], recipe: "Recipe", known: Mapping[str, "Extracted"], run: Run, key: str
) -> tuple[list[str], dict[int, "Extracted"]]:
    """Digests of all samples, and by index what is found in those that are not known yet, on Ray, which is running.

    Parameters
    ----------
    key : digest of what the features of a given content depend on

    Raises
    ------
    UserError : the nodes do not have this version of percept or its libraries, do not share the run directory, or
        the process that did a shard died each time
    """
    import ray
    from ray.data import DataContext, from_items

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.op_resource_reservation_enabled = False  # or half of the cores would wait for what follows: nothing
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    folder = run.shards.resolve() / key[:16]
    folder.mkdir(parents=True, exist_ok=True)
    have = {content: ALL if isinstance(row, str) else len(copies) for content, (row, copies) in known.items()}
    plan = ray.put(_Plan(recipe, have, folder, uuid.uuid4().hex[:8], TRIES, _origin()))
    cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    begun: Any = ray.remote(num_cpus=1, max_retries=0)(_begin)
    for _ in range(cpus):  # workers import and build while Ray Data makes its own plans
        begun.remote([plan])
    parts = [samples[i : i + SHARD] for i in range(0, len(samples), SHARD)]
    manifest = [{"shard": k, "samples": pickle.dumps(part)} for k, part in enumerate(parts)]
    digests = [""] * len(samples)
    found: dict[int, Extracted] = {}
    kept = 0
    try:
        done = from_items(manifest, override_num_blocks=len(manifest)).map(partial(_work, plan), num_cpus=1)
        with tqdm(total=len(samples), desc="extract", unit="sample", disable=None) as bar:
            for row in done.iter_rows():
                if row["problem"]:
                    raise UserError(row["problem"])
                kept += row["kept"]
                start = row["shard"] * SHARD
                for i, (content, result) in enumerate(_read(_path(folder, row["shard"])), start):
                    digests[i] = content
                    if result is not None:
                        found[i] = result
                bar.update(len(parts[row["shard"]]))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: a node wrote it, and it is not here; share the folder of runs") from None
    if kept:
        print(f"  {kept} samples were in the shards of a run that was cut off")
    return digests, found


def discard(run: Run) -> None:
    """Delete the shards, which `features.npz` holds by now."""
    shutil.rmtree(run.shards, ignore_errors=True)


def _work(plan: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Write the file of one shard; how many of its samples were there already, and what keeps it from being written."""
    known, extractor = _prepared(plan)
    number, samples = row["shard"], pickle.loads(row["samples"])
    answer = {"shard": number, "kept": 0, "problem": ""}
    if _origin() != known.origin:
        there, here = (", ".join(f"{k} {v}" for k, v in o.items()) for o in (_origin(), known.origin))
        return answer | {"problem": f"node {platform.node()} has {there}; the command has {here}"}
    path = _path(known.folder, number)
    tries = path.with_suffix(f".{known.attempt}")
    try:
        with tries.open("ab") as f:
            f.write(b".")
            if f.tell() > known.tries:
                names = f"{samples[0].file} … {samples[-1].file}"
                return answer | {"problem": f"{names}: the process that decoded these files died {known.tries} times"}
        answer["kept"] = _do(path, samples, known, extractor)
        tries.unlink()
    except OSError as error:
        return answer | {"problem": f"node {platform.node()}: {error.filename or path}: {error.strerror or error}"}
    return answer


def _do(path: Path, samples: Sequence[Sample], plan: _Plan, extractor: Any) -> int:
    from pipeline.extract.recipe import complete, digest_of

    held = _read(path) if path.exists() else []
    before = {content: result for content, result in held if result}
    after: list[tuple[str, Extracted | None]] = []
    kept = 0
    with threads(1):  # as the local engine has it: no sum's order depends on their number
        for sample in samples:
            content = digest_of(sample)
            n_copies = plan.recipe.n_copies(sample, content)
            if plan.have.get(content, -1) >= n_copies:
                after.append((content, None))
            elif complete(before.get(content), n_copies):
                kept += 1
                after.append((content, before[content]))
            else:
                after.append((content, extractor(sample, content)))
    if kept < len(samples) or [content for content, _ in held] != [content for content, _ in after]:
        _write(path, after)
    return kept


def _begin(plan: list[Any]) -> None:
    _prepared(plan[0])


@lru_cache(maxsize=1)
def _prepared(plan: Any) -> tuple[_Plan, Any]:
    """The plan and its extractor, once in every process."""
    import ray

    known: _Plan = ray.get(plan)
    return known, known.recipe.extractor()


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.parquet"


def _write(path: Path, rows: Sequence[tuple[str, "Extracted | None"]]) -> None:
    """One row for each sample: digest, reason why there are no features, features, those of the copies end to end."""
    import pyarrow as pa
    from pyarrow import parquet

    floats = pa.list_(pa.float32())
    results = [result for _, result in rows]
    table = pa.table({
        "digest": [content for content, _ in rows],
        "reason": pa.array([r[0] if r and isinstance(r[0], str) else None for r in results], pa.string()),
        "features": pa.array([r[0] if r and not isinstance(r[0], str) else None for r in results], floats),
        "copies": pa.array([r[1].ravel() if r and not isinstance(r[0], str) else None for r in results], floats),
    })  # fmt: skip
    with replacing(path) as temporary:
        parquet.write_table(table, temporary, compression="none", use_dictionary=False)


def _read(path: Path) -> list[tuple[str, "Extracted | None"]]:
    """What `_write` wrote."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    rows: list[tuple[str, Extracted | None]] = []
    features, copies = (table[name].combine_chunks() for name in ("features", "copies"))
    for i, (content, reason) in enumerate(zip(table["digest"].to_pylist(), table["reason"].to_pylist(), strict=True)):
        if reason is not None:
            rows.append((content, (reason, np.empty((0, 0), np.float32))))
        elif features[i].is_valid:
            row = features[i].values.to_numpy()
            rows.append((content, (row, copies[i].values.to_numpy().reshape(-1, len(row)))))
        else:
            rows.append((content, None))
    return rows


@lru_cache(maxsize=1)
def _origin() -> dict[str, str]:
    """What the features depend on beside the data: all nodes must have the same."""
    features = ".".join(str(module.VERSION) for module in (frontend, media, copies))
    return {
        "features": features,
        **{name: version(name) for name in ("percept", "torch", "numpy", "soxr", "soundfile", "pillow")},
    }
