"""The training step in plain PyTorch: back-propagation in closed form, for one network or many of one shape at once.

The mathematics is that of `models/steps/reference.py`, in the same notation. The memory of every product, gradient and
moment is allocated before training begins; a step allocates none. Parameters, gradients and the optimiser's moments are
one flat buffer each, in which the networks' own tensors are views:

    [W_1 | W_2 | … | W_O | b_1 | b_2 | … | b_O]    W_l (M, n_l, n_{l-1}), b_l (M, n_l) of M networks

so that one fused call of PyTorch updates all of them, and one applies the penalty to the weights alone. Samples run
along the rows of the hidden layers, (B, n_l), and along the columns of the output, (K, B): softmax over few classes is
then ten times faster, since neighbouring samples share a vector register.

Batches always have B samples. One that is not full is padded with samples of weight 0, so that every step has the same
shape, as CUDA graphs require, and networks with different numbers of samples can step together.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from models.card import Kind
from models.mlp import MLP
from models.steps.reference import Penalties
from models.targets import TARGETS

Optimizer = Literal["sgd", "momentum", "adam"]
MOMENTUM = 0.9
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam (Kingma & Ba 2015), the defaults of torch.optim
THREADED_WORK = 1_000_000  # multiplications from which a second thread can speed up a product
STATE = ("parameters", "moment", "second moment")  # prefixes of a checkpoint's keys
MOMENTS = {"sgd": 0, "momentum": 1, "adam": 2}  # buffers as large as the parameters that an optimiser keeps

_aten = torch.ops.aten
ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid_,
    "relu": torch.relu_,
    "tanh": torch.tanh_,
}


@dataclass(frozen=True, slots=True)
class Setup:
    """Networks that are trained together, and how.

    Parameters
    ----------
    networks : MLPs of one shape on one device
    kind : of the target; see `models.targets`
    batch_size : samples of a step for each network, B
    optimizer : `sgd`, `momentum` (0.9) or `adam`, as in torch.optim
    learning_rates, penalties : one for each network
    shared : all networks see the same batches
    """

    networks: Sequence[MLP]
    kind: Kind
    batch_size: int
    optimizer: Optimizer
    learning_rates: Sequence[float]
    penalties: Sequence[Penalties]
    shared: bool = True

    @property
    def device(self) -> torch.device:
        return self.networks[0].weights()[0].device

    @property
    def lead(self) -> tuple[int, ...]:
        """Leading dimensions of tensors for all networks: (M,), or () for one network."""
        return (len(self.networks),) if len(self.networks) > 1 else ()


def _differentiate(activation: str, above: Tensor, a: Tensor) -> None:
    """above ← above ⊙ g'(z), where a = g(z)."""
    if activation == "sigmoid":
        _aten.sigmoid_backward.grad_input(above, a, grad_input=above)
    elif activation == "tanh":
        _aten.tanh_backward.grad_input(above, a, grad_input=above)
    else:
        _aten.threshold_backward.grad_input(above, a, 0, grad_input=above)


@dataclass(frozen=True, slots=True)
class Layer:
    """Parameters of a layer, w (..., n_out, n_in) and b (..., n_out), and their gradients, in the flat buffers."""

    w: Tensor
    b: Tensor
    w_gradient: Tensor
    b_gradient: Tensor

    def flat(self) -> "Layer":
        """The units of all networks as one layer, for networks with the same input."""
        return Layer(self.w.flatten(0, 1), self.b.flatten(), self.w_gradient.flatten(0, 1), self.b_gradient.flatten())


@dataclass(frozen=True, slots=True)
class _Hidden:
    """A hidden layer with its outputs a and its δ, in the shape of its own products and as the next layer sees them.

    The shapes differ where the first layers of all networks are one product: (B, M · n) is seen as (M, B, n).
    """

    layer: Layer
    b: Tensor  # in the shape that `affine` needs
    w_t: Tensor
    a: Tensor
    d: Tensor
    d_t: Tensor
    a_seen: Tensor
    d_seen: Tensor
    affine: Any
    product: Any
    large: bool  # more than one thread may pay


class _Update(NamedTuple):
    """Arguments of one fused call of the optimiser."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    moments: list[list[Tensor]]
    steps: list[Tensor]
    rate: Tensor
    decay: float


class FlatParameters:
    """The flat buffers of networks that step together, and everything that all kinds of step share.

    Shapes begin with "...": nothing for one network, the number M of networks for several. The networks' parameters
    become views of the flat buffer, so that they can be evaluated and saved at any time.

    Attributes
    ----------
    threads : PyTorch's threads for the large products and the optimiser. Softmax and other small operations use one, so
        the result is the same bit for bit. A step sets PyTorch's number of threads and does not restore it
    has_samples : whether the step keeps all samples in a form of its own
    """

    has_samples = False

    def __init__(self, setup: Setup) -> None:
        self.setup, self.networks = setup, setup.networks
        self.activation = setup.networks[0].activation
        n_networks, device = len(setup.networks), setup.device
        linear = setup.networks[0].linear()
        self._shapes = [tuple(p.shape) for p in (*(m.weight for m in linear), *(m.bias for m in linear))]
        sizes = [math.prod(shape) * n_networks for shape in self._shapes]
        self._n_weights = sum(sizes[: len(linear)])
        self.parameters, self.gradients = (torch.zeros(sum(sizes), device=device) for _ in range(2))
        self.moments = [torch.zeros(sum(sizes), device=device) for _ in range(MOMENTS[setup.optimizer])]
        self.steps = torch.zeros(n_networks, device=device)  # that each network has taken
        self._rates = torch.zeros(n_networks, device=device)
        views = [self._views(flat) for flat in (self.parameters, self.gradients, *self.moments)]
        self.layers = [Layer(w, b, dw, db) for (w, b), (dw, db) in zip(*map(_by_layer, views[:2]), strict=True)]
        #: weights and biases of each layer, of the parameters and of each moment
        self.parts = [_by_layer(of) for of in (views[0], *views[2:])]
        self._state = {
            f"{name} {i}": view
            for name, of in zip(STATE, (views[0], *views[2:]), strict=False)
            for i, view in enumerate(of)
        }
        self._adopt()
        self._l1, self._activity_l1, self._activity_l2 = map(self._factors, ("l1", "activity_l1", "activity_l2"))
        self.threads = torch.get_num_threads()
        self.set_rate(1.0)

    def _views(self, flat: Tensor) -> list[Tensor]:
        """The weights of every layer in a flat buffer, and then the biases."""
        sizes = [math.prod(shape) * len(self.networks) for shape in self._shapes]
        parts = zip(torch.split(flat, sizes), self._shapes, strict=True)
        return [part.view(*self.setup.lead, *shape) for part, shape in parts]

    def _adopt(self) -> None:
        """Copy the networks' parameters into the flat buffer, and make them views of it."""
        for m, network in enumerate(self.networks):
            for layer, module in zip(self.layers, network.linear(), strict=True):
                for ours, theirs in ((layer.w, module.weight), (layer.b, module.bias)):
                    view = ours[m] if self.setup.lead else ours
                    view.copy_(theirs.detach())
                    theirs.data = view

    def _factors(self, name: str) -> Tensor | None:
        """A penalty's factor for each network, (..., 1, 1); None if all are 0."""
        values = [getattr(p, name) for p in self.setup.penalties]
        factors = torch.tensor(values, dtype=torch.float32, device=self.setup.device)
        return factors.view(*self.setup.lead, 1, 1) if factors.any() else None

    def set_rate(self, factor: float) -> None:
        """Set the learning rate of the following steps to `factor` times each network's own."""
        self._rates.copy_(torch.tensor([rate * factor for rate in self.setup.learning_rates]))

    def batches(self, rows: Tensor, gather: Callable[[], Tensor]) -> Iterable[Any]:
        """The batches of several steps: the result of `gather`, float32 (steps, ..., B, n_0); see
        `models.steps.Step`."""
        return gather()

    def logits(self, x: Tensor, members: Sequence[int]) -> Tensor:
        """Outputs of the networks `members` for the same samples: float32 (N, n_0) → (len(members), N, K)."""
        chosen = slice(None) if len(members) == len(self.networks) else list(members)
        a = x.expand(len(members), *x.shape)
        for i, layer in enumerate(self.layers):
            if i:
                ACTIVATE[self.activation](a)
            a = torch.baddbmm(layer.b[chosen].unsqueeze(-2), a, layer.w[chosen].mT)
        return a

    def state(self) -> dict[str, Tensor]:
        """Everything that changes from step to step, for a checkpoint."""
        return self._state | {"steps": self.steps}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state` of this step or of another one for the same networks."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


def _by_layer(views: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    depth = len(views) // 2
    return list(zip(views[:depth], views[depth:], strict=True))


class Backprop(FlatParameters):
    """Networks that step together, each exactly as it would alone (up to the rounding of float32).

    Networks that see the same batches have first layers with the same input. These layers, where almost all of the work
    is, are computed as one product, like one layer of M times the units.

    Attributes
    ----------
    combine : turns the gradients of this process's samples, in place, into those of the whole batch (an all-reduce);
        None if no other process holds samples

    >>> network = MLP(2, [3], 2, "tanh")
    >>> step = Backprop(Setup([network], "multiclass", 4, "sgd", [0.1], [Penalties()]))
    >>> x, t = torch.rand(4, 2), torch.eye(2).repeat(1, 2)  # four samples, one-hot columns of two classes
    >>> w, z = torch.full((1, 4), 1 / 4), torch.empty(2, 4)
    >>> before = network.layers[0].weight.clone()
    >>> step.step(x, t, w, z, (True,))
    >>> z.shape, torch.equal(network.layers[0].weight, before)
    (torch.Size([2, 4]), False)
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        lead, many = setup.lead, len(setup.networks) > 1
        self._affine = torch.baddbmm if many else torch.addmm
        self._product = torch.bmm if many else torch.mm
        self._delta = TARGETS[setup.kind].delta
        *hidden, self._output = self.layers
        side_by_side = many and setup.shared
        self._hidden = [self._make_hidden(layer, side_by_side and i == 0) for i, layer in enumerate(hidden)]
        self._d_output = self.parameters.new_empty(*lead, self._output.b.shape[-1], setup.batch_size)
        self._d_output_t, self._b_output = self._d_output.mT, self._output.b.unsqueeze(-1)
        self._sign_w = [torch.empty_like(layer.w) for layer in self.layers] if self._l1 is not None else []
        active = self._activity_l1 is not None or self._activity_l2 is not None
        self._scratch = [torch.empty_like(h.a_seen) for h in self._hidden] if active else []
        self.combine: Callable[[Tensor], object] | None = None
        self._narrow = {setup.batch_size: (self._hidden, self._d_output, self._scratch)}
        self._updates: dict[tuple[bool, ...], tuple[Tensor, list[_Update]]] = {}
        self.prepare((True,) * len(setup.networks))

    def _make_hidden(self, layer: Layer, side_by_side: bool) -> _Hidden:
        *lead, width, _ = layer.w.shape
        batch_size = self.setup.batch_size
        large = layer.w.numel() * batch_size > THREADED_WORK
        if side_by_side:
            a, d = (layer.w.new_empty(batch_size, lead[0] * width) for _ in range(2))
            a_seen, d_seen = (values.view(batch_size, *lead, width).transpose(0, 1) for values in (a, d))
            layer, lead = layer.flat(), []
        else:
            a, d = a_seen, d_seen = [layer.w.new_empty(*lead, batch_size, width) for _ in range(2)]
        affine, product = (torch.baddbmm, torch.bmm) if lead else (torch.addmm, torch.mm)
        b = layer.b.unsqueeze(-2) if lead else layer.b
        return _Hidden(layer, b, layer.w.mT, a, d, d.mT, a_seen, d_seen, affine, product, large)

    def narrow(self, n: int) -> None:
        """Set the size of the following batches to n, 0 … B, for one network; they use the first rows of the same
        memory."""
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
        """Prepare steps in which only the `active` networks have a batch."""
        counted = torch.tensor(active, dtype=self.steps.dtype, device=self.steps.device)
        self._updates[active] = counted, self._fused_updates(active)

    def step(self, x: Tensor, t: Tensor, w: Tensor, z: Tensor, active: tuple[bool, ...]) -> None:
        """One step of the optimiser on one batch; see `models.steps.Step`."""
        self.backward(x, t, w, z)
        torch.set_num_threads(self.threads if any(h.large for h in self._hidden) else 1)
        self.update(active)

    def backward(self, x: Tensor, t: Tensor, w: Tensor, z: Tensor) -> None:
        """Fill `gradients` with those of loss and penalties, except the weights' l2, which `update` adds."""
        inputs = self._forward(x, z)
        torch.set_num_threads(1)
        output, delta = self._output, self._d_output
        self._delta(z, t, w, delta)  # δ_O, (..., K, B)
        self._product(delta, inputs[-1], out=output.w_gradient)
        torch.sum(delta, -1, out=output.b_gradient)
        if self._hidden:
            self._product(self._d_output_t, output.w, out=self._hidden[-1].d_seen)  # ∂L/∂a_H
        for i in reversed(range(len(self._hidden))):
            h = self._hidden[i]
            torch.set_num_threads(self.threads if h.large else 1)
            self._add_activity_penalties(i, w)
            _differentiate(self.activation, h.d, h.a)  # δ_l
            h.product(h.d_t, inputs[i], out=h.layer.w_gradient)
            torch.sum(h.d, -2, out=h.layer.b_gradient)
            if i:
                h.product(h.d, h.layer.w, out=self._hidden[i - 1].d_seen)
        if self.combine is not None:
            self.combine(self.gradients)
        if self._l1 is not None:
            for layer, sign in zip(self.layers, self._sign_w, strict=True):
                layer.w_gradient.addcmul_(torch.sign(layer.w, out=sign), self._l1)

    def _forward(self, x: Tensor, z: Tensor) -> list[Tensor]:
        """Write the logits to z; returns the inputs of every layer."""
        inputs = [x]
        for i, h in enumerate(self._hidden):
            torch.set_num_threads(self.threads if h.large else 1)
            h.affine(h.b, inputs[i], h.w_t, out=h.a)  # z_l = a_{l-1} W_lᵀ + b_l
            ACTIVATE[self.activation](h.a)
            inputs.append(h.a_seen)
        if inputs[-1].ndim < self._output.w.ndim:
            inputs[-1] = x.expand(len(self.networks), *x.shape)  # linear models with the same batches
        torch.set_num_threads(1)
        self._affine(self._b_output, self._output.w, inputs[-1].mT, out=z)
        return inputs

    def _add_activity_penalties(self, i: int, w: Tensor) -> None:
        """∂R/∂a of a hidden layer, whose penalty is a mean over the batch's samples."""
        a, delta = self._hidden[i].a_seen, self._hidden[i].d_seen
        if self._activity_l1 is not None:
            delta.addcmul_(torch.sign(a, out=self._scratch[i]).mul_(w.mT), self._activity_l1)
        if self._activity_l2 is not None:
            delta.addcmul_(torch.mul(a, w.mT, out=self._scratch[i]), self._activity_l2, value=2)

    def update(self, active: tuple[bool, ...]) -> None:
        """The optimiser's step along `gradients`, for the `active` networks."""
        counted, updates = self._updates[active]
        self.steps.add_(counted)
        for u in updates:
            if self.setup.optimizer == "adam":
                first, second = u.moments
                torch._fused_adam_(
                    u.parameters, u.gradients, first, second, [], u.steps, lr=u.rate, beta1=BETAS[0], beta2=BETAS[1],
                    weight_decay=u.decay, eps=EPSILON, amsgrad=False, maximize=False,
                )  # fmt: skip
            else:
                torch._fused_sgd_(
                    u.parameters, u.gradients, *(u.moments or [[]]), weight_decay=u.decay, lr=u.rate, dampening=0.0,
                    momentum=MOMENTUM if u.moments else 0.0, nesterov=False, maximize=False, is_first_step=False,
                )  # fmt: skip

    def _fused_updates(self, active: tuple[bool, ...]) -> list[_Update]:
        """Fused calls that update the active networks, one for all parts of the buffers with the same rate and l2.

        The gradient 2 l2 w of the penalty l2 Σw² is what the fused kernels call a weight decay of 2 l2.
        """
        settings = [(rate, p.l2) for rate, p in zip(self.setup.learning_rates, self.setup.penalties, strict=True)]
        parts: list[tuple[int, slice]] = []  # a network, and where a part of it is in the buffers
        if all(active) and len(set(settings)) == 1:
            parts = [(0, slice(0, self._n_weights)), (0, slice(self._n_weights, None))]
        else:
            start = 0
            for tensor in [layer.w for layer in self.layers] + [layer.b for layer in self.layers]:
                size = tensor[0].numel()
                parts += [(m, slice(start + m * size, start + (m + 1) * size)) for m, a in enumerate(active) if a]
                start += tensor.numel()
        calls: dict[tuple[float, float], list[tuple[int, slice]]] = {}
        for m, part in parts:
            rate, l2 = settings[m]
            calls.setdefault((rate, 2 * l2 if part.start < self._n_weights else 0.0), []).append((m, part))

        def views(flat: Tensor, of: list[tuple[int, slice]]) -> list[Tensor]:
            return [flat[part] for _, part in of]

        return [
            _Update(
                views(self.parameters, of), views(self.gradients, of), [views(moment, of) for moment in self.moments],
                [self.steps[m] for m, _ in of], self._rates[of[0][0]], decay,
            )
            for (_, decay), of in calls.items()
        ]  # fmt: skip
