"""One training step of the optimiser, in several forms behind one protocol, `Step`.

    reference.py     the mathematics, in NumPy, float64
    closed_form.py   the plain step, in PyTorch: works everywhere
    cpu.py           the step of one hidden layer, compiled by LLVM (llvm.py), for dense and sparse (sparse.py) samples
    gpu.py           the step of networks too small to fill a GPU, in Triton

No other module names the fast steps: without cpu.py, gpu.py, sparse.py and llvm.py, training uses the plain one. No
torch is imported here, since the reference needs none.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from models.steps.closed_form import Setup

__all__ = ["Step", "Workload", "choose"]


class Step(Protocol):
    """Networks that step together; their parameters are changed in place.

    Shapes begin with "...": nothing for one network, the number M of networks for several.

    Attributes
    ----------
    threads : how many of PyTorch's threads a step may use; the result is the same bit for bit
    has_samples : whether the step keeps all samples in a form of its own, and does not gather them
    """

    threads: int
    has_samples: bool

    def set_rate(self, factor: float) -> None:
        """Set the learning rate of the following steps to `factor` times each network's own."""

    def prepare(self, active: tuple[bool, ...]) -> None:
        """Prepare steps in which only the `active` networks have a batch."""

    def batches(self, rows: "Tensor", gather: "Callable[[], Tensor]") -> Iterable[Any]:
        """The batches of several steps, for `step`, of the samples `rows`, int64 (steps, ..., B).

        gather : returns those samples, float32 (steps, ..., B, D); not called by a step that has them already
        """

    def step(self, x: Any, t: "Tensor", w: "Tensor", z: "Tensor", active: tuple[bool, ...]) -> None:
        """One step of the optimiser on one batch.

        Parameters
        ----------
        x : one of `batches`: float32 (..., B, D), or (B, D) for all networks, unless the step has its own form
        t : float32 (..., K, B), or (K, B) for all: one-hot columns, 0 or 1 for a binary target, values of a regression
        w : float32 (..., 1, B): 1 / n for each of the batch's n samples, 0 for padding
        z : float32 (..., K, B), filled with the logits before the step
        active : which networks have a batch, one of the values given to `prepare`; the others are not changed
        """

    def logits(self, x: "Tensor", members: Sequence[int]) -> "Tensor":
        """Outputs of the networks `members` for the same samples: float32 (N, D) → (len(members), N, K)."""

    def state(self) -> "dict[str, Tensor]":
        """Everything that changes from step to step, for a checkpoint."""

    def load(self, state: "dict[str, Tensor]") -> None:
        """Continue from a `state` of this step or of another one for the same networks."""


class Workload(NamedTuple):
    """The work of a training, from which the fast steps decide whether they pay.

    n_steps : of the whole training
    n_samples : N, of all samples
    samples : returns some of all samples, float32 (n, D), if they are the same in every epoch and a step may keep them
    chunk : returns the first batches of an epoch, float32 (steps, ..., B, D)
    """

    n_steps: int
    n_samples: int
    samples: "Callable[[range], Tensor] | None"
    chunk: "Callable[[], Tensor]"


def choose(setup: "Setup", work: Workload) -> Step:
    """The fastest step for these networks on their device; the plain one unless a fast one exists, works and pays."""
    on_gpu = setup.device.type == "cuda" or "TRITON_INTERPRET" in os.environ  # Triton's interpreter needs no GPU
    try:
        fast = import_module("models.steps.gpu" if on_gpu else "models.steps.cpu")
    except ImportError:  # the module was deleted, or PyTorch came without Triton
        fast = None
    step: Step | None = fast.step_for(setup, work) if fast else None
    if step is not None:
        return step
    from models.steps.closed_form import Backprop

    return Backprop(setup)
