"""Where BentoML keeps its model store, found without importing BentoML."""

import os
from pathlib import Path


def bentoml_home() -> Path:
    """BentoML's folder as an absolute path: BENTOML_HOME, which may hold variables and ~, or ~/bentoml.

    Raises ValueError where there is no such home folder: BentoML would make a folder of the name "~".
    """
    text = os.environ.get("BENTOML_HOME") or "~/bentoml"
    try:
        return Path(os.path.expandvars(text)).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{text}: the home folder is not known; set BENTOML_HOME to a folder for the models") from None
