"""The figures of the documentation: every one is shown by a page, and can be read in light and in dark mode."""

import re
from pathlib import Path

import pytest

from pipeline.report.style import ALONE
from tests.pages import DOCS

FIGURES = sorted(path for path in DOCS.rglob("*") if path.suffix in (".svg", ".png", ".jpg", ".webp"))
SHOWN = {
    (page.parent / target).resolve()
    for page in (DOCS.parent / "README.md", *DOCS.glob("*.md"))
    for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text("utf-8"))
}


def test_every_figure_is_shown_by_a_page_and_every_page_has_its_figures() -> None:
    assert set(FIGURES) == SHOWN


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.name)
def test_figures_follow_the_readers_mode(path: Path) -> None:
    assert path.suffix == ".svg"
    svg = path.read_text("utf-8")
    assert svg.count(ALONE) == 1
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert 'style="fill: #ffffff"' not in svg  # a white face would lie under the light text of the dark mode
