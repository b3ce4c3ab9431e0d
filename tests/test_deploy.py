"""The files in deploy/: Kubernetes' schemas accept the manifests; selectors, ports and paths agree with each other and
with the service; PromQL parses and uses only metrics and labels that exist."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import kubernetes_validate
import promql_parser
import pytest
import yaml
from compose_spec import PyCompose

from service.http.app import MAX_CONCURRENCY
from tests.serving import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = ("1.30", kubernetes_validate.latest_version())  # the first with preStop.sleep by default, and the newest

# Metric → its labels. Prometheus adds `instance` and `job`.
METRICS = {
    "percept_requests_total": {"route", "code"},
    "percept_request_seconds": {"route"},
    "percept_in_flight": set(),
    "percept_connections": set(),
    "percept_connections_closed_total": {"reason"},
    "percept_predictions_total": {"model", "version", "label"},
    "percept_unknown_total": {"model", "version"},
    "percept_confidence": {"model", "version"},
    "percept_model_info": {"model", "version"},
    "percept_model_failed": {"model", "version"},
    "percept_store_up": set(),
    "percept_drift_psi": {"model", "version", "group"},
    "percept_estimated_accuracy": {"model", "version"},
    "percept_estimated_accuracy_interval": {"model", "version", "bound"},
    "percept_estimated_accuracy_withheld": {"model", "version", "reason"},
    "percept_tested_accuracy": {"model", "version"},
    "percept_canary_requests_total": {"model", "version", "code"},
    "percept_canary_request_seconds": {"model", "version"},
    "percept_shadow_answers_total": {"model", "version", "label", "outcome"},
    "percept_shadow_dropped_total": {"model", "version", "reason"},
    "process_resident_memory_bytes": {"pid"},
    "process_cpu_seconds_total": {"pid"},
    "process_start_time_seconds": {"pid"},
    "up": set(),
}
HISTOGRAMS = {"percept_request_seconds", "percept_confidence", "percept_canary_request_seconds"}


def read(path: str) -> Any:
    """A YAML or JSON file of deploy/."""
    return yaml.load((DEPLOY / path).read_text("utf-8"), yaml.CSafeLoader)  # in Python, it would take half a second


KUSTOMIZATION = read("kubernetes/kustomization.yaml")
DEPLOYMENT = read("kubernetes/deployment.yaml")
SERVICE = read("kubernetes/service.yaml")
MONITOR = read("kubernetes/servicemonitor.yaml")
INFERENCE = read("kserve/inferenceservice.yaml")
POD = DEPLOYMENT["spec"]["template"]
COMPOSE = read("compose.yaml")
DASHBOARD = read("grafana/percept.json")
ALERTS = [rule for group in read("prometheus/alerts.yml")["groups"] for rule in group["rules"]]


def panels() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield from [panel] if panel["type"] != "row" else panel["panels"]


def queries() -> list[tuple[str, str]]:
    """Name of an alert or panel, and its PromQL with Grafana's variables filled in."""
    found = [(rule["alert"], rule["expr"]) for rule in ALERTS]
    found += [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    values = {"__rate_interval": "1m", "job": "percept", "model": ".*"}
    return [(where, re.sub(r"\$(\w+)", lambda match: values[match[1]], query)) for where, query in found]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("file", KUSTOMIZATION["resources"])
def test_kubernetes_schemas_accept_the_manifests(file: str, version: str) -> None:
    kubernetes_validate.validate(read(f"kubernetes/{file}"), version, strict=True)


def test_kubernetes_schemas_refuse_what_is_misspelt() -> None:
    for wrong in ({"replica": 2}, {"template": POD | {"spec": POD["spec"] | {"enableServiceLink": False}}}):
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(DEPLOYMENT | {"spec": DEPLOYMENT["spec"] | wrong}, KUBERNETES[0], strict=True)


def test_kustomization_holds_every_manifest() -> None:
    files = {path.name for path in (DEPLOY / "kubernetes").iterdir()} - {"kustomization.yaml"}
    assert files == {*KUSTOMIZATION["resources"], "servicemonitor.yaml"}
    assert [image["name"] for image in KUSTOMIZATION["images"]] == [POD["spec"]["containers"][0]["image"]]


def test_selectors_match() -> None:
    labels = POD["metadata"]["labels"]
    spread = POD["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]
    disruption = read("kubernetes/pdb.yaml")["spec"]["selector"]["matchLabels"]
    policy = read("kubernetes/networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"]
    chosen = DEPLOYMENT["spec"]["selector"]["matchLabels"]
    for selector in (chosen, SERVICE["spec"]["selector"], spread, disruption, policy):
        assert selector
        assert selector.items() <= labels.items()
    monitored = MONITOR["spec"]["selector"]["matchLabels"]
    assert monitored
    assert monitored.items() <= SERVICE["metadata"]["labels"].items()
    target = read("kubernetes/hpa.yaml")["spec"]["scaleTargetRef"]
    assert target == {key: DEPLOYMENT[key] for key in ("apiVersion", "kind")} | {"name": DEPLOYMENT["metadata"]["name"]}
    assert "replicas" not in DEPLOYMENT["spec"]


def test_ports_lead_to_the_service() -> None:
    (container,) = POD["spec"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": 3000}]
    (port,) = SERVICE["spec"]["ports"]
    assert port["targetPort"] == "http"
    (endpoint,) = MONITOR["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (port["name"], "/metrics")
    assert read("kubernetes/networkpolicy.yaml")["spec"]["ingress"] == [
        {"ports": [{"protocol": "TCP", "port": "http"}]}
    ]
    (scrape,) = read("prometheus/prometheus.yml")["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["percept:3000"]}]
    assert COMPOSE["services"]["percept"]["ports"] == ["3000:3000"]


def test_probes_use_paths_of_the_service(client: httpx.Client) -> None:
    (container,) = POD["spec"]["containers"]
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
    for path in (*paths.values(), MONITOR["spec"]["endpoints"][0]["path"]):
        assert client.get(path).status_code == 200
    assert all(container[f"{kind}Probe"]["httpGet"]["port"] == "http" for kind in paths)


def test_a_pod_has_time_to_finish() -> None:
    pod = POD["spec"]
    leaving = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= leaving + 30  # a body has that long to arrive
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_settings_are_those_of_the_service() -> None:
    known = set(re.findall(r"PERCEPT_\w+", (ROOT / "README.md").read_text("utf-8")))
    environment = {item["name"]: item.get("value") for item in POD["spec"]["containers"][0]["env"]}
    assert environment["PERCEPT_MAX_CONCURRENCY"] == str(MAX_CONCURRENCY)
    assert INFERENCE["spec"]["predictor"]["containerConcurrency"] == MAX_CONCURRENCY
    ours = {name for name in {*environment, *COMPOSE["services"]["percept"]["environment"]} if "PERCEPT" in name}
    assert ours - {"PERCEPT_API_KEYS"} <= known


def test_service_monitor() -> None:
    """No light Python package has the operator's schema, so the fields are checked by name."""
    assert (MONITOR["apiVersion"], MONITOR["kind"]) == ("monitoring.coreos.com/v1", "ServiceMonitor")
    assert MONITOR["spec"].keys() == {"selector", "endpoints"}
    assert MONITOR["spec"]["endpoints"][0].keys() == {"port", "path", "interval"}


def test_inference_service() -> None:
    """A predictor is a PodSpec with a few fields of KServe's, so without these a Pod's schema accepts it; and its
    settings are those of the Deployment."""
    assert (INFERENCE["apiVersion"], INFERENCE["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert INFERENCE["spec"].keys() == {"predictor"}
    predictor = dict(INFERENCE["spec"]["predictor"])
    for field in ("minReplicas", "maxReplicas", "containerConcurrency"):
        assert isinstance(predictor.pop(field), int)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": INFERENCE["metadata"], "spec": predictor}
    for version in KUBERNETES:
        kubernetes_validate.validate(pod, version, strict=True)
    (container,) = predictor["containers"]
    (deployed,) = POD["spec"]["containers"]
    assert container["name"] == "kserve-container"
    assert [port["containerPort"] for port in container["ports"]] == [3000]
    assert {"name": "PROTOCOL", "value": "v2"} in container["env"]
    assert [item for item in container["env"] if item["name"] != "PROTOCOL"] == [
        item for item in deployed["env"] if item["name"] != "PERCEPT_MAX_CONCURRENCY"
    ]
    assert container["securityContext"] == deployed["securityContext"] | POD["spec"]["securityContext"]
    for same in ("resources", "volumeMounts"):
        assert container[same] == deployed[same]
    assert predictor["volumes"] == POD["spec"]["volumes"]


def test_compose_file() -> None:
    text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", json.dumps(COMPOSE))  # as if no variable is set
    assert "$" not in text
    assert sorted(PyCompose.from_yaml(text).service_names()) == ["grafana", "percept", "prometheus"]
    with pytest.raises(ValueError, match="read_onli"):
        PyCompose.from_yaml(text.replace("read_only", "read_onli"))
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
            assert target.startswith("/")
        assert all(used["source"] in COMPOSE["configs"] for used in service.get("configs", []))


def test_compose_file_brings_prometheus_and_grafana_together() -> None:
    grafana = COMPOSE["services"]["grafana"]
    folder = read("grafana/provisioning/dashboards/percept.yaml")["providers"][0]["options"]["path"]
    assert f"./grafana/percept.json:{folder}/percept.json:ro" in grafana["volumes"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/percept.json"
    (source,) = read("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    prometheus = read("prometheus/prometheus.yml")
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    (scrape,) = prometheus["scrape_configs"]
    (config,) = COMPOSE["services"]["prometheus"]["configs"]
    assert scrape["authorization"]["credentials_file"] == config["target"]
    assert all((DEPLOY / "prometheus" / file).is_file() for file in prometheus["rule_files"])


def selectors(query: str) -> tuple[list[Any], set[str]]:
    """Every selector of a PromQL query, and the labels that it groups by."""
    found: list[Any] = []
    grouped: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)
        elif isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            grouped.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(query), visit)
    return found, grouped


@pytest.mark.parametrize(("where", "query"), queries())
def test_queries_parse_and_ask_for_metrics_that_exist(where: str, query: str) -> None:
    found, grouped = selectors(query)
    assert found
    for selector in found:
        base = re.sub("_(bucket|sum|count)$", "", selector.name)
        histogram = base in HISTOGRAMS
        assert histogram == (base != selector.name), f"{where}: {selector.name}"
        labels = METRICS[base] | {"instance", "job"} | ({"le"} if selector.name.endswith("_bucket") else set())
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels
        assert grouped <= labels


def test_legends_name_labels_that_the_query_keeps() -> None:
    for panel in panels():
        for target in panel["targets"]:
            _, grouped = selectors(re.sub(r"\$\w+", "1m", target["expr"]))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= grouped, panel["title"]


def test_dashboard() -> None:
    assert DASHBOARD["uid"] == "percept"
    everything = [*DASHBOARD["panels"], *(inner for panel in DASHBOARD["panels"] for inner in panel.get("panels", []))]
    assert len({panel["id"] for panel in everything}) == len(everything)
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert max(x for x, _ in cells) == 23
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) <= variables | {"__rate_interval", "__all"}
    shown = {re.sub("_(bucket|sum|count)$", "", one.name) for _, query in queries() for one in selectors(query)[0]}
    assert shown == set(METRICS)


def test_alerts_as_a_prometheus_rule() -> None:
    """docs/deploying.md makes a PrometheusRule by indenting the file under `spec:`."""
    text = "spec:\n" + re.sub("^", "  ", (DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8"), flags=re.MULTILINE)
    assert yaml.safe_load(text)["spec"] == read("prometheus/alerts.yml")
    for rule in ALERTS:
        assert rule.keys() >= {"alert", "expr", "labels", "annotations"}
        named = re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values()))
        found, grouped = selectors(rule["expr"])
        kept = grouped or {label for one in found for label in METRICS[one.name]} | {"instance", "job"}
        assert set(named) <= kept, rule["alert"]
