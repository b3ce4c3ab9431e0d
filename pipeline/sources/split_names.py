"""Which names of folders, and which words in a manifest, mean which split."""

import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import UserError
from pipeline.sources.sample import SPLITS, Split

# Those of Hugging Face Datasets (datasets/data_files.py) and a few more. `eval` means the test split there too.
SYNONYMS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "validate", "valid", "val", "dev", "devel", "development"),
    "test": ("test", "testing", "tst"),
}
EVALUATION = ("eval", "evaluation")
MEANING: dict[str, Split] = {word: split for split, words in SYNONYMS.items() for word in words}
_NAME = re.compile(r"([a-z]+?)(?:[ _.-]*(?:data|dataset|set|split|images|audio|samples|files))?")
_AFFIXED = re.compile(rf"(.*[^a-z]|)({'|'.join((*MEANING, *EVALUATION))})([^a-z].*|)", re.DOTALL)
_FOLD = re.compile(r"(?:k?[ _.-]?fold|cv|split|partition)[ _.#-]*\d+")


def split_of_each(names: Iterable[str], where: str | Path = "") -> dict[str, Split]:
    """Name → split, for those of the names that mean one, in any case.

    `eval` is validation if another name means test and none means validation, else test.

    Parameters
    ----------
    where : folder or file that holds the names, for the message

    Raises
    ------
    UserError : two names mean the same split

    Example
    -------
    >>> split_of_each(["Training", "test_set", "robin"])
    {'Training': 'train', 'test_set': 'test'}
    >>> split_of_each(["train", "eval", "test"])
    {'train': 'train', 'eval': 'validation', 'test': 'test'}
    """
    words = {name: match[1] for name in dict.fromkeys(names) if (match := _NAME.fullmatch(_plain(name)))}
    named = {MEANING[word] for word in words.values() if word in MEANING}
    evaluation: Split = "validation" if "test" in named and "validation" not in named else "test"
    meaning = MEANING | dict.fromkeys(EVALUATION, evaluation)
    found = {name: meaning[word] for name, word in words.items() if word in meaning}
    for split in SPLITS:
        same = {_plain(name): name for name in found if found[name] == split}
        if len(same) > 1:
            raise UserError(f"{where}: {' and '.join(same.values())} both mean the {split} split; use one name for it")
    return found


def are_affixed(names: Iterable[str]) -> bool:
    """Whether names differ in nothing but words for splits, and in numbers.

    Example
    -------
    >>> are_affixed(["x_train", "x_test"]), are_affixed(["01 train", "02 val"]), are_affixed(["bullet train", "bus"])
    (True, True, False)
    """
    found = [_AFFIXED.fullmatch(_plain(name)) for name in names]
    matches = [match for match in found if match]
    rest = {re.sub(r"\d+", "", f"{match[1]}…{match[3]}") for match in matches}
    return len(matches) == len(found) and len(rest) == 1 and len({match[2] for match in matches}) > 1


def is_fold(name: str) -> bool:
    """Whether this is a usual name for a fold of a cross-validation.

    Example
    -------
    >>> is_fold("Fold_03"), is_fold("folder")
    (True, False)
    """
    return _FOLD.fullmatch(_plain(name)) is not None


def _plain(name: str) -> str:
    return name.strip().casefold()
