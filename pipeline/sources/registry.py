"""The registry of sources, with one description of each, from which everything else derives.

A new source is one new module in this folder with a tuple `SOURCES`. It imports what is heavy (torchvision, scipy,
mirdata) inside its functions, since reading a task file imports all modules of the folder.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from pipeline.sources.sample import Sample


class Section(BaseModel):
    """A section of a task."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, values: Any) -> Any:
        """Python and pydantic take true for 1."""
        for name, field in cls.model_fields.items() if isinstance(values, dict) else ():
            value = values.get(name)
            given = value if isinstance(value, list | tuple) else [value]
            numbers = {"int", "float"} & {kind.__name__ for kind in _types(field.annotation)}
            if numbers and any(isinstance(one, bool) for one in given):
                kind = PydanticCustomError(numbers.pop(), "no number")
                problem = InitErrorDetails(type=kind, loc=(name,), input=value)
                raise ValidationError.from_exception_data(cls.__name__, [problem])
        return values


def _types(annotation: Any) -> Iterator[type]:
    """The types that an annotation consists of."""
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from _types(part)


class Shares(Section):
    """Fractions of the samples in each split, where the data does not name the splits itself."""

    train: float = Field(0.7, gt=0, lt=1)
    validation: float = Field(0.15, gt=0, lt=1)
    test: float = Field(0.15, gt=0, lt=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> "Shares":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the three fractions add up to {total:g}, not to 1")
        return self


class Data(Section):
    """The section [data] of a task: where the labelled samples come from.

    `seed` decides the splits where the data does not name them, which of TinySOL's folds is the test split, and which
    notes are synthesised by `notes`. `group` is a regular expression with one capture, searched in each file's path:
    files with the same capture are one group, which is never divided.
    """

    source: str
    path: str | None = None
    splits: Shares = Shares()
    seed: int = 0
    group: str | None = None
    target: str | None = None  # of a table: the column that is predicted, or in a file without a header its number
    regression: bool | None = None  # of a table: whether the target is a number; None: if it has many different values

    @field_validator("target", mode="before")
    @classmethod
    def _a_name(cls, target: Any) -> Any:
        """A name that looks like a number is one in TOML."""
        if isinstance(target, str):
            return normalize("NFC", target)  # as the names in a header are
        return str(target) if isinstance(target, int | float) and not isinstance(target, bool) else target

    @field_validator("source")
    @classmethod
    def _registered(cls, source: str) -> str:
        if source not in REGISTRY:
            *names, last = (repr(name) for name in REGISTRY)
            raise ValueError(f"must be {', '.join(names)} or {last}")
        return source

    @field_validator("group")
    @classmethod
    def _one_capture(cls, group: str | None) -> str | None:
        if group is None:
            return None
        try:
            captures = re.compile(group).groups
        except (re.error, OverflowError) as error:
            raise ValueError(f"is no regular expression ({error})") from None
        if captures != 1:
            raise ValueError(f"must have one capture, as in '([^/]+)/[^/]*$', and has {captures}")
        return normalize("NFC", group)  # as the paths are in which it is searched

    @model_validator(mode="after")
    def _path_where_needed(self) -> "Data":
        if REGISTRY[self.source].form in OWN and self.path is None:
            raise ValueError(f"source = {self.source!r} needs a path")
        return self


@dataclass(frozen=True, slots=True)
class Source:
    """One source of labelled samples.

    name : the value of `data.source`
    form : what `--data` takes: the name, the name or a copy of the data as NAME:DIR, and for a user's own data
        NAME:DIR, a folder, a .csv file, or a table
    features : the values of `features.kind` that it has media for
    help : one line for people
    load : [data] and the sampling rate in Hz, None for pictures → the samples in a fixed order, none of them decoded
    fingerprint : [data] → plain values that change when the samples do, found without reading media; None where the
        data has yet to be downloaded
    numbers : whether targets are numbers (regression) instead of classes
    synthetic : what the data stand for, if they are made up; "" for real data
    copies : whether built-in tasks make varied copies of its samples; false where samples as different are drawn anew
    tested : what its test samples are, for reports and cards, where a reader could take the accuracy for more; or empty
    train : keys of [train] in which the built-in task of the same name differs for its samples
    auxiliary : a number and a seed → so many more pictures, uint8 (n, 28, 28), and their labels, all of them classes of
        the source; the verdict `known` learns from them what else its classes may look like
    """

    name: str
    form: Literal["name", "copy", "own", "folder", "csv", "table"]
    features: tuple[str, ...]
    help: str
    load: Callable[[Data, int | None], list[Sample]]
    fingerprint: Callable[[Data], Any]
    numbers: bool = False
    synthetic: str = ""
    copies: bool = True
    tested: str = ""
    train: Mapping[str, Any] | None = None
    auxiliary: Callable[[int, int], tuple[NDArray[np.uint8], list[str]]] | None = None


OWN = ("own", "folder", "csv", "table")  # forms of a user's own data, which need a path
REGISTRY: dict[str, Source] = {}  # by name; `__init__.py` fills it
