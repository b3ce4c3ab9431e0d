"""The process of a command: its environment variables, standard streams and memory."""

import atexit
import gc
import io
import json
import os
import sys
from pathlib import Path

from pipeline.errors import UserError
from pipeline.memory import one_heap
from service.media import Limits


def prepare() -> None:
    """Set what every command needs, before anything heavy is imported."""
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # percept sends no telemetry
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if not os.environ.get("BENTOML_HOME"):
        os.environ.pop("BENTOML_HOME", None)  # BentoML takes an empty one for the current folder
    # Threads of OpenMP that have nothing to do wait actively for 0.1 ms, not for some 10 ms: they would take the cores
    # from what does not use them, such as drawing pictures, and from other programs.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # PyTorch creates some hundred thousand objects that live until the end. The garbage collector would scan them
    # repeatedly while they are created, and twice more at exit.
    gc.set_threshold(20_000)
    one_heap()
    atexit.register(gc.freeze)
    for name in ("stdout", "stderr"):  # where stderr is closed, print would take stdout instead
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may be no text, and a terminal may have no arrows
            stream.reconfigure(errors="backslashreplace")


def check() -> None:
    """Refuse variables that would stop a command later.

    Raises
    ------
    UserError : one of percept's limits is no number, or BentoML cannot read its options
    """
    try:
        Limits.from_environment()
    except ValueError as error:
        raise UserError(str(error)) from None
    if path := os.environ.get("BENTOML_CONFIG"):
        _check_mapping(f"BENTOML_CONFIG={path}", Path(path))
    if text := os.environ.get("BENTOML_CONFIG_OVERRIDES"):
        _check_mapping("BENTOML_CONFIG_OVERRIDES", text)


def _check_mapping(where: str, source: Path | str) -> None:
    """Refuse options of BentoML that it cannot read: it would print a traceback when it is imported."""
    import yaml  # type: ignore[import-untyped]

    if isinstance(source, Path) and source.suffix not in (".yaml", ".yml"):
        raise UserError(f"{where}: expected the path of a .yaml file")
    try:
        options = yaml.safe_load(source.read_text("utf-8")) if isinstance(source, Path) else json.loads(source)
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{where}: cannot be read: {' '.join(str(error).split())}") from None
    services = options.get("services", {}) if isinstance(options, dict) else None
    if not isinstance(services, dict) or not all(isinstance(key, str) for key in services):
        raise UserError(f"{where}: expected a mapping with the key services, itself a mapping")
