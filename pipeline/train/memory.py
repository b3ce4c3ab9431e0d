"""Whether features fit into memory, and which device they are trained on."""

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pipeline.task import UserError

SHARE = 0.5  # of the memory that is free, which features may take


def fits(n_bytes: int, device: torch.device, sharers: int = 1) -> bool:
    """Whether so many bytes of features should lie in memory, on a machine (and its GPU) that `sharers` share."""
    room = _free() / sharers
    if device.type == "cuda":
        room = min(room, torch.cuda.mem_get_info(device)[0])
    return n_bytes <= SHARE * room


def _free() -> float:
    """Bytes that this process can still allocate: by the machine, its control group, and its own limit on data."""
    status = _numbers(Path("/proc/self/status"))
    room = [1024 * _numbers(Path("/proc/meminfo")).get("MemAvailable", np.inf)]
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit != resource.RLIM_INFINITY:
        room.append(limit - 1024 * status.get("VmData", 0))
    for group in _groups():
        try:
            maximum = float((group / "memory.max").read_text().replace("max", "inf"))
            used = float((group / "memory.current").read_text())
            cached = _numbers(group / "memory.stat").get("file", 0)  # which the kernel gives up
        except (OSError, ValueError):
            continue
        room.append(maximum - used + cached)
    return max(0.0, min(room))


def _groups() -> Iterator[Path]:
    """The control groups (version 2) of this process, the innermost first."""
    try:
        line = Path("/proc/self/cgroup").read_text().splitlines()[-1]
    except (OSError, IndexError):
        return
    root = Path("/sys/fs/cgroup")
    group = root / line.rpartition(":")[2].strip("/")
    yield from (group, *(parent for parent in group.parents if parent.is_relative_to(root)))


def _numbers(path: Path) -> dict[str, float]:
    """First word → first number of every line of one of the kernel's files; nothing where there is none."""
    try:
        lines = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: float(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one.

    Raises
    ------
    UserError : cuda is asked for and not there
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: PyTorch sees no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def device_name(device: torch.device) -> str:
    """What reports call it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
