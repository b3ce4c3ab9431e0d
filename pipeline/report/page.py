"""The report of a run: one self-contained HTML page, and a few lines for the terminal.

Both show only data from `report.json` and `history.json`. The page's text is in `page.html.jinja`.
"""

import base64
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.errors import counted
from pipeline.profile import step
from pipeline.report import formats
from pipeline.report.schema import Baseline, Bin, ClassMetrics, Curve, Gate, Report, Takes
from pipeline.report.templates import page_template
from pipeline.run import Run, replacing

FIGURES = (
    "loss", "accuracy", "confusion", "reliability", "roc", "precision_recall", "fit", "contributions", "learning_curve",
)  # fmt: skip
IMAGES = {".svg": "image/svg+xml", ".png": "image/png"}
LEARNED = ("regions", "units", "weights")  # pictures of what the network has learned
METRICS = {  # key → name of a metric; any other metric is shown under its key
    "accuracy": "accuracy",
    "macro_recall": "macro recall",
    "log_loss": "log loss",
    "ece": "ECE",
    "r2": "R²",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "rmse": "RMSE",
    "mse": "MSE",
    "mae": "MAE",
}
SIGNIFICANT = 0.05  # p-value below which one classifier counts as better than another
SHARES = ("accuracy", "macro_recall")  # metrics that the headline has as percentages
SUPPORT = 5  # test samples of a class, from which its recall is worth naming
CLASSES = 10  # names in a message
CONFUSIONS = 5  # pairs of classes that the page names, at most


class Rival(Baseline):
    """The baseline that the page compares the network with; `better` is "network", "baseline", or "" if neither."""

    better: str


@step("page")
def write(run: Run) -> Path:
    """Write `run/report.html` from the run's report, history and plots; returns its path.

    Raises
    ------
    UserError : the run has not been trained or validated
    """
    report: Report = run.json(run.report, "validate")
    history = run.json(run.history, "train")
    figures = {name: run.plots / f"{name}.svg" for name in FIGURES}
    page = _template().render(
        report=report,
        test=report["test"],
        # Markup: not escaped again; matplotlib has escaped the text in its SVG
        figures={name: Markup(path.read_text("utf-8")) for name, path in figures.items() if path.exists()},
        learned={name: uri for name in LEARNED if (uri := _data_uri(run.plots, name))},
        mistakes=_gallery(run, "mistake", len(report["mistakes"])),
        clips=_gallery(run, "clip", len(report.get("clips", []))),
        search=_search(run),
        metrics=_metrics(report["test"]),
        kept=_kept_epoch(history, report),
        confusions=_confusions(report),
        overconfidence=_overconfidence(report["test"].get("reliability") or []),
        weakest=weakest(report["test"]),
        small=_few(report["test"]),
        majority=_majority(report["test"]),
        rival=_rival(report),
        best_regressor=_best_regressor(report),
        more_data=_more_data(report),
        errors=_errors(report["test"]),
        task_file=formats.toml(report.get("task", {})),
    )
    with replacing(run.page) as temporary:
        temporary.write_text(page, "utf-8", "backslashreplace")
    return run.page


def headline(report: Report) -> str:
    """The main results in a few lines, for the terminal.

    Example
    -------
    >>> gate = {"passed": True, "checks": []}
    >>> print(headline({"name": "sine", "samples": {"test": 201}, "test": {"rmse": 0.03338}, "gate": gate}))
    sine: RMSE 0.03338 on 201 test samples
    gate passed: the task sets no threshold
    """
    test, groups = report["test"], report["samples"].get("groups")
    samples = counted(report["samples"]["test"], "test sample")
    if groups:
        samples += f" in {counted(groups['test'], 'group')}"
    others = ", ".join(f"{name} {value:.4g}" for key, (name, value) in _metrics(test).items() if key not in SHARES)
    if "accuracy" in test:
        interval = test.get("accuracy_interval")
        between = f" (95 % interval {formats.interval(interval)})" if interval else ""
        macro = f"; macro recall {formats.percent(test['macro_recall'])}" if "macro_recall" in test else ""
        lines = [f"{report['name']}: accuracy {formats.percent(test['accuracy'])}{between} on {samples}{macro}"]
    else:
        lines = [f"{report['name']}: {others} on {samples}"]
    lines += report.get("scope", [])
    if takes := report.get("takes"):
        lines.append(_takes(takes))
    if "accuracy" in test:
        lines.append(others)
    if sets := report.get("sets"):
        lines.append(
            f"sets of {sets['size']:.2f} labels on average hold the true one in {formats.percent(sets['covered'])}"
            f" of cases ({formats.interval(sets['covered_interval'])}), promised {formats.percent(sets['coverage'])}"
        )
    if worst := weakest(test):
        lines.append(
            f"weakest class: {worst['label']}, recall {formats.percent(worst['recall'])}"
            f" ({formats.interval(worst['recall_interval'])}; {counted(worst['support'], 'sample')})"
        )
    if few := _few(test):
        more = f" and {len(few) - CLASSES} more classes" if len(few) > CLASSES else ""
        lines.append(f"fewer than {SUPPORT} test samples, too few to say how good: {', '.join(few[:CLASSES])}{more}")
    lines += [*_baseline_lines(report), _more_data(report), *report.get("notes", []), _verdict(report["gate"])]
    return "\n".join(line for line in lines if line)


def _baseline_lines(report: Report) -> list[str]:
    """How good the simpler models are, and whether one is better than the network."""
    lines = []
    if baselines := report.get("baselines"):
        fitted, available = baselines[0]["samples"], baselines[0]["available"]
        of = f" (fitted to {formats.count(fitted)} of {formats.count(available)} samples)" if fitted < available else ""
        accuracies = (f"{b['name']} {formats.percent(b['accuracy'])}" for b in baselines)
        lines.append(f"baselines: {', '.join(accuracies)}{of}")
        if (rival := _rival(report)) and rival["better"] == "baseline":
            lines.append(f"the {rival['name']} is better than the network (p = {rival['p_value']:.2g})")
    if regressors := report.get("regressors"):
        errors = (f"{row['name']} {formats.number(row['rmse'])}" for row in regressors)
        lines += [f"baselines: RMSE {', '.join(errors)}", _best_regressor(report)]
    return lines


def _takes(takes: Takes) -> str:
    """The accuracy with suspected takes of one source kept apart, and how to name them."""
    interval = f" ({formats.interval(takes['accuracy_interval'])})" if takes["accuracy_interval"] else ""
    return (
        f"{formats.percent(takes['accuracy'])}{interval} with files kept apart that look like takes of one source, as "
        f"{' and '.join(takes['files'][:2])}: if they are, --set 'data.group={takes['pattern']}' names the "
        f"{formats.count(takes['groups'])} groups; if not, --set 'data.group=(.+)' says so"
    )


def _verdict(gate: Gate) -> str:
    """The gate's result, with its failed checks, or all of them where none failed."""
    verdict = f"gate {'passed' if gate['passed'] else 'failed'}"
    if not gate["checks"]:
        return f"{verdict}: the task sets no threshold"
    checks = [check for check in gate["checks"] if gate["passed"] or not check["passed"]]
    number = formats.number
    return f"{verdict}: " + ", ".join(f"{c['name']} {number(c['threshold'])}, got {number(c['value'])}" for c in checks)


def _metrics(test: dict[str, Any]) -> dict[str, tuple[str, float]]:
    """The metrics that are one number: key → (name, value)."""
    numbers = {key: value for key, value in test.items() if isinstance(value, int | float)}
    return {key: (METRICS.get(key, key.replace("_", " ")), value) for key, value in numbers.items()}


def _kept_epoch(history: dict[str, Any], report: Report) -> dict[str, float]:
    """The history's values at the epoch whose weights were kept; empty if the history does not have that epoch."""
    best = report.get("training", {}).get("best_epoch")
    if best not in history["epoch"]:
        return {}
    index = history["epoch"].index(best)
    return {key: values[index] for key, values in history.items() if values}


def weakest(test: dict[str, Any]) -> ClassMetrics | None:
    """The class with the lowest recall, among those that have `SUPPORT` test samples."""
    tested: list[ClassMetrics] = [c for c in test.get("per_class") or [] if c["support"] >= SUPPORT]
    return min(tested, key=lambda c: c["recall"] or 0.0, default=None)


def _more_data(report: Report) -> str:
    """What twice the training samples would bring, in a sentence; "" where nothing was measured.

    Example
    -------
    >>> curve = {"now": 0.9, "doubled": 0.93, "doubled_interval": [0.92, 0.94]}
    >>> _more_data({"learning_curve": {"reason": "", "accuracy": curve}})
    'twice the training samples: accuracy from 90.0 % to about 93.0 % (92.0–94.0 %)'
    """
    found = report.get("learning_curve")
    if not found or found["reason"]:
        return f"twice the training samples: {found['reason']}" if found else ""

    def change(curve: Curve) -> str:
        now, then = formats.percent(curve["now"]), formats.percent(curve["doubled"])
        ends = f"stays at about {now}" if now == then else f"from {now} to about {then}"
        return f"{ends} ({formats.interval(curve['doubled_interval'])})"

    line = f"twice the training samples: accuracy {change(found['accuracy'])}"
    return f"{line}, recall of {found['weakest']} {change(found['recall'])}" if "recall" in found else line


def _few(test: dict[str, Any]) -> list[str]:
    """The classes with fewer test samples than that."""
    return [c["label"] for c in test.get("per_class") or [] if c["support"] < SUPPORT]


def _majority(test: dict[str, Any]) -> dict[str, Any] | None:
    """The class with the most test samples and its share of them: the accuracy of always predicting it."""
    supports = {c["label"]: c["support"] for c in test.get("per_class") or []}
    if not any(supports.values()):
        return None
    label = max(supports, key=lambda label: supports[label])
    return {"label": label, "share": supports[label] / sum(supports.values())}


def _rival(report: Report) -> Rival | None:
    """The most accurate baseline, with `better`: "network", "baseline", or "" if the difference may be chance.

    The rival is the best of several on the test samples themselves, so its lead must be significant at SIGNIFICANT
    divided by the number of baselines (Bonferroni). The network was not chosen that way.
    """
    baselines = report.get("baselines") or []
    if not baselines:
        return None
    rival = max(baselines, key=lambda b: (b["accuracy"], b["p_value"]))
    network_leads = rival["only_network"] > rival["only_baseline"]
    significant = rival["p_value"] < (SIGNIFICANT if network_leads else SIGNIFICANT / len(baselines))
    better = "network" if network_leads else "baseline"
    return {**rival, "better": better if significant else ""}


def _best_regressor(report: Report) -> str:
    """Whether the network or the best of the other models of numbers is better, in words; "" where there are none."""
    regressors = report.get("regressors") or []
    if not regressors:
        return ""
    rival, rmse = min(regressors, key=lambda row: row["rmse"]), report["test"]["rmse"]
    leads = rmse < rival["rmse"]
    if rival["p_value"] >= (SIGNIFICANT if leads else SIGNIFICANT / len(regressors)):
        return f"no significant difference between the network and the {rival['name']} (p = {rival['p_value']:.2g})"
    better, other = ("network", rival["name"]) if leads else (rival["name"], "network")
    return f"the {better} is better than the {other} (p = {rival['p_value']:.2g})"


def _confusions(report: Report) -> list[dict[str, Any]]:
    """The most frequent wrong answers: `true` and `predicted` class, `count`, and `support` of the true class."""
    matrix, labels = report["test"].get("confusion_matrix") or [], report["labels"]
    pairs = [
        {"true": labels[i], "predicted": labels[j], "count": count, "support": sum(row)}
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])[:CONFUSIONS]


def _errors(test: dict[str, Any]) -> int:
    """Number of wrong answers to the test samples."""
    matrix: list[list[int]] = test.get("confusion_matrix") or []
    return sum(sum(row) - row[i] for i, row in enumerate(matrix))


def _overconfidence(bins: list[Bin]) -> float:
    """Mean confidence minus accuracy over all samples: above 0 if the model is overconfident."""
    filled = [b for b in bins if b["count"]]
    excess: float = sum(b["count"] * (b["confidence"] - b["accuracy"]) for b in filled)
    return float(excess / max(sum(b["count"] for b in filled), 1))


def _search(run: Run) -> dict[str, Any] | None:
    """Summary and figures of the run's search; None if there was none."""
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


def _gallery(run: Run, name: str, n: int) -> list[str | None]:
    """Data URIs of the pictures `name`-01 to `name`-n; None where one is missing."""
    return [_data_uri(run.plots, f"{name}-{i:02}") for i in range(1, n + 1)]


def _data_uri(folder: Path, name: str) -> str | None:
    """The picture `name` of `folder`, an SVG or PNG file; None if there is none."""
    for suffix, kind in IMAGES.items():
        if (path := (folder / name).with_suffix(suffix)).exists():
            return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return None


@cache
def _template() -> jinja2.Template:
    filters: dict[str, Callable[..., str]] = {
        "percent": lambda share: formats.percent(share).replace(" ", "\N{NO-BREAK SPACE}"),
        "interval": lambda ends: formats.interval(ends).replace(" ", "\N{NO-BREAK SPACE}"),
        "number": formats.number,
        "count": formats.count,
        "duration": formats.duration,
        "size": formats.size,
        "date": formats.date,
    }
    template = page_template(Path(__file__).parent, filters)
    template.globals["log"] = math.log
    return template
