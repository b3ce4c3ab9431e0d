"""A table from its file to an answer over HTTP, by column name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.card import Column
from pipeline import extract, inputs, task
from pipeline.run import Run
from service.errors import MediaError
from tests.command import percept
from tests.service.in_process import application

FAST = ("--set", "train.epochs=40", "--set", "validate.baselines=false")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of one table: of its class `sold`, and of its number `price`."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    lines = ["size,city,sold,price"]
    for _ in range(300):
        size, city = rng.uniform(20, 120), int(rng.integers(3))
        price = 1000 * size * (1 + city) + 5000 * rng.normal()
        shown = "" if rng.random() < 0.1 else f"{size:.1f}"
        lines.append(f"{shown},{('Bonn', 'Köln', 'Rom')[city]},{'yes' if price < 150_000 else 'no'},{price:.0f}")
    (folder / "flats.csv").write_text("\n".join(lines), "utf-8")
    for name, target in (("sold", "sold"), ("price", "price")):
        data = ("--data", folder / "flats.csv", "--set", f"data.target={target}", "--set", f"name={name}")
        done = percept("run", "table", *data, *FAST, home=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[httpx.Client]:
    with application(home) as running:
        yield running


ROW: dict[str, Any] = {"size": 60, "city": "Köln", "price": 120_000}


def test_the_answer_by_name_and_in_order(client: httpx.Client) -> None:
    by_name = client.post("/predict/sold", json=ROW)
    in_order = client.post("/predict/sold", json=[*ROW.values()])
    assert by_name.status_code == 200, by_name.text
    assert by_name.json() == in_order.json()
    assert by_name.json()["known"] is True
    assert by_name.json()["label"] == "yes"
    [card] = [card for card in client.get("/models").json()["models"] if card["name"] == "sold"]
    assert [column["name"] for column in card["input"]["columns"]] == ["size", "city", "price"]
    assert card["input"]["columns"][1]["categories"] == ["Bonn", "Köln", "Rom"]


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({"size": None}, True),
        ({"city": "Oslo"}, False),
        ({"city": None}, False),
        ({"size": None, "city": None}, False),
        ({"size": None, "price": None}, False),
        ({"price": 1e7}, False),
    ],
)
def test_only_what_training_never_had_is_unknown(client: httpx.Client, change: dict[str, Any], known: bool) -> None:
    assert client.post("/predict/sold", json=ROW | change).json()["known"] is known


def test_a_number_is_predicted_in_its_unit(client: httpx.Client, home: Path) -> None:
    answer = client.post("/predict/price", json={"size": 60, "city": "Rom", "sold": "no"}).json()
    assert 120_000 < answer["value"]["price"] < 240_000
    assert answer["known"] is True
    report = Run(home / "runs" / "price").json(home / "runs" / "price" / "report.json", "validate")
    assert report["test"]["r2"] > 0.8
    history = Run(home / "runs" / "price").json(home / "runs" / "price" / "history.json", "train")
    assert min(history["validation_loss"]) > 1e6  # squared, in the unit of the target


def test_tensors_with_gaps(client: httpx.Client) -> None:
    tensor = {"name": "vector", "shape": [2, 3], "datatype": "FP32", "data": [60, 1, 120_000, None, 1, 120_000]}
    answer = client.post("/v2/models/sold/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    expected = [client.post("/predict/sold", json=ROW | change).json() for change in ({}, {"size": None})]
    found = answer.json()["outputs"][0]["data"]
    assert found[0::2] == pytest.approx([row["probabilities"]["no"] for row in expected], abs=1e-6)


def test_a_mistake_is_refused_with_the_column(client: httpx.Client) -> None:
    answer = client.post("/predict/sold", json=ROW | {"size": "big"})
    assert answer.status_code == 422
    assert "column 'size'" in answer.json()["error"]["message"]
    assert client.post("/predict/sold", content=b"size,city\n1,2").status_code == 400


def test_an_older_version_is_compared_on_rows_of_a_table_that_has_grown(home: Path, tmp_path: Path) -> None:
    """A new category, the first in the alphabet, gives the others another index; and there are new columns."""
    header, *lines = (home / "flats.csv").read_text("utf-8").splitlines()
    lines = [f"{i % 7},{line}" for i, line in enumerate([*lines, *["50,Aachen,yes,90000", "51,Aachen,yes,95000"] * 3])]
    (tmp_path / "grown.csv").write_text("\n".join([f"floor,{header}", *lines]), "utf-8")
    grown = task.load("table", str(tmp_path / "grown.csv"), ["data.target=sold", "data.seed=1"])
    extract.extract(grown, Run(tmp_path / "sold"))
    (version,) = (folder.name for folder in (home / "models" / "sold").iterdir() if folder.is_dir())
    done = percept("compare", f"sold:{version}", f"sold:{version}", "--runs", tmp_path, home=home)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "compare.json").read_text())
    assert found["a"]["accuracy"] > 0.9


def test_samples_are_rows_that_the_service_takes(client: httpx.Client, home: Path) -> None:
    for file in (home / "runs" / "sold" / "samples").glob("*.json"):
        assert client.post("/predict/sold", content=file.read_bytes()).status_code == 200


def test_rows_of_a_file_are_predicted_one_by_one(home: Path, client: httpx.Client) -> None:
    (home / "new.csv").write_text("price;city;size\n120000;Köln;60,0\n120000;Köln;\n120000;Köln;big\n", "utf-8")
    done = percept("predict", "sold", home / "new.csv", "--json", home=home)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["new.csv:2", "new.csv:3", "new.csv:4"]
    expected = [client.post("/predict/sold", json=ROW | change).json() for change in ({}, {"size": None})]
    assert [line["probabilities"] for line in lines[:2]] == [answer["probabilities"] for answer in expected]
    assert "column 'size': expected a number" in lines[2]["error"]
    assert done.returncode == 1


def test_rows_of_a_file_with_the_header_that_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    """None, or one with names missing or given twice."""
    columns = (Column(name="column 1"), Column(name="column 3"))
    (tmp_path / "bare.csv").write_text("1,x,2\n3,y,4\n", "utf-8")
    (tmp_path / "nameless.csv").write_text(",b,\n1,x,\n3,y,4,5\n", "utf-8")
    (tmp_path / "twice.csv").write_text("a,a\n1,2\n", "utf-8")
    bare = [json.loads(read()) for _, read in inputs.parts([tmp_path / "bare.csv"], columns)]
    assert bare == [{"column 1": 1, "column 3": 2}, {"column 1": 3, "column 3": 4}]
    [(_, twice)] = inputs.parts([tmp_path / "twice.csv"], (Column(name="a.2"), Column(name="a")))
    assert json.loads(twice()) == {"a.2": 2, "a": 1}
    (_, short), (place, long) = inputs.parts([tmp_path / "nameless.csv"], columns[:1])
    assert (json.loads(short()), place.name) == ({"column 1": 1}, "nameless.csv:3")
    with pytest.raises(MediaError, match="4 cells in the row, 2 in the first row"):
        long()


def test_a_table_that_cannot_be_read_costs_no_other_answer(tmp_path: Path, home: Path) -> None:
    row = "120000,Köln,60\n"
    contents = {
        "good": row,
        "bare": "",
        "empty": None,
        "commas": None,
        "quote": row + '1,"a,2\n',
        "last": row,
    }
    blank = {"empty": "", "commas": ",,,\n"}
    for name, body in contents.items():
        (tmp_path / f"{name}.csv").write_text(blank[name] if body is None else "price,city,size\n" + body, "utf-8")
    done = percept("predict", "sold", *(tmp_path / f"{name}.csv" for name in contents), home=home)
    assert (done.returncode, done.stderr) == (1, "")
    said = [line.removeprefix(f"{tmp_path}/").split("  ")[:2] for line in done.stdout.splitlines()]
    assert [name for name, _ in said] == [
        "good.csv:2", "bare.csv", "empty.csv", "commas.csv", "quote.csv:2", "quote.csv", "last.csv:2",
    ]  # fmt: skip
    reasons = [reason for name, reason in said if ":" not in name]
    assert reasons == ["no rows below the header", "empty", "empty", "line 3: a quote is not closed"]


@pytest.mark.parametrize("name", ["t.tsv", "t.npz", "X.npy", "t.parquet"])
def test_a_file_is_chosen_for_learned_from_and_predicted_row_by_row(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    x, names = rng.normal(size=(120, 2)).round(3), ["x1", "x2"]
    y = np.where(x[:, 0] > 0, "yes", "no")
    if name == "t.tsv":
        lines = ["x1\tx2\ty", *(f"{a}\t{b}\t{label}" for (a, b), label in zip(x, y, strict=True))]
        (tmp_path / name).write_text("\n".join(lines).replace(".", ","))
    elif name == "t.npz":
        np.savez(tmp_path / name, X=x, y=y, feature_names=names)
    elif name == "X.npy":
        np.save(tmp_path / name, x)
        np.save(tmp_path / "y.npy", y)
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"x1": x[:, 0], "x2": x[:, 1], "y": y.tolist()}), tmp_path / name)
    target = () if name.startswith(("t.npz", "X")) else ("--set", "data.target=y")
    done = percept("run", tmp_path / name, *target, "--set", "name=own", *FAST, home=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "y.npy").unlink(missing_ok=True)  # new rows have no targets
    done = percept("predict", "own", tmp_path / name, "--json", home=tmp_path)
    assert done.returncode == 0, done.stdout[:500]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    samples = extract.Features.of(Run(tmp_path / "runs" / "own"))
    assert [Path(answer["file"]).name for answer in answers] == sorted(
        samples.file.tolist(), key=lambda file: int(file.rpartition(":")[2])
    )
    assert np.mean([answer["label"] == label for answer, label in zip(answers, y, strict=True)]) > 0.9
    # One row does not tell whether its comma stands between thousands: text that was learned from does, or a semicolon.
    if divided := {"t.tsv": "\t", "t.parquet": ";"}.get(name):
        for file, number in {"one": "1,234", "told": "1,2340"}.items():
            (tmp_path / f"{file}.tsv").write_text(f"x1{divided}x2\n-{number}{divided}{number}\n")
        done = percept("predict", "own", tmp_path / "one.tsv", tmp_path / "told.tsv", "--json", home=tmp_path)
        one, told = (json.loads(line)["probabilities"] for line in done.stdout.splitlines())
        assert one == told


def test_gaps_and_categories_of_parquet_are_those_of_training(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = {
        "size": [1.5, None, float("nan")],
        "sold": [True, None, False],
        "floor": [2, None, 3],
        "more": ["", "x", "y"],
    }
    parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
    columns = (Column(name="floor"), Column(name="sold", categories=("False", "True")), Column(name="size"))
    assert [json.loads(read()) for _, read in inputs.parts([tmp_path / "t.parquet"], columns)] == [
        {"floor": 2, "sold": "True", "size": 1.5},
        {"floor": None, "sold": None, "size": None},
        {"floor": 3, "sold": "False", "size": None},
    ]
    parquet.write_table(pyarrow.table({"size": []}), tmp_path / "empty.parquet")
    [(_, read)] = inputs.parts([tmp_path / "empty.parquet"], columns)
    with pytest.raises(MediaError, match="no rows"):
        read()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("t.xlsx", "not text; save the table as CSV"),
        ("t.npz", "not NumPy's arrays"),
        ("X.npy", "not NumPy's arrays"),
        ("t.parquet", "not a Parquet file"),
    ],
)
def test_what_is_no_table_is_refused_by_all_commands(home: Path, name: str, reason: str) -> None:
    (home / name).write_bytes(b"PK\3\4\0\0")
    (home / "y.npy").write_bytes(b"PK")
    for command in (["run"], ["run", "table", "--data"], ["predict", "sold"]):
        done = percept(*command, home / name, home=home)
        said = done.stdout.splitlines() + done.stderr.splitlines()
        assert done.returncode == 1
        assert reason in said[-1]
        assert len(said) <= 2  # `run` tells first which task it has chosen


def test_medians_are_of_the_training_samples(home: Path) -> None:
    features = extract.Features.of(Run(home / "runs" / "sold"))
    [size, city, _] = features.task["features"]["columns"]
    lines = (home / "flats.csv").read_text("utf-8").splitlines()
    trained = [int(file.rpartition(":")[2]) - 1 for file in features.file[features.rows("train")]]
    given = [float(lines[i].split(",")[0]) for i in trained if lines[i].split(",")[0]]
    assert size["median"] == pytest.approx(np.median(given))
    assert (size["missing"], city["missing"], city["frequent"]) == (True, False, [0, 1, 2])


def test_equal_rows_stay_together_and_are_no_named_groups(tmp_path: Path) -> None:
    lines = ["a,kind", *(f"{i // 2}.5,{'xy'[i % 4 // 2]}" for i in range(40))]
    (tmp_path / "pairs.csv").write_text("\n".join(lines), "utf-8")
    pairs = task.load("table", str(tmp_path / "pairs.csv"), ["data.target=kind"])
    features = extract.extract(pairs, Run(tmp_path / "run"))
    assert (len(features.y), len(set(features.group.tolist())), features.has_groups) == (40, 20, False)
    assert len(set(zip(features.group.tolist(), features.split.tolist(), strict=True))) == 20


def test_many_small_classes_are_a_short_message(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n".join(["a,y", *(f"{i},c{i % 15}" for i in range(30))]), "utf-8")
    done = percept("extract", "table", "--data", tmp_path / "t.csv", "--set", "data.target=y", home=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 6
    assert done.stderr.endswith("10 more classes like these\n")
