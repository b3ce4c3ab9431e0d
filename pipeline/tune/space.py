"""The space of a search: which hyperparameters, which values, and whether a task may have them."""

import difflib
import json
import math
from collections.abc import Callable
from itertools import product
from typing import Any

from pipeline.task import Model, Range, Task, Train, UserError, parse

SECTIONS: dict[str, type[Model] | type[Train]] = {"model": Model, "train": Train}


def n_trials(task: Task) -> int:
    """How many trials the search has: every combination of a grid, else as many as the task says."""
    return len(combinations(task)) if task.tune.sampler == "grid" else task.tune.trials


def combinations(task: Task) -> list[dict[str, str]]:
    """Every combination of the lists of the space, each once, its values as Optuna holds them: JSON."""
    lists = [_choices(values) for values in task.tune.space.values() if isinstance(values, list)]
    return [dict(zip(task.tune.space, values, strict=True)) for values in product(*lists)]


def _choices(values: list[Any]) -> list[str]:
    """A list's values as JSON, since Optuna's categories are plain: [128, 64] is none."""
    return list(dict.fromkeys(json.dumps(value) for value in values))


def number_type(key: str) -> Callable[[float], float | int] | None:
    """The type of a numeric hyperparameter; `model.hidden` counts as one, the units of a single hidden layer."""
    section, _, name = key.partition(".")
    if key == "model.hidden":
        return int
    annotation = SECTIONS[section].model_fields[name].annotation
    return int if annotation is int else float if annotation is float else None


def decode(key: str, value: Any) -> Any:
    """A number of a range → the value of the task."""
    return [value] if key == "model.hidden" else value


FIXED = ("train.device", "train.framework", "train.engine")  # say where and with what, and change no result


def check_space(task: Task) -> None:
    """Hold every hyperparameter and each of its values against what a task may say.

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
        with_parameters(task, {key: value})
    except UserError as error:
        return str(error).splitlines()
    return []


def with_parameters(task: Task, parameters: dict[str, Any]) -> Task:
    table = task.resolved()
    for key, value in parameters.items():
        section, _, name = key.partition(".")
        table[section][name] = value
    return parse(table, "tune.space")
