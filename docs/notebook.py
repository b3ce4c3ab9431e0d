"""docs/unit.md as a notebook for Jupyter and Colab: `python -m docs.notebook build/unit.ipynb`, or `make notebook`.

Prose becomes cells of Markdown that carry their figures with them, and each block of code a cell that runs it. What is
folded (`<details>`, the solutions of the exercises) stays in one cell of Markdown. The first cell installs percept.
"""

import argparse
import base64
import re
import subprocess
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

DOCS = Path(__file__).parent
CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
FIGURE = re.compile(r"!\[([^\]]*)\]\(([^)]+\.svg)\)")
INSTALL = re.compile(r"pip install '\.\[(\w+)\]' -c constraints\.txt")
# A kernel need not have its environment's programs on its path. Percept keeps its models where BentoML does.
SET_UP = 'import os, sys\nos.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]'


def notebook(page: Path, source: str) -> NotebookNode:
    """A page of Markdown as a notebook.

    Parameters
    ----------
    source : from where pip installs percept: a URL such as git+https://…, or a folder
    """
    text = page.read_text("utf-8")
    folded = [match.span() for match in FOLDED.finditer(text)]
    install = f'%pip install --quiet "percept[train] @ {source}"'
    cells, end = [new_code_cell(f"{install}\n{SET_UP}", metadata={"tags": ["install"]})], 0
    for block in CODE.finditer(text):
        if any(start < block.start() < stop for start, stop in folded):
            continue
        cells += [*_prose(text[end : block.start()], page.parent), _code(block[1], block[2], source)]
        end = block.end()
    cells += _prose(text[end:], page.parent)
    for i, cell in enumerate(cells):
        cell.id = f"cell-{i}"  # the same page gives the same bytes
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def _code(language: str, text: str, source: str) -> NotebookNode:
    if language == "python":
        return new_code_cell(text.rstrip())
    # The clone that the page installs from is not there.
    text = re.sub(
        r"pip install '\.\[(\w+)\]' -c constraints\.txt", rf"pip install --quiet 'percept[\1] @ {source}'", text
    )
    return new_code_cell(f"%%bash\n{text.rstrip()}")


def _prose(text: str, folder: Path) -> list[NotebookNode]:
    """No cell for nothing; figures become data URIs, since JupyterLab shows no attachment that is SVG."""

    def embed(figure: re.Match[str]) -> str:
        data = base64.b64encode((folder / figure[2]).read_bytes()).decode()
        return f"![{figure[1]}](data:image/svg+xml;base64,{data})"

    text = FIGURE.sub(embed, text.strip())
    return [new_markdown_cell(text)] if text else []


def origin() -> str:
    """The clone's origin as pip takes it; the clone itself if it has none."""
    asked = subprocess.run(
        ["git", "-C", str(DOCS), "remote", "get-url", "origin"], capture_output=True, text=True, check=False
    )
    url = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", asked.stdout.strip())
    return f"git+{url}" if url.startswith("https://") else DOCS.parent.as_uri()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="the .ipynb file to write")
    parser.add_argument("--source", default=origin(), help="from where pip installs percept")
    arguments = parser.parse_args()
    made = notebook(DOCS / "unit.md", arguments.source)
    nbformat.validate(made)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, arguments.out)
    print(f"{arguments.out}: {len(made.cells)} cells")


if __name__ == "__main__":
    main()
