"""Candidates: versions that are open beside those that are served, as the operator has named them (see rollout.py)."""

import logging
import random
from collections.abc import Mapping
from typing import Any

from models.card import Input
from service.serving import store
from service.serving.opening import in_one_line, not_loaded, open_version
from service.serving.predictor import Predictor
from service.serving.rollout import CANARY, SHADOW, Rollout, Tag
from service.serving.store import Stored
from service.serving.trust import Trust

logger = logging.getLogger("bentoml.percept")


class Candidates:
    """Shadows and canaries.

    Attributes
    ----------
    open : those versions that could be opened
    """

    def __init__(self, rollout: Rollout) -> None:
        self._rollout = rollout
        self.open: dict[Tag, Predictor] = {}
        self._reasons: dict[Tag, str] = {}  # why one is not open, in words for clients
        self._stamps: dict[Tag, store.Stamp] = {}  # of each version, when it was last opened

    def tags(self) -> list[Tag]:
        """All versions that are named."""
        return self._rollout.tags()

    def follow(self, tag: Tag, model: Stored | None, trust: Trust | None) -> Predictor | None:
        """Open a named version if it is new or its files have changed; close it if it is gone, that is, `model` is
        None, or has been broken. Returns what was closed."""
        if model is None:
            self._stamps.pop(tag, None)
            self._note(tag, f"there is no version {tag}")
            return self.open.pop(tag, None)
        stamp = store.stamp(model)
        if stamp != self._stamps.get(tag):
            self._stamps[tag] = stamp
            try:
                self.open[tag] = open_version(model, trust)
                self._note(tag, None)
            except Exception as error:  # it may be anything; what is served does not depend on it
                self._note(tag, not_loaded(model, error), f"{tag} cannot be opened: {in_one_line(error)}")
                return self.open.pop(tag, None)
        return None

    def shadow_of(self, served: Predictor, tensors: bool) -> Predictor | None:
        """The version to ask beside the one that is served, for a file or for `tensors`; None if there is none."""
        tag = self._rollout.shadow.get(served.card.name)
        return None if tag is None else self._fitting(tag, served, tensors)

    def canary_of(self, served: Predictor, tensors: bool) -> Predictor | None:
        """The canary of the version that is served, for a file or for `tensors`; None if there is none."""
        tag, _ = self._rollout.canary.get(served.card.name, (None, 0))
        return None if tag is None else self._fitting(tag, served, tensors)

    def draw(self, model: str) -> bool:
        """Whether the canary answers this request of those that it might."""
        return random.random() < self._rollout.canary[model][1]

    def state(self, served: Mapping[str, Predictor]) -> dict[str, Any]:
        """What an operator wants to know: which versions take part, and why the others do not."""
        shadow = [self._state(tag, served) for tag in self._rollout.shadow.values()]
        canary = [self._state(tag, served) | {"share": share} for tag, share in self._rollout.canary.values()]
        return ({"shadow": shadow} if shadow else {}) | ({"canary": canary} if canary else {})

    def _fitting(self, tag: Tag, served: Predictor, tensors: bool) -> Predictor | None:
        """A file may be decoded in another way for it, see `_fits`; a tensor has to be what it takes."""
        predictor = self.open.get(tag)
        if predictor is None or tag.version == served.card.version:
            return None
        ours, other = predictor.card.input, served.card.input
        return predictor if (ours == other if tensors else _fits(ours, other)) else None

    def _state(self, tag: Tag, served: Mapping[str, Predictor]) -> dict[str, Any]:
        reason = self._reasons.get(tag)
        predictor, present = self.open.get(tag), served.get(tag.model)
        if predictor is not None:
            if present is None:
                reason = f"{tag.model} is not served"
            elif present.card.version == tag.version:
                reason = "it is the version that is served"
            elif not _fits(predictor.card.input, present.card.input):
                reason = f"it takes another kind of input than {present.card.version}, which is served"
        state = {"model": tag.model, "version": tag.version, "active": reason is None}
        return state | ({} if reason is None else {"reason": reason})

    def _note(self, tag: Tag, reason: str | None, cause: str = "") -> None:
        """Note, and log once, why a version takes no part; None if it does."""
        variable = SHADOW if self._rollout.shadow.get(tag.model) == tag else CANARY
        if reason is None:
            logger.info("%s: %s is open", variable, tag)
            self._reasons.pop(tag, None)
        elif cause or reason != self._reasons.get(tag):
            logger.error("%s: %s; what is served goes on being served", variable, cause or reason)
            self._reasons[tag] = reason


def _fits(one: Input, other: Input) -> bool:
    """Whether a file for one can be decoded for the other: pictures and sounds of any form can, vectors only if they
    have as many numbers, and rows of tables the same columns."""
    if one.kind != other.kind or one.kind != "vector":
        return one.kind == other.kind
    return one.shape == other.shape and [c.name for c in one.columns] == [c.name for c in other.columns]
