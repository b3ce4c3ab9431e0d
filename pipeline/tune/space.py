"""The search space: which hyperparameters, which values, and whether a task may have them."""

import difflib
import json
import math
from collections.abc import Callable
from itertools import product
from typing import Any

from pipeline.task import Model, Range, Task, Train, UserError, parse

SECTIONS: dict[str, type[Model] | type[Train]] = {"model": Model, "train": Train}
FIXED = ("train.device", "train.framework", "train.gradients")  # where and how to compute, not what


def n_trials(task: Task) -> int:
    """Number of trials: every combination of a grid, else as many as the task says."""
    return len(combinations(task)) if task.tune.sampler == "grid" else task.tune.trials


def combinations(task: Task) -> list[dict[str, str]]:
    """Every combination of the lists in the space, each once; values as JSON, as Optuna holds them."""
    lists = [categories(values) for values in task.tune.space.values() if isinstance(values, list)]
    return [dict(zip(task.tune.space, values, strict=True)) for values in product(*lists)]


def categories(values: list[Any]) -> list[str]:
    """The distinct values of a list as JSON: a category of Optuna cannot be a list, such as [128, 64].

    Example
    -------
    >>> categories([[64], [128, 64], [64]])
    ['[64]', '[128, 64]']
    """
    return list(dict.fromkeys(json.dumps(value) for value in values))


def number_type(key: str) -> Callable[[float], float | int] | None:
    """Type of a numeric hyperparameter, None for others; `model.hidden` is one: the units of a single hidden layer.

    Example
    -------
    >>> number_type("train.epochs"), number_type("train.l2"), number_type("train.schedule")
    (<class 'int'>, <class 'float'>, None)
    """
    section, _, name = key.partition(".")
    if key == "model.hidden":
        return int
    annotation = SECTIONS[section].model_fields[name].annotation
    return int if annotation is int else float if annotation is float else None


def decode(key: str, value: Any) -> Any:
    """A number from a range → the value of the task's key."""
    return [value] if key == "model.hidden" else value


def check_space(task: Task) -> None:
    """Check every hyperparameter and each of its values against what a task may say.

    Raises
    ------
    UserError : nothing to search; one line for every other mistake
    """
    space = task.tune.space
    if not space:
        raise UserError(
            "tune.space is empty; say what to search, as in "
            """--set 'tune.space={"train.learning_rate"=[1e-4, 1e-3, 1e-2], "model.hidden"=[[64], [128, 64]]}'"""
        )
    known = [f"{section}.{name}" for section, fields in SECTIONS.items() for name in fields.model_fields]
    known = [key for key in known if key not in FIXED]
    problems = []
    for key, choices in space.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; only keys of model and train can be"
            problems.append(f"tune.space: {key!r} cannot be searched{hint}")
        elif isinstance(choices, Range):
            problems += _range_problems(key, choices, task)
        elif not choices:
            problems.append(f"tune.space: {key!r} has no values; give at least one")
        else:
            problems += [line for value in choices for line in _value_problems(task, key, value)]
    if problems:
        raise UserError("\n".join(problems))


def _range_problems(key: str, range_: Range, task: Task) -> list[str]:
    where = f"tune.space: {key!r}"
    if task.tune.sampler == "grid":
        return [f"{where} is a range, and a grid needs a list; list values, or use tune.sampler = random or tpe"]
    if not (math.isfinite(range_.low) and math.isfinite(range_.high) and range_.low < range_.high):
        return [f"{where} needs low < high, not {range_.low:g} and {range_.high:g}"]
    if range_.log and range_.low <= 0:
        return [f"{where} needs low > 0 for log = true, not {range_.low:g}"]
    number = number_type(key)
    if number is None:
        return [f"{where} is not a number; list its values"]
    return [line for end in (range_.low, range_.high) for line in _value_problems(task, key, decode(key, number(end)))]


def _value_problems(task: Task, key: str, value: Any) -> list[str]:
    try:
        with_hyperparameters(task, {key: value})
    except UserError as error:
        return str(error).splitlines()
    return []


def with_hyperparameters(task: Task, parameters: dict[str, Any]) -> Task:
    """The task with other values of some keys, such as {"train.l2": 1e-3}.

    Raises
    ------
    UserError : one line for every value that a task may not have
    """
    table = task.resolved()
    for key, value in parameters.items():
        section, _, name = key.partition(".")
        table[section][name] = value
    return parse(table, "tune.space")
