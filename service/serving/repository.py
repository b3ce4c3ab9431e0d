"""The models that are open: the current version of each, older versions that were asked for, and failures to load."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import bentoml

from service.errors import StoreBlocked, UnknownModel
from service.serving import store
from service.serving.candidates import Candidates
from service.serving.opening import in_one_line, not_loaded, open_version
from service.serving.predictor import Predictor
from service.serving.reading import HANGING, Reader
from service.serving.rollout import Rollout, Tag
from service.serving.store import Stored
from service.serving.trust import Trust

logger = logging.getLogger("bentoml.percept")

PINNED = 8  # older versions that stay open; the least recently used is closed first
SOON = 0.25  # seconds that a request waits for the store to say whether an open version is still there
STORE = "its folder"  # what is read where it is not one model's

T = TypeVar("T")


class Repository:
    """What is served, by name. Everything here that reads the store does so in the threads of `reader`.

    A model is replaced by one assignment: each request sees either the old one or the new one.

    Parameters
    ----------
    fixed : the models of a Bento, which never change; None: those of the store
    changed : called with (new, old) whenever a model is opened, replaced or closed; None stands for no model
    trust : who must have signed a model, for it to be opened; None: any model is
    rollout : versions to keep open beside those that are served; None: there are none
    """

    def __init__(
        self,
        fixed: list[bentoml.Model] | None = None,
        changed: Callable[[Predictor | None, Predictor | None], None] = lambda new, old: None,
        trust: Trust | None = None,
        rollout: Rollout | None = None,
    ) -> None:
        self.served: dict[str, Predictor] = {}
        self.failed: dict[str, str] = {}  # name → version that could not be loaded
        self.trust, self.candidates = trust, Candidates(rollout or Rollout())
        self._reasons: dict[str, str] = {}  # name → why, in words for clients
        self.reader = Reader()
        self.is_fixed, self._changed = fixed is not None, changed
        self._fixed = [Stored(m.tag.name, str(m.tag.version), Path(m.path)) for m in fixed or ()]
        self._trouble: str | None = None  # why the store, or a model in it, could not be looked at
        self._unread: str | None = None  # the same of the look that is going on
        self._stamps: dict[str, store.Stamp] = {}  # of each model, when it was last looked at
        self._pinned: OrderedDict[tuple[str, str], Predictor] = OrderedDict()
        self._listed: dict[str, list[str]] = {}  # versions of each model, when they were last listed
        hanging = -1
        while hanging < len(self.reader.hanging) < HANGING:  # what follows a read that hangs is opened too
            hanging = len(self.reader.hanging)
            try:
                self.reader.run_here(self._follow)
            except StoreBlocked:
                continue
            break
        if nothing := self._nothing():
            logger.warning(nothing)

    async def follow(self, name: str | None = None) -> None:
        """Open what is new in the store, close what is gone; with a `name`, also retry that model if it failed.

        Raises StoreBlocked if a read hangs; with a `name`, if one of that model does.
        """
        if not self.is_fixed or name is not None:
            await self.reader.run(partial(self._follow, name), None)
        if name is not None and name in self.reader.hanging:
            raise StoreBlocked(self.reader.trouble())

    def get(self, name: str) -> Predictor:
        """The current version. Raises UnknownModel, or StoreBlocked if the store hangs where it would be."""
        predictor = self.served.get(name)
        if predictor is None:
            if name in self.reader.hanging:
                raise StoreBlocked(self.reader.trouble())
            raise UnknownModel(self.failure(name) or f"there is no model {name!r}; see /models")
        return predictor

    def predictors(self) -> list[Predictor]:
        """All that are open: those that are served or watched, and older versions."""
        return [*self.watched(), *self._pinned.copy().values()]

    def watched(self) -> list[Predictor]:
        """Those that the operator named, and after them those that are served: of a version that is both, the one that
        is served comes last."""
        return [*self.candidates.open.copy().values(), *self.served.copy().values()]

    def failure(self, name: str) -> str | None:
        """See `not_loaded`; None if no model of that name failed to load."""
        return self._reasons.get(name)

    def failures(self) -> dict[str, str]:
        """Name → `failure` of every model that failed to load."""
        return self._reasons.copy()

    def trouble(self) -> str | None:
        """Why changes in the store are not followed, or not all of them; None if they are."""
        return self.reader.trouble() or self._trouble

    async def find(self, name: str, version: str | None) -> Predictor:
        """A version, opened if it is not open yet, or the current one for None.

        Raises UnknownModel if there is none or it cannot be opened, StoreBlocked if the store does not answer.
        """
        current = self.get(name)
        if version is None or version == current.card.version:
            return current
        pinned = self._pinned.get((name, version))
        try:
            pin = partial(self._pin, name, version)
            return await (self.reader.run(pin) if pinned is None else self.reader.run(pin, SOON))
        except StoreBlocked:
            if pinned is None:
                raise
            return pinned

    async def versions(self, *names: str) -> dict[str, list[str]]:
        """Name → every version, newest first, of those of the models that are served or have failed; as they were last
        seen, if the store does not answer."""
        with suppress(StoreBlocked):
            for name in names:  # one by one, so that other calls get their turn
                await self.reader.run(partial(self._list, name))
        known = self._known()
        return {name: self._listed.get(name) or [known[name]] for name in names if name in known}

    def state(self) -> dict[str, Any]:
        """Name → version of what is served, name → reason of what is not, who has signed what, if that is asked for,
        and what is wrong with the store, if so."""
        state = {"models": {n: p.card.version for n, p in self.served.items()}, "failed": self.failures()}
        trouble = self.trouble() or self._nothing()
        state |= self.signers() | self.candidates.state(self.served.copy())
        return state | ({"store": trouble} if trouble else {})

    def signers(self) -> dict[str, Any]:
        """Whom the service trusts, and who has signed each model that is served; nothing if any model is."""
        if self.trust is None:
            return {}
        signed = {name: predictor.signer for name, predictor in self.served.copy().items()}
        return {"trust": self.trust.state() | {"signed_by": signed}}

    def _nothing(self) -> str | None:
        """That there is nothing to serve, where it has no other reason; None if there is something."""
        if self._known() or self.trouble():
            return None
        return f"the {'Bento' if self.is_fixed else 'model store'} holds no model of percept"

    def _follow(self, name: str | None = None) -> None:
        try:
            with self.reader.at(STORE):
                models = {model.name: model for model in self._fixed} if self.is_fixed else dict.fromkeys(store.names())
        except OSError as error:
            return self._note(f"the model store cannot be read: {error.strerror}")
        gone, self._unread = {*self._known()} - {*models}, None
        for found, fixed in models.items():
            if self._read(found, partial(self._look_at, found, fixed, found == name)) is False:
                gone.add(found)
        if gone & {*self._known()} and not self.is_fixed and store.is_empty():
            return self._note("the model store is empty")
        for closed in gone:
            self._close(closed)
        for tag in self.candidates.tags():
            self._read(tag.model, partial(self._follow_named, tag))
        self._note(self._unread)

    def _look_at(self, name: str, fixed: Stored | None, retry: bool) -> bool:
        """Open the version to serve of a model, if it has changed; whether there is one."""
        model = fixed or store.to_serve(name)
        if model is None:
            return False
        # Also if its files changed: when it was last looked at, a copy into the store may have been incomplete.
        stamp = store.stamp(model)
        has_changed = stamp != self._stamps.get(name) or self._known().get(name) != model.version
        self._stamps[name] = stamp
        if has_changed or (retry and name in self.failed):
            self._open(model)
            if name not in self.served and not self.is_fixed:
                self._open_older(model)
        return True

    def _follow_named(self, tag: Tag) -> None:
        closed, served = self.candidates.follow(tag, self._stored(*tag), self.trust), self.served.get(tag.model)
        if closed is not None and (served is None or served.card.version != tag.version):
            self._changed(None, closed)

    def _list(self, name: str) -> None:
        fixed = [model.version for model in self._fixed if model.name == name]
        found = fixed if self.is_fixed else self._read(name, partial(store.versions, name))
        if found is not None:
            self._listed[name] = found

    def _read(self, name: str, function: Callable[[], T]) -> T | None:
        """What `function` returns, which reads a model of the store; None if that cannot be read."""
        try:
            with self.reader.at(name):
                return function()
        except OSError as error:
            self._unread = f"the model store cannot be read: {name}: {error.strerror}"
        except StoreBlocked:
            if name not in self.reader.hanging:  # this thread itself was left to another read
                raise
        return None

    def _pin(self, name: str, version: str) -> Predictor:
        with self.reader.at(f"{name}:{version[:80]}"):
            model = self._stored(name, version)
            if model is None:
                self._pinned.pop((name, version), None)
                raise UnknownModel(f"model {name!r} has no version {version[:80]!r}")
            predictor = self._pinned.get((name, version))
            if predictor is None:
                try:
                    predictor = self._opened(model)
                except Exception as error:
                    raise UnknownModel(not_loaded(model, error)) from error
                self._pinned[name, version] = predictor
                if len(self._pinned) > PINNED:
                    self._pinned.popitem(last=False)
            self._pinned.move_to_end((name, version))
        return predictor

    def _stored(self, name: str, version: str) -> Stored | None:
        if not self.is_fixed:
            return store.find(name, version)
        return next((model for model in self._fixed if (model.name, model.version) == (name, version)), None)

    def _known(self) -> dict[str, str]:
        """Name → version that is served, or the newer one that failed."""
        return {name: predictor.card.version for name, predictor in self.served.copy().items()} | self.failed

    def _open(self, model: Stored) -> None:
        try:
            predictor = self._opened(model)
        except Exception as error:  # one broken file must take down neither the others nor the version before it
            self.failed[model.name], self._reasons[model.name] = model.version, not_loaded(model, error)
            return
        for kept in (self.failed, self._reasons):
            kept.pop(model.name, None)
        self._serve(model, predictor)

    def _open_older(self, failed: Stored) -> None:
        """Serve the newest version older than one that failed, of those that can be opened: as if the service had not
        been started since."""
        known = store.versions(failed.name)
        for version in known[known.index(failed.version) + 1 :] if failed.version in known else []:
            model = store.find(failed.name, version)
            if model is None:
                continue
            try:
                predictor = self._opened(model)
            except Exception:
                continue
            return self._serve(model, predictor)

    def _opened(self, model: Stored) -> Predictor:
        """Raises what `open_version` does; the log then says why."""
        try:
            return open_version(model, self.trust)
        except Exception as error:
            logger.error("%s cannot be served: %s", model, in_one_line(error))
            raise

    def _serve(self, model: Stored, predictor: Predictor) -> None:
        old, self.served[model.name] = self.served.get(model.name), predictor
        self._changed(predictor, old)
        logger.info("serving %s", model)

    def _close(self, name: str) -> None:
        for kept in (self.failed, self._reasons, self._stamps, self._listed):
            kept.pop(name, None)
        if old := self.served.pop(name, None):
            logger.info("no longer serving %s:%s", name, old.card.version)
            self._changed(None, old)

    def _note(self, trouble: str | None) -> None:
        """Note, and log once, why not everything in the store is followed; None if it is."""
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble is None:
                logger.info("the model store can be read again")
            else:
                logger.error("%s; what is open goes on being served", trouble)
