"""The `percept` command inside the process of the tests, which has PyTorch and its exporter imported already."""

import io
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from pipeline import cli


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """No file may grow beyond `n_bytes`, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def model_store(home: Path) -> AbstractContextManager[Any]:
    """Makes BentoML keep its models in `home`, as BENTOML_HOME does, which is read only once per process."""
    (home / "models").mkdir(parents=True, exist_ok=True)
    store: AbstractContextManager[Any] = BentoMLContainer.model_store.patch(ModelStore(home / "models"))
    return store


def percept(*arguments: str | Path, home: Path, **environment: str) -> Done:
    """The result of `percept` with these arguments, without the seconds that a new process takes to start.

    An exception is passed on.
    """
    stdout, stderr = io.StringIO(), io.StringIO()
    returncode: Any = 0
    with (
        model_store(home), redirect_stdout(stdout), redirect_stderr(stderr), pytest.MonkeyPatch.context() as patch,
    ):  # fmt: skip
        patch.chdir(home)
        patch.setenv("BENTOML_HOME", str(home))
        patch.setattr(sys, "argv", ["percept", *map(str, arguments)])
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            cli.command()
        except SystemExit as done:
            returncode = done.code
    if isinstance(returncode, str):  # a message, which the interpreter would print
        return Done(1, stdout.getvalue(), f"{stderr.getvalue()}{returncode}\n")
    return Done(returncode or 0, stdout.getvalue(), stderr.getvalue())


def ran(home: Path, *tasks: str, options: tuple[str, ...] = ()) -> Path:
    """`home`, with a finished run of each of these built-in tasks."""
    for name in tasks:
        done = percept("run", name, *options, home=home)
        assert done.returncode == 0, done.stderr
    return home
