"""The bill of materials of an exported model, CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json): what it was made of.

It is JSON that is written here and checked by cyclonedx-python-lib, whose classes (11.12) know no model cards.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from models.card import ModelCard
from pipeline.report.schema import Report
from service.serving.bom import Object, bill, package

HYPERPARAMETERS = ("features", "model", "train")  # sections of the task
DATA, MODEL = "data", "model"  # references inside of the bill


def bom(card: ModelCard, report: Report, file: bytes) -> bytes:
    """The bill of materials of the model with this card and this ONNX file, as JSON: data, parameters, figures,
    libraries and licences. Raises ValueError if it does not fit CycloneDX's schema."""
    libraries = [package(name) for name in card.libraries]
    model = {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": card.name,
        "version": card.version,
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(file).hexdigest()}],
        "modelCard": _model_card(card, report),
    }
    text = json.dumps(bill(model, [_data(card, report), *libraries], card.created), indent=1, ensure_ascii=False)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"bom.json: {error}")
    return text.encode() + b"\n"


def _data(card: ModelCard, report: Report) -> Object:
    """The data set, whose digest is over the digests and labels of its samples."""
    source = report["task"]["data"]["source"]
    contents = {"properties": _properties({f"samples.{split}": n for split, n in card.samples.items()})}
    return {
        "type": "data",
        "bom-ref": DATA,
        "name": source,
        "hashes": [{"alg": "SHA-256", "content": card.data_digest}],
        "data": [{"type": "dataset", "name": source, "contents": contents}],
    }


def _model_card(card: ModelCard, report: Report) -> Object:
    output = [None, len(card.labels)]
    parameters = {name: value for section in HYPERPARAMETERS for name, value in _flat(section, report["task"][section])}
    facts = {
        "labels": card.labels,
        "parameters": card.parameters,
        "temperature": card.temperature,
        "task.sha256": card.task_digest,
        "gate.passed": card.gate_passed,
        "training.seconds": card.training_seconds,
        "training.device": card.training_device,
        **{f"check.{name}": value for name, value in card.checks.items()},
    }
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "regression" if card.kind == "regression" else "classification",
            "architectureFamily": "multilayer perceptron",
            "datasets": [{"ref": DATA}],
            "inputs": [{"format": f"{card.input.kind}: {card.input.dtype} {_shape(card.input.shape)}"}],
            "outputs": [{"format": f"{card.output}: float32 {_shape(output)}"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": [*_metrics(card, report)]},
        "considerations": {"technicalLimitations": [*card.scope]},
        "properties": _properties(facts | parameters),
    }


def _metrics(card: ModelCard, report: Report) -> Iterator[Object]:
    """The card's metrics, with the interval that the report gives them."""
    test: Mapping[str, Any] = report["test"]
    for name, value in card.metrics.items():
        metric: Object = {"type": name, "value": str(value), "slice": "test split"}
        if interval := test.get(f"{name}_interval"):
            low, high = interval
            metric["confidenceInterval"] = {"lowerBound": str(low), "upperBound": str(high)}
        yield metric


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Tables of a task as one: train.optimizer, train.l2, …"""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, value


def _properties(facts: Mapping[str, Any]) -> list[Object]:
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in facts.items()
    }
    return [{"name": f"percept:{name}", "value": text} for name, text in texts.items()]


def _shape(sizes: Any) -> str:
    return "(" + ", ".join("N" if size is None else str(size) for size in sizes) + ")"
