"""The fast training step: back-propagation in closed form, for one network or for many of one shape at once.

The mathematics is that of `models/steps/reference.py`, with its names; here every product, gradient and moment has its
place in memory before training begins, and nothing is allocated inside a step. Parameters, gradients and the
optimiser's moments are flat buffers each, in which the networks' own tensors are views:

    [W_1 | W_2 | … | W_O | b_1 | b_2 | … | b_O]    W_l (M, n_l, n_{l-1}), b_l (M, n_l) of M networks

so that one fused call of PyTorch's moves all of them, and one takes the penalty of the weights alone. Samples run along
the rows of the hidden layers, (B, n_l), and along the columns of the output, (K, B): softmax over few classes is then
ten times faster, since neighbouring samples share a vector register.

Batches always have B samples. One that is not full carries samples of weight 0, so that every step has one shape, as
CUDA graphs need it, and networks with different numbers of samples can step together.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from models.card import Kind
from models.mlp import MLP
from models.steps import cpu
from models.steps.reference import Penalties
from models.steps.sparse import Picked

if TYPE_CHECKING:
    from models.steps import gpu

Optimizer = Literal["sgd", "momentum", "adam"]
MOMENTUM = 0.9
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam (Kingma & Ba 2015), the defaults of torch.optim
WORK = 1_000_000  # multiplications of a product that a second thread can speed up
SMALL = 250_000_000  # multiplications of a layer's product for one batch that leave most of a GPU idle
MANY = 128  # outputs that one program of a GPU, or one sample on a CPU, takes together
STATE = ("parameters", "moment", "second moment")  # what a checkpoint calls what changes from step to step
MOMENTS = {"sgd": 0, "momentum": 1, "adam": 2}  # buffers as large as the parameters that an optimiser keeps

_aten = torch.ops.aten
ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid_,
    "relu": torch.relu_,
    "tanh": torch.tanh_,
}


def _differentiate(activation: str, above: Tensor, a: Tensor) -> None:
    """above ← above ⊙ g'(z), where a = g(z)."""
    if activation == "sigmoid":
        _aten.sigmoid_backward.grad_input(above, a, grad_input=above)
    elif activation == "tanh":
        _aten.tanh_backward.grad_input(above, a, grad_input=above)
    else:
        _aten.threshold_backward.grad_input(above, a, 0, grad_input=above)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Parameters of a layer, w (..., n_out, n_in) and b (..., n_out), and their gradients, in the flat buffers."""

    w: Tensor
    b: Tensor
    w_gradient: Tensor
    b_gradient: Tensor

    def flat(self) -> "_Layer":
        """The units of all networks as those of one layer, as networks with the same input may be computed."""
        return _Layer(self.w.flatten(0, 1), self.b.flatten(), self.w_gradient.flatten(0, 1), self.b_gradient.flatten())


@dataclass(frozen=True, slots=True)
class _Hidden:
    """A hidden layer with its outputs a and its δ, both as its own products shape them and as the next layer sees them.

    They differ in a first layer whose units lie side by side: there (B, M · n) is seen as (M, B, n).
    """

    layer: _Layer
    b: Tensor  # as the products take it
    w_t: Tensor
    a: Tensor
    d: Tensor
    d_t: Tensor
    a_seen: Tensor
    d_seen: Tensor
    affine: Any
    product: Any
    large: bool  # more than one thread may pay


class _Move(NamedTuple):
    """Arguments of one fused call of the optimiser."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    moments: list[list[Tensor]]
    steps: list[Tensor]
    rate: Tensor
    decay: float


class Backprop:
    """Networks that step together, each exactly as it would alone (up to the rounding of float32).

    Shapes begin with "...": nothing for one network, the number M of networks for several. The networks' parameters
    become views of the flat buffer, so that they can be evaluated and saved at any time.

    Networks that see the same batches have first layers with the same input: these are one product, as if they were one
    layer of M times the units, which is where almost all of the work is.

    On a GPU, whole steps of networks too small to fill it are those of `models.steps.gpu`, in TF32 where together they
    do fill it; on a CPU, those of networks of one hidden layer can be those of `models.steps.cpu`.

    Parameters
    ----------
    networks : MLPs of one shape on one device
    kind : of the target, which decides the loss; see `models.classifier.loss`
    batch_size : samples of a step for each network, B
    optimizer : `sgd`, `momentum` (0.9) or `adam`, as in torch.optim
    learning_rates, penalties : one for each network
    shared : all networks see the same batches
    compiled : take steps of networks of one hidden layer by `models.steps.cpu`, on a CPU
    background : float32 (n_0,), of samples that all networks share and whose steps are compiled

    Attributes
    ----------
    combine : what makes the gradients of this process's samples, in place, those of the whole batch, where others hold
        the rest of it; nothing if None
    threads : of PyTorch's, for the large products and the optimiser; softmax and all that is small has one, so that the
        number changes no bit of the result. A step sets PyTorch's number and leaves it so
    """

    def __init__(
        self,
        networks: Sequence[MLP],
        kind: Kind,
        batch_size: int,
        optimizer: Optimizer,
        learning_rates: Sequence[float],
        penalties: Sequence[Penalties],
        shared: bool = True,
        compiled: bool = False,
        background: Tensor | None = None,
    ) -> None:
        first = networks[0]
        many = len(networks) > 1
        lead = (len(networks),) if many else ()
        like: dict[str, Any] = {"device": first.weights()[0].device}
        self.networks, self.kind, self.activation, self.optimizer = networks, kind, first.activation, optimizer
        self.learning_rates, self.penalties = list(learning_rates), list(penalties)
        self._affine = torch.baddbmm if many else torch.addmm
        self._product = torch.bmm if many else torch.mm
        shapes: list[tuple[int, ...]] = [layer.weight.shape for layer in first.linear()]
        n_weights = sum(map(math.prod, shapes)) * len(networks)
        shapes += [layer.bias.shape for layer in first.linear()]
        n = sum(map(math.prod, shapes)) * len(networks)
        self.parameters, self.gradients = torch.empty(n, **like), torch.zeros(n, **like)
        self.moments = [torch.zeros(n, **like) for _ in range(MOMENTS[optimizer])]
        self.steps = torch.zeros(len(networks), **like)  # that each network has taken
        sizes = [math.prod(shape) * len(networks) for shape in shapes]
        views = [
            [part.view(*lead, *shape) for part, shape in zip(torch.split(flat, sizes), shapes, strict=True)]
            for flat in (self.parameters, self.gradients, *self.moments)
        ]
        if compiled:  # the first weights lie feature by feature
            for of in views:
                of[0] = of[0].view(*lead, *reversed(shapes[0])).mT
        self._state = {
            f"{name} {i}": view
            for name, of in zip(STATE, (views[0], *views[2:]), strict=False)
            for i, view in enumerate(of)
        }
        depth = len(first.layers)
        (w, b), (dw, db), *moments = ((v[:depth], v[depth:]) for v in views)
        self.layers = [_Layer(*parts) for parts in zip(w, b, dw, db, strict=True)]
        self._adopt()
        *hidden, self._output = self.layers
        self._hidden = [
            self._make_hidden(layer, batch_size, many and shared and i == 0 and not compiled)
            for i, layer in enumerate(hidden)
        ]
        outputs = self._output.b.shape[-1]
        self._d_output = torch.empty(*lead, outputs, batch_size, **like)
        self._d_output_t, self._b_output = self._d_output.mT, self._output.b.unsqueeze(-1)
        self._prepare_penalties(lead, like)
        self._rates = torch.zeros(len(networks), **like)
        parts = [(w, b), *moments]
        self.compiled = self._compile(parts, batch_size, background) if compiled else []
        self._small_step = None if compiled else self._make_small_step(batch_size)
        self.threads = torch.get_num_threads()
        self.combine: Callable[[Tensor], object] | None = None
        self._narrow = {batch_size: (self._hidden, self._d_output, self._scratch)}
        self._n_weights = n_weights
        self._moves: dict[tuple[bool, ...], tuple[Tensor, list[_Move]]] = {}
        self.prepare((True,) * len(networks))
        self.set_rate(1.0)

    def _adopt(self) -> None:
        """Copy the networks' parameters into the flat buffer, and make them views of it."""
        for m, network in enumerate(self.networks):
            for layer, module in zip(self.layers, network.linear(), strict=True):
                for ours, theirs in ((layer.w, module.weight), (layer.b, module.bias)):
                    view = ours[m] if len(self.networks) > 1 else ours
                    view.copy_(theirs.detach())
                    theirs.data = view

    def _make_hidden(self, layer: _Layer, batch_size: int, side_by_side: bool) -> _Hidden:
        *lead, width, _ = layer.w.shape
        large = layer.w.numel() * batch_size > WORK
        if side_by_side:
            a, d = (layer.w.new_empty(batch_size, lead[0] * width) for _ in range(2))
            a_seen, d_seen = (values.view(batch_size, *lead, width).transpose(0, 1) for values in (a, d))
            layer, lead = layer.flat(), []
        else:
            a, d = a_seen, d_seen = [layer.w.new_empty(*lead, batch_size, width) for _ in range(2)]
        affine, product = (torch.baddbmm, torch.bmm) if lead else (torch.addmm, torch.mm)
        b = layer.b.unsqueeze(-2) if lead else layer.b
        return _Hidden(layer, b, layer.w.mT, a, d, d.mT, a_seen, d_seen, affine, product, large)

    def _prepare_penalties(self, lead: tuple[int, ...], like: dict[str, Any]) -> None:
        def column(name: str) -> Tensor | None:
            factors = torch.tensor([getattr(p, name) for p in self.penalties], dtype=torch.float32, **like)
            return factors.view(*lead, 1, 1) if factors.any() else None

        self._l1, self._activity_l1, self._activity_l2 = map(column, ("l1", "activity_l1", "activity_l2"))
        self._sign_w = [torch.empty_like(layer.w) for layer in self.layers] if self._l1 is not None else []
        active = self._activity_l1 is not None or self._activity_l2 is not None
        self._scratch = [torch.empty_like(hidden.a_seen) for hidden in self._hidden] if active else []

    def _compile(
        self, parts: Sequence[tuple[list[Tensor], list[Tensor]]], batch_size: int, background: Tensor | None
    ) -> list[cpu.Step]:
        """The steps of each network, of one hidden layer; parts as `_make_small_step` takes them."""
        optimizer = cpu.Optimizer(self.optimizer, MOMENTUM, *BETAS, EPSILON, self._l1 is not None)
        factors = torch.tensor(self.penalties, dtype=torch.float32)
        many = len(self.networks) > 1

        def of(m: int, tensor: Tensor) -> Tensor:
            return tensor[m] if many else tensor

        return [
            cpu.Step(
                [cpu.Part(of(m, w[0]), of(m, b[0]), of(m, w[1]), of(m, b[1])) for w, b in parts], batch_size,
                self.kind, self.activation, optimizer, self._rates[m : m + 1], self.steps[m : m + 1], factors[m],
                background,
            )
            for m in range(len(self.networks))
        ]  # fmt: skip

    def _make_small_step(self, batch_size: int) -> "gpu.Step | None":
        """What takes whole steps of networks too small to fill a GPU; None elsewhere."""
        on_gpu = self.parameters.device.type == "cuda" or "TRITON_INTERPRET" in os.environ  # which needs no GPU
        size = batch_size * max(layer.w.numel() for layer in self.layers)
        if not on_gpu or size // len(self.networks) > SMALL or self._output.b.shape[-1] > MANY:
            return None
        try:
            from models.steps import gpu
        except ImportError:  # not every PyTorch comes with Triton
            return None
        if not gpu.work(self.parameters.device):
            return None
        constants = {"MOMENTUM": MOMENTUM, "BETA_1": BETAS[0], "BETA_2": BETAS[1], "EPSILON": EPSILON}
        factors = torch.tensor(self.penalties, dtype=torch.float32, device=self.parameters.device).T
        return gpu.Step(
            [(layer.w, layer.b) for layer in self.layers], self.parameters, self.moments, batch_size, self.kind,
            self.activation, self.optimizer, constants, self._rates, self.steps, factors,
            gpu.EXACT if size <= SMALL else gpu.FAST,
        )  # fmt: skip

    def set_rate(self, factor: float) -> None:
        """Learning rate of the steps to come, as a factor of each network's own."""
        self._rates.copy_(torch.tensor([rate * factor for rate in self.learning_rates]))

    def narrow(self, n: int) -> None:
        """Let the batches to come have n samples, 0 … B, of one network: the first rows of the same memory."""
        if n not in self._narrow:
            hidden, d_output, scratch = next(iter(self._narrow.values()))
            views = [(h.a[:n], h.d[:n]) for h in hidden]
            self._narrow[n] = (
                [replace(h, a=a, d=d, d_t=d.mT, a_seen=a, d_seen=d) for h, (a, d) in zip(hidden, views, strict=True)],
                d_output.view(-1)[: len(d_output) * n].view(len(d_output), n),
                [s[:n] for s in scratch],
            )
        self._hidden, self._d_output, self._scratch = self._narrow[n]
        self._d_output_t = self._d_output.mT

    def prepare(self, active: tuple[bool, ...]) -> None:
        """Make ready to move those networks alone."""
        taken = torch.tensor(active, dtype=self.steps.dtype, device=self.steps.device)
        self._moves[active] = taken, self._fused_moves(active)

    def step(self, x: Tensor | Picked, t: Tensor, w: Tensor, z: Tensor, active: tuple[bool, ...]) -> None:
        """One step of the optimiser on one batch.

        Parameters
        ----------
        x : float32 (..., B, n_0), or (B, n_0) for all networks; where there is a background, where to find the batch
        t : float32 (..., K, B), or (K, B) for all: one-hot columns, 0 or 1 for a binary target, values of a regression
        w : float32 (..., 1, B): 1 / n for each of the batch's n samples, 0 where there is none
        z : float32 (..., K, B), where the logits before the step go
        active : which networks have a batch at all, as `prepare` was told; the others stand still
        """
        if self.compiled:
            self._compiled_steps(x, t, w, z, active)
            return
        assert isinstance(x, Tensor)
        if self._small_step and self.combine is None:
            self._small_step(x, t, w, z, self._moves[active][0])
            return
        self.backward(x, t, w, z)
        torch.set_num_threads(self.threads if any(h.large for h in self._hidden) else 1)
        self.move(active)

    def _compiled_steps(self, x: Tensor | Picked, t: Tensor, w: Tensor, z: Tensor, active: tuple[bool, ...]) -> None:
        torch.set_num_threads(self.threads if any(h.large for h in self._hidden) else 1)
        for m, take in enumerate(self.compiled):
            if active[m]:
                own_t, own_w, own_z = (v if v.ndim == 2 else v[m] for v in (t, w, z))
                take(x if isinstance(x, Picked) or x.ndim == 2 else x[m], own_t, own_w, own_z)

    def backward(self, x: Tensor, t: Tensor, w: Tensor, z: Tensor) -> None:
        """Fill `gradients` with those of loss and penalties, but for the weights' l2, which `move` adds."""
        seen = [x]  # what each layer is fed
        for i, h in enumerate(self._hidden):
            torch.set_num_threads(self.threads if h.large else 1)
            h.affine(h.b, seen[i], h.w_t, out=h.a)  # z_l = a_{l-1} W_lᵀ + b_l
            ACTIVATE[self.activation](h.a)
            seen.append(h.a_seen)
        if seen[-1].ndim < self._output.w.ndim:
            seen[-1] = x.expand(len(self.networks), *x.shape)  # linear models with the same batches
        a = seen[-1]
        torch.set_num_threads(1)
        output, delta = self._output, self._d_output
        self._affine(self._b_output, output.w, a.mT, out=z)
        if self.kind == "multiclass":
            torch.softmax(z, -2, out=delta).sub_(t).mul_(w)  # δ_O, (..., K, B)
        elif self.kind == "binary":
            torch.sigmoid(z, out=delta).sub_(t).mul_(w)
        else:
            torch.sub(z, t, out=delta).mul_(w).mul_(2 / output.b.shape[-1])
        self._product(delta, a, out=output.w_gradient)
        torch.sum(delta, -1, out=output.b_gradient)
        if self._hidden:
            self._product(self._d_output_t, output.w, out=self._hidden[-1].d_seen)  # ∂L/∂a_H
        for i in reversed(range(len(self._hidden))):
            h = self._hidden[i]
            torch.set_num_threads(self.threads if h.large else 1)
            self._add_activity_penalties(i, w)
            _differentiate(self.activation, h.d, h.a)  # δ_l
            h.product(h.d_t, seen[i], out=h.layer.w_gradient)
            torch.sum(h.d, -2, out=h.layer.b_gradient)
            if i:
                h.product(h.d, h.layer.w, out=self._hidden[i - 1].d_seen)
        if self.combine is not None:
            self.combine(self.gradients)
        if self._l1 is not None:
            for layer, sign in zip(self.layers, self._sign_w, strict=True):
                layer.w_gradient.addcmul_(torch.sign(layer.w, out=sign), self._l1)

    def _add_activity_penalties(self, i: int, w: Tensor) -> None:
        """∂R/∂a of a hidden layer, whose penalty is a mean over the batch's samples."""
        a, delta = self._hidden[i].a_seen, self._hidden[i].d_seen
        if self._activity_l1 is not None:
            delta.addcmul_(torch.sign(a, out=self._scratch[i]).mul_(w.mT), self._activity_l1)
        if self._activity_l2 is not None:
            delta.addcmul_(torch.mul(a, w.mT, out=self._scratch[i]), self._activity_l2, value=2)

    def move(self, active: tuple[bool, ...]) -> None:
        """The optimiser's step along `gradients`, of the networks that have one."""
        taken, moves = self._moves[active]
        self.steps.add_(taken)
        for m in moves:
            if self.optimizer == "adam":
                first, second = m.moments
                torch._fused_adam_(
                    m.parameters, m.gradients, first, second, [], m.steps, lr=m.rate, beta1=BETAS[0], beta2=BETAS[1],
                    weight_decay=m.decay, eps=EPSILON, amsgrad=False, maximize=False,
                )  # fmt: skip
            else:
                torch._fused_sgd_(
                    m.parameters, m.gradients, *(m.moments or [[]]), weight_decay=m.decay, lr=m.rate, dampening=0.0,
                    momentum=MOMENTUM if m.moments else 0.0, nesterov=False, maximize=False, is_first_step=False,
                )  # fmt: skip

    def _fused_moves(self, active: tuple[bool, ...]) -> list[_Move]:
        """Fused calls that move the active networks, one for all parts of the buffers with one rate and one l2.

        The gradient 2 l2 w of the penalty l2 Σw² is what the fused kernels call a weight decay of 2 l2.
        """
        settings = [(rate, p.l2) for rate, p in zip(self.learning_rates, self.penalties, strict=True)]
        parts: list[tuple[int, slice]] = []  # a network, and where in the buffers something of it lies
        if all(active) and len(set(settings)) == 1:
            parts = [(0, slice(0, self._n_weights)), (0, slice(self._n_weights, None))]
        else:
            start = 0
            for tensor in [layer.w for layer in self.layers] + [layer.b for layer in self.layers]:
                size = tensor[0].numel()
                parts += [(m, slice(start + m * size, start + (m + 1) * size)) for m, a in enumerate(active) if a]
                start += tensor.numel()
        calls: dict[tuple[float, float], list[tuple[int, slice]]] = {}
        for m, place in parts:
            rate, l2 = settings[m]
            calls.setdefault((rate, 2 * l2 if place.start < self._n_weights else 0.0), []).append((m, place))

        def views(flat: Tensor, of: list[tuple[int, slice]]) -> list[Tensor]:
            return [flat[place] for _, place in of]

        return [
            _Move(
                views(self.parameters, of), views(self.gradients, of), [views(moment, of) for moment in self.moments],
                [self.steps[m] for m, _ in of], self._rates[of[0][0]], decay,
            )
            for (_, decay), of in calls.items()
        ]  # fmt: skip

    def logits(self, x: Tensor, members: Sequence[int]) -> Tensor:
        """Outputs of several of many networks for the same samples: float32 (N, n_0) → (len(members), N, K)."""
        chosen = slice(None) if len(members) == len(self.networks) else list(members)
        a = x.expand(len(members), *x.shape)
        for i, layer in enumerate(self.layers):
            if i:
                ACTIVATE[self.activation](a)
            a = torch.baddbmm(layer.b[chosen].unsqueeze(-2), a, layer.w[chosen].mT)
        return a

    def state(self) -> dict[str, Tensor]:
        """All that changes from step to step, for a checkpoint; `load` takes it back."""
        return self._state | {"steps": self.steps}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
