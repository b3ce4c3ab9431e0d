"""Progress of long work: a bar on a terminal, and now and then a plain line in a log."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

SECONDS = 10  # between two lines in a log, at least
STEP = 0.05  # share of the work between two lines, or a minute
MINUTE = 60


class Progress:
    """How far a piece of work is, on standard error; work of less than `SECONDS` leaves a log empty.

    Parameters
    ----------
    name : of the work, one word
    total : number of units
    unit : name of one

    Example
    -------
    >>> with Progress("extract", 2, "sample") as progress:
    ...     progress.update()
    ...     progress.update()
    """

    def __init__(self, name: str, total: int, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.bar = tqdm(total=total, desc=name, unit=unit, disable=None)
        self.done, self.said = 0, 0
        self.began = self.last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.bar.close()

    def update(self, n: int = 1) -> None:
        """`n` more units are done."""
        self.done += n
        if not self.bar.disable:
            self.bar.update(n)
            return
        now = time.monotonic()
        if now - self.last < SECONDS or not 0 < self.done < self.total:
            return
        if self.done - self.said >= STEP * self.total or now - self.last >= MINUTE:
            self.last, self.said = now, self.done
            left = (now - self.began) / self.done * (self.total - self.done)
            print(
                f"{self.name}: {self.done:,} of {self.total:,} {self.unit}s ({100 * self.done / self.total:.0f} %), "
                f"about {_duration(left)} left",
                file=sys.stderr,
                flush=True,
            )


def _duration(seconds: float) -> str:
    """
    >>> _duration(42), _duration(150), _duration(7600)
    ('42 s', '2 min', '2.1 h')
    """
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 120 * MINUTE else f"{seconds / 3600:.1f} h"
