"""Splits: each class has its share of every one, groups stay whole, and added data moves next to nothing."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from pipeline.extract.splits import assign_split, assign_splits, group_keys, without_duplicates
from pipeline.sources import SPLITS, Data, Decoded, Sample, Split
from pipeline.task import UserError

DATA = Data(source="digits")
NOTHING = Decoded(np.zeros(1))


def samples(label: str, n: int, split: Split | None = None, group: str | None = None) -> list[Sample]:
    return [Sample(f"{label}/{i}.wav", label, split, NOTHING, group) for i in range(n)]


def assigned(data: list[Sample], seed: int = 0) -> list[Split | None]:
    keys = group_keys(data, [one.file for one in data])
    return assign_splits(data, keys, DATA.model_copy(update={"seed": seed}))


def test_small_classes_have_their_share_of_every_split_whatever_the_seed() -> None:
    for n in (3, 4, 7, 10, 25, 40):
        for seed in range(50):
            counts = Counter(assigned(samples("small", n), seed))
            assert min(counts[split] for split in SPLITS) >= 1, (n, seed)
            assert counts["test"] >= round(0.5 * 0.15 * n)
            assert counts["train"] >= round(0.5 * 0.7 * n)


def test_a_large_class_is_split_by_the_draw_of_each_sample_alone() -> None:
    large = samples("large", 500)
    assert assigned(large) == [assign_split(None, {None}, one.file, DATA) for one in large]


def test_added_data_moves_only_what_stood_in_for_a_missing_share() -> None:
    moved = 0
    for seed in range(40):
        fifteen = samples("a", 15)
        ten = assigned(fifteen[:10], seed)
        more = assigned([*fifteen, *samples("b", 30)], seed)
        moved += sum(before != after for before, after in zip(ten, more, strict=False))
        assert assigned([*fifteen, *samples("c", 3)], seed)[:15] == more[:15]  # other classes change nothing
    assert moved <= 12  # of 400 samples in classes that grew by half


def test_groups_are_never_divided_and_each_class_has_its_share_of_them() -> None:
    rng = np.random.default_rng(0)
    players = [Sample(f"{label}/{i}", label, None, NOTHING, f"player {rng.integers(12)}")
               for label in ("flute", "oboe") for i in range(60)]  # fmt: skip
    takes = [Sample(f"{label}/{i}", label, None, NOTHING, f"{label} {i // 6}") for label in "xyz" for i in range(60)]
    for data in (players, takes, players + takes):
        for seed in range(20):
            found: dict[str | None, set[Split | None]] = defaultdict(set)
            of_class: dict[str, set[Split | None]] = defaultdict(set)
            for sample, split in zip(data, assigned(data, seed), strict=True):
                found[sample.group].add(split)
                of_class[str(sample.label)].add(split)
            assert all(len(splits) == 1 for splits in found.values())
            assert all(splits == set(SPLITS) for splits in of_class.values())


def test_a_group_has_the_split_that_the_data_names_for_any_of_its_samples() -> None:
    named = [*samples("a", 5, None, "one"), *samples("a", 1, "test", "one"), *samples("a", 30, "train")]
    splits = assigned(named)
    assert set(splits[:6]) == {"test"}
    assert set(splits[6:]) == {"train", "validation"}  # which nothing names
    with pytest.raises(UserError, match=r"group 'one' is in two splits, test \(a/0.wav\) and train \(a/0.wav\)"):
        assigned([*named, *samples("a", 1, "train", "one")])


def test_too_few_groups_are_one_line_for_each_class() -> None:
    few = [replace(one, group=f"day {i % 2}") for i, one in enumerate(samples("a", 20))] + samples("b", 20)
    with pytest.raises(
        UserError, match=r"class 'a' is in 2 groups \(day 0, day 1\).*data.group = '\(\.\+\)'"
    ) as caught:
        assigned(few)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_cannot_be_read_takes_no_share() -> None:
    data = samples("a", 9)
    digests = [*(one.file for one in data[:8]), "unreadable: gone (a/8.wav)"]
    assert assign_splits(data, digests, DATA)[8] is None
    assert assign_splits(data, digests, DATA)[:8] == assigned(data[:8])


def test_a_file_that_a_manifest_lists_again_is_not_identical_to_itself() -> None:
    one, copy = samples("a", 2)
    data = [one, replace(one, label="b"), one, copy]
    assert without_duplicates(data, ["x"] * 4) == (
        [0],
        {1: "listed more than once, also as 'a'", 2: "listed more than once", 3: "identical to a/0.wav"},
    )
