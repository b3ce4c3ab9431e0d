"""Files that cannot be used: a class is never lost silently, and the reasons are told by class and in groups."""

import pytest

from pipeline.extract import skipped
from pipeline.sources import Sample, Split
from pipeline.sources.sample import Decoded
from pipeline.task import UserError

NOTHING = Decoded([])  # type: ignore[arg-type]  # no test decodes it


def samples(**classes: int) -> list[Sample]:
    return [Sample(f"{label}/{i}.wav", label, None, NOTHING) for label, n in classes.items() for i in range(n)]


@pytest.mark.parametrize("n_lost", [1, 12])
def test_a_class_without_a_usable_file_is_one_line(n_lost: int) -> None:
    found = samples(low=12, noise=n_lost)
    lost = dict.fromkeys(range(12, 12 + n_lost), "MPEG-4 media")
    with pytest.raises(UserError) as refusal:
        skipped.check_lost(found, ["train"] * len(found), lost)
    files = "1 file" if n_lost == 1 else "12 files"
    assert str(refusal.value) == (
        f"class 'noise': none of its {files} can be used (the first: noise/0.wav: MPEG-4 media); replace or remove them"
    )


def test_a_class_that_lost_all_its_files_of_a_split_is_one_line() -> None:
    splits: list[Split | None] = ["train", "train", "validation", "test"]
    found = samples(a=4, b=4)
    skipped.check_lost(found, splits * 2, {0: "silent"})  # another is left
    with pytest.raises(UserError, match=r"^class 'b': no test sample is left, since 1 of its 4 files cannot be used"):
        skipped.check_lost(found, splits * 2, {7: "silent"})
    skipped.check_lost(found, ["train"] * 8, {7: "silent"})  # too few for three splits anyway


def test_files_that_cannot_be_read_count_where_they_are_most_of_a_class() -> None:
    skipped.check_lost(samples(a=4), ["train", "train", "train", None], {3: "cannot be read"})
    with pytest.raises(UserError, match="class 'a': no validation sample is left, since 3 of its 4 files"):
        skipped.check_lost(samples(a=4), ["train", None, None, None], dict.fromkeys((1, 2, 3), "cannot be read"))


def test_numbers_are_not_classes() -> None:
    found = [Sample(f"{i}", (float(i),), None, NOTHING) for i in range(3)]
    skipped.check_lost(found, ["train"] * 3, {0: "not a number"})
    lines = skipped.lines([("0", "not a number", "", "")], {"": 3})
    assert lines[0] == "    0: not a number"
    assert lines[-1].startswith("WARNING: 1 of 3 files (33 %)")


def test_reasons_that_differ_in_a_number_or_a_twin_are_one() -> None:
    entries = [
        ("a/1.wav", "130 s are longer than the 120 seconds allowed", "1", "a"),
        ("a/2.wav", "identical to a/3.wav", "", "a"),
        ("b/1.wav", "121.5 s are longer than the 120 seconds allowed", "2", "b"),
        ("b/2.wav", "identical to a/3.wav, which is labelled 'a'", "", "b"),
        ("b/3.wav", "identical to b/4.wav", "", "b"),
        ("b/5.wav", "identical to c/4.wav, which is labelled 'c'", "", "b"),
    ]
    assert [(reason, len(files)) for reason, files in skipped.by_reason(entries)] == [
        ("130 s are longer than the 120 seconds allowed", 2),
        ("identical to a/3.wav", 2),
        ("identical to a/3.wav, which is labelled 'a'", 2),
    ]
    lines = skipped.lines(entries, {"a": 10, "b": 1000})
    assert lines[0] == "  skipped: a 2 of 10, b 4 of 1,000"
    assert lines[1].endswith("(the first: a/1.wav)")
    assert not any(line.startswith("WARNING") for line in lines)  # 6 of 1,010


def test_many_reasons_and_classes_do_not_fill_the_console() -> None:
    entries = [(f"c{i}/1", f"reason {'x' * i}", "", f"c{i}") for i in range(30)]
    lines = skipped.lines(entries, {f"c{i}": 1 for i in range(30)})
    assert len(lines) == 1 + skipped.REASONS + 2
    assert "20 more classes" in lines[0]
    assert lines[-2] == "    25 files for other reasons, which the report lists"
