"""The fast training step on a GPU, for networks too small to fill it: back-propagation in four kernels, in Triton.

A step of 784-100-10 takes about twenty launches when each product and each function is one, and a launch costs
microseconds whatever it does. Here a layer is one kernel each way: product, bias and activation of the forward pass;
loss and δ of the output; g'(z) and the activity penalties on the way back; the gradient of the weights, its penalties
and the optimiser's step, so that no gradient is ever written to memory.

Every kernel takes M networks, the last axis of its grid, with a stride of 0 between them for what they share. Products
are in TF32 three times over ("3xTF32", Ootomo & Yokota 2022), whose sum has the accuracy of float32.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.card import Kind

PRECISION = "tf32x3"
MULTIPROCESSORS = 132  # of an H100; with fewer programs a part of it has nothing to do


@triton.jit
def _activate(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == "sigmoid":
        a = tl.sigmoid(z)
    elif ACTIVATION == "tanh":
        a = 2 * tl.sigmoid(2 * z) - 1
    else:
        a = tl.maximum(z, 0.0)
    return a


@triton.jit
def _sign(x):
    return (x > 0).to(tl.float32) - (x < 0).to(tl.float32)


@triton.jit
def _differentiate(d, a, weight, activity_l1, activity_l2, ACTIVATION: tl.constexpr):
    """δ of a hidden layer: (∂L/∂a + ∂R/∂a) ⊙ g'(z), where a = g(z)."""
    d += (activity_l1 * _sign(a) + 2 * activity_l2 * a) * weight
    if ACTIVATION == "sigmoid":
        d *= a * (1 - a)
    elif ACTIVATION == "tanh":
        d *= 1 - a * a
    else:
        d = tl.where(a > 0, d, 0.0)
    return d


@triton.jit
def _product(
    x, w, rows, columns, B, N, D, w_n, w_d, PRECISION: tl.constexpr,
    TB: tl.constexpr, TN: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """TB rows and TN columns of the product of x (B, D) and w (D, N), whose strides are w_d and w_n."""
    total = tl.zeros((TB, TN), tl.float32)
    for start in range(0, D, DEPTH):
        inner = start + tl.arange(0, DEPTH)
        x_part = tl.load(
            x + rows[:, None] * D + inner[None, :], mask=(rows[:, None] < B) & (inner[None, :] < D), other=0.0
        )
        w_part = tl.load(
            w + columns[None, :] * w_n + inner[:, None] * w_d,
            mask=(columns[None, :] < N) & (inner[:, None] < D), other=0.0,
        )  # fmt: skip
        total = tl.dot(x_part, w_part, total, input_precision=PRECISION)
    return total


@triton.jit
def forward(
    x, w, b, a, B, N, D, x_m, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    TB: tl.constexpr, TN: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """a (M, B, N) ← g(x Wᵀ + b), for x (M, B, D), W (M, N, D), b (M, N); a tile of TB samples and TN units."""
    m = tl.program_id(2)
    rows = tl.program_id(0) * TB + tl.arange(0, TB)
    units = tl.program_id(1) * TN + tl.arange(0, TN)
    total = _product(x + m * x_m, w + m * N * D, rows, units, B, N, D, D, 1, PRECISION, TB, TN, DEPTH)
    total += tl.load(b + m * N + units, mask=units < N, other=0.0)[None, :]
    here = (rows[:, None] < B) & (units[None, :] < N)
    tl.store(a + m * B * N + rows[:, None] * N + units[None, :], _activate(total, ACTIVATION), mask=here)


@triton.jit
def output(
    a, w, b, t, weight, z, delta, d, steps, taken, activity, M, B, K, N, a_m, t_m, weight_m,
    KIND: tl.constexpr, ACTIVATION: tl.constexpr, HIDDEN: tl.constexpr, PRECISION: tl.constexpr,
    TB: tl.constexpr, TK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """z, δ (M, K, B) of the output layer, and δ (M, B, N) of the layer below; the steps of the networks are counted.

    a (M, B, N), W (M, K, N), b (M, K), t (M, K, B), weight (M, B); a program has TB samples and all K outputs.
    """
    m = tl.program_id(1)
    rows = tl.program_id(0) * TB + tl.arange(0, TB)
    outputs = tl.arange(0, TK)
    a += m * a_m
    w += m * K * N
    total = _product(a, w, rows, outputs, B, K, N, N, 1, PRECISION, TB, TK, DEPTH)
    total += tl.load(b + m * K + outputs, mask=outputs < K, other=0.0)[None, :]
    here = (rows[:, None] < B) & (outputs[None, :] < K)
    place = outputs[None, :] * B + rows[:, None]
    share = tl.load(weight + m * weight_m + rows, mask=rows < B, other=0.0)[:, None]
    tl.store(z + m * K * B + place, total, mask=here)
    if KIND == "multiclass":
        total = tl.where(outputs[None, :] < K, total, float("-inf"))
        grown = tl.exp(total - tl.max(total, 1)[:, None])
        error = grown / tl.sum(grown, 1)[:, None]
    elif KIND == "binary":
        error = tl.sigmoid(total)
    else:
        error = total
    error = (error - tl.load(t + m * t_m + place, mask=here, other=0.0)) * share
    if KIND == "regression":
        error *= 2.0 / K
    error = tl.where(here, error, 0.0)
    tl.store(delta + m * K * B + place, error, mask=here)
    if HIDDEN:
        l1, l2 = tl.load(activity + m), tl.load(activity + M + m)
        for start in range(0, N, DEPTH):
            units = start + tl.arange(0, DEPTH)
            w_back = tl.load(
                w + outputs[:, None] * N + units[None, :], mask=(outputs[:, None] < K) & (units[None, :] < N), other=0.0
            )
            below = (rows[:, None] < B) & (units[None, :] < N)
            lies = rows[:, None] * N + units[None, :]
            a_below = tl.load(a + lies, mask=below, other=0.0)
            part = tl.dot(error, w_back, input_precision=PRECISION)
            tl.store(d + m * B * N + lies, _differentiate(part, a_below, share, l1, l2, ACTIVATION), mask=below)
    if tl.program_id(0) == 0:
        tl.store(steps + m, tl.load(steps + m) + tl.load(taken + m))


@triton.jit
def propagate(
    above, w, a, weight, d, activity, M, B, N, D, weight_m, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    TB: tl.constexpr, TN: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """δ (M, B, D) of a hidden layer with outputs a (M, B, D), from δ (M, B, N) and W (M, N, D) of the one above."""
    m = tl.program_id(2)
    rows = tl.program_id(0) * TB + tl.arange(0, TB)
    units = tl.program_id(1) * TN + tl.arange(0, TN)
    total = _product(above + m * B * N, w + m * N * D, rows, units, B, D, N, 1, D, PRECISION, TB, TN, DEPTH)
    here = (rows[:, None] < B) & (units[None, :] < D)
    place = m * B * D + rows[:, None] * D + units[None, :]
    share = tl.load(weight + m * weight_m + rows, mask=rows < B, other=0.0)[:, None]
    a_part = tl.load(a + place, mask=here, other=0.0)
    l1, l2 = tl.load(activity + m), tl.load(activity + M + m)
    tl.store(d + place, _differentiate(total, a_part, share, l1, l2, ACTIVATION), mask=here)


@triton.jit
def _move(
    p, g, first, second, here, rate, step, OPTIMIZER: tl.constexpr, MOMENTUM: tl.constexpr,
    BETA_1: tl.constexpr, BETA_2: tl.constexpr, EPSILON: tl.constexpr,
):  # fmt: skip
    """The optimiser's step of parameters at `p`, whose moments lie at `first` and `second`, along their gradient."""
    value = tl.load(p, mask=here, other=0.0)
    if OPTIMIZER == "sgd":
        value -= rate * g
    elif OPTIMIZER == "momentum":
        g += MOMENTUM * tl.load(first, mask=here, other=0.0)
        tl.store(first, g, mask=here)
        value -= rate * g
    else:
        mean = tl.load(first, mask=here, other=0.0)
        mean += (1 - BETA_1) * (g - mean)
        square = BETA_2 * tl.load(second, mask=here, other=0.0) + (1 - BETA_2) * g * g
        tl.store(first, mean, mask=here)
        tl.store(second, square, mask=here)
        taken = step.to(tl.float64)  # 1 - β₂ after a step has four digits less in float32
        mean_is = (1 - tl.exp2(taken * tl.log2(tl.full((), BETA_1, tl.float64)))).to(tl.float32)
        square_is = (1 - tl.exp2(taken * tl.log2(tl.full((), BETA_2, tl.float64)))).to(tl.float32)
        value -= rate / mean_is * mean / (tl.sqrt(square) / tl.sqrt(square_is) + EPSILON)
    tl.store(p, value, mask=here)


@triton.jit
def descend(
    d, x, w, b, first_w, first_b, second_w, second_b, rates, penalty, steps, taken, M, B, N, D, d_m, d_b, d_n, x_m,
    OPTIMIZER: tl.constexpr, MOMENTUM: tl.constexpr, BETA_1: tl.constexpr, BETA_2: tl.constexpr, EPSILON: tl.constexpr,
    PRECISION: tl.constexpr, TN: tl.constexpr, TD: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """W (M, N, D) and b (M, N) of a layer with δ (M, B, N), of any strides, and input x (M, B, D) take their step.

    The gradients are δᵀ x, with those of the penalties l1 Σ|w| + l2 Σw², and Σδ. Networks without a batch stand still.
    """
    m = tl.program_id(2)
    if tl.load(taken + m) > 0:
        units = tl.program_id(0) * TN + tl.arange(0, TN)
        inputs = tl.program_id(1) * TD + tl.arange(0, TD)
        d += m * d_m
        x += m * x_m
        total = tl.zeros((TN, TD), tl.float32)
        for start in range(0, B, DEPTH):
            rows = start + tl.arange(0, DEPTH)
            d_part = tl.load(
                d + rows[None, :] * d_b + units[:, None] * d_n,
                mask=(rows[None, :] < B) & (units[:, None] < N), other=0.0,
            )  # fmt: skip
            x_part = tl.load(
                x + rows[:, None] * D + inputs[None, :], mask=(rows[:, None] < B) & (inputs[None, :] < D), other=0.0
            )
            total = tl.dot(d_part, x_part, total, input_precision=PRECISION)
        rate, step = tl.load(rates + m), tl.load(steps + m)
        here = (units[:, None] < N) & (inputs[None, :] < D)
        place = m * N * D + units[:, None] * D + inputs[None, :]
        value = tl.load(w + place, mask=here, other=0.0)
        total += tl.load(penalty + m) * _sign(value) + 2 * tl.load(penalty + M + m) * value
        _move(
            w + place, total, first_w + place, second_w + place, here, rate, step,
            OPTIMIZER, MOMENTUM, BETA_1, BETA_2, EPSILON,
        )  # fmt: skip
        if tl.program_id(1) == 0:
            sums = tl.zeros((TN, DEPTH), tl.float32)
            for start in range(0, B, DEPTH):
                rows = start + tl.arange(0, DEPTH)
                sums += tl.load(
                    d + rows[None, :] * d_b + units[:, None] * d_n,
                    mask=(rows[None, :] < B) & (units[:, None] < N), other=0.0,
                )  # fmt: skip
            place_b = m * N + units
            _move(
                b + place_b, tl.sum(sums, 1), first_b + place_b, second_b + place_b, units < N, rate, step,
                OPTIMIZER, MOMENTUM, BETA_1, BETA_2, EPSILON,
            )  # fmt: skip


@triton.jit
def _try(x):
    tl.store(x, 1.0)


@cache
def work(device: torch.device) -> bool:
    """Whether Triton can compile for that device and start what it has compiled; a warning says why not."""
    try:
        _try[1,](torch.zeros(1, device=device))
    except Exception as error:  # of many kinds: it wants a C compiler, Python's headers, a GPU of its list
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        warnings.warn(f"training is slower than it could be, since Triton does not work here: {reason}", stacklevel=2)
        return False
    return True


class Layer(NamedTuple):
    """Parameters of a layer, W (M, N, D) and b (M, N), each followed by the moments that the optimiser keeps of it."""

    w: list[Tensor]
    b: list[Tensor]


class Step:
    """Steps of M networks on one device, with memory of their own for what lies between the layers.

    Parameters
    ----------
    layers : from the first to the output
    batch_size : samples of a step for each network, at most
    constants : the optimiser's `MOMENTUM`, `BETA_1`, `BETA_2` and `EPSILON`
    rates : learning rates, float32 (M,); read anew in every step
    steps : float32 (M,), that each network has taken, which a step counts
    penalties : factors l1, l2 of the weights and then of the activities, float32 (4, M)
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        batch_size: int,
        kind: Kind,
        activation: str,
        optimizer: str,
        constants: dict[str, float],
        rates: Tensor,
        steps: Tensor,
        penalties: Tensor,
    ) -> None:
        self.layers, self.kind, self.activation = layers, kind, activation
        self.rates, self.steps = rates, steps
        self.of_weights, self.of_activities = penalties[:2].contiguous(), penalties[2:].contiguous()
        self.move = {"OPTIMIZER": optimizer, "PRECISION": PRECISION, **constants}
        self.m = len(rates)
        *hidden, last = [layer.b[0].numel() // self.m for layer in layers]
        new = rates.new_empty
        self.a, self.d = ([new(self.m * batch_size * n) for n in hidden] for _ in range(2))
        self.delta = new(self.m * last * batch_size)

    def __call__(self, x: Tensor, t: Tensor, w: Tensor, z: Tensor, taken: Tensor) -> None:
        """One step; x, t, w and z as `Backprop.step` takes them, contiguous but for what the networks share.

        taken : float32 (M,), 1 for those that have a batch, 0 for the others
        """
        m, size = self.m, x.shape[-2]
        x_m, t_m, w_m = (v.stride(0) if v.ndim == 3 else 0 for v in (x, t, w))
        fed = [x, *self.a]
        widths = [layer.b[0].numel() // m for layer in self.layers]
        depths = [x.shape[-1], *widths[:-1]]
        strides = [x_m, *(size * n for n in widths[:-1])]
        like: dict[str, Any] = {"ACTIVATION": self.activation, "PRECISION": PRECISION}
        *hidden, last = self.layers
        top = len(hidden)
        for i, layer in enumerate(hidden):
            tile = _tile(m, size, widths[i])
            grid = (triton.cdiv(size, tile), triton.cdiv(widths[i], tile), m)
            forward[grid](
                fed[i], layer.w[0], layer.b[0], self.a[i], size, widths[i], depths[i], strides[i],
                TB=tile, TN=tile, **like, **_launch(tile),
            )  # fmt: skip
        output[triton.cdiv(size, 16), m](
            fed[top], last.w[0], last.b[0], t, w, z, self.delta, self.d[-1] if hidden else z, self.steps, taken,
            self.of_activities, m, size, widths[top], depths[top], strides[top], t_m, w_m,
            KIND=self.kind, HIDDEN=bool(hidden), TB=16, TK=max(16, triton.next_power_of_2(widths[top])),
            **like, **_launch(16),
        )  # fmt: skip
        for i in range(top - 1, 0, -1):
            tile = _tile(m, size, depths[i])
            grid = (triton.cdiv(size, tile), triton.cdiv(depths[i], tile), m)
            propagate[grid](
                self.d[i], hidden[i].w[0], self.a[i - 1], w, self.d[i - 1], self.of_activities, m, size, widths[i],
                depths[i], w_m, TB=tile, TN=tile, **like, **_launch(tile),
            )  # fmt: skip
        for i, layer in enumerate(self.layers):
            n = widths[i]
            d, lies = (self.delta, (n * size, 1, size)) if i == top else (self.d[i], (n * size, n, 1))
            tile = _tile(m, n, depths[i])
            grid = (triton.cdiv(n, tile), triton.cdiv(depths[i], tile), m)
            first, second = ([p[min(j, len(p) - 1)] for p in layer] for j in (1, 2))
            descend[grid](
                d, fed[i], layer.w[0], layer.b[0], *first, *second, self.rates, self.of_weights, self.steps, taken,
                m, size, n, depths[i], *lies, strides[i], TN=tile, TD=tile,
                **self.move, **(_launch(tile) | {"DEPTH": 32}),
            )  # fmt: skip


def _tile(m: int, rows: int, columns: int) -> int:
    """Side of the squares in which programs compute m matrices of that shape: large, but with work for all the GPU."""
    for tile in (64, 32):
        if m * triton.cdiv(rows, tile) * triton.cdiv(columns, tile) >= MULTIPROCESSORS // 2:
            return tile
    return 16


def _launch(tile: int) -> dict[str, int]:
    """Slices in which products are summed, and warps and stages of the pipeline for Triton's compiler: the fastest of
    some on an H100 for 784-100-10, among those that keep a tile in registers."""
    if tile == 16:
        return {"DEPTH": 64, "num_warps": 4, "num_stages": 3}
    return {"DEPTH": 32, "num_warps": 8 if tile == 64 else 4, "num_stages": 4}
