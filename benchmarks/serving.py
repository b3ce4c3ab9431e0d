"""Requests per second and latency of the service, beside FastAPI, LitServe, BentoML and MLServer.

    python -m benchmarks.serving [--only NAME …] [--seconds 4] [--rounds 2] [--repository DIR]

All serve the same pictures, sound and ONNX file in one run. Each peer in `benchmarks/peers/` is written as its users
would write it, with one worker, ONNX Runtime, its default request log, and an environment of its own, which the first
run creates in `~/.cache/percept/peers`. MLServer runs inference in its main process, instead of its default of one
process per worker.

The servers run on the first core, the load generator on the last: wrk with one thread (`apt-get install wrk`). Every
answer is checked once. Then the cases alternate, each after a second of warm-up, and the best round of each counts,
since other work on the machine can only slow it down. Takes about five minutes, plus the installations and two
trainings of the first run.

    raw          a PNG of a digit, 28 × 28, as the body
    form         the same in a field of multipart/form-data
    wav          two seconds of a note, 16 bit, 22,050 Hz, as the body; the peer computes librosa's 40 MFCC, their
                 means and deviations, and an MLP with random weights
    json-N       N pictures as JSON of the Open Inference Protocol
    binary-N     N pictures in its binary extension, answered in binary

Seconds to the first answer count from the start of the process, for the first of the server's cases.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks import servers
from benchmarks.bodies import body, correct

ROOT = Path(__file__).parent.parent
CACHE = Path.home() / ".cache/percept"
CONNECTIONS = (1, 32)
INFER = "/v2/models/digits/infer"
CASES = {  # server and body: path
    "percept raw": "/digits",
    "fastapi raw": "/digits",
    "percept form": "/digits",
    "fastapi form": "/form",
    "litserve form": "/predict",
    "bentoml form": "/predict",
    "percept wav": "/instruments",
    "fastapi wav": "/instruments",
    "percept json-1": INFER,
    "mlserver json-1": INFER,
    "percept json-64": INFER,
    "mlserver json-64": INFER,
    "percept binary-256": INFER,
}
RATIOS = (  # percept's case, the peer's, and the target for the ratio of their rates, at least
    ("percept raw", "fastapi raw", 1.0),
    ("percept raw", "bentoml form", 5.0),
    ("percept form", "bentoml form", None),
    ("percept form", "fastapi form", None),
    ("percept form", "litserve form", None),
    ("percept wav", "fastapi wav", 2.2),
    ("percept json-1", "mlserver json-1", 1.3),
    ("percept json-64", "mlserver json-64", 3.0),
)
FASTEST, PICTURES = "percept binary-256", 200_000  # pictures a second, at least
SPREAD = 5  # target for p99 / p50, at most


@dataclass
class Result:
    requests: int
    seconds: float
    failed: int  # answers with a status of 400 or more, and broken connections
    p50: float  # milliseconds, like the others
    p90: float
    p99: float

    @property
    def rate(self) -> float:
        """Successful answers per second."""
        return (self.requests - self.failed) / self.seconds


Results = dict[tuple[str, int], Result]  # by case and connections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="only cases whose name contains this")
    parser.add_argument("--seconds", type=int, default=4, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repository", type=Path, default=ROOT, help="checkout of percept to measure")
    parser.add_argument(
        "--home", type=Path, default=CACHE / "serving", help="BENTOML_HOME; if it is empty, models are trained first"
    )
    parser.add_argument("--no-pin", action="store_true", help="let the servers and wrk use every core")
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        print("not measured: wrk is not installed (Debian: apt-get install wrk)")
        return
    home, repository = arguments.home.resolve(), arguments.repository.resolve()
    cases = {case: path for case, path in CASES.items() if any(name in case for name in arguments.only)}
    if not cases:
        parser.error(f"--only: the cases are {', '.join(CASES)}")
    for name in ("digits", *(["instruments"] if any("wav" in case for case in cases) else [])):
        servers.train(name, home)
    cores = sorted(os.sched_getaffinity(0))
    first, last = (set(cores), set(cores)) if arguments.no_pin else ({cores[0]}, {cores[-1]})
    with ExitStack() as stack:
        options = {"repository": repository, "home": home, "cache": CACHE / "peers", "cores": first}
        urls = started(stack, {case.split()[0] for case in cases}, options)
        posts = {}
        for case, path in cases.items():
            server, kind = case.split()
            if server in urls:
                request = httpx.Request("POST", urls[server] + path, **body(kind, home / "runs"))
                if served(case, request):
                    posts[case] = request
        results = measured(posts, arguments.seconds, arguments.rounds, last)
    table(results)
    compare(results)


def started(stack: ExitStack, names: set[str], options: dict[str, Any]) -> dict[str, str]:
    """Start these servers one after the other and print how soon each answers; server → address."""
    urls = {}
    print("seconds to the first answer")
    for case, path in CASES.items():
        server, kind = case.split()
        if server in names:
            names = names - {server}
            running = servers.running(server, path, body(kind, options["home"] / "runs"), **options)
            try:
                urls[server], seconds = stack.enter_context(running)
                print(f"  {server:20} {seconds:8.1f}", flush=True)
            except servers.NotMeasured as error:
                print(f"  {server:20} not measured: {error}", flush=True)
    return urls


def served(case: str, request: httpx.Request) -> bool:
    """Whether the request gets a correct answer; prints why not."""
    with httpx.Client(timeout=30) as client:
        answer = client.send(request)
    if not answer.is_success:
        print(f"{case}: not served, {answer.status_code} {answer.text[:200]}")
        return False
    if not correct(case.split()[1], answer):
        print(f"{case}: wrong answer, {answer.text[:200]}")
        return False
    return True


def measured(posts: dict[str, httpx.Request], seconds: int, rounds: int, cores: set[int]) -> Results:
    """The best of `rounds` measurements of each case."""
    results: Results = {}
    for _ in range(rounds):
        for case, request in posts.items():
            for connections in CONNECTIONS:
                wrk(request, connections, 1, cores)
                result = wrk(request, connections, seconds, cores)
                best = results.setdefault((case, connections), result)
                if result.rate > best.rate:
                    results[case, connections] = result
    return results


def wrk(request: httpx.Request, connections: int, seconds: int, cores: set[int]) -> Result:
    with tempfile.NamedTemporaryFile() as file:
        file.write(request.read())
        file.flush()
        kept = {key: value for key, value in request.headers.items() if key not in ("host", "content-length")}
        headers = [argument for key, value in kept.items() for argument in ("-H", f"{key}: {value}")]
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(Path(__file__).with_name("post.lua"))]
        done = subprocess.run(
            [*command, *headers, str(request.url), "--", file.name],
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def table(results: Results) -> None:
    columns = "".join(f"{name:>9}" for name in ("p50 ms", "p90 ms", "p99 ms"))
    print(f"\n{'':20}{'connections':>12}{'requests/s':>12}{'samples/s':>12}{columns}{'failed':>8}")
    for (case, connections), result in results.items():
        times = f"{result.p50:9.2f}{result.p90:9.2f}{result.p99:9.2f}"
        each = result.rate * samples(case)
        print(f"{case:20}{connections:12}{result.rate:12,.0f}{each:12,.0f}{times}{result.failed:8}")


def samples(case: str) -> int:
    """Samples in each request."""
    return int(case.partition("-")[2] or 1)


def compare(results: Results) -> None:
    """Print the ratios of the measured cases, beside their targets."""
    print(f"\n{'requests/s':44}" + "".join(f"{f'{n} conn.':>10}" for n in CONNECTIONS))
    for ours, theirs, target in RATIOS:
        if (ours, 1) in results and (theirs, 1) in results:
            ratios = [results[ours, n].rate / results[theirs, n].rate for n in CONNECTIONS]
            figures = "".join(f"{ratio:9.2f}×" for ratio in ratios)
            print(f"{f'{ours} / {theirs}':44}{figures}{'' if target is None else verdict(min(ratios), target)}")
    if (FASTEST, 1) in results:
        rates = [results[FASTEST, n].rate * samples(FASTEST) for n in CONNECTIONS]
        figures = "".join(f"{rate:10,.0f}" for rate in rates)
        print(f"{f'{FASTEST}, pictures/s':44}{figures}{verdict(max(rates), PICTURES)}")
    for (case, connections), result in results.items():
        if connections == CONNECTIONS[-1] and case.startswith("percept"):
            spread = result.p99 / result.p50
            said = "met" if spread <= SPREAD else "MISSED"
            print(f"{f'{case}, p99 / p50':54}{spread:9.2f}×   {said}: at most {SPREAD}")


def verdict(value: float, target: float) -> str:
    return f"   {'met' if value >= target else 'MISSED'}: at least {target:,}"


if __name__ == "__main__":
    main()
