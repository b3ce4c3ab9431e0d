"""Extraction by the local engine beside Ray, with one worker and with two: clips per second, and the overhead of Ray.

    python -m benchmarks.scale CLIPS [--clips 5000] [--copies 10]

CLIPS is a folder with one sub-folder of recordings for each class. They are copied, each copy with another first
sample, until there are enough. Every engine runs in a process and a run directory of its own, and the resulting files
are compared byte for byte. `start` is the time until Ray has started, `extract` all after that. Takes about two
minutes on two cores, and seven with 10 copies.
"""

import argparse
import filecmp
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import soundfile

ENGINES = {"local, 1 thread": 0, "ray, 1 worker": 1, "local, 2 threads": 0, "ray, 2 workers": 2}
PROGRAM = """
import json, os, sys, time
from pathlib import Path
from pipeline.run import Run
from pipeline import extract, task
from pipeline.engine import Engine
workers, run, clips, copies = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
chosen = task.load("instruments", clips, [f"augment.copies={copies}"])
began = time.perf_counter()
if workers:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import logging, ray
    ray.init("local", num_cpus=workers, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
started = time.perf_counter()
extract.extract(chosen, Run(run), engine=Engine("local") if workers else Engine())
ended = time.perf_counter()
print(json.dumps({"start": started - began, "extract": ended - started}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="CLIPS")
    parser.add_argument("--clips", type=int, default=5000)
    parser.add_argument("--copies", type=int, default=0, help="varied copies of each training clip")
    parser.add_argument("--only", nargs="*", choices=ENGINES, default=list(ENGINES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = Path(folder) / "clips"
        multiply(options.folder, clips, options.clips)
        first = None
        for name in options.only:
            run = Path(folder) / name.replace(" ", "-").replace(",", "")
            seconds = measure(name, run, clips, options.copies)
            first = first or run
            same = filecmp.cmp(first / "features.npz", run / "features.npz", shallow=False)
            rate = options.clips / seconds["extract"]
            print(
                f"{name:<18} start {seconds['start']:5.1f} s, extract {seconds['extract']:6.1f} s, {rate:6.1f} clips/s"
                f"{'' if same else ', DIFFERENT FILE'}",
                flush=True,
            )


def multiply(source: Path, target: Path, n: int) -> None:
    files = sorted(p for p in source.rglob("*") if p.is_file() and p.parent != source)
    for i, path in enumerate(itertools.islice(itertools.cycle(files), n)):
        audio, rate = soundfile.read(path, dtype="int16", always_2d=True)
        audio[0] = i // len(files)
        copy = target / path.parent.name / f"{i:06d}.wav"
        copy.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(copy, audio, rate, "PCM_16")


def measure(name: str, run: Path, clips: Path, copies: int) -> dict[str, Any]:
    workers = ENGINES[name]
    # One thread: a process that is limited to one core.
    pinned = ["taskset", "-c", "0"] if name == "local, 1 thread" else []
    done = subprocess.run(
        [*pinned, sys.executable, "-c", PROGRAM, str(workers), str(run), str(clips), str(copies)],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
