"""Virtual environments for peers, apart from percept's."""

import subprocess
import sys
from pathlib import Path


def installed(folder: Path, *packages: str) -> Path | None:
    """Python of a new virtual environment with these packages, a peer's; None, with a line that says why, if it cannot
    be had."""
    python = folder / "peer" / "bin" / "python"
    try:
        subprocess.run([sys.executable, "-m", "venv", folder / "peer"], check=True, capture_output=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        print(f"without the peer: {str(error.stderr).strip().splitlines()[-1:]}")
        return None
    return python
