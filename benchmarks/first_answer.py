"""Time until the service is ready, and of its answers to one digit and one note. Takes a few seconds.

    python -m benchmarks.first_answer [--runs runs]

Starts the service on the model store, and sends it one test sample of each task, from those that `percept validate`
has saved: the first request of the process, which no earlier one has warmed up, and the median of 50 more.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import httpx

from tests.serving import resident_mb, serving, workers

TASKS = ("digits", "instruments")
REPEATS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    runs = parser.parse_args().runs
    if missing := [name for name in TASKS if not (runs / name / "samples").is_dir()]:
        sys.exit(f"{runs / missing[0]}: does not exist; run `percept run {missing[0]}` first")
    home = Path(os.environ.get("BENTOML_HOME", Path.home() / "bentoml"))
    with serving(home) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        print(f"service ready after {server.seconds:.1f} s at {server.url}")
        for name in TASKS:
            file = sorted((runs / name / "samples").iterdir())[-1]
            first, answer = _ask(client, name, file)
            rest = statistics.median(_ask(client, name, file)[0] for _ in range(REPEATS))
            print(f"POST /{name} < {file}: {answer['label']!r} with confidence {answer['confidence']:.3f}")
            print(f"  first answer {first * 1000:.1f} ms, then {rest * 1000:.1f} ms ({file.stat().st_size:,} bytes)")
        print(f"worker: {sum(resident_mb(pid) for pid in workers(server)):.0f} MB resident")


def _ask(client: httpx.Client, name: str, file: Path) -> tuple[float, dict[str, object]]:
    start = time.perf_counter()
    response = client.post(f"/{name}", content=file.read_bytes())
    seconds = time.perf_counter() - start
    return seconds, response.raise_for_status().json()


if __name__ == "__main__":
    main()
