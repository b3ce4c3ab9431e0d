"""Tables as programs of many countries write them, and one line for each that cannot be used."""

import json
import random
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest

from models.card import Column
from pipeline import inputs
from pipeline.errors import UserError
from pipeline.sources import Data, Sample, table
from pipeline.sources.columns import parse_number
from pipeline.sources.delimited import find_format
from service.errors import MediaError
from service.media.table import TableRow

N = 30


def written(folder: Path, content: str | bytes, name: str = "t.csv", **options: Any) -> list[Sample]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return table.load(Data(source="table", path=str(path), **({"target": "y"} | options)))


def rows(row: Callable[[int], str], n: int = N) -> str:
    return "".join(f"{row(i)}\n" for i in range(n))


def values(samples: list[Sample]) -> list[list[float]]:
    return [sample.media.load().tolist() for sample in samples]


def kinds(samples: list[Sample]) -> dict[str, tuple[str, ...]]:
    """Name of each column → its categories."""
    assert isinstance(samples[0].media, table.RowMedia)
    return {column.name: column.categories for column in samples[0].media.columns}


PLAIN = "a,b,y\n" + rows(lambda i: f"{i}.5,{'uv'[i % 2]},{i % 3}")

R = '"a" "b" "y"\n' + rows(lambda i: f'"{i + 1}" {i}.5 "{"uv"[i % 2]}" {i % 3}')  # as write.table writes it


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", ";").replace(".5", ",5"),
        PLAIN.replace(",", "|"),
        PLAIN.replace("\n", ",\n"),
        PLAIN.replace("\n", "\r\n\r\n"),
        PLAIN.replace("u", '"u"'),
        PLAIN.replace("b", '"b"').replace("u", '"u"').replace(",", ", "),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-16-le"),
        PLAIN.encode("utf-16-be"),
        "sep=,\n" + PLAIN,
        PLAIN.replace(",", "  "),
        R,
        "sep=;\n" + R.replace(" ", ";"),
    ],
    ids=[
        "commas",
        "tabs",
        "decimal commas",
        "bars",
        "delimiter at the end",
        "blank rows",
        "quotes",
        "quotes behind spaces",
        "mark",
        "UTF-16",
        "UTF-16 without a mark",
        "UTF-16 without a mark, other order",
        "sep",
        "spaces",
        "R",
        "R with sep",
    ],
)
def test_a_table_is_the_same_however_it_is_written(tmp_path: Path, content: str | bytes) -> None:
    samples = written(tmp_path, content)
    assert values(samples) == [[i + 0.5, i % 2] for i in range(N)]
    assert kinds(samples) == {"a": (), "b": ("u", "v")}
    assert [sample.label for sample in samples] == [str(i % 3) for i in range(N)]
    assert len({sample.digest() for sample in samples}) == N


@pytest.mark.parametrize(
    "title",
    [
        "Flats of Bonn\n\n",
        "Flats of Bonn,,\n2024,,\n,,\n",
        '"Flats, all"\n',
        "# made by hand\n",
        "sep=,\nFlats\n",
        '"Flats,\nall"\n',
    ],
)
def test_a_title_above_the_header_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], title: str
) -> None:
    samples = written(tmp_path, title + PLAIN)
    assert values(samples) == [[i + 0.5, i % 2] for i in range(N)]
    line = title.count("\n") + 1
    assert samples[0].file == f"t.csv:{line + 1}"
    assert f"the header is in line {line}" in capsys.readouterr().out
    columns = (Column(name="a"), Column(name="b", categories=("u", "v")))
    (place, read), *_ = inputs.parts([tmp_path / "t.csv"], columns)
    assert (place.name, json.loads(read())) == (f"t.csv:{line + 1}", {"a": 0.5, "b": "u"})


@pytest.mark.parametrize("head", ["a,\n", ",b\n", "a\n", '"a\n(kg)",b\n'])
def test_a_single_name_is_no_title(tmp_path: Path, head: str) -> None:
    (tmp_path / "t.csv").write_text(head + "1,5\n2,5\n")
    assert find_format(tmp_path / "t.csv").titles == 0


def test_names_in_latin_1_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = written(tmp_path, ("größe,b,y\n" + rows(lambda i: f"{i},{'äö'[i % 2]},{i % 3}")).encode("latin-1"))
    assert kinds(samples) == {"größe": (), "b": ("ä", "ö")}
    assert "read as cp1252" in capsys.readouterr().out


def test_words_are_the_same_with_accents_composed_or_apart(tmp_path: Path) -> None:
    """macOS and some databases write ö as o and dots."""
    text = "größe,b,ÿ\n" + rows(lambda i: f"{i},{'äö'[i % 2]},{'üß'[i % 2]}")
    mixed = "".join(normalize("NFD" if i % 4 < 2 else "NFC", line) for i, line in enumerate(text.splitlines(True)))
    samples = written(tmp_path, mixed, target="ÿ")
    assert kinds(samples) == {"größe": (), "b": ("ä", "ö")}
    assert {sample.label for sample in samples} == {"ü", "ß"}
    (tmp_path / "new.csv").write_text(normalize("NFD", "größe,b\n1,ö\n"), "utf-8")
    columns = (Column(name="größe"), Column(name="b", categories=("ä", "ö")))
    [(_, read)] = inputs.parts([tmp_path / "new.csv"], columns)
    assert TableRow(columns, True).decode(read()).tolist() == [1, 1]


def test_models_may_have_names_of_columns_with_accents_apart(tmp_path: Path) -> None:
    """As those exported earlier have."""
    name = normalize("NFD", "größe")
    (tmp_path / "new.csv").write_text("größe\n1,5\n", "utf-8")
    [(_, read)] = inputs.parts([tmp_path / "new.csv"], [Column(name=name)])
    assert json.loads(read()) == {name: 1.5}


def test_what_cannot_be_learned_from_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = rows(lambda i: f"{i},{i},2024-01-0{1 + i % 9},words of row {i},same,,{i % 2}")
    assert kinds(written(tmp_path, "id,a,day,note,c,empty,y\n" + row)) == {"a": ()}
    [line] = [line for line in capsys.readouterr().out.splitlines() if "not used" in line]
    for reason in ("row: id", "dates: day", "names: note", "constant: c", "empty: empty"):
        assert reason in line


def test_missing_values_are_nan_and_a_row_without_target_is_left_out(tmp_path: Path) -> None:
    samples = written(
        tmp_path,
        "a,b,y\n" + rows(lambda i: f"{i if i % 5 else 'NA'},{'uv'[i % 2] if i % 7 else ''},{i % 2}") + "1,u,\n1,u\n",
    )
    usable = [sample for sample in samples if sample.label]
    assert [np.isnan(row).tolist() for row in values(usable)] == [[i % 5 == 0, i % 7 == 0] for i in range(N)]
    reasons = [sample.digest() for sample in samples if not sample.label]
    assert "no value in the target's column 'y'" in reasons[0]
    assert "2 cells in the row, 3 in the first row (t.csv:33)" in reasons[1]


def test_zeros_in_front_truth_values_and_percent(tmp_path: Path) -> None:
    samples = written(tmp_path, "zip,t,p,y\n" + rows(lambda i: f"0{100 + i % 3},{i % 2 == 0},{i} %,0{i % 2}"))
    assert kinds(samples) == {"zip": ("0100", "0101", "0102"), "t": ("False", "True"), "p": ()}
    assert values(samples)[3] == [0, 0, 3]
    assert {sample.label for sample in samples} == {"00", "01"}


def test_money_as_spreadsheets_write_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "a;b;y\n" + rows(lambda i: f"{('€ ', '-€ ')[i % 2]}1.{i:03},50;({i + 7},5){' ' * (i % 2)};{i % 2}")
    assert values(written(tmp_path, text))[:2] == [[1000.5, -7.5], [-1001.5, -8.5]]
    assert "decimal commas in a, b" in (out := capsys.readouterr().out)
    assert "converted" not in out
    written(tmp_path, text.replace("-€", "-$"))
    assert "a has numbers in $ and €, which are not converted" in capsys.readouterr().out


def test_a_minus_is_one_behind_the_number_and_as_a_dash(tmp_path: Path) -> None:
    """As SAP and typesetters write it; a dash alone is no value."""
    text = "a;b;c;y\n" + rows(lambda i: f"{i},5{'- '[i % 2]};{'–−'[i % 2]}{i + 1};{i if i % 3 else '—'};{i % 2}")
    assert np.nan_to_num(values(written(tmp_path, text))[:2], nan=99).tolist() == [[-0.5, -1, 99], [1.5, -2, 1]]


def test_codes_and_pairs_in_parentheses_are_categories(tmp_path: Path) -> None:
    """Where some numbers have none, these are the sign of the others."""
    text = "a;b;c;d;y\n" + rows(
        lambda i: f"(0{3 + i % 2}0);(1,{i % 3});{i % 2}0{'-–'[i % 2]};{('(1)', '1')[i % 2]};{i % 2}"
    )
    assert kinds(written(tmp_path, text)) == {
        "a": ("(030)", "(040)"), "b": ("(1,0)", "(1,1)", "(1,2)"), "c": ("00-", "10–"), "d": (),
    }  # fmt: skip


def test_a_sign_far_from_the_number_takes_no_time() -> None:
    start = time.monotonic()
    assert parse_number(f"1{20_000 * ' '}x$") is None
    assert time.monotonic() - start < 1


def test_equal_rows_count_each_and_share_a_split_whatever_the_order(tmp_path: Path) -> None:
    first, again = (
        written(tmp_path, "a,b,y\n" + text) for text in ("1,u,0\n2,v,1\n" * 15, "2,t,0\n" * 9 + "1,u,0\n2,v,1\n" * 15)
    )
    digests = [sample.digest() for sample in first]
    assert len(set(digests)) == N
    assert len({digest.partition("-")[0] for digest in digests}) == 2
    assert {*digests} < {sample.digest() for sample in again}


def test_the_target_decides_the_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "a,y\n" + rows(lambda i: f"{i * i},{i * 1.5}")
    assert written(tmp_path, text)[2].label == (3.0,)
    assert "y is predicted as a number (regression), from 0 to 43.5" in capsys.readouterr().out
    assert written(tmp_path, text, regression=False)[2].label == "3.0"
    assert capsys.readouterr().out.endswith("; --set data.regression=true for a number\n")


def test_columns_of_one_name_splits_and_a_file_without_a_header(tmp_path: Path) -> None:
    samples = written(
        tmp_path, "a,a,split,y\n" + rows(lambda i: f"{i},{2 * i},{('train', 'val', 'test')[i % 3]},{i % 2}")
    )
    assert kinds(samples) == {"a": (), "a.2": ()}
    assert [sample.split for sample in samples[:3]] == ["train", "validation", "test"]
    assert kinds(written(tmp_path, rows(lambda i: f"{i},{i % 2}"), target="2")) == {"column 1": ()}


def test_a_row_need_not_name_its_split(tmp_path: Path) -> None:
    text = "a,Split,y\n" + rows(lambda i: f"{i},{('train', 'val', 'test', '')[i % 4]},{i % 2}")
    samples = written(tmp_path, text)
    assert kinds(samples) == {"a": ()}
    assert [sample.split for sample in samples[:4]] == ["train", "validation", "test", None]
    with pytest.raises(UserError, match="column 'Split': 'holdout' is not train, validation, test"):
        written(tmp_path, text.replace("val", "holdout"))


def test_numbers_that_float32_makes_equal_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, "ms,day,y\n" + rows(lambda i: f"{1_716_000_000_000 + 50 * i},{20240101 + i},{i % 2}"))
    assert "float32, which a network takes, makes most numbers equal in ms\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        ("", {}, "empty"),
        ("a,y\n", {}, "no rows below the header"),
        (PLAIN, {"target": None}, "which column is to be predicted"),
        (PLAIN.replace("a,", "label,", 1), {"target": "lable"}, "did you mean 'label'"),
        (b"\x89PNG\0\0", {}, "zero bytes"),
        (
            'a,b,y\n1,"2,x\n' + "1,2,x\n" * 9,
            {},
            "t.csv, line 2: a quote is not closed",
        ),
        ("a,y\n1,\n2,?\n", {}, "no row has a value in the target's column 'y'"),
        (PLAIN + '1,"' + "x\n" * 200_000, {}, "is a quote not closed"),
        ("y\n1\n0\n", {}, "no column of numbers or categories beside"),
        (PLAIN, {"target": "b", "regression": True}, "holds no numbers"),
        ("a,y\n" + rows(lambda i: f"{i},{1e12 + 9 * i}"), {}, "makes most numbers in 'y' equal; subtract"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(
    tmp_path: Path, content: str | bytes, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        written(tmp_path, content, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "delimiter", "first"),
    [
        (lambda i: (f"{i},5", f"{200 + i}.000", f"1.2{i:02}.000"), ";", [0.5, 200_000, 1_200_000]),
        (lambda i: (f"{i},125", f"{i},5", f"1\u202f2{i:02},50"), "\t", [0.125, 0.5, 1200.5]),
        (lambda i: (f"{i}.125", f"{i}.5", f"1’2{i:02}.50"), ",", [0.125, 0.5, 1200.5]),
        (lambda i: (f"1,2{i:02}", f"{i}.5", f"1,2{i:02}.50"), ";", [1200, 0.5, 1200.5]),
        (lambda i: (f"{i}.125", f"{i + 1}.250", f"{i + 1}"), "|", [0.125, 1.25, 1]),
        (lambda i: (f"{i + 1}.125", f"{i + 1}.250", f"{i + 1}"), ";", [1.125, 1.25, 1]),
        (lambda i: (f"{i + 1},125", f"{i + 1},250", f"{i + 1}"), ";", [1.125, 1.25, 1]),
        (lambda i: (f"{1 + i % 2}.{i + 100}" if i else "250", f"{i + 1}.500", f"{i}"), ";", [250, 1500, 0]),
        (lambda i: (f"{1 + i % 2},{i + 100}" if i else "250", f"{i + 1},500", f"{i}"), ";", [250, 1500, 0]),
        (lambda i: (f"{1 + i % 2}.{i + 100}" if i else "2500", f"{i + 1}.500", f"{i}"), ";", [2500, 1.5, 0]),
    ],
    ids=[
        "German",
        "French",
        "Swiss",
        "English in semicolons",
        "three decimals",
        "points in semicolons",
        "commas in semicolons",
        "points between thousands",
        "commas between thousands",
        "no points between thousands",
    ],
)
def test_columns_that_do_not_tell_their_decimal_sign_follow_those_that_do(
    tmp_path: Path, row: Callable[[int], tuple[str, ...]], delimiter: str, first: list[float]
) -> None:
    """Where a file is learned from, and where it is predicted."""
    text = "a;b;c;y\n" + rows(lambda i: ";".join((*row(i), str(i % 2))))
    samples = written(tmp_path, text.replace(";", delimiter))
    assert values(samples)[0] == np.float32(first).tolist()
    columns = [Column(name=name) for name in kinds(samples)]
    predicted = [[*json.loads(read()).values()] for _, read in inputs.parts([tmp_path / "t.csv"], columns)]
    assert np.float32(predicted).tolist() == values(samples)


def test_a_column_follows_the_others_where_its_first_rows_are_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "a;b;y\n" + rows(lambda i: f"{i},5;{i};{i % 2}", 1000) + rows(lambda i: f"{i},5;{i},5;{i % 2}")
    assert values(written(tmp_path, text))[-1] == [N - 0.5, N - 0.5]
    assert "t.csv: decimal commas in a, b\n" in capsys.readouterr().out


@pytest.mark.parametrize(("comma", "expected"), [(True, 1234), (False, 1.234)])
def test_rows_that_do_not_tell_their_decimal_sign_follow_those_learned_from(
    tmp_path: Path, comma: bool, expected: float
) -> None:
    """Where they do, these do not matter."""
    columns, learned = (Column(name="a"), Column(name="b")), {"a": comma, "b": comma}
    for name, row in {"one": "1.234;15\n", "told": "1,234;1.5\n"}.items():
        (tmp_path / f"{name}.csv").write_text(f"a;b\n{row}")
    one, told = inputs.parts([tmp_path / "one.csv", tmp_path / "told.csv"], columns, commas=learned)
    assert json.loads(one[1]())["a"] == expected
    assert json.loads(told[1]()) == {"a": 1234, "b": 1.5}


def test_one_is_counted_in_the_singular(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, "a,y\n" + rows(lambda i: f"{i},x") + "Total,x\n")
    out = capsys.readouterr().out
    assert "t.csv: 1 cell without a number in columns of numbers, taken as missing, the first 'Total' in a" in out
    assert "y is predicted as one of 1 class: x" in out


@pytest.mark.parametrize("missing", ["NA", "NULL", "\\N", "(null)", "#DIV/0!", "NaT"])
def test_what_programs_write_for_a_missing_value(tmp_path: Path, missing: str) -> None:
    text = "a,b,y\n" + rows(
        lambda i: ",".join(missing if i % 7 == d else f"{('', 'v', 'w')[d]}{i % 2}" for d in range(3))
    )
    samples = written(tmp_path, text)
    assert kinds(samples) == {"a": (), "b": ("v0", "v1")}
    assert {sample.label for sample in samples} == {"w0", "w1", ""}
    assert [np.isnan(row).tolist() for row in values([samples[0], samples[1]])] == [[True, False], [False, True]]


@pytest.mark.parametrize(
    "header", ['""', "Unnamed: 0.1", "rownames", "PassengerId", "level_0", "#", "No.", "S. No.", "Lfd. Nr.", "ID#"]
)
def test_numbers_of_rows_are_not_learned_from(tmp_path: Path, header: str) -> None:
    """pandas and R write them without being asked; rows sorted by their target would be told by them."""
    samples = written(tmp_path, f"{header},a,y\n" + rows(lambda i: f"{i},{i % 7},{i // 15}"))
    assert kinds(samples) == {"a": ()}


def test_a_cell_too_many_is_no_name_of_its_row(tmp_path: Path) -> None:
    """Where a few rows have one, or a single name stands above numbers with decimal commas."""
    few = written(tmp_path, PLAIN.replace("0\n", "0,note\n").replace("1\n", "1,\n"))
    assert [sample.media.load().tolist() for sample in few if sample.label] == [
        [i + 0.5, i % 2] for i in range(N) if i % 3
    ]
    with pytest.raises(UserError, match="3 cells in the row, 2 in the first row"):  # or two rows have one name
        written(tmp_path, "a,y\n" + rows(lambda i: f"{i // 2},{i % 2},note"))
    (tmp_path / "one.csv").write_text("a\n1,5\n2,5\n")
    for _, row in inputs.parts([tmp_path / "one.csv"], [Column(name="a")]):
        with pytest.raises(MediaError, match="2 cells in the row, 1 in the first row"):
            row()


def test_names_of_rows_are_passed_over_in_predictions(tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text(R)
    columns = (Column(name="b", categories=("u", "v")), Column(name="a"))
    found = [(row.name, json.loads(read())) for row, read in inputs.parts([tmp_path / "new.txt"], columns)]
    assert found[1] == ("new.txt:3", {"b": "v", "a": 1.5})


def test_no_two_columns_have_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = written(tmp_path, "a,a,a.2,y\n" + rows(lambda i: f"{i},{2 * i},{3 * i},{i % 2}"))
    assert kinds(samples) == {"a": (), "a.3": (), "a.2": ()}
    assert "1 column has the name of another; the second 'a' is a.3" in capsys.readouterr().out


def test_bytes_of_utf_8_are_text(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.arange(30.0))
    for encoding in ("utf-8", "latin-1"):
        np.save(tmp_path / "y.npy", np.array(["Zürich".encode(encoding), b"Bern"] * 15))
        assert table.load(Data(source="table", path=str(tmp_path / "X.npy")))[0].label == "Zürich"


def test_parquet_as_pandas_writes_it(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    a = np.arange(30)
    large = pyarrow.array(a.astype(np.uint64) + np.uint64(2**63))
    columns = [large, pyarrow.array(a), pyarrow.array(a / 2), pyarrow.array(a), pyarrow.array(a % 2)]
    names = ["large", "a", "a", "__index_level_0__", "y"]
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns, names=names), tmp_path / "t.parquet")
    samples = table.load(Data(source="table", path=str(tmp_path / "t.parquet"), target="y"))
    assert kinds(samples) == {"a": (), "a.2": ()}
    assert values(samples)[3] == [3, 1.5]


def test_texts_of_parquet_and_numpy_may_have_decimal_commas(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    a, b = [f"{i},5" for i in range(N)], [f"{i + 1}.000" for i in range(N)]
    y = [i % 2 for i in range(N)]
    parquet.write_table(pyarrow.table({"a": a, "b": b, "c": [0.5 * i for i in range(N)], "y": y}), tmp_path / "t.pq")
    np.savez(tmp_path / "t.npz", x=np.array([a, b]).T, y=y, names=["a", "b"])
    for name, n in (("t.pq", 3), ("t.npz", 2)):
        samples = table.load(Data(source="table", path=str(tmp_path / name), target="y"))
        assert values(samples)[2] == [2.5, 3000, 1][:n]
        columns = [Column(name=name) for name in kinds(samples)]
        predicted = [[*json.loads(read()).values()] for _, read in inputs.parts([tmp_path / name], columns)]
        assert predicted == values(samples)


def test_a_column_of_parquet_that_has_no_name_is_left_out_at_the_end(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    cells = [[f"{i},5" for i in range(N)], [i % 2 for i in range(N)], [*range(N)]]
    parquet.write_table(pyarrow.table([*map(pyarrow.array, cells)], names=["a", "y", ""]), tmp_path / "t.parquet")
    samples = table.load(Data(source="table", path=str(tmp_path / "t.parquet"), target="y"))
    assert kinds(samples) == {"a": ()}
    read = inputs.parts([tmp_path / "t.parquet"], [Column(name="a")])
    assert [[*json.loads(row()).values()] for _, row in read] == values(samples)


def test_whole_numbers_of_parquet_that_float64_would_make_equal_are_classes_of_their_own(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    y = [None, *(2**53 + i % 3 for i in range(1, N))]
    parquet.write_table(pyarrow.table({"a": [*range(N)], "y": y}), tmp_path / "t.parquet")
    samples = table.load(Data(source="table", path=str(tmp_path / "t.parquet"), target="y"))
    assert [sample.label for sample in samples] == ["", *map(str, y[1:])]


def test_texts_in_bytes_and_whole_numbers_in_decimals_of_parquet(tmp_path: Path) -> None:
    """As Spark and Hive, and databases, write them."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    words = [word.encode(form) for word, form in (("Köln", "utf-8"), ("Zürich", "latin-1"))] * 15
    parquet.write_table(pyarrow.table({"a": words, "y": [Decimal(i % 2) for i in range(N)]}), tmp_path / "t.parquet")
    samples = table.load(Data(source="table", path=str(tmp_path / "t.parquet"), target="y"))
    assert kinds(samples) == {"a": ("Köln", "Zürich")}
    assert [sample.label for sample in samples[:2]] == ["0", "1"]
    _, (_, read), *_ = inputs.parts([tmp_path / "t.parquet"], [Column(name="a", categories=("Köln", "Zürich"))])
    assert json.loads(read()) == {"a": "Zürich"}


def test_arrays_and_parquet(tmp_path: Path) -> None:
    x, y = np.arange(60.0).reshape(30, 2), np.arange(30) % 3
    np.savez(tmp_path / "t.npz", X=x, y=y, feature_names=["u", "v"])
    np.save(tmp_path / "X.npy", x)
    np.save(tmp_path / "y.npy", np.array(["p", "q", "r"])[y])
    loaded = [table.load(Data(source="table", path=str(tmp_path / name))) for name in ("t.npz", "X.npy")]
    assert values(loaded[0]) == values(loaded[1]) == x.tolist()
    assert kinds(loaded[0]) == {"u": (), "v": ()}
    assert [samples[4].label for samples in loaded] == ["1", "q"]
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"a": [1, None, 3] * 10, "c": ["u", "v", None] * 10, "y": [0, 1, 2] * 10}
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    samples = table.load(Data(source="table", path=str(tmp_path / "t.parquet"), target="y"))
    assert kinds(samples) == {"a": (), "c": ("u", "v")}
    assert np.isnan(samples[1].media.load()).tolist() == [True, False]
    assert samples[2].label == "2"


def test_a_damaged_table_is_read_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = random.Random(0)
    for _ in range(150):
        content = bytearray(PLAIN.encode())
        for _ in range(generator.randint(1, 30)):
            at = generator.randrange(len(content))
            content[at : at + generator.choice([0, 1, 20])] = bytes(
                generator.choices(b',;"\n\r\t 09.-eE%\xff\xc3', k=3)
            )
        try:
            samples = written(tmp_path, bytes(content), target=generator.choice(["y", "2", "b"]))
        except UserError as error:
            assert str(error).startswith(str(tmp_path))  # noqa: PT017
        else:
            assert all(sample.digest() for sample in samples)


@pytest.mark.parametrize(
    ("text", "comma", "number"),
    [
        ("1 234,5", True, 1234.5),
        ("1,234.5", False, 1234.5),
        ("−3", False, -3),
        ("1,2,3", False, None),
        ("0x1", False, None),
        ("1’234.5", False, 1234.5),
        ("1.234.567", True, 1234567),
        ("1.234", True, 1234),
        ("1.23", True, 1.23),
        ("12,34,567.50", False, 1234567.5),
        ("$1,234.50", False, 1234.5),
        ("-$3", False, -3),
        ("$-3", False, -3),
        ("€ 1.234,50", True, 1234.5),
        ("12,50\u00a0€", True, 12.5),
        ("(1,234.50)", False, -1234.5),
        ("$ (3.00)", False, -3),
        ("( £3 )", False, -3),
        ("%12", False, 12),
        ("(12 %)", False, -12),
        ("5$5", False, None),
        ("5 $ 500", False, None),
        ("(-3)", False, None),
        ("()", False, None),
    ],
)
def test_numbers_of_several_countries(text: str, comma: bool, number: float | None) -> None:
    assert parse_number(text, comma) == number
