"""Baselines: scikit-learn's models, chosen without the test rows, and their section of the page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from pipeline import extract, task, train, validate
from pipeline.report import page
from pipeline.run import Run
from pipeline.task import UserError
from pipeline.train.data import Rows
from pipeline.validate import baselines, metrics
from pipeline.validate.intervals import wilson
from tests.pipeline.report.test_page import Page
from tests.pipeline.runs import validated

NAMES = ["logistic regression", "SVM", "random forest"]
FEW_TREES = 60  # of a forest, which otherwise takes most of the time


def digits() -> tuple[Rows, Rows, Rows]:
    """scikit-learn's digits as they are, 8 × 8, in three parts."""
    x, y = load_digits(return_X_y=True)
    x = ((x - x.mean()) / x.std()).astype(np.float32)
    return Rows(x[:400], y[:400]), Rows(x[400:600], y[400:600]), Rows(x[1400:], y[1400:])


def found(
    parts: tuple[Rows, Rows, Rows], seed: int = 0, trees: int = FEW_TREES, **options: Any
) -> list[dict[str, Any]]:
    """The baselines of a network that has every third test row wrong; without their seconds, which vary."""
    right = np.arange(len(parts[2].y)) % 3 > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "FOREST", trees)
        rows = baselines.baselines(*parts, right, seed, **options)
    assert all(row.pop("seconds") > 0 for row in rows)
    return rows


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    return found(digits())


def test_baselines_equal_scikit_learn_called_by_hand() -> None:
    training, _, test = digits()
    results = found(digits(), trees=baselines.FOREST)
    assert [row["name"] for row in results] == NAMES
    models = [LogisticRegression(max_iter=1000), SVC(), RandomForestClassifier(300, random_state=0)]
    for row, model in zip(results, models, strict=True):
        model.set_params(**row["hyperparameters"]).fit(*training)
        predicted = model.predict(test.x)
        assert row["accuracy"] == sk.accuracy_score(test.y, predicted)
        assert row["accuracy_interval"] == wilson(float((predicted == test.y).mean()), len(test.y))
        assert row["samples"] == row["available"] == 400
        right = np.arange(len(test.y)) % 3 > 0
        assert row["only_network"] == (right & (predicted != test.y)).sum()
        assert row["only_baseline"] == (~right & (predicted == test.y)).sum()
        if row["name"] == "SVM":
            assert row["log_loss"] is None
        else:
            assert row["log_loss"] == pytest.approx(sk.log_loss(test.y, model.predict_proba(test.x)), rel=1e-4)


def test_hyperparameters_are_the_best_on_the_validation_rows(results: list[dict[str, Any]]) -> None:
    training, validation, test = digits()
    scale = SVC(gamma="scale").fit(*training)._gamma
    for row, settings in zip(
        results[:2],
        (
            [LogisticRegression(C=c, max_iter=1000) for c in (1, 0.1, 0.01, 10)],
            [SVC(C=c, gamma=gamma * scale) for c, gamma in ((1, 1), (10, 1), (10, 0.1), (100, 0.1))],
        ),
        strict=True,
    ):
        best = max(settings, key=lambda model: model.fit(*training).score(*validation)).get_params()
        assert row["hyperparameters"] == pytest.approx({key: best[key] for key in row["hyperparameters"]})
    shuffled = Rows(test.x, np.random.default_rng(0).permutation(test.y))
    again = found((training, validation, shuffled))  # nothing of the test rows decides a model
    assert [(row["hyperparameters"], row["bytes"]) for row in again] == [
        (row["hyperparameters"], row["bytes"]) for row in results
    ]


def test_the_same_seed_gives_the_same_results(results: list[dict[str, Any]]) -> None:
    assert found(digits()) == results


def test_many_rows_are_subsampled(results: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "LIMIT", 200)
    monkeypatch.setattr(baselines, "CHOICE", 100)
    few = found(digits())
    assert [(row["samples"], row["available"]) for row in few] == [(200, 400)] * 3
    assert all(row["accuracy"] < full["accuracy"] for row, full in zip(few, results, strict=True))
    assert found(digits()) == few
    assert found(digits(), seed=1) != few


def test_without_validation_rows_scikit_learn_s_defaults_are_used() -> None:
    training, validation, test = digits()
    logistic, svm, _ = found((training, Rows(validation.x[:0], validation.y[:0]), test))
    assert logistic["hyperparameters"] == {"C": LogisticRegression().C}
    assert svm["hyperparameters"] == pytest.approx({"C": SVC().C, "gamma": SVC().fit(*training)._gamma})


def test_baselines_are_fitted_to_the_validation_rows_if_the_network_was() -> None:
    training, validation, test = digits()
    learned = Rows(np.concatenate([training.x, validation.x]), np.concatenate([training.y, validation.y]))
    assert [row["samples"] for row in found((training, validation, test), learned=learned)] == [600] * 3


def test_a_class_without_fitted_rows_has_no_log_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "LIMIT", 100)
    x = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    y[399] = 2
    rare = Rows(x, y)
    assert 2 not in baselines._some(rare, 100, 0).y
    logistic, _, _ = found((rare, rare, rare))
    assert logistic["log_loss"] is None
    assert logistic["accuracy"] > 0.9


def test_mc_nemar_by_hand() -> None:
    first = np.array([True] * 7 + [False] * 2 + [True] * 90)
    second = np.array([False] * 7 + [True] * 2 + [True] * 90)
    assert metrics.mcnemar(first, second) == pytest.approx(2 * (1 + 9 + 36) / 2**9)
    assert metrics.mcnemar(first, second) == metrics.mcnemar(second, first)
    assert metrics.mcnemar(first, first) == 1


def read(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "report.json").read_text())
    return values


def test_a_report_holds_them_on_the_network_s_features_and_splits(short_run: Path) -> None:
    values = read(short_run)
    features = extract.Features.load(short_run / "features.npz")
    x = (features.x - features.x[features.rows("train")].mean()) / features.x[features.rows("train")].std()
    training, test = (Rows(x[features.rows(s)], features.y[features.rows(s)]) for s in ("train", "test"))
    for row, model in zip(
        values["baselines"],
        (LogisticRegression(max_iter=1000), SVC(), RandomForestClassifier(300, random_state=0)),
        strict=True,
    ):
        model.set_params(**row["hyperparameters"]).fit(*training)
        assert row["accuracy"] == pytest.approx(
            model.score(*test), abs=1.5 / len(test.y)
        )  # rounding may tip one sample
        lead = (row["only_network"] - row["only_baseline"]) / len(test.y)
        assert values["test"]["accuracy"] - row["accuracy"] == pytest.approx(lead)
    assert [check["name"] for check in values["gate"]["checks"]] == ["min_accuracy"]


def test_the_headline_names_them_in_one_line(short_run: Path) -> None:
    values = read(short_run)
    (line,) = [line for line in page.headline(values).splitlines() if line.startswith("baselines: ")]
    for row in values["baselines"]:
        assert f"{row['name']} {row['accuracy']:.1%}".replace("%", " %") in line
        row |= {"samples": 1000, "available": 54_000}
    assert "(fitted to 1,000 of 54,000 samples)" in page.headline(values)
    assert "baselines" not in page.headline(values | {"baselines": []})


def page_of(run: Path, values: dict[str, Any], folder: Path) -> str:
    """Text of the section, in single spaces, of a page with these values."""
    (folder / "history.json").write_text((run / "history.json").read_text())
    (folder / "report.json").write_text(json.dumps(values))
    shown = Page(page.write(Run(folder)).read_text("utf-8"))
    assert not shown.open
    text = " ".join(shown.text.split())
    return text.partition("Compared with simpler models")[2].partition("By class")[0]


@pytest.mark.parametrize(
    ("network", "baseline", "says"),
    [
        (20, 3, "The network earns its place: it is better than the SVM"),
        (3, 20, "The network does not earn its place: the SVM is better."),
        (5, 4, "No significant difference between the network and the SVM"),
        (3, 12, "small, but the SVM was chosen as the best of three on the same samples"),  # p = 0.035
        (0, 0, "Both are right on the same samples."),
    ],
)
def test_the_page_says_whether_the_network_earns_its_place(
    short_run: Path, tmp_path: Path, network: int, baseline: int, says: str
) -> None:
    values = read(short_run)
    assert {"logistic regression", "SVM", "random forest", "318 kB"} <= set(_cells(short_run))
    p = binomtest(network, network + baseline).pvalue if network + baseline else 1.0
    values["baselines"][1] |= {
        "accuracy": 0.99, "only_network": network, "only_baseline": baseline, "p_value": p,
    }  # fmt: skip
    text = page_of(short_run, values, tmp_path)
    assert says in text
    assert "drawn at random" not in text
    assert "Fitted to as many" not in text


def _cells(run: Path) -> list[str]:
    source = (run / "report.html").read_text("utf-8").replace("<br>", "<")
    return [cell.partition("<")[0] for cell in source.replace('<th scope="row">', "<td>").split("<td>")]


def test_the_page_says_when_they_saw_less_than_the_network(short_run: Path, tmp_path: Path) -> None:
    values = read(short_run)
    for row in values["baselines"]:
        row |= {"samples": 10_000, "available": 54_000, "only_network": 9, "only_baseline": 8, "p_value": 1.0}
    values["task"]["train"]["augment"] = {"rotation": 7.0}
    text = page_of(short_run, values, tmp_path)
    assert "They were fitted to 10,000 of the network’s 54,000 training samples, drawn at random" in text
    assert "Fitted to as many samples as the network," in text
    assert "The network was trained on pictures distorted differently in every epoch" in text


def test_two_classes_have_baselines_and_a_task_is_free_to_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "FOREST", FEW_TREES)
    values = validated(tmp_path, "regions", "validate.baselines=true", "train.epochs=100")
    logistic = values["baselines"][0]
    assert logistic["accuracy"] < 0.7  # no line parts the regions
    assert logistic["p_value"] < 0.001
    assert validate.validate(task.load("regions"), Run(tmp_path))["baselines"] == []
    assert "Compared with simpler models" not in (tmp_path / "report.html").read_text("utf-8")


def test_numbers_have_no_baselines(tmp_path: Path) -> None:
    resolved = task.load("sine", overrides=["train.epochs=1"])
    extract.extract(resolved, Run(tmp_path))
    train.train(resolved, Run(tmp_path))
    with pytest.raises(UserError, match=r"validate\.baselines are classifiers, and the targets are numbers"):
        validate.validate(task.load("regions", overrides=["validate.baselines=true"]), Run(tmp_path))
