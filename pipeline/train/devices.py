"""Which device features are trained on, and whether they fit into its memory."""

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pipeline.task import UserError

SHARE = 0.5  # of the free memory that features may take
MOST_BYTES = 256 << 20  # of features in memory, on a CPU; more are read from their file, which takes a tenth more time


def fits(n_bytes: int, device: torch.device, sharers: int = 1) -> bool:
    """Whether features should be kept in memory.

    Parameters
    ----------
    n_bytes : of the features
    device : where they are trained on; a GPU has to hold them too
    sharers : processes that share the machine's memory

    Example
    -------
    >>> fits(1 << 10, torch.device("cpu")), fits(1 << 60, torch.device("cpu"))
    (True, False)
    """
    free = _free() / sharers
    if device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0])
    return n_bytes <= (SHARE * free if device.type == "cuda" else min(SHARE * free, MOST_BYTES))


def _free() -> float:
    """Bytes that this process can still allocate: the least that the machine, its cgroups and RLIMIT_DATA leave."""
    status = _numbers(Path("/proc/self/status"))
    free = [1024 * _numbers(Path("/proc/meminfo")).get("MemAvailable", np.inf)]
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit != resource.RLIM_INFINITY:
        free.append(limit - 1024 * status.get("VmData", 0))
    for group in _cgroups():
        try:
            maximum = float((group / "memory.max").read_text().replace("max", "inf"))
            used = float((group / "memory.current").read_text())
            cached = _numbers(group / "memory.stat").get("file", 0)  # the page cache, which the kernel can drop
        except (OSError, ValueError):
            continue
        free.append(maximum - used + cached)
    return max(0.0, min(free))


def _cgroups() -> Iterator[Path]:
    """The control groups (cgroup v2) of this process, the innermost first."""
    try:
        line = Path("/proc/self/cgroup").read_text().splitlines()[-1]
    except (OSError, IndexError):
        return
    root = Path("/sys/fs/cgroup")
    group = root / line.rpartition(":")[2].strip("/")
    yield from (group, *(parent for parent in group.parents if parent.is_relative_to(root)))


def _numbers(path: Path) -> dict[str, float]:
    """First word → first number of each line of one of the kernel's files; empty if there is no such file."""
    try:
        lines = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: float(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}


def choose_device(name: str) -> torch.device:
    """The device of `train.device`; "auto" is a GPU if there is one.

    Raises
    ------
    UserError : "cuda" where PyTorch sees no GPU

    Example
    -------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: PyTorch sees no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def device_name(device: torch.device) -> str:
    """Name of the device in reports: the GPU's, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
