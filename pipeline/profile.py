"""Where a command's time goes: stages, and steps within them, as `percept run TASK --profile` shows them.

A step is a block or a function that is marked with `step`. Its time is its own: that of steps inside it is theirs. What
several threads do at once is added up, so that the seconds of steps may exceed those of their stage; processor seconds
say how much of it was computing, the rest was waiting for disk, network, GPU or a core.
"""

import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ParamSpec, TypedDict, TypeVar

from service.media.resampling import Resampler

LEAST = 0.01  # seconds: shorter steps are shown among the others of their stage
OTHER = "other"  # the time of the stage's own thread outside of any step
WAITING = "waiting for threads"  # which have steps of their own: no row of the table

P = ParamSpec("P")
R = TypeVar("R")


class Step(TypedDict):
    """Seconds of one step, of all threads together."""

    name: str
    times: int
    seconds: float
    processor: float


class Stage(TypedDict):
    """One stage and its steps, those that took longest first."""

    name: str
    seconds: float
    processor: float  # of all threads, and of processes that have ended
    peak: int  # bytes of memory that the process ever held, until the end of the stage
    steps: list[Step]


@dataclass(slots=True)
class _Profile:
    stage: str = ""
    steps: dict[str, Step] = field(default_factory=dict)  # of this stage
    stages: list[Stage] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, seconds: float, processor: float) -> None:
        with self.lock:
            total = self.steps.setdefault(name, {"name": name, "times": 0, "seconds": 0.0, "processor": 0.0})
            total["times"] += 1
            total["seconds"] += seconds
            total["processor"] += processor


class _Inner(threading.local):
    """Wall and processor seconds of the steps inside the one that a thread is in."""

    seconds = processor = 0.0


_inner = _Inner()
_profile: _Profile | None = None


@contextmanager
def profiling() -> Iterator[list[Stage]]:
    """Measure the stages and steps in the block; yields the list that they are added to.

    Example
    -------
    >>> with profiling() as stages, stage("train"), step("epochs"):
    ...     time.sleep(0.02)
    >>> stages[0]["name"], stages[0]["steps"][0]["name"], stages[0]["steps"][0]["times"]
    ('train', 'epochs', 1)
    """
    global _profile
    _profile, plain = _Profile(), Resampler.resample_chunk
    # The service, which decodes, knows nothing of steps.
    Resampler.resample_chunk = step("resample")(plain)  # type: ignore[method-assign]
    try:
        yield _profile.stages
    finally:
        _profile, Resampler.resample_chunk = None, plain  # type: ignore[method-assign]


@contextmanager
def stage(name: str) -> Iterator[None]:
    """A block that is a stage, where something is measured."""
    profile = _profile
    if profile is None:
        yield
        return
    profile.stage, profile.steps = name, {}
    wall, processor = time.perf_counter(), _processor()
    with step(OTHER):
        yield
    seconds, processor = time.perf_counter() - wall, _processor() - processor
    profile.steps.pop(WAITING, None)
    steps = sorted(profile.steps.values(), key=lambda one: -one["seconds"])
    profile.stages.append({"name": name, "seconds": seconds, "processor": processor, "peak": _peak(), "steps": steps})


@contextmanager
def step(name: str, all_threads: bool = False) -> Iterator[None]:
    """A block that is a step; also the decorator of a function that is one. It costs a microsecond where nothing is
    measured.

    all_threads : the threads that it starts and waits for have no steps of their own, and compute for it
    """
    profile = _profile
    if profile is None:
        yield
        return
    before = _inner.seconds, _inner.processor
    _inner.seconds = _inner.processor = 0.0
    wall, processor, process = time.perf_counter(), time.thread_time(), time.process_time()
    try:
        yield
    finally:
        seconds, processor = time.perf_counter() - wall, time.thread_time() - processor
        own = time.process_time() - process if all_threads else processor
        profile.add(name, seconds - _inner.seconds, own - _inner.processor)
        _inner.seconds, _inner.processor = before[0] + seconds, before[1] + processor


def marked(name: str, function: Callable[P, R]) -> Callable[P, R]:
    """The function as a step, or itself where nothing is measured: for functions of microseconds."""
    return step(name)(function) if _profile is not None else function


def shown(steps: list[Step]) -> list[Step]:
    """Those that took LEAST or longer; the rest are added to OTHER, which is last."""
    rest = [one for one in steps if one["name"] == OTHER or one["seconds"] < LEAST]
    other: Step = {
        "name": OTHER,
        "times": 1,
        "seconds": sum(one["seconds"] for one in rest),
        "processor": sum(one["processor"] for one in rest),
    }
    return [one for one in steps if one not in rest] + [other]


def _processor() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def lines(stages: list[Stage]) -> Iterator[str]:
    """The table as text.

    Example
    -------
    >>> steps = [Step(name="decode", times=120, seconds=3.0, processor=1.5)]
    >>> for line in lines([Stage(name="extract", seconds=2.5, processor=2.0, peak=300_000_000, steps=steps)]):
    ...     print(line)
                             seconds  processor    times
    extract                      2.5        2.0           peak 300 MB
      decode                     3.0        1.5      120
      other                      0.0        0.0        1
    """
    yield f"{'':24} {'seconds':>7} {'processor':>10} {'times':>8}"
    for one in stages:
        peak = f"peak {one['peak'] / 1e6:,.0f} MB"
        yield f"{one['name']:24} {one['seconds']:7.1f} {one['processor']:10.1f} {'':8}  {peak}"
        for part in shown(one["steps"]):
            yield f"  {part['name']:22} {part['seconds']:7.1f} {part['processor']:10.1f} {part['times']:8,}"
