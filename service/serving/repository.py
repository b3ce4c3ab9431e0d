"""The models that are open: the current version of each, older versions that were asked for, and failures to load."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

import anyio
import bentoml

from models.card import CARD_FILE
from service.errors import UnknownModel
from service.serving import store
from service.serving.predictor import MODEL_FILE, Predictor

logger = logging.getLogger("bentoml.percept")

PINNED = 8  # older versions that stay open; the least recently used is closed first


class Repository:
    """What is served, by name. `follow` and `pin` open files, so they belong in a thread, not in the event loop.

    A model is replaced by one assignment: each request sees either the old one or the new one.

    Parameters
    ----------
    fixed : the models of a Bento, which never change; None: those of the store
    changed : called with (new, old) whenever a model is opened, replaced or closed; None stands for no model
    """

    def __init__(
        self,
        fixed: list[bentoml.Model] | None = None,
        changed: Callable[[Predictor | None, Predictor | None], None] = lambda new, old: None,
    ) -> None:
        self.served: dict[str, Predictor] = {}
        self.failed: dict[str, str] = {}  # name → version that could not be loaded
        self.fixed, self._changed = fixed, changed
        self._stamps: dict[str, store.Stamp] = {}  # of the store, when it was last scanned
        self._pinned: OrderedDict[tuple[str, str], Predictor] = OrderedDict()
        self._lock = threading.Lock()
        self.follow()

    def follow(self, name: str | None = None) -> None:
        """Open what is new in the store, close what is gone; with a `name`, also retry that model if it failed."""
        with self._lock:
            stamps = store.stamps() if self.fixed is None else {}
            if name is None and stamps and stamps == self._stamps:
                return
            # Also versions whose files changed: at the last scan, a copy into the store may have been incomplete.
            changed = {model for model, stamp in stamps.items() if stamp != self._stamps.get(model)}
            if name in self.failed:
                changed.add(name)
            models = store.newest_models() if self.fixed is None else self.fixed
            self._stamps = stamps
            for model in models:
                if model.tag.name in changed or self._known().get(model.tag.name) != model.tag.version:
                    self._open(model)
            for gone in set(self._known()) - {model.tag.name for model in models}:
                self.failed.pop(gone, None)
                if old := self.served.pop(gone, None):
                    logger.info("no longer serving %s:%s", gone, old.card.version)
                    self._changed(None, old)

    def get(self, name: str) -> Predictor:
        """The current version. Raises UnknownModel."""
        predictor = self.served.get(name)
        if predictor is None:
            raise UnknownModel(self.failure(name) or f"there is no model {name!r}; see /models")
        return predictor

    def failure(self, name: str) -> str | None:
        """See `not_loaded`; None if no model of that name failed to load."""
        version = self.failed.get(name)
        return None if version is None else not_loaded(name, version)

    def failures(self) -> dict[str, str]:
        """Name → `failure` of every model that failed to load."""
        return {name: not_loaded(name, version) for name, version in self.failed.copy().items()}

    async def find(self, name: str, version: str | None) -> Predictor:
        """A version, or the current one for None. Raises UnknownModel if there is none or it cannot be opened."""
        return self.get(name) if version is None else await anyio.to_thread.run_sync(self.pin, name, version)

    def pin(self, name: str, version: str) -> Predictor:
        """A version, opened if it is not open yet. Raises UnknownModel if there is none or it cannot be opened."""
        if self.get(name).card.version == version:
            return self.get(name)
        with self._lock:
            predictor = self._pinned.get((name, version))
            if predictor is not None and self.fixed is None and not store.holds(name, version):
                del self._pinned[name, version]
                predictor = None
            if predictor is None:
                model = self._version(name, version)
                if model is None:
                    raise UnknownModel(f"model {name!r} has no version {version[:80]!r}")
                try:
                    predictor = _opened(model)
                except Exception as error:
                    logger.error("%s cannot be served: %s", model.tag, _line(error))
                    raise UnknownModel(not_loaded(name, version)) from error
                self._pinned[name, version] = predictor
                if len(self._pinned) > PINNED:
                    self._pinned.popitem(last=False)
            self._pinned.move_to_end((name, version))
        return predictor

    def versions(self, name: str) -> list[bentoml.Model]:
        """Every version of a model that is served or has failed, newest first; none of any other model."""
        if self.fixed is not None:
            return [model for model in self.fixed if model.tag.name == name]
        return store.versions(name) if name in self.served or name in self.failed else []

    def state(self) -> dict[str, Mapping[str, str]]:
        """Name → version of what is served, and name → reason of what is not."""
        return {"models": {n: p.card.version for n, p in self.served.items()}, "failed": self.failures()}

    def _version(self, name: str, version: str) -> bentoml.Model | None:
        if self.fixed is None:
            return store.version(name, version)
        return next((model for model in self.versions(name) if model.tag.version == version), None)

    def _known(self) -> dict[str, str]:
        """Name → version that is served, or the newer one that failed."""
        return {name: predictor.card.version for name, predictor in self.served.items()} | self.failed

    def _open(self, model: bentoml.Model) -> None:
        name, version = model.tag.name, str(model.tag.version)
        try:
            predictor = _opened(model)
        except Exception as error:  # one broken file must take down neither the others nor the version before it
            logger.error("%s cannot be served: %s", model.tag, _line(error))
            self.failed[name] = version
            return
        self.failed.pop(name, None)
        old, self.served[name] = self.served.get(name), predictor
        self._changed(predictor, old)
        logger.info("serving %s", model.tag)


def _opened(model: bentoml.Model) -> Predictor:
    """A predictor that has been warmed up. Raises if the card beside the file is missing, or of another model."""
    predictor = Predictor(model.path_of(MODEL_FILE), model.path_of(CARD_FILE))
    if (predictor.card.name, predictor.card.version) != (model.tag.name, model.tag.version):
        raise ValueError(f"its card is that of {predictor.card.name}:{predictor.card.version}")
    predictor.warm_up()
    return predictor


def not_loaded(name: str, version: str) -> str:
    """What a client may know about a version that could not be loaded; the log has the reason."""
    return f"{name}:{version} could not be loaded; the log of the service says why"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
