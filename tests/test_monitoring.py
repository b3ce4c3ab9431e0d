"""The dashboard and the alerts of deploy/ as their readers see them: Prometheus scrapes a service with two workers that
has traffic. Every panel shows something; every alert fires for the cause that it names, and no longer than that lasts.
"""

import os
import re
import shutil
import signal
import subprocess
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime import InferenceSession

from service.serving.drift import COUNTED
from tests.prometheus import (
    Pace,
    Prometheus,
    alerts,
    dashboards,
    is_installed,
    panels,
    rule_files,
    watching,
)
from tests.serving import (
    FIRST,
    NEWEST,
    Server,
    careful_model,
    digits_model,
    free_port,
    instruments_model,
    put,
    put_broken,
    serving,
    sums_model,
    until,
    workers,
)
from tests.traffic import Traffic, batches, held, pictures, watched

pytestmark = pytest.mark.skipif(not is_installed(), reason="needs Debian's prometheus, with promtool")


@pytest.mark.parametrize("file", rule_files(), ids=lambda file: file.name)
def test_promtool_accepts_the_rules(file: Path) -> None:
    subprocess.run(["promtool", "check", "rules", "--lint=all", "--lint-fatal", str(file)], check=True)


def test_alerts_at_the_pace_of_production() -> None:
    """What takes an hour of Prometheus' time: the limits, how long a cause must last, what must not fire."""
    subprocess.run(["promtool", "test", "rules", str(Path(__file__).with_name("alerts.yml"))], check=True)


@pytest.mark.parametrize(
    ("pace", "seconds"),
    [
        pytest.param(Pace(factor=600, scrape=0.4), 60, id="fast"),
        pytest.param(Pace(factor=20, scrape=1), 300, id="minutes", marks=pytest.mark.soak),
    ],
)
def test_an_operator_sees_what_happens(tmp_path: Path, pace: Pace, seconds: float) -> None:
    port = free_port()
    home = tmp_path / "home"
    with watching(tmp_path / "prometheus", f"127.0.0.1:{port}", pace) as prometheus, ExitStack() as stack:
        watch = Watch(prometheus, seconds)
        watch.fires("PerceptDown")  # nothing has been started
        server = stack.enter_context(serving_two(home, port))
        watch.fires("PerceptNoModel")  # from an empty store
        assert "PerceptDown" not in prometheus.firing()
        for model in models():
            put(home, model)
        until(lambda: len(prometheus.query("percept_model_info == 1")) == 4, seconds)
        traffic = stack.enter_context(Traffic(port).running())
        until(lambda: prometheus.firing() == {}, seconds)
        check_dashboards(prometheus, pace, seconds)
        scene = Scene(home, traffic)
        kill_workers(server)
        watch.fires("PerceptRestarts")
        for at_once in TOGETHER:
            with ExitStack() as causes:
                for name in at_once:
                    causes.enter_context(CAUSES[name](scene))
                watch.fires(*at_once)
            watch.resolves(*at_once)
        until(lambda: prometheus.firing() == {}, seconds)
        stack.close()
        watch.fires("PerceptDown")
        assert watch.seen == {rule["alert"] for rule in alerts()}, "an alert is not tested: give it a cause here"


def models() -> list[onnx.ModelProto]:
    """One whose accuracy is estimated; one whose accuracy cannot be, with an older version as its shadow; others, of
    which one has an older version as its canary."""
    figures = {"metrics": {"accuracy": 0.95}, "samples": {"test": 1000}}
    return [
        watched(careful_model(), **figures),
        *(watched(digits_model(version)) for version in (FIRST, NEWEST)),
        *(sums_model(version) for version in (FIRST, NEWEST)),
        instruments_model(NEWEST),
    ]


@dataclass
class Watch:
    """Waits for alerts."""

    prometheus: Prometheus
    seconds: float
    seen: set[str] = field(default_factory=set)

    def fires(self, *names: str) -> None:
        """All of these fire, with whole sentences."""
        with suppress(AssertionError):  # the next line but one names those that do not
            until(lambda: self.prometheus.firing().keys() >= {*names}, self.seconds)
        firing = self.prometheus.firing()
        assert firing.keys() >= {*names}
        for name in names:
            for text in firing[name].values():
                assert not re.search(r"<no value>|<error|NaN|  |\(\)", text), f"{name}: {text}"
        self.seen |= {*names}

    def resolves(self, *names: str) -> None:
        """None of these fires any more."""
        with suppress(AssertionError):
            until(lambda: not self.prometheus.firing().keys() & {*names}, self.seconds)
        assert not self.prometheus.firing().keys() & {*names}


@contextmanager
def serving_two(home: Path, port: int) -> Iterator[Server]:
    """The service with two workers, which begins with an empty store."""
    home.mkdir()
    config = home / "bentoml.yaml"
    config.write_text("services: {percept: {workers: 2}}")
    settings = {"BENTOML_CONFIG": str(config), "PERCEPT_POLL_SECONDS": "1", "PERCEPT_MAX_CONCURRENCY": "2"}
    settings |= {"PERCEPT_SHADOW": f"digits@{FIRST}", "PERCEPT_CANARY": f"sums@{FIRST}:50%"}
    with serving(home, wait_for="/livez", port=port, **settings) as server:
        until(lambda: len(workers(server)) == 2)
        yield server


def check_dashboards(prometheus: Prometheus, pace: Pace, seconds: float) -> None:
    """Each query of each panel answers under load, with legends that tell its series apart and values that fit its
    unit, for all jobs and models and for those that a reader chooses."""
    for dashboard in dashboards().values():
        chosen = {}
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                chosen[variable["name"]] = "|".join(values_of(prometheus, variable, pace))
        assert chosen.items() >= {"job": "percept", "model": "careful|digits|instruments|sums"}.items()
        for panel in panels(dashboard):
            for target in panel["targets"]:
                for variables in ({}, chosen):
                    query = pace.query(target["expr"], **variables)
                    where = f"{panel['title']}: {query}"
                    with suppress(AssertionError):  # the next line names the query
                        until(lambda query=query: any_finite(prometheus.query(query)), seconds)  # type: ignore[misc]
                    check_panel(panel, target, prometheus.query(query), where)
    ((_, cores),) = prometheus.query(pace.query("sum(rate(process_cpu_seconds_total[$__rate_interval]))"))
    assert cores < (os.cpu_count() or 1) + 1


def any_finite(series: list[tuple[dict[str, str], float]]) -> bool:
    return any(isfinite(value) for _, value in series)


def values_of(prometheus: Prometheus, variable: dict[str, Any], pace: Pace) -> list[str]:
    """What a reader may choose for a variable of the dashboard."""
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
    assert found is not None
    series = prometheus.get("series", **{"match[]": pace.query(found[1])})
    return sorted({one[found[2]] for one in series})


def check_panel(
    panel: dict[str, Any], target: dict[str, Any], series: list[tuple[dict[str, str], float]], where: str
) -> None:
    unit = panel["fieldConfig"]["defaults"].get("unit", "")
    low, high = {"percentunit": (0, 1), "s": (0, 60), "bytes": (1e6, 1e12)}.get(unit, (0, 1e9))
    # An estimate may be withheld, and nobody may have asked a canary, or a route, in the last interval.
    may_be_none = any(name in target["expr"] for name in ("percept_estimated_accuracy", "percept_canary"))
    values = [value for labels, value in series if isfinite(value) or not (may_be_none or "route" in labels)]
    assert values, where
    assert all(low <= value <= high for value in values), (where, series)
    if panel["type"] == "stat":
        assert len(series) == 1, where
    if panel["type"] == "timeseries":
        legends = Counter(legend(target["legendFormat"], labels) for labels, _ in series)
        assert all(text.strip() == text != "" for text in legends), (where, legends)
        assert max(legends.values()) == 1, (where, legends)


def legend(template: str, labels: dict[str, str]) -> str:
    """The name of a series, as Grafana makes it."""
    return re.sub(r"{{(\w+)}}", lambda name: labels.get(name[1], ""), template)


@dataclass
class Scene:
    """What causes may act on."""

    home: Path
    traffic: Traffic


@contextmanager
def drift(scene: Scene) -> Iterator[None]:
    """Batches of ones alone; then as many usual ones."""
    traffic = scene.traffic
    traffic.digits, traffic.n = traffic.ones, 15
    yield
    traffic.digits = traffic.usual


@contextmanager
def unknown(scene: Scene) -> Iterator[None]:
    """Pictures that are all ink."""
    scene.traffic.careful = batches("careful", np.full((COUNTED, 28, 28), 255, np.uint8))
    yield
    scene.traffic.careful = scene.traffic.certain


@contextmanager
def less_sure(scene: Scene) -> Iterator[None]:
    """The digits of which the model is least sure, though they look as usual."""
    path = scene.home / "models" / "careful" / NEWEST / "model.onnx"
    usual = pictures()
    confidence = InferenceSession(path).run(None, {"image": usual})[0].max(axis=1)
    scene.traffic.careful, scene.traffic.n = batches("careful", usual[confidence.argsort()[:80]]), 15
    yield
    scene.traffic.careful = scene.traffic.certain


@contextmanager
def slow_clients(scene: Scene) -> Iterator[None]:
    """Their bodies take longer than a second to arrive."""
    scene.traffic.slow = deque()
    yield
    slow, scene.traffic.slow = scene.traffic.slow, None
    while slow:
        slow.popleft()[1].close()


@contextmanager
def broken_model(scene: Scene) -> Iterator[None]:
    """A file in the store that is no model."""
    put_broken(scene.home)
    yield
    shutil.rmtree(scene.home / "models" / "broken")


@contextmanager
def overload(scene: Scene) -> Iterator[None]:
    """Large uploads that hold every slot of both workers, and others that are refused."""
    head = f"POST /instruments HTTP/1.1\r\nHost: a\r\nContent-Length: {20 * 2**20}\r\n\r\n".encode()
    uploads = [held(scene.traffic.port, head + bytes(2**20)) for _ in range(20)]
    yield
    for connection in uploads:
        connection.close()


@contextmanager
def store_gone(scene: Scene) -> Iterator[None]:
    """The model store is not there, as when a volume is not mounted."""
    folder = scene.home / "models"
    folder.rename(scene.home / "aside")
    yield
    (scene.home / "aside").rename(folder)


def kill_workers(server: Server) -> None:
    """Two workers end, as if memory had run out, and others take their place."""
    for _ in range(2):
        before = workers(server)
        os.kill(before[0], signal.SIGKILL)
        until(lambda before=before: len({*workers(server)} - {*before}) == 1)  # type: ignore[misc]


CAUSES: dict[str, Callable[[Scene], Any]] = {
    "PerceptAccuracy": less_sure,
    "PerceptDrift": drift,
    "PerceptErrors": overload,
    "PerceptModelRefused": broken_model,
    "PerceptSlow": slow_clients,
    "PerceptStore": store_gone,
    "PerceptUnknown": unknown,
}
TOGETHER = (
    ("PerceptAccuracy",),
    ("PerceptDrift", "PerceptSlow", "PerceptUnknown", "PerceptModelRefused"),
    ("PerceptErrors", "PerceptStore"),
)
