"""What is wrong in a task file, in one line for each mistake, from what pydantic found."""

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

# pydantic's type of an error → what was expected, for people; {…} are its parameters.
EXPECTED = {
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "union_tag_invalid": "must be one of {expected_tags}",
    "int": "must be a whole number",
    "float": "must be a number",
    "finite_number": "must be a finite number",
    "bool": "must be true or false",
    "string": "must be text in quotes",
    "list": "must be a list of values, or a range {{low, high}}",  # only of tune.space
    "tuple": "must be a list, as in [100, 50]",
    "dict": "must be a section with keys of its own",
    "model": "must be a section with keys of its own",
}


def lines(
    error: ValidationError, table: Mapping[str, Any], model: type[BaseModel], renamed: Mapping[str, str]
) -> list[str]:
    """One line for each mistake: the key, what is wrong, and the offending value.

    Parameters
    ----------
    table : the values that were validated, and the model by which they were
    renamed : keys of earlier versions → the key now
    """
    return [_line(problem, table, model, renamed) for problem in error.errors() if _is_of_what_was_meant(problem)]


def _is_of_what_was_meant(problem: Any) -> bool:
    """False for pydantic's second complaint about one value of tune.space, which may be a list or a range: a section
    was meant as a range, anything else as a list."""
    branch = problem["loc"][3:4] if problem["loc"][:2] == ("tune", "space") else ()
    if branch == ("Range",):
        return bool(problem["type"] != "model_type")
    return branch != ("list[any]",) or not isinstance(problem["input"], dict)


def _line(problem: Any, table: Mapping[str, Any], model: type[BaseModel], renamed: Mapping[str, str]) -> str:
    """One line for one of pydantic's errors: the key, what is wrong, the offending value."""
    location = [str(part) for part in problem["loc"]]
    if location[:1] == ["features"] and len(location) > 2:
        del location[1]  # the branch of the union, which pydantic inserts
    if location[:2] == ["tune", "space"]:
        del location[3:4]  # likewise
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        if key in renamed:
            return f"{key} is now {renamed[key]}; its values are the same"
        close = difflib.get_close_matches(location[-1], _known_keys(model, location[:-1], table), n=1)
        return f"unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    if problem["type"] == "missing":
        return f"{key!r} is missing"
    if problem["type"].startswith("union_tag"):  # only features.kind tells sections apart
        key = f"{key}.kind"
        if problem["type"] == "union_tag_not_found":
            return f"{key!r} is missing"
        return f"{key}: {_expected(problem)}, not {problem['ctx']['tag']!r}"
    value = problem["input"]
    return (
        (f"{key}: " if key else "") + _expected(problem) + ("" if isinstance(value, dict) else f", not {_shown(value)}")
    )


def _expected(problem: Any) -> str:
    """What one of pydantic's errors says was expected, without names of Python's types."""
    kind = problem["type"]
    text = EXPECTED.get(kind) or EXPECTED.get(kind.split("_")[0])
    return problem["msg"].removeprefix("Value error, ") if text is None else text.format(**problem.get("ctx", {}))


def _shown(value: Any) -> str:
    """A value as a task file has it."""
    return repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _known_keys(model: type[BaseModel], section: list[str], table: Mapping[str, Any]) -> list[str]:
    """The keys of a section of the model; none where it is not a section."""
    for name in section:
        models = [*_models(_annotations(model).get(name))]
        if len(models) > 1:  # sections of several kinds
            kind = table[name]["kind"]
            models = [one for one in models if kind in get_args(_annotations(one)["kind"])]
        if not models:
            return []
        model, table = models[0], table.get(name, {})
    return [*_annotations(model)]


def _annotations(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation consists of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
