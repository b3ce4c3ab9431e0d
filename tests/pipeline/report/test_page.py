"""The report page: one self-contained, well-formed file, safe for any names in the data."""

import json
import re
import tomllib
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipeline import task
from pipeline.report import curves, formats, page
from pipeline.run import Run
from tests.pipeline.report.test_curves import (
    SCRIPT,
    curve_run,
    digits_run,
    inside,
    perfect_run,
    plane_run,
    regression_run,
    sound_run,
)

VOID = {"meta", "img", "br", "hr", "link", "input"}


def sound_inside_run(run: Path) -> Path:
    """Sound, with a clip of two classes, one of them of a hostile name."""
    values = json.loads((sound_run(run) / "report.json").read_text())
    values["mistakes"] = values["mistakes"][:1]
    values["clips"] = [{"file": "flute/<b>.wav", "label": "flute"}, {"file": "harp/1.wav", "label": "harp"}]
    (run / "report.json").write_text(json.dumps(values))
    mel, mfcc = -np.ones((64, 30)), np.ones((13, 30))
    return inside(run, mel_0=mel, mfcc_0=mfcc, mel_1=mel, mfcc_1=mfcc)


def weights_run(run: Path) -> Path:
    return inside(digits_run(run), weights=np.random.default_rng(0).normal(size=(100, 28, 28)))


RUNS = [weights_run, sound_inside_run, perfect_run, plane_run, regression_run, curve_run]


class Page(HTMLParser):
    """Collects tags, attributes and text; an end tag that closes nothing, or the wrong element, is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag == "img":
            assert dict(attrs)["alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@dataclass(frozen=True)
class Written:
    """A run's page, as its source and as read, and the figures that were drawn for it."""

    source: str
    read: Page
    drawn: list[Path]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    written = {}
    for make in RUNS:
        run = make(tmp_path_factory.mktemp(make.__name__))
        drawn = curves.draw(Run(run))
        source = page.write(Run(run)).read_text("utf-8")
        written[make.__name__] = Written(source, Page(source), drawn)
    return written


def test_a_page_is_well_formed_and_fetches_nothing(pages: dict[str, Written]) -> None:
    for shown in pages.values():
        assert not shown.read.open
        inside = "#", "data:image/png;base64,", "data:image/svg+xml;base64,"
        assert all(link.startswith(inside) for link in shown.read.links)
        assert not {"script", "link", "iframe"} & set(shown.read.tags)
        assert not re.findall(r"url\((?!#)|@import", shown.source)
        assert len(shown.source) < 1_000_000


def test_a_page_holds_every_figure(pages: dict[str, Written]) -> None:
    for shown in pages.values():
        curves = [path for path in shown.drawn if path.stem in page.FIGURES]
        assert shown.read.tags.count("svg") == len(curves)
        assert shown.read.tags.count("img") == len(shown.drawn) - len(curves)


def test_a_hostile_file_name_is_text(pages: dict[str, Written]) -> None:
    assert SCRIPT in pages["weights_run"].read.text
    assert "flute/<b>.wav" in pages["sound_inside_run"].read.text


def test_the_gallery_says_how_many_mistakes_it_leaves_out(pages: dict[str, Written]) -> None:
    assert "The 12 of 31 wrong answers" in pages["weights_run"].read.text
    assert "Worst mistakes" not in pages["perfect_run"].read.text


def test_a_classifier_s_headline_is_its_accuracy_and_a_regression_s_its_error(pages: dict[str, Written]) -> None:
    heroes = {
        name: re.findall(r'"hero"><strong>(.*?)</strong>\s*<span>([\w²]+)', shown.source)
        for name, shown in pages.items()
    }
    assert heroes["curve_run"] == heroes["regression_run"] == [("0.0412", "RMSE"), ("0.9931", "R²")]
    assert heroes["plane_run"] == [("100.0\N{NO-BREAK SPACE}%", "accuracy")]


def test_each_kind_of_network_is_explained(pages: dict[str, Written]) -> None:
    sections = {
        "What the network has learned": {"weights_run", "plane_run"},
        "What the network hears": {"sound_inside_run"},
        "ROC and precision–recall": {"plane_run"},
        "The fitted curve": {"curve_run"},
    }
    for heading, runs in sections.items():
        assert {name for name, shown in pages.items() if heading in shown.read.text} == runs


@pytest.mark.parametrize("name", task.builtin())
def test_the_task_file_that_a_page_shows_is_the_task(name: str) -> None:
    resolved = task.load(name)
    assert task.parse(tomllib.loads(formats.toml(resolved.resolved())), name) == resolved


def test_a_search_in_the_run_is_shown_with_its_figures(tmp_path: Path) -> None:
    run = digits_run(tmp_path)
    trial = {"parameters": {"train.l2": 0.01}, "score": 0.9}
    (run / "search.json").write_text(json.dumps({"trials": [trial], "tune": {"folds": 4}}))
    (run / "search").mkdir()
    (run / "search" / "losses.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" id="losses-figure"></svg>')
    curves.draw(Run(run))
    written = page.write(Run(run)).read_text("utf-8")
    assert "1 setting by 4-fold cross-validation" in written
    assert "Best was train.l2 = 0.01. A curve" in written
    assert 'id="losses-figure"' in written
