"""The `percept` command inside the process of the tests, which has PyTorch and its exporter imported already."""

import io
import sys
from contextlib import AbstractContextManager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from pipeline import cli


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def model_store(home: Path) -> AbstractContextManager[Any]:
    """Lets BentoML keep its models in `home`, as BENTOML_HOME does, which it reads but once in a process."""
    (home / "models").mkdir(parents=True, exist_ok=True)
    store: AbstractContextManager[Any] = BentoMLContainer.model_store.patch(ModelStore(home / "models"))
    return store


def percept(*arguments: str | Path, home: Path, **environment: str) -> Done:
    """What `percept` does in a process of its own, seconds sooner; an exception is passed on."""
    stdout, stderr = io.StringIO(), io.StringIO()
    returncode: Any = 0
    with (
        model_store(home), redirect_stdout(stdout), redirect_stderr(stderr), pytest.MonkeyPatch.context() as patch,
    ):  # fmt: skip
        patch.chdir(home)
        patch.setattr(sys, "argv", ["percept", *map(str, arguments)])
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            cli.main()
        except SystemExit as done:
            returncode = done.code
    if isinstance(returncode, str):  # which the interpreter prints
        return Done(1, stdout.getvalue(), f"{stderr.getvalue()}{returncode}\n")
    return Done(returncode or 0, stdout.getvalue(), stderr.getvalue())


def ran(home: Path, *tasks: str, options: tuple[str, ...] = ()) -> Path:
    """The folder, with a finished run of each of the built-in tasks."""
    for name in tasks:
        done = percept("run", name, *options, home=home)
        assert done.returncode == 0, done.stderr
    return home
