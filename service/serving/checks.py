"""What is checked of a version before it is served: that its card is possible, and that its graph fits the card."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.card import FAMILIARITY, FEATURES, LOG_MEL, SECOND_READING, ModelCard
from service.media import Limits
from service.serving.predictor import MIN_WINDOW, Predictor, has_second_reading, watches_media

TOLERANCE = 1e-3  # of the sum of a row of probabilities
RATES = (4_000, 192_000)  # Hz, as in a task
MAX_ATOMS = 4096  # of a dictionary of patches, as in a task
SIDES = (16, 128)  # pixels of a picture's width, as in a task
FRONT_ENDS = {  # kind of features → kind of input
    "pixels": "image", "image": "image", "mfcc": "audio", "vector": "vector", "table": "vector",
}  # fmt: skip
TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}


def check_card(card: ModelCard) -> None:
    """Raise ValueError unless the card is possible in itself."""
    kind, labels = card.input.kind, card.labels
    _require(0 < len({*labels}) == len(labels), f"its {len(labels)} labels are not different")
    _require(card.kind != "binary" or len(labels) == 2, f"it is binary, with {len(labels)} labels")
    found = card.input.dtype, card.input.shape
    _require(found == _input(card), f"{kind} input of {found}")
    rate = card.input.sample_rate
    fits = rate is None if kind != "audio" else rate is not None and RATES[0] <= rate <= RATES[1]
    _require(fits and card.features.get("sample_rate", rate) == rate, f"{kind} input with sample_rate = {rate}")
    front_end = card.features.get("kind")
    _require(front_end is None or FRONT_ENDS.get(front_end) == kind, f"{kind} input with features of {front_end!r}")
    if front_end == "image":
        sizes = [card.features.get(name) for name in ("size", "atoms", "patch")]
        fits = all(type(size) is int and 0 <= size <= MAX_ATOMS for size in sizes) and sizes[0] == card.input.shape[1]
        _require(fits, f"{kind} input of {found[1]} with features of {card.features}")
    output = "value" if card.kind == "regression" else "probabilities"
    _require(card.output == output, f"output {card.output!r} of a {card.kind} model; expected {output!r}")
    threshold = card.known_threshold
    _require(threshold is None or 0 <= threshold <= 1, f"known_threshold = {threshold}")
    least, coverage = card.set_threshold, card.coverage
    _require(least is None or 0 <= least <= 1, f"set_threshold = {least}")
    _require((least is None) == (coverage is None) and 0 <= (coverage or 0) <= 1, f"coverage = {coverage}")
    usual = (card.usual.confidence, *card.usual.familiarity, card.usual.agreement or 0) if card.usual else ()
    _require(all(0 <= value <= 1 for value in usual), f"usual = {usual}")
    for name in ("accuracy", "known"):  # from which the accuracy of later answers is estimated
        _require(0 <= card.metrics.get(name, 1) <= 1, f"{name} = {card.metrics.get(name)}")
    _require(0 < card.temperature < math.inf, f"temperature = {card.temperature}")
    _check_columns(card)
    _check_groups(card)


def _check_columns(card: ModelCard) -> None:
    """Raise ValueError unless each number of a table's row has a name of its own, and each category."""
    columns, width = card.input.columns, card.input.shape[-1]
    named = [column.name for column in columns]
    _require(not columns or len({*named}) == len(named) == width, f"{len({*named})} names for {width} columns")
    for column in columns:
        different = len({*column.categories}) == len(column.categories)
        _require(different, f"categories of {column.name!r} are not different")


def _input(card: ModelCard) -> tuple[str, tuple[int | None, ...]]:
    """The dtype and shape that its kind of input has; the width of vectors is the card's."""
    match card.input.kind:
        case "image":
            side = card.input.shape[1] if len(card.input.shape) == 4 else None
            if side is None:
                return "uint8", (None, 28, 28)
            side = min(max(side, SIDES[0]), SIDES[1])
            return "uint8", (None, side, side, 3)
        case "audio":
            return "float32", (None, None)
    width = next(iter(card.input.shape[1:]), None) or 0
    return "float32", (None, max(width, 1))


def _check_groups(card: ModelCard) -> None:
    """Raise ValueError unless the groups follow each other, each with a share for each bin between its edges."""
    for group, stop in zip(card.groups, [0, *(group.stop for group in card.groups)], strict=False):
        edges, shares = group.edges, group.shares
        fits = group.start == stop < group.stop and len(shares) == len(edges) + 1
        fits = fits and all(map(math.isfinite, edges)) and all(a < b for a, b in pairwise(edges))
        fits = fits and all(0 <= share <= 1 for share in shares) and abs(sum(shares) - 1) <= TOLERANCE
        _require(fits, f"group {group.name!r} from {group.start} to {group.stop}, {len(edges)} edges, shares {shares}")
    names = [group.name for group in card.groups]
    _require(len({*names}) == len(names), "two groups of features have the same name")


def check_graph(session: onnxruntime.InferenceSession, card: ModelCard) -> None:
    """Raise ValueError unless the graph declares the card's input and outputs."""
    inputs = [(one.name, one.type) for one in session.get_inputs()]
    wanted = (card.input.name, TYPES[card.input.dtype])
    _require(inputs == [wanted], f"the graph takes {inputs}, the card's input is {wanted}")
    sizes = [size if isinstance(size, int) else None for size in session.get_inputs()[0].shape]
    fits = len(sizes) == len(card.input.shape) and all(
        size is None or size == expected for size, expected in zip(sizes, card.input.shape, strict=True)
    )
    _require(fits, f"the graph takes {sizes}, the card's input is {[*card.input.shape]}")
    outputs = {one.name: one.type for one in session.get_outputs()}
    for name, is_wanted in (
        (card.output, True),
        (FAMILIARITY, card.known_threshold is not None),
        (SECOND_READING, has_second_reading(card)),
        (FEATURES, bool(card.groups) and not watches_media(card)),
        (LOG_MEL, LOG_MEL in outputs),
    ):
        if is_wanted:
            _require(outputs.get(name) == TYPES["float32"], f"the graph has no output {name!r} of float32: {outputs}")
    _require(card.known_threshold is not None or FAMILIARITY not in outputs, "familiarity without a known_threshold")


def check_predictor(predictor: Predictor) -> None:
    """Raise ValueError unless the answers to a file and to batches, with all that requests may ask, fit the card."""
    card = predictor.card
    sample = predictor.decode(predictor.decoder.example(), Limits())
    is_sound = card.input.kind == "audio"
    predictor.predict(sample, 2 * MIN_WINDOW if is_sound else None, card.input.kind != "vector").to_json()
    for batch in _batches(sample, card):
        for familiarity in (True, False):
            _check_answers(predictor.run(batch, True, familiarity), card)
        if has_second_reading(card):
            [second] = predictor.session.run([SECOND_READING], {card.input.name: batch}, predictor.run_options)
            expected = len(batch), len(card.labels)
            _require(second.shape == expected, f"{SECOND_READING} of shape {second.shape}; expected {expected}")
        if card.groups:
            features = batch.reshape(len(batch), -1)
            if not watches_media(card):
                [features] = predictor.session.run([FEATURES], {card.input.name: batch}, predictor.run_options)
            expected = len(batch), card.groups[-1].stop
            _require(features.shape == expected, f"features of shape {features.shape}; its groups are of {expected}")
            _require(bool(np.isfinite(features).all()), "features that are not finite")


def _batches(sample: NDArray[Any], card: ModelCard) -> list[NDArray[Any]]:
    """A sample (…) as a batch of one, and several others as a batch. Zeros among them find weights that are not finite,
    as 0 · ∞ is NaN."""
    match card.input.kind:
        case "audio":  # of another length, as the shortest window of a timeline
            n = int(MIN_WINDOW / 2 * len(sample))
            others = [sample[:n], sample[n : 2 * n], sample[2 * n : 3 * n] / 2]
        case "image":
            others = [sample, np.zeros_like(sample), np.full_like(sample, 255)]
        case _:
            others = [sample, np.zeros_like(sample), sample / 2]
    return [sample[np.newaxis], np.stack(others)]


def _check_answers(answers: NDArray[np.float32], card: ModelCard) -> None:
    """Raise ValueError unless answers (N, K), or (N, K + 1) with familiarity, are possible."""
    _require(bool(np.isfinite(answers).all()), "an answer that is not finite")
    found, familiarity = answers[:, : len(card.labels)], answers[:, len(card.labels) :]
    for name, values in ((card.output, found), (FAMILIARITY, familiarity)):
        if name != "value" and values.size:
            low, high = values.min(), values.max()
            _require(low >= 0 and high <= 1 + TOLERANCE, f"{name} from {low} to {high}; expected 0 to 1")
    if card.output != "value":
        totals = found.sum(axis=1)
        _require(bool((abs(totals - 1) <= TOLERANCE).all()), f"probabilities with the sums {totals[:3]}; expected 1")


def _require(fits: bool, otherwise: str) -> None:
    if not fits:
        raise ValueError(f"the graph and the card do not fit: {otherwise}")
