"""Imports go one way, without circles, as docs/house.md says, and serving needs neither torch nor librosa."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WINGS = ("pipeline", "models", "service")
# Rooms of the pipeline: each imports those of the lines above it only.
ORDER = (
    ("errors", "interrupt", "memory", "mistakes", "ordered", "profile", "progress"),
    ("threads",),
    ("sources",),
    ("task", "inputs"),
    ("run", "engine", "signing", "versions"),
    ("extract",),
    ("train",),
    ("report",),
    ("tune",),
    ("validate", "lessons"),
    ("export", "audit", "compare"),
    ("workflow", "predict", "caches", "choice", "environment"),
    ("arguments",),
    ("cli",),
)
FROM_SERVICE = ("service.media", "service.serving", "service.errors")  # what the pipeline may import of it
HEAVY = ("torch", "torchvision", "librosa", "sklearn", "scipy", "matplotlib", "onnx")
STAGES = ("onnxruntime", "bentoml", "mirdata", "ray", "keras")  # only stages and the service import these


@dataclass(frozen=True)
class Import:
    """One name that a module imports, anywhere in it: in functions and under TYPE_CHECKING too."""

    module: str
    line: int
    name: str  # of a module; of the package, if the name is defined in `__init__`

    def __str__(self) -> str:
        return f"{_file(self.module)}:{self.line} imports {self.name}"


@cache
def modules() -> dict[str, Path]:
    """Dotted name → file of every module of the three wings."""
    files = (file for wing in WINGS for file in (ROOT / wing).rglob("*.py"))
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for module, file in sorted(modules().items()) for found in _imports(module, file))


def _imports(module: str, file: Path) -> Iterator[Import]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(module, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield Import(module, node.lineno, inner if inner in modules() else f"{node.module}")


def _file(module: str) -> str:
    return modules()[module].relative_to(ROOT).as_posix()


def is_in(name: str, *rooms: str) -> bool:
    """Whether a dotted name is one of those modules or packages, or inside of one."""
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def level(name: str) -> int:
    """Line of ORDER in which the room of a module of the pipeline stands."""
    room = name.split(".")[1]
    return next((n for n, rooms in enumerate(ORDER) if room in rooms), -1)


def check(violations: list[Import]) -> None:
    assert not violations, "\n".join(["", *sorted({str(violation) for violation in violations})])


def test_every_room_of_the_pipeline_is_in_the_order() -> None:
    assert [name for name in modules() if is_in(name, "pipeline") and "." in name and level(name) < 0] == []


def test_models_import_neither_pipeline_nor_service() -> None:
    check([i for i in imports() if is_in(i.module, "models") and is_in(i.name, "pipeline", "service")])


def test_service_imports_nothing_of_the_pipeline_and_only_the_card_of_models() -> None:
    service = [i for i in imports() if is_in(i.module, "service")]
    check([i for i in service if is_in(i.name, "pipeline", *HEAVY)])
    check([i for i in service if is_in(i.name, "models") and not is_in(i.name, "models.card")])


def test_the_pipeline_imports_media_serving_and_errors_of_the_service() -> None:
    pipeline = [i for i in imports() if is_in(i.module, "pipeline") and is_in(i.name, "service")]
    check([i for i in pipeline if not is_in(i.name, *FROM_SERVICE) and i.name != "service"])


def test_rooms_of_the_pipeline_import_downwards_only() -> None:
    between = [
        i
        for i in imports()
        if is_in(i.module, "pipeline") and is_in(i.name, "pipeline") and i.module != "pipeline" != i.name
    ]
    other_room = [i for i in between if i.module.split(".")[1] != i.name.split(".")[1]]
    check([i for i in other_room if level(i.name) >= level(i.module)])


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for found in imports():
        if found.name in graph and found.name != found.module:
            graph[found.module].add(found.name)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        queue = [*graph[start]]
        while queue:
            name = queue.pop()
            if name not in seen:
                seen.add(name)
                queue += graph[name]
        return seen

    reach = {name: reached(name) for name in graph}
    check([i for i in imports() if i.name in reach and i.module != i.name and i.module in reach[i.name]])


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("models.card", (*HEAVY, *STAGES)),
        ("service.service", HEAVY),
        ("service.serving.predictor", HEAVY),
        ("pipeline.cli", (*HEAVY, *STAGES)),
        ("pipeline.workflow", (*HEAVY, *STAGES)),
        ("pipeline.predict", HEAVY),
    ],
)
def test_importing_it_loads_nothing_heavy(module: str, heavy: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print(*[m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = project["dependencies"] + [
        d for group in project["optional-dependencies"].values() for d in group if not d.startswith("percept")
    ]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    assert {d.split(">=")[0].partition("[")[0].lower() for d in asked} <= pinned
    assert "://" not in (ROOT / "constraints.txt").read_text()
