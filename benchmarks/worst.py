"""The requests that cost the service most for their bytes, found by a search: processor time, memory, and how long
another client waits.

    python -m benchmarks.worst [--seconds 180] [--only NAME …] [--seed 0] [--repository DIR]

One worker is started. Each kind of request in `benchmarks/costly/` (pictures, recordings, forms, JSON, the Open
Inference Protocol, HTTP itself) is sent once; then, until the time is over, the parameters of those that cost most in
one respect are varied, one or two at a time. Meanwhile another client, in a process of its own, posts a small picture
every 5 ms. The worst are sent twice more, and of their three times the least counts, since other work on the machine
can only add. In the end eight clients at once send each of the worst few for a while, and a minute later the memory is
read again.

    loop s, s/MB    processor time of the event loop, without that of the other client's requests; per 10^6 bytes sent,
                    of which each request has at least 65,536, since any request costs something
    all s, s/MB     the same for all threads of the worker
    p50, p99, max   milliseconds that the other client's requests waited
    peak, kept      MB of resident memory: the most above what it was before, and what was left of that after the answer
"""

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import servers
from benchmarks.costly import KINDS, Kind, Values
from benchmarks.costly.pictures import flat
from benchmarks.other import Other, another_client
from benchmarks.worker import Worker, exchange
from tests.load import closed_loop, post
from tests.serving import Server, serving, workers

ROOT = Path(__file__).parent.parent
HOME = Path.home() / ".cache/percept/serving"
TASKS = ("digits", "instruments", "regions")
LEAST = 2**16  # bytes that a request counts as, at least
STORM = 5  # seconds that several clients send one of the worst
QUIET = 2  # seconds without other requests, to measure those of the other client
VARIED = 0.7  # share of the requests that are variations of the worst; the others may be anything
LEADERS = 8  # kinds, the worst in one respect, of which the one with the least time so far is varied
CLIENTS = 8  # that send the worst at once
CLOSING = b"Connection: close\r\n"


@dataclass
class Cost:
    """What one request cost, and whose."""

    kind: Kind
    values: Values
    sent: int  # bytes
    status: int
    loop: float  # seconds, like the next
    all: float
    p50: float  # milliseconds, like the next two
    p99: float
    max: float
    peak: float  # MB, like the next
    kept: float

    @property
    def megabytes(self) -> float:
        return max(self.sent, LEAST) / 1e6

    def row(self) -> str:
        """A row of a table."""
        parameters = ", ".join(f"{name}={value}" for name, value in self.values.items())
        seconds = (
            f"{self.loop:.3f} | {self.loop / self.megabytes:.2f} | {self.all:.3f} | {self.all / self.megabytes:.2f}"
        )
        waited = f"{self.p50:.1f} | {self.p99:.0f} | {self.max:.0f}"
        memory = f"{self.peak:.0f} | {self.kept:.0f}"
        return f"| {self.kind.name} | {parameters} | {self.sent:,} | {self.status} | {seconds} | {waited} | {memory} |"


TIMES = ("loop", "all", "p50", "p99", "max")
HEADER = "| kind | parameters | bytes | status | loop s | s/MB | all s | s/MB | p50 ms | p99 | max | peak MB | kept |"

RESPECTS: dict[str, Callable[[Cost], float]] = {  # in which a request can be the worst
    "processor time of the event loop per MB": lambda cost: cost.loop / cost.megabytes,
    "processor time of all threads per MB": lambda cost: cost.all / cost.megabytes,
    "the longest wait of another client": lambda cost: cost.max,
    "memory": lambda cost: cost.peak,
    "memory per MB": lambda cost: cost.peak / cost.megabytes,
}


def address(server: Server) -> tuple[str, int]:
    """Host and port."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    return host, int(port)


class Bench:
    """A server, and another client that uses it meanwhile."""

    def __init__(self, server: Server, other: Other) -> None:
        self.server, self.other, self.address = server, other, address(server)
        self.loop_each = self.all_each = 0.0  # seconds of a request of the other client
        worker = self.worker()
        loop, all_ = worker.loop_seconds(), worker.seconds()
        other.waited()
        time.sleep(QUIET)
        self.quiet = np.percentile(waited := other.waited(), (50, 99, 100))  # milliseconds
        self.loop_each = (worker.loop_seconds() - loop) / len(waited)
        self.all_each = (worker.seconds() - all_) / len(waited)

    def worker(self) -> Worker:
        """The server's worker; another one, if that has been restarted."""
        return Worker(workers(self.server)[0])

    def cost(self, kind: Kind, values: Values, request: bytes) -> Cost:
        """What this request costs, and what the other client waits meanwhile."""
        self.other.waited()
        cost = self.alone(kind, values, request)
        waited = self.other.waited()
        p50, p99, most = np.percentile(waited, (50, 99, 100)).tolist()
        loop, all_ = cost.loop - len(waited) * self.loop_each, cost.all - len(waited) * self.all_each
        return replace(cost, loop=max(0.0, loop), all=max(0.0, all_), p50=p50, p99=p99, max=most)

    def alone(self, kind: Kind, values: Values, request: bytes) -> Cost:
        """What this request costs, if nobody else sends any."""
        worker = self.worker()
        worker.forget_peak()
        resident, loop, all_ = worker.resident_mb(), worker.loop_seconds(), worker.seconds()
        status = exchange(self.address, request)
        loop, all_ = worker.loop_seconds() - loop, worker.seconds() - all_
        peak, kept = worker.peak_mb() - resident, worker.resident_mb() - resident
        return Cost(kind, values, len(request), status, loop, all_, np.inf, np.inf, np.inf, peak, kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180, help="length of the search")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="only kinds whose name contains this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--top", type=int, default=10, help="rows of each table")
    parser.add_argument("--rest", type=float, default=60, help="seconds after which memory is read again")
    parser.add_argument("--repository", type=Path, default=ROOT, help="checkout of percept to measure")
    parser.add_argument("--home", type=Path, default=HOME, help="BENTOML_HOME; models that it lacks are trained first")
    arguments = parser.parse_args()
    kinds = [kind for kind in KINDS if any(name in kind.name for name in arguments.only)]
    if not kinds:
        parser.error(f"--only: the kinds are {', '.join(kind.name for kind in KINDS)}")
    home, repository = arguments.home.resolve(), arguments.repository.resolve()
    for name in TASKS:
        if not (home / "models" / name).is_dir():
            servers.train(name, home)
    with (
        serving(home, directory=repository, PYTHONPATH=str(repository)) as server,
        another_client(address(server), post("/digits", _small_picture())) as other,
    ):
        measure(Bench(server, other), kinds, arguments)


def measure(bench: Bench, kinds: list[Kind], arguments: argparse.Namespace) -> None:
    """Search, and print what was found."""
    bench.cost(kinds[0], {}, made(kinds[0], kinds[0].start()) or b"")  # the first file of a kind imports its decoder
    before, quiet = bench.worker().resident_mb(), bench.quiet
    print(
        f"the other client alone: p50 {quiet[0]:.1f} ms, p99 {quiet[1]:.1f}, max {quiet[2]:.1f}",
        flush=True,
    )
    found = search(bench, kinds, arguments.seconds, random.Random(arguments.seed))
    print(f"{len(found)} requests; statuses {sorted({cost.status for cost in found})}")
    tables = {name: worst(found, respect, arguments.top) for name, respect in RESPECTS.items()}
    again = {id(cost): repeated(bench, cost) for table in tables.values() for cost in table}
    for name, table in tables.items():
        print(f"\nThe worst in {name}\n\n{HEADER}\n|{' --- |' * HEADER.count(' | ')} --- |")
        for cost in sorted((again[id(cost)] for cost in table), key=RESPECTS[name], reverse=True):
            print(cost.row())
    print(f"\n{CLIENTS} clients at once\n")
    for cost in {cost.kind.name: cost for table in tables.values() for cost in table[:3]}.values():
        storm(bench, cost)
    time.sleep(arguments.rest)
    after = bench.worker().resident_mb()
    print(f"\nmemory before {before:.0f} MB, {arguments.rest:g} s after {after:.0f} MB: {after / before - 1:+.0%}")


def search(bench: Bench, kinds: list[Kind], seconds: float, rng: random.Random) -> list[Cost]:
    """Costs of requests: each kind once, then variations of the worst, until the time is over."""
    end = time.monotonic() + seconds
    found: list[Cost] = []
    tried: set[str] = set()
    spent: Counter[str] = Counter()  # milliseconds on each kind; the slowest would else take all of them

    def attempt(kind: Kind, values: Values) -> None:
        key, begun = f"{kind.name} {values}", time.monotonic()
        if key not in tried and (request := made(kind, values)):
            found.append(bench.cost(kind, values, request))
        tried.add(key)
        spent[kind.name] += int(1000 * (time.monotonic() - begun))

    for kind in kinds:
        attempt(kind, kind.start())
    while time.monotonic() < end:
        if rng.random() < VARIED:
            respect = rng.choice(list(RESPECTS.values()))
            leader = min(worst(found, respect, LEADERS), key=lambda cost: spent[cost.kind.name])
            attempt(leader.kind, varied(leader.kind, leader.values, rng))
        else:
            kind = min(kinds, key=lambda kind: spent[kind.name])
            attempt(kind, {name: rng.choice(choices) for name, choices in kind.parameters.items()})
    return found


def made(kind: Kind, values: Values) -> bytes | None:
    """The request; None if no library writes such a file."""
    try:
        return kind.make(**values)
    except Exception:  # writers raise nearly anything for what they cannot write
        return None


def varied(kind: Kind, values: Values, rng: random.Random) -> Values:
    """The values, of which one or two are drawn again."""
    changed = rng.sample(list(kind.parameters), min(rng.choice((1, 1, 2)), len(kind.parameters)))
    return values | {name: rng.choice(kind.parameters[name]) for name in changed}


def worst(found: list[Cost], respect: Callable[[Cost], float], n: int) -> list[Cost]:
    """The worst of each kind, of the n worst kinds."""
    ranked: dict[str, Cost] = {}
    for cost in sorted(found, key=respect, reverse=True):
        ranked.setdefault(cost.kind.name, cost)
    return list(ranked.values())[:n]


def repeated(bench: Bench, cost: Cost) -> Cost:
    """The least of each time in three measurements, the last of them without the other client."""
    request = cost.kind.make(**cost.values)
    costs = [cost, bench.cost(cost.kind, cost.values, request)]
    with bench.other.silent():
        costs.append(bench.alone(cost.kind, cost.values, request))
    return replace(cost, **{name: min(getattr(each, name) for each in costs) for name in TIMES})


def storm(bench: Bench, cost: Cost) -> None:
    """Print how long the other client waits while several send this request over and over, and how much memory that
    takes."""
    values = cost.values | ({"n": 1} if "n" in cost.values else {})
    request = cost.kind.make(**values).replace(CLOSING, b"", 1)
    worker = bench.worker()
    worker.forget_peak()
    bench.other.waited()
    outcome = closed_loop(bench.server.url, [request], CLIENTS, STORM)
    p50, p99, most = np.percentile(bench.other.waited(), (50, 99, 100))
    print(
        f"{cost.kind.name}, {values}: {dict(outcome.statuses)} in {outcome.seconds:.1f} s; "
        f"the other waited p50 {p50:.1f} ms, p99 {p99:.0f}, max {most:.0f}; peak {worker.peak_mb():.0f} MB",
        flush=True,
    )


def _small_picture() -> bytes:
    file = BytesIO()
    Image.fromarray(255 - flat(28, 28)).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
