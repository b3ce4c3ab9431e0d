"""One training step of the optimiser, in several forms behind one protocol, `Step`.

    reference.py     the mathematics, in NumPy, float64
    closed_form.py   the plain step, in PyTorch: works everywhere
    cpu.py           the step of one hidden layer, compiled by LLVM (llvm.py), for dense and sparse (sparse.py) samples
    gpu.py           the step of networks too small to fill a GPU, in Triton

Nothing outside names the fast ones: without cpu.py, gpu.py, sparse.py and llvm.py every training takes the plain step.
No torch is imported here: the reference does without.
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
    threads : how many of PyTorch's threads a step may use; the number changes no bit of the result
    """

    threads: int

    def set_rate(self, factor: float) -> None:
        """Learning rate of the steps to come, as a factor of each network's own."""

    def prepare(self, active: tuple[bool, ...]) -> None:
        """Get ready for steps in which only those networks have a batch."""

    def batches(self, rows: "Tensor", gather: "Callable[[], Tensor]") -> Iterable[Any]:
        """The batches of some steps, of samples `rows`, int64 (steps, ..., B), as `step` takes them.

        gather : returns those samples, float32 (steps, ..., B, D); not called by a step that has them already
        """

    def step(self, x: Any, t: "Tensor", w: "Tensor", z: "Tensor", active: tuple[bool, ...]) -> None:
        """One step of the optimiser on one batch.

        Parameters
        ----------
        x : one of `batches`: float32 (..., B, D), or (B, D) for all networks, unless the step has a form of its own
        t : float32 (..., K, B), or (K, B) for all: one-hot columns, 0 or 1 for a binary target, values of a regression
        w : float32 (..., 1, B): 1 / n for each of the batch's n samples, 0 for those that pad it
        z : float32 (..., K, B), filled with the logits before the step
        active : which networks have a batch, as `prepare` was called; the others are not changed
        """

    def logits(self, x: "Tensor", members: Sequence[int]) -> "Tensor":
        """Outputs of some of many networks for the same samples: float32 (N, D) → (len(members), N, K)."""

    def state(self) -> "dict[str, Tensor]":
        """Everything that changes from step to step, for a checkpoint."""

    def load(self, state: "dict[str, Tensor]") -> None:
        """Continue from what `state` returned, of this step or of another one for the same networks."""


class Workload(NamedTuple):
    """What there is to train on, by which the fast steps judge whether they pay.

    n_steps : of the whole training
    samples : all of them, float32 (N, D), where every epoch has them unchanged and they are in memory
    chunk : returns some batches as an epoch has them, float32 (steps, ..., B, D)
    """

    n_steps: int
    samples: "Tensor | None"
    chunk: "Callable[[], Tensor]"


def choose(setup: "Setup", work: Workload) -> Step:
    """The fastest step for these networks on their device; the plain one where no other is there, works, or pays."""
    on_gpu = setup.device.type == "cuda" or "TRITON_INTERPRET" in os.environ  # Triton's interpreter needs no GPU
    try:
        fast = import_module("models.steps.gpu" if on_gpu else "models.steps.cpu")
    except ImportError:  # removed; or not every PyTorch comes with Triton
        fast = None
    step: Step | None = fast.step_for(setup, work) if fast else None
    if step is not None:
        return step
    from models.steps.closed_form import Backprop

    return Backprop(setup)
