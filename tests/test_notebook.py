"""The notebook of docs/unit.md: it has all of the page, and its cells run in a kernel."""

import base64
import copy
import json
import os
import re
import socket
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from docs.notebook import FOLDED, notebook
from tests.pages import DOCS, blocks
from tests.test_unit_page import write_clips, write_mnist

ROOT = DOCS.parent
CHEAP = """
from pathlib import Path
from pipeline.train import confidence
from tests.test_unit_page import cheap
confidence.PICTURES, confidence.NOISES = (400, 400), 20  # the network behind `known` takes most of the time
for sys.argv[1:] in cheap(sys.argv[1:], Path.cwd(), False):
    try:
        cli.command()
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.fixture(scope="module")
def unit() -> NotebookNode:
    return notebook(DOCS / "unit.md", "git+https://example.org/percept.git")


def code(made: NotebookNode) -> list[str]:
    return [cell.source for cell in made.cells if cell.cell_type == "code"]


def test_it_is_valid_and_the_same_each_time(unit: NotebookNode) -> None:
    nbformat.validate(unit)
    again = notebook(DOCS / "unit.md", "git+https://example.org/percept.git")
    assert nbformat.writes(unit) == nbformat.writes(again)


def test_its_first_cell_installs_percept_by_one_line(unit: NotebookNode) -> None:
    first = unit.cells[0].source.splitlines()[0]
    assert first == '%pip install --quiet "percept[train] @ git+https://example.org/percept.git"'


def test_every_block_that_is_not_folded_is_a_cell_in_the_pages_order(unit: NotebookNode) -> None:
    folded = "".join(FOLDED.findall((DOCS / "unit.md").read_text("utf-8")))
    shown = [block for block in blocks("unit.md") if block.text not in folded]
    cells = code(unit)[1:]
    assert len(cells) == len(shown) > 20
    for cell, block in zip(cells, shown, strict=True):
        if "pip install" not in cell:
            assert cell == ("" if block.language == "python" else "%%bash\n") + block.text.rstrip()
    assert not any("constraints.txt" in cell for cell in cells)


def test_solutions_stay_folded_in_one_cell(unit: NotebookNode) -> None:
    prose = [cell.source for cell in unit.cells if cell.cell_type == "markdown"]
    assert sum(source.count("<details>") for source in prose) >= 5
    assert all(source.count("<details>") == source.count("</details>") for source in prose)


def test_it_carries_its_figures(unit: NotebookNode) -> None:
    prose = "".join(cell.source for cell in unit.cells if cell.cell_type == "markdown")
    # As data URIs: JupyterLab 4.6 shows attachments of every kind but SVG.
    shown = re.findall(r"!\[[^\]]+\]\(data:image/svg\+xml;base64,([^)]+)\)", prose)
    assert {base64.b64decode(data) for data in shown} == {path.read_bytes() for path in (DOCS / "unit").iterdir()}
    assert prose.count("![") == len(shown)
    assert not any("attachments" in cell for cell in unit.cells)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a kernel that has this clone's percept, as if its first cell had installed it."""
    program = tmp_path / "bin" / "percept"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom pipeline import cli\ncli.main()\n")
    program.chmod(0o755)
    specification = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                     "display_name": "Python 3", "language": "python"}  # fmt: skip
    (tmp_path / "jupyter/kernels/python3").mkdir(parents=True)
    (tmp_path / "jupyter/kernels/python3/kernel.json").write_text(json.dumps(specification))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "BENTOML_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    return tmp_path


def test_its_cells_run(unit: NotebookNode, kernel: Path) -> None:
    """The set-up without the installation, a cell of bash, and one of Python that needs what the first left."""
    (bash,) = [cell for cell in code(unit) if "--points" in cell]
    (lab,) = [cell for cell in code(unit) if not cell.startswith(("%%bash", "%pip"))]
    features = "import numpy as np, os\nos.makedirs('runs/instruments')\nnp.savez('runs/instruments/features.npz', " \
               "x=np.ones((3, 160)), y=np.arange(3), split=np.array(['train', 'validation', 'test']))"  # fmt: skip
    set_up = unit.cells[0].source.partition("\n")[2]
    small = new_notebook(cells=[new_code_cell(source) for source in (set_up, bash, features, lab)])
    NotebookClient(small, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(kernel)}}).execute()
    printed = "".join(output.text for output in small.cells[1].outputs if output.output_type == "stream")
    assert "least squares at 4 points: W_O = (2, -3, 3)" in printed
    assert (kernel / "runs/relu/output.svg").is_file()
    assert (kernel / "lab/uiowa_train_data.npy").is_file()


@pytest.mark.soak
def test_all_of_its_cells_run(unit: NotebookNode, kernel: Path) -> None:
    """With few epochs and little data, as tests/test_unit_page.py runs the page."""
    write_clips(kernel / "clips")
    (kernel / "mnist").mkdir()
    write_mnist(kernel / "mnist")
    program = kernel / "bin" / "percept"
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom pipeline import cli\n{CHEAP}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = copy.deepcopy(unit)
    for cell in made.cells:
        lines = [line for line in cell.source.splitlines() if not line.startswith(("%pip", "pip install"))]
        source = "\n".join(lines).replace("localhost:3000", f"localhost:{port}")
        cell.source = source.replace("percept serve", f"percept serve --port {port}")
    made.cells[0].source += f"\nos.environ['PATH'] = '{program.parent}:' + os.environ['PATH']"
    NotebookClient(made, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(kernel)}}).execute()
    printed = "".join(output.get("text", "") for cell in made.cells for output in cell.get("outputs", ()))
    assert printed.count('{"model"') == 2  # both services of the page have answered
