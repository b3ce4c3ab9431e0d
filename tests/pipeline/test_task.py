"""Task files: what they may say, and one clear line for every mistake."""

from pathlib import Path

import pytest

from pipeline import task
from pipeline.task import UserError


@pytest.mark.parametrize("name", task.builtin())
def test_every_built_in_task_is_valid_and_bears_its_file_name(name: str) -> None:
    assert task.load(name).name == name


def test_set_and_data_replace_keys_and_source(tmp_path: Path) -> None:
    resolved = task.load(
        "instruments", str(tmp_path), ["train.epochs=5", "model.activation=relu", "model.hidden=[8, 4]"]
    )
    assert resolved.train.epochs == 5
    assert resolved.model.activation == "relu"
    assert resolved.model.hidden == (8, 4)
    assert (resolved.data.source, resolved.data.path) == ("folder", str(tmp_path))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.engine=autograd", "train.engine is now train.gradients; its values are the same"),
        ("train.epocs=5", "unknown key 'train.epocs'; did you mean 'epochs'?"),
        ("train.epochs=0", "train.epochs: must be at least 1, not 0"),
        ("train.learning_rate=inf", "train.learning_rate: must be a finite number, not Infinity"),
        ("train.learning_rate=fast", "train.learning_rate: .*, not 'fast'"),
        ("features.n_mfc=20", "unknown key 'features.n_mfc'; did you mean 'n_mfcc'?"),
        ("features.lifter=10", "features.lifter is now features.cepstral_decay; its values are the same"),
        ("features.hop_length=500", "hop_length = 500 does not divide n_fft = 2048"),
        (
            "features.kind=wavelet",
            "features.kind: must be one of 'pixels', 'image', 'mfcc', 'vector', 'table', not 'wavelet'",
        ),
        ("data.splits={train=0.5, validation=0.1, test=0.1}", "add up to 0.7, not to 1"),
        ("data.source=folder", "source = 'folder' needs a path"),
        ("name=No Such Name", "name: must be lower case letters, digits, dashes, .*, not 'No Such Name'"),
        ("train=3", "train: must be a section with keys of its own, not 3"),
        ("train.refit=1.5", "train.refit: must be true or false, not 1.5"),
        ('model.hidden=["a"]', "model.hidden.0: must be a whole number, not 'a'"),
        ("model.hidden=[true]", "model.hidden: must be a whole number, not .true."),
        ("train.epochs=true", "train.epochs: must be a whole number, not true"),
        ("train.l2=false", "train.l2: must be a number, not false"),
        ("data.splits.train=true", "data.splits.train: must be a number, not true"),
        ("validate.min_accuracy=true", "validate.min_accuracy: must be a number, not true"),
        ('tune.space={"train.l2"=3}', "tune.space.train.l2: must be a list of values, or a range .low, high., not 3"),
        ('tune.space={"train.l2"={low=1}}', "'tune.space.train.l2.high' is missing"),
        ("tune.space=3", "tune.space: must be a section"),
        ("train.epochs", "expected KEY=VALUE"),
        ("validate.baseline=true", "unknown key 'validate.baseline'; did you mean 'baselines'?"),
        ("validate.baselines=2", "validate.baselines: .*, not 2"),
        ("name.x=1", "'name' is not a section"),
    ],
)
def test_a_mistake_is_one_line_that_quotes_it(override: str, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        task.load("instruments", overrides=[override])
    assert len(str(caught.value).splitlines()) == 1


def test_baselines_of_a_source_of_numbers_are_one_line() -> None:
    with pytest.raises(UserError, match=r"validate\.baselines are classifiers, and data\.source = 'sine' gives"):
        task.load("sine", overrides=["validate.baselines=true"])


def test_two_mistakes_are_two_lines() -> None:
    with pytest.raises(UserError) as caught:
        task.load("digits", overrides=["train.epochs=-1", "model.activation=step"])
    assert len(str(caught.value).splitlines()) == 2


def test_keys_of_a_search_may_stand_without_quotes() -> None:
    quoted, bare = (
        task.load("digits", overrides=[f"tune.space={space}"]).tune
        for space in ('{"train.l2" = [0, 1e-3], "model.hidden" = {low = 8, high = 64}}',
                      "{train.l2 = [0, 1e-3], model.hidden = {low = 8, high = 64}}")
    )  # fmt: skip
    assert quoted == bare
    assert set(quoted.space) == {"train.l2", "model.hidden"}


def test_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'digits'"):
        task.load("digit")


def test_task_file_by_path(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('name = "own"\n[data]\nsource = "digits"\n[features]\nkind = "pixels"\n')
    assert task.load(str(file)).name == "own"
    file.write_text("name = ")
    with pytest.raises(UserError, match="not valid TOML"):
        task.load(str(file))
    with pytest.raises(UserError, match="cannot be read"):
        task.load(str(tmp_path / "absent.toml"))


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "marked.toml"
    file.write_text('name = "marked"\n[data]\nsource = "digits"\n[features]\nkind = "pixels"\n', "utf-8-sig")
    assert task.load(str(file)).name == "marked"


def test_a_zero_byte_in_the_name_of_a_task_file_is_one_line() -> None:
    with pytest.raises(UserError, match="cannot be read: embedded null byte"):
        task.load("a\0.toml")
