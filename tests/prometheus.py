"""A real Prometheus for the tests, with the rules and the dashboard of deploy/, at a pace that tests can wait for."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.serving import ROOT, free_port, stop, until

PROGRAMS = ("prometheus", "promtool")
DEPLOY = ROOT / "deploy"
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
STARTED = "process_start_time_seconds"
DURATION = re.compile(r"\b(\d+)([smhd])\b")


def is_installed() -> bool:
    """Whether Debian's prometheus is here, with its promtool."""
    return all(shutil.which(program) for program in PROGRAMS)


def dashboards() -> dict[str, dict[str, Any]]:
    """Name of a file → the dashboard in it."""
    return {file.name: json.loads(file.read_text("utf-8")) for file in sorted((DEPLOY / "grafana").glob("*.json"))}


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels of a dashboard, also those in rows that are folded."""
    for panel in dashboard["panels"]:
        yield from [panel] if panel["type"] != "row" else panel["panels"]


def rule_files() -> list[Path]:
    """The files with rules that prometheus.yml names."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    return [DEPLOY / "prometheus" / name for name in config["rule_files"]]


def alerts() -> list[dict[str, Any]]:
    """Every alert of deploy/."""
    groups = [group for file in rule_files() for group in yaml.safe_load(file.read_text("utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


@dataclass
class Pace:
    """Durations divided by `factor`, but so that every window holds at least four scrapes, `scrape` seconds apart, and
    the starts of two workers, of which each takes some seconds whatever the pace."""

    factor: float
    scrape: float
    starts: float = 25  # seconds, at least, of a window in which starts are counted

    def quicker(self, query: str) -> str:
        """A query with other durations."""

        def shortened(found: re.Match[str]) -> str:
            seconds = int(found[1]) * SECONDS[found[2]] / self.factor
            return f"{round(1000 * max(seconds, 4 * self.scrape, self.starts * (STARTED in query)))}ms"

        return DURATION.sub(shortened, query)

    def rules(self, text: str) -> dict[str, Any]:
        """A file of rules with other durations."""
        file: dict[str, Any] = yaml.safe_load(text)
        for rule in (rule for group in file["groups"] for rule in group["rules"]):
            rule.update({key: self.quicker(rule[key]) for key in ("expr", "for", "keep_firing_for") if key in rule})
        return file

    def query(self, expression: str, **variables: str) -> str:
        """A panel's query with Grafana's variables filled in: ".*" unless given, as for All."""
        values = {"__rate_interval": "1s", "job": ".*", "model": ".*"} | variables
        return self.quicker(re.sub(r"\$\{?(\w+)\}?", lambda found: values[found[1]], expression))


@dataclass
class Prometheus:
    """A running server."""

    api: httpx.Client

    def get(self, path: str, **parameters: str) -> Any:
        """The data that its API answers."""
        answer = self.api.get(path, params=parameters)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series, now."""
        found = self.get("query", query=expression)
        assert found["resultType"] == "vector", expression
        return [(series["metric"], float(series["value"][1])) for series in found["result"]]

    def firing(self) -> dict[str, dict[str, str]]:
        """Each alert that fires → the annotations of one that does; asked at most five times a second."""
        time.sleep(0.2)
        active = self.get("alerts")["alerts"]
        return {one["labels"]["alertname"]: one["annotations"] for one in active if one["state"] == "firing"}


@contextmanager
def watching(folder: Path, target: str, pace: Pace) -> Iterator[Prometheus]:
    """Prometheus with deploy/'s configuration and rules, which scrapes `target`, until the block ends."""
    folder.mkdir()
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    for key in ("scrape_interval", "evaluation_interval"):
        config["global"][key] = f"{round(1000 * pace.scrape)}ms"
    (job,) = config["scrape_configs"]
    job["authorization"]["credentials_file"] = str(folder / "key")
    job["static_configs"] = [{"targets": [target]}]
    (folder / "key").write_text("none")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    for file in rule_files():
        (folder / file.name).write_text(yaml.safe_dump(pace.rules(file.read_text("utf-8"))))
    subprocess.run(["promtool", "check", "config", "prometheus.yml"], cwd=folder, check=True, capture_output=True)
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        "--web.listen-address",
        address,
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://{address}/api/v1/", timeout=30, verify=False) as api:

            def is_ready() -> bool:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    return api.get(f"http://{address}/-/ready").is_success
                except httpx.TransportError:
                    return False

            until(is_ready)
            yield Prometheus(api)
    finally:
        stop(process)
