"""Which models of BentoML's store are ours to serve."""

import logging
from pathlib import Path

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException

from models.card import STORE_LABEL

logger = logging.getLogger("bentoml.percept")


def newest_models() -> list[bentoml.Model]:
    """The newest version of every model in BentoML's store that carries our label, in the order of their names."""
    # Not bentoml.models.list(): it fails as a whole on one unfinished folder, as a killed export leaves.
    store = BentoMLContainer.model_store.get()
    models = []
    for folder in sorted(Path(store._path).iterdir()):
        try:
            model = store.get(folder.name)
        except BentoMLException as error:
            logger.warning("model store: %s is skipped: %s", folder, error)
        else:
            if STORE_LABEL in model.info.labels:
                models.append(model)
    return models
