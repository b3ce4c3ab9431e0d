"""The report of a run: one self-contained HTML page for people, and a few plain lines for the terminal.

Both say only what `report.json` and `history.json` hold; the sentences live in `report.html.jinja`.
"""

import base64
import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.run import Run, replacing

FIGURES = (
    "loss", "accuracy", "confusion", "reliability", "roc", "precision_recall", "fit", "contributions",
)  # fmt: skip
INSIDES = ("regions", "units", "weights")  # pictures of what the network has learned
METRICS = {  # what the field calls the numbers of a test; any other appears under its own key
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "ece": "ECE",
    "r2": "R²",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "rmse": "RMSE",
    "mse": "MSE",
    "mae": "MAE",
}
SURE = 0.05  # p-value below which one classifier counts as better than another
CONFUSIONS = 5  # most frequent pairs that the page names


def write(run: Run) -> Path:
    """Render `run/report.html` from the run's report, history and plots; returns its path."""
    report = run.json(run.report, "validate")
    history = run.json(run.history, "train")
    figures = {name: run.plots / f"{name}.svg" for name in FIGURES}
    page = _template().render(
        report=report,
        test=report["test"],
        # canvas.py escapes every text in a figure
        figures={name: Markup(path.read_text("utf-8")) for name, path in figures.items() if path.exists()},
        insides={name: uri for name in INSIDES if (uri := _data_uri(run.plots / f"{name}.png"))},
        pictures=_gallery(run, "mistake", report),
        clips=_gallery(run, "clip", report),
        search=_search(run),
        metrics=_metrics(report["test"]),
        kept=_kept_epoch(history, report),
        confusions=_confusions(report),
        overconfidence=_overconfidence(report["test"].get("reliability") or []),
        weakest=_weakest(report["test"]),
        majority=_majority(report["test"]),
        rival=_rival(report),
        errors=_errors(report["test"]),
        task_file=_toml(report.get("task", {})),
    )
    with replacing(run.page) as temporary:
        temporary.write_text(page, "utf-8")
    return run.page


def headline(report: dict[str, Any]) -> str:
    """What a person wants to know first, in a few plain lines."""
    test = report["test"]
    samples = f"{_count(report['samples']['test'])} test samples"
    others = ", ".join(f"{name} {value:.4g}" for key, (name, value) in _metrics(test).items() if key != "accuracy")
    if "accuracy" in test:
        interval = test.get("accuracy_interval")
        between = f" (95 % interval {_interval(interval)})" if interval else ""
        lines = [f"{report['name']}: accuracy {_percent(test['accuracy'])}{between} on {samples}", others]
    else:
        lines = [f"{report['name']}: {others} on {samples}"]
    if weakest := _weakest(test):
        lines.append(
            f"weakest class: {weakest['label']}, recall {_percent(weakest['recall'])}"
            f" ({_interval(weakest['recall_interval'])}; {_count(weakest['support'])} samples)"
        )
    if beside := report.get("baselines"):
        samples, available = beside[0]["samples"], beside[0]["available"]
        few = f" (fitted to {_count(samples)} of {_count(available)} samples)" if samples < available else ""
        lines.append("baselines: " + ", ".join(f"{b['name']} {_percent(b['accuracy'])}" for b in beside) + few)
    lines.append(_verdict(report["gate"]))
    return "\n".join(line for line in lines if line)


def _verdict(gate: dict[str, Any]) -> str:
    if not gate["checks"]:
        return f"gate {'passed' if gate['passed'] else 'failed'}: the task sets no threshold"
    shown = [check for check in gate["checks"] if gate["passed"] or not check["passed"]]
    details = ", ".join(f"{c['name']} {_number(c['threshold'])}, got {_number(c['value'])}" for c in shown)
    return f"gate {'passed' if gate['passed'] else 'failed'}: {details}"


def _metrics(test: dict[str, Any]) -> dict[str, tuple[str, float]]:
    """The single numbers of the test, by key, each with its heading."""
    numbers = {key: value for key, value in test.items() if isinstance(value, int | float)}
    return {key: (METRICS.get(key, key.replace("_", " ")), value) for key, value in numbers.items()}


def _kept_epoch(history: dict[str, Any], report: dict[str, Any]) -> dict[str, float]:
    """The history's values at the epoch whose weights were kept; empty where that epoch is not in it."""
    best = report.get("training", {}).get("best_epoch")
    if best not in history["epoch"]:
        return {}
    index = history["epoch"].index(best)
    return {key: values[index] for key, values in history.items() if values}


def _weakest(test: dict[str, Any]) -> dict[str, Any] | None:
    """The class of the lowest recall, among those that have test samples."""
    tested: list[dict[str, Any]] = [c for c in test.get("per_class") or [] if c["recall"] is not None]
    return min(tested, key=lambda c: c["recall"], default=None)


def _majority(test: dict[str, Any]) -> dict[str, Any] | None:
    """The class with most test samples and its share of them: what answering nothing else would score."""
    supports = {c["label"]: c["support"] for c in test.get("per_class") or []}
    if not any(supports.values()):
        return None
    label = max(supports, key=lambda label: supports[label])
    return {"label": label, "share": supports[label] / sum(supports.values())}


def _rival(report: dict[str, Any]) -> dict[str, Any] | None:
    """The most accurate baseline, with `better`: "network", "baseline", or nothing where the test split cannot tell.

    It is picked by the samples that would then speak for it, so its lead must be sure at SURE over the number of
    baselines (Bonferroni). The network was not picked.
    """
    beside = report.get("baselines") or []
    if not beside:
        return None
    rival: dict[str, Any] = max(beside, key=lambda b: (b["accuracy"], b["p_value"]))
    leads = rival["only_network"] > rival["only_baseline"]
    sure = rival["p_value"] < (SURE if leads else SURE / len(beside))
    return rival | {"better": ("network" if leads else "baseline") if sure else ""}


def _confusions(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The most frequent wrong answers: true class, predicted class, their count, samples of the true class."""
    matrix, labels = report["test"].get("confusion_matrix") or [], report["labels"]
    pairs = [
        {"true": labels[i], "predicted": labels[j], "count": count, "support": sum(row)}
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])[:CONFUSIONS]


def _errors(test: dict[str, Any]) -> int:
    """How many test samples got a wrong answer."""
    matrix: list[list[int]] = test.get("confusion_matrix") or []
    return sum(sum(row) - row[i] for i, row in enumerate(matrix))


def _overconfidence(bins: list[dict[str, Any]]) -> float:
    """Mean confidence less accuracy over all samples: above 0 where the model promises more than it keeps."""
    filled = [b for b in bins if b["count"]]
    excess: float = sum(b["count"] * (b["confidence"] - b["accuracy"]) for b in filled)
    return float(excess / max(sum(b["count"] for b in filled), 1))


def _toml(task: dict[str, Any], prefix: str = "") -> str:
    """The resolved task as the TOML file that would give it; what is None or empty stands in no file."""
    scalars = [
        f"{_key(key)} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in task.items()
        if value is not None and not isinstance(value, dict)
    ]
    tables = []
    for key, value in task.items():
        if isinstance(value, dict) and (inner := _toml(value, f"{prefix}{_key(key)}.")):
            header = f"[{prefix}{_key(key)}]\n" if any(not isinstance(v, dict) for v in value.values()) else ""
            tables.append(header + inner)
    return "\n\n".join(filter(None, ("\n".join(scalars), *tables)))


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _search(run: Run) -> dict[str, Any] | None:
    """What a search in this run has compared, with its figures; None where there was none."""
    if not run.search.is_file():
        return None
    found = run.json(run.search, "tune")
    best: dict[str, Any] = next((trial["parameters"] for trial in found["trials"] if trial["score"] is not None), {})
    return {
        "trials": len(found["trials"]),
        "folds": found["tune"]["folds"],
        "best": ", ".join(f"{key} = {json.dumps(value)}" for key, value in best.items()),
        "figures": {path.stem: Markup(path.read_text("utf-8")) for path in sorted(run.search_figures.glob("*.svg"))},
    }


def _gallery(run: Run, name: str, report: dict[str, Any]) -> list[str | None]:
    """The pictures `name`-01, `name`-02, … of the report's mistakes or clips; None where one was not drawn."""
    entries = report.get(f"{name}s", [])
    return [_data_uri(run.plots / f"{name}-{i:02}.png") for i, _ in enumerate(entries, start=1)]


def _data_uri(path: Path) -> str | None:
    if not path.exists():
        return None
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names of files and classes come from users
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda share: _percent(share).replace(" ", "\N{NO-BREAK SPACE}"),
        "interval": lambda ends: _interval(ends).replace(" ", "\N{NO-BREAK SPACE}"),
        "number": _number,
        "count": _count,
        "duration": _duration,
        "size": _size,
        "date": _date,
    }
    environment.globals["log"] = math.log
    return environment.get_template("page.html.jinja")


def _percent(share: float | None) -> str:
    """0.971 → "97.1 %". Only a whole is 100 %, and only nothing is 0 %."""
    if share is None or math.isnan(share):
        return "–"
    if share < 1 and round(share, 3) >= 1:
        return ">99.9 %"
    if share > 0 and round(share, 3) <= 0:
        return "<0.1 %"
    return f"{share:.1%}".replace("%", " %")


def _interval(ends: list[float] | None) -> str:
    """[0.9671, 0.9742] → "96.7–97.4 %"."""
    if ends is None:
        return ""
    low, high = (_percent(end) for end in ends)
    return f"{low.removesuffix(' %')}–{high}"


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def _count(value: int) -> str:
    return f"{value:,}"


def _size(n: int) -> str:
    """Bytes: 318040 → "318 kB", 4369711 → "4.4 MB"."""
    return f"{n / 1e6:,.1f} MB" if n >= 999_500 else f"{n / 1e3:.0f} kB" if n >= 1000 else f"{n} B"


def _duration(seconds: float) -> str:
    """5.13 → "5.1 s", 200 → "3 min 20 s", 3840 → "1 h 04 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _date(stamp: str) -> str:
    moment = datetime.fromisoformat(stamp).astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
