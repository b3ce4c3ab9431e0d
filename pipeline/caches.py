"""Where libraries keep their caches if the user's home folder cannot be written, as in a container that runs under a
random user id."""

import os
import tempfile
from pathlib import Path

from pipeline.run import nearest

# Variable → the folder that its library takes without it. numba refuses to import librosa if it finds none that it may
# write; matplotlib would look through all fonts in every process.
CACHES = {
    "MPLCONFIGDIR": ("~/.config/matplotlib", "~/.cache/matplotlib"),
    "NUMBA_CACHE_DIR": ("~/.cache/numba",),
    "TRITON_CACHE_DIR": ("~/.triton",),
}


def provide() -> None:
    """Name a folder of this user's own in the system's temporary folder to each library that can use none at home."""
    for variable, folders in CACHES.items():
        if variable not in os.environ and not all(_is_writable(folder) for folder in folders):
            os.environ[variable] = str(_own_folder())


def _is_writable(folder: str) -> bool:
    """Whether the folder, or the nearest one above it that exists, may be written; false for an unknown home."""
    try:
        path = Path(folder).expanduser()
    except RuntimeError:
        return False
    return os.access(nearest(path), os.W_OK | os.X_OK)


def _own_folder() -> Path:
    """The same folder each time, unless somebody else made it: caches hold code that is run."""
    folder = Path(tempfile.gettempdir(), f"percept-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        return Path(tempfile.mkdtemp(prefix="percept-"))
    return folder
