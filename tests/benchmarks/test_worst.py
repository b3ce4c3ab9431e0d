"""The search for the requests that cost most."""

from argparse import Namespace
from dataclasses import replace
from typing import Any

import pytest

from benchmarks import worst
from benchmarks.costly import KINDS
from benchmarks.other import another_client
from tests.load import post
from tests.service.helpers import digit_file
from tests.serving import Server

SMALL = {"n": (1, 5), "rows": (32, 100), "size": (2**14, 2**16)}
SEARCHED = ("JSON, digits", "form of parts", "HTTP pipelined GET")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_of_request_is_made_from_its_parameters(kind: worst.Kind) -> None:
    smaller = {"seconds": 1, "side": 100}
    request = worst.made(kind, kind.start() | {name: smaller[name] for name in kind.parameters if name in smaller})
    if request is None:
        pytest.skip("a library that writes such files is not installed")
    assert request.startswith((b"POST /", b"GET /"))


def small(kind: worst.Kind) -> dict[str, tuple[Any, ...]]:
    """The parameters of a kind, so that its requests take milliseconds."""
    return {name: SMALL.get(name, choices) for name, choices in kind.parameters.items()}


def test_the_search_finds_what_costs_most(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worst, "STORM", 0.1)
    monkeypatch.setattr(worst, "QUIET", 0.2)
    kinds = [replace(kind, parameters=small(kind)) for kind in KINDS if kind.name in SEARCHED]
    with another_client(worst.address(server), post("/digits", digit_file(3))) as other:
        worst.measure(worst.Bench(server, other), kinds, Namespace(seconds=0.5, seed=0, top=3, rest=0))
    out = capsys.readouterr().out
    rows = [
        line.split(" | ") for line in out.splitlines() if line.startswith(tuple(f"| {name} | " for name in SEARCHED))
    ]
    assert len(rows) == len(worst.RESPECTS) * len(SEARCHED)  # the worst of each kind in each table
    first = rows[: len(SEARCHED)]
    assert [float(row[5]) for row in first] == sorted((float(row[5]) for row in first), reverse=True)  # s/MB
    assert {int(row[3]) for row in rows} <= {200, 400, 404, 405, 413}
    assert out.count("the other waited") == len(SEARCHED)
