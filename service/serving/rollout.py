"""Versions that the operator names beside those that are served: a shadow is asked too, and its answers are only
compared; a canary answers a share of the requests."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

SHADOW, CANARY = "PERCEPT_SHADOW", "PERCEPT_CANARY"
NAME = "[a-z0-9](?:[-._a-z0-9]*[a-z0-9])?"  # of a model or a version, as BentoML allows; no path leads out of the store
TAG = re.compile(f"({NAME})@({NAME})")
PERCENT = re.compile(r"(.*):([0-9]+(?:\.[0-9]+)?)%")

T = TypeVar("T")


class Tag(NamedTuple):
    """A version of a model, as it is given on the command line and in the environment.

    >>> Tag.parse("digits@kii7ndhhakvvqax4")
    Tag(model='digits', version='kii7ndhhakvvqax4')
    """

    model: str
    version: str

    @classmethod
    def parse(cls, text: str) -> "Tag":
        """Raises ValueError unless it is MODEL@VERSION."""
        if (found := TAG.fullmatch(text)) is None:
            raise ValueError(f"{text[:80]!r}: expected MODEL@VERSION")
        return cls(*found.groups())

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"


@dataclass(frozen=True)
class Rollout:
    """What PERCEPT_SHADOW and PERCEPT_CANARY say.

    Attributes
    ----------
    shadow : name of a model → the version that is asked too
    canary : name of a model → the version that answers a share of the requests, and that share, above 0 and up to 1
    """

    shadow: Mapping[str, Tag] = field(default_factory=dict)
    canary: Mapping[str, tuple[Tag, float]] = field(default_factory=dict)

    @classmethod
    def from_environment(cls) -> "Rollout":
        """MODEL@VERSION, or MODEL@VERSION:PERCENT% for a canary; of several models, separated by commas.

        Raises ValueError if a variable is not valid, or both name the same version.
        """
        shadow, canary = dict(_read(SHADOW, Tag.parse)), dict(_read(CANARY, _with_share))
        for tag, _ in canary.values():
            if shadow.get(tag.model) == tag:
                raise ValueError(f"{SHADOW} and {CANARY} both name {tag}")
        return cls(shadow, canary)

    def tags(self) -> list[Tag]:
        """All versions that are named."""
        return [*self.shadow.values(), *(tag for tag, _ in self.canary.values())]


def _read(variable: str, parse: Callable[[str], T]) -> Iterator[tuple[str, T]]:
    """Name of each model in a variable → what `parse` makes of its part. Raises ValueError."""
    text = os.environ.get(variable)
    if text is None:
        return
    seen: set[str] = set()
    for part in text.split(","):
        try:
            value = parse(part.strip())
        except ValueError as error:
            raise ValueError(f"{variable}={text[:200]}: {error}") from None
        model = part.strip().partition("@")[0]
        if model in seen:
            raise ValueError(f"{variable}={text[:200]}: {model} is named twice")
        seen.add(model)
        yield model, value


def _with_share(text: str) -> tuple[Tag, float]:
    found = PERCENT.fullmatch(text)
    if found is None or not 0 < (percent := float(found[2])) <= 100:
        raise ValueError(f"{text[:80]!r}: expected MODEL@VERSION:PERCENT%, with more than 0 and up to 100 percent")
    return Tag.parse(found[1]), percent / 100
