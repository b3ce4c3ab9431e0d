"""Groups: samples that no split may divide, since they resemble each other more than new samples will."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from unicodedata import normalize

from pipeline.errors import UserError
from pipeline.sources.sample import Sample

# What people name folders after that hold one session, person or place each, and never a class.
_OF_A_GROUP = re.compile(
    r"(?:(?:session|sess|take|recording|rec|tape|series|sequence|seq|batch|group|run|trial|visit|day|night|week|month|"
    r"date|year|speaker|spk|player|singer|performer|musician|artist|person|people|subject|subj|participant|patient|"
    r"user|writer|author|site|location|loc|place|room|studio|station|camera|cam|microphone|mic|device|phone|sensor|"
    r"scanner|album|song|book|scene|video|animal|specimen|plate|slide)(?:[ _.#-]*\d+|[ _.#-]+\w+)"
    r"|(?:19|20)\d\d[ _.-]?\d\d(?:[ _.-]?\d\d)?)"
)


def is_group(name: str) -> bool:
    """Whether this is a usual name for what one group of samples shares, rather than for a class.

    Example
    -------
    >>> is_group("Session-2"), is_group("speaker_anna"), is_group("2024-05-17"), is_group("oboe")
    (True, True, True, False)
    """
    return _OF_A_GROUP.fullmatch(name.strip().casefold()) is not None


def captures(pattern: str, paths: Iterable[str]) -> list[str | None]:
    """What a regular expression's one capture finds in each path, in Unicode's composed form (NFC); None for nothing.

    >>> captures("(player[0-9]*)_", ["oboe/player3_1.wav", "oboe/player_2.wav", "oboe/3.wav"])
    ['player3', 'player', None]
    """
    search = re.compile(pattern).search
    return [(match[1] or None) if (match := search(normalize("NFC", path))) else None for path in paths]


def grouped(samples: Sequence[Sample], pattern: str) -> list[Sample]:
    """The samples in the groups that a regular expression's one capture finds in their paths.

    A sample in whose path it finds nothing is a group of its own; one line tells how many are.

    Raises
    ------
    UserError : it finds nothing in any path

    Example
    -------
    >>> from pipeline.sources.toy import sine
    >>> grouped(sine(0), "(train|test)/")[0].group
    data.group: not found in 100 of 401 paths, each a group of its own; the first: sine/validation/0000
    'train'
    """
    found = captures(pattern, [sample.file for sample in samples])
    alone = [sample.file for sample, group in zip(samples, found, strict=True) if group is None]
    if samples and len(alone) == len(samples):
        raise UserError(f"data.group = {pattern!r}: found in none of {len(samples):,} paths; the first: {alone[0]}")
    if alone:
        some = f"{len(alone):,} of {len(samples):,} paths"
        print(f"data.group: not found in {some}, each a group of its own; the first: {alone[0]}")
    return [replace(sample, group=group) for sample, group in zip(samples, found, strict=True)]
