"""The plan of the house: imports go one way, and serving needs neither torch nor librosa."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "torchvision", "librosa", "sklearn", "scipy", "matplotlib", "onnx", "pipeline")


def imports(room: str) -> dict[str, set[str]]:
    """Module file → what it imports, anywhere in it."""
    found = {}
    for file in sorted((ROOT / room).rglob("*.py")):
        names: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
        found[file.name] = names
    return found


def test_models_import_neither_pipeline_nor_service() -> None:
    for names in imports("models").values():
        assert not any(name.split(".")[0] in ("pipeline", "service") for name in names)


def test_service_imports_only_the_card_of_models_and_nothing_of_pipeline() -> None:
    for names in imports("service").values():
        assert not any(name.split(".")[0] in HEAVY for name in names)
        assert all(name.startswith("models.card") for name in names if name.split(".")[0] == "models")


@pytest.mark.parametrize("module", ["service.service", "service.serving.predictor", "pipeline.cli", "models.card"])
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*[m for m in {HEAVY[:-1]!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_what_is_pinned_is_what_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = project["dependencies"] + [
        d for group in project["optional-dependencies"].values() for d in group if not d.startswith("percept")
    ]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    assert {d.split(">=")[0].partition("[")[0].lower() for d in asked} <= pinned
    assert "://" not in (ROOT / "constraints.txt").read_text()
