"""Numbers, durations and tasks as the page and the terminal write them."""

import json
import math
import re
from datetime import UTC, datetime
from typing import Any


def percent(share: float | None) -> str:
    """A share as a percentage. Only exactly 1 is 100 %, and only exactly 0 is 0 %.

    Example
    -------
    >>> percent(0.971), percent(0.99999), percent(1), percent(None)
    ('97.1 %', '>99.9 %', '100.0 %', '–')
    """
    if share is None or math.isnan(share):
        return "–"
    if share < 1 and round(share, 3) >= 1:
        return ">99.9 %"
    if share > 0 and round(share, 3) <= 0:
        return "<0.1 %"
    return f"{share:.1%}".replace("%", " %")


def interval(ends: list[float] | None) -> str:
    """Low and high end of an interval of shares; nothing for None.

    Example
    -------
    >>> interval([0.9671, 0.9742])
    '96.7–97.4 %'
    """
    if ends is None:
        return ""
    low, high = (percent(end) for end in ends)
    return f"{low.removesuffix(' %')}–{high}"


def number(value: float | None) -> str:
    """Four significant digits.

    Example
    -------
    >>> number(0.0333812), number(float("nan"))
    ('0.03338', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def count(value: int) -> str:
    """A count with commas between thousands.

    Example
    -------
    >>> count(60000)
    '60,000'
    """
    return f"{value:,}"


def size(n_bytes: int) -> str:
    """Bytes in decimal units.

    Example
    -------
    >>> size(318_040), size(4_369_711)
    ('318 kB', '4.4 MB')
    """
    if n_bytes >= 999_500:
        return f"{n_bytes / 1e6:,.1f} MB"
    return f"{n_bytes / 1e3:.0f} kB" if n_bytes >= 1000 else f"{n_bytes} B"


def duration(seconds: float) -> str:
    """Seconds in the units that a person would use.

    Example
    -------
    >>> duration(5.13), duration(200), duration(3840)
    ('5.1 s', '3 min 20 s', '1 h 04 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def date(stamp: str) -> str:
    """An ISO 8601 time with its offset, in UTC.

    Example
    -------
    >>> date("2026-11-23T04:40:00+01:00")
    '23 November 2026, 03:40 UTC'
    """
    moment = datetime.fromisoformat(stamp).astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def toml(task: dict[str, Any], prefix: str = "") -> str:
    """A resolved task as the TOML file that gives it; None and empty sections, which TOML cannot write, are left out.

    Example
    -------
    >>> print(toml({"name": "sine", "model": {"hidden": [10]}, "validate": {}}))
    name = "sine"
    <BLANKLINE>
    [model]
    hidden = [10]
    """
    scalars = [
        f"{_key(key)} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in task.items()
        if value is not None and not isinstance(value, dict)
    ]
    tables = []
    for key, value in task.items():
        if isinstance(value, dict) and (inner := toml(value, f"{prefix}{_key(key)}.")):
            header = f"[{prefix}{_key(key)}]\n" if any(not isinstance(v, dict) for v in value.values()) else ""
            tables.append(header + inner)
    return "\n\n".join(filter(None, ("\n".join(scalars), *tables)))


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
