"""The two sides of a comparison: an exported model, and the run whose test samples it may be asked about."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.extract import Features
from pipeline.run import Run, require
from pipeline.task import UserError
from service.serving.predictor import Predictor


@dataclass(frozen=True, slots=True)
class Side:
    """One model.

    name : as the user gave it
    model : the ONNX file
    run : with features; None for a version of the store, which has none
    """

    name: str
    model: Path
    run: Run | None

    @staticmethod
    def of(name: str, runs: Path) -> "Side":
        """The side of a run directory, the name of a run, or a model or MODEL:VERSION of the store.

        Raises
        ------
        UserError : there is no such run or version, or nothing was exported
        """
        for folder in (runs / name, Path(name)):  # a folder of data may have the name of its run
            if folder.is_dir():
                run = Run(folder)
                return Side(name, require(run.model, "export"), run)
        from service.serving import store  # imports BentoML

        model, _, version = name.partition(":")
        if Path(model).name == model and model not in ("", ".."):
            stored = store.find(model, version) if version else store.to_serve(model)
            if stored is not None:
                return Side(str(stored), stored.folder / "model.onnx", None)
            if versions := store.versions(model):
                raise UserError(f"{name}: no such version; the model store has {', '.join(versions)}")
        raise UserError(f"{name}: no run in {runs}, and no model of that name in the model store")


@dataclass(frozen=True, slots=True)
class Common:
    """The test samples that both sides are asked about.

    digest, file, label, group : str (N,)
    runs : whose media the two sides are given
    note : what weakens the comparison; empty if nothing does
    """

    digest: NDArray[np.str_]
    label: NDArray[np.str_]
    group: NDArray[np.str_]
    runs: tuple[Run, Run]
    files: tuple[list[str], list[str]]
    note: str


def common(sides: tuple[Side, Side], predictors: tuple[Predictor, Predictor], runs: Path) -> Common:
    """The samples that are in the test split of both runs; a version of the store takes the run of its name, or the
    other side's.

    Raises
    ------
    UserError : there are no such samples, or targets are numbers
    """
    first, second = (side.run or _run_of(predictor, runs) for side, predictor in zip(sides, predictors, strict=True))
    own, other = first or second, second or first
    if own is None or other is None:
        raise UserError(f"neither {sides[0].name} nor {sides[1].name} has a run in {runs}: there are no test samples")
    rows, rows_of_other = _tests(own), _tests(other)
    both = [digest for digest in rows if digest in rows_of_other and rows[digest][1] == rows_of_other[digest][1]]
    if not both:
        raise UserError(f"{own.folder} and {other.folder} have no test sample in common")
    note = ""
    for side, predictor in zip(sides, predictors, strict=True):
        run = side.run or own
        if side.run is None and predictor.card.data_digest != Features.of(run).data_digest():
            note = f"{side.name} was trained on other data, and may have learned from some of these samples"
    files = [rows[d][0] for d in both], [rows_of_other[d][0] for d in both]
    labels, groups = ([rows[d][i] for d in both] for i in (1, 2))
    return Common(np.array(both), np.array(labels), np.array(groups), (own, other), files, note)


def _run_of(predictor: Predictor, runs: Path) -> Run | None:
    run = Run(runs / predictor.card.name)
    return run if run.features.is_file() else None


def _tests(run: Run) -> Mapping[str, tuple[str, str, str]]:
    """Digest of the content → file, label and group, of a run's test samples."""
    features = Features.of(run)
    if features.kind == "regression":
        raise UserError(f"{run.folder}: its targets are numbers, and only classifiers are compared")
    rows: list[Any] = np.flatnonzero(features.rows("test")).tolist()
    columns = features.digest, features.file, features.y, features.group
    return {
        str(digest): (str(file), features.labels[y], str(group))
        for digest, file, y, group in zip(*(column[rows] for column in columns), strict=True)
    }
