"""Where BentoML keeps its model store, found without importing BentoML."""

import os
from pathlib import Path


def bentoml_home() -> Path:
    """BentoML's folder as an absolute path: BENTOML_HOME, which may hold variables and ~, or ~/bentoml.

    The same variable is then set to it, for BentoML, and for a server that starts in another folder. Raises ValueError
    where BENTOML_HOME is not set and the user has no home folder: BentoML would make a folder of the name "~".
    """
    home = os.path.expanduser(os.path.expandvars(os.environ.get("BENTOML_HOME") or "~/bentoml"))
    if home.startswith("~"):
        raise ValueError("there is no home folder for BentoML's model store; set BENTOML_HOME to a folder")
    os.environ["BENTOML_HOME"] = home = os.path.abspath(home)
    return Path(home)
