"""The fast training step on a GPU, for networks too small to fill it: back-propagation in four kernels, in Triton.

With one launch for each product and each function, a step of 784-100-10 takes about twenty launches, and each costs
microseconds whatever it does. Here there are four:

- `forward` computes the product, bias and activation of a layer;
- `output` the loss and δ of the output layer;
- `propagate` the δ of a hidden layer with g'(z) and the activity penalties;
- `descend` the gradients of all layers, their penalties and the optimiser's step: no gradient is written to memory.

The last axis of each grid runs over the M networks; tensors that they share have a stride of 0 there. An exact product
is the sum of three in TF32 ("3xTF32", Ootomo & Yokota 2022), which has the accuracy of float32. If `UNIT` is 4, sizes
are passed divided by four, so that the compiler knows that rows are aligned to 16 bytes and reads four numbers at a
time.
"""

import warnings
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.steps import Workload
from models.steps.closed_form import BETAS, EPSILON, MOMENTUM, FlatParameters, Setup

SMALL = 250_000_000  # multiplications of a layer's product for one batch; up to here most of a GPU is idle
MAX_OUTPUTS = 128  # that one program computes together
EXACT, FAST = "tf32x3", "tf32"  # how products are multiplied
MULTIPROCESSORS = 132  # of an H100; with fewer programs, some are idle
# Tiles of the products, how they are summed, and warps and pipeline stages for Triton's compiler, by the amount of
# work: little, more, and enough to fill the GPU. DESCENT is for the products after which the optimiser updates. These
# were the fastest of those tried on an H200, for one and for 64 networks 784-100-10.
PRODUCT: dict[int, dict[str, int]] = {
    16: {"TB": 16, "TN": 16, "SPLIT": 4, "DEPTH": 32, "num_warps": 4, "num_stages": 2},
    32: {"TB": 32, "TN": 32, "SPLIT": 1, "DEPTH": 32, "num_warps": 4, "num_stages": 4},
    64: {"TB": 128, "TN": 64, "SPLIT": 1, "DEPTH": 32, "num_warps": 8, "num_stages": 4},
}
OUTPUT: dict[str, int] = {"TB": 16, "SPLIT": 4, "DEPTH": 32, "num_warps": 4, "num_stages": 2}
DESCENT: dict[int, dict[str, int]] = {
    16: {"TN": 16, "TD": 16, "SPLIT": 2, "DEPTH": 64, "num_warps": 2, "num_stages": 1},
    32: {"TN": 32, "TD": 32, "SPLIT": 1, "DEPTH": 32, "num_warps": 4, "num_stages": 3},
    64: {"TN": 16, "TD": 64, "SPLIT": 1, "DEPTH": 32, "num_warps": 4, "num_stages": 3},
}


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
    x, x_rows, x_here, x_d, w, w_columns, w_here, w_d, D, PRECISION: tl.constexpr,
    TB: tl.constexpr, TN: tl.constexpr, SPLIT: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """TB rows of x (.., D) times TN columns of w (D, ..), given by their offsets and the strides along D.

    The D terms go to `SPLIT` sums, by different warps, which are added at the end: computed one after the other, the
    products of a small tile would take most of its time.
    """
    at = tl.arange(0, DEPTH)
    if SPLIT == 1:
        x_at, w_at = at[None, :], at[:, None]
        x_tile, w_tile = x + x_rows[:, None], w + w_columns[None, :]
        x_here, w_here = x_here[:, None], w_here[None, :]
        total = tl.zeros((TB, TN), tl.float32)
    else:
        at = tl.arange(0, SPLIT)[:, None] * DEPTH + at[None, :]
        x_at, w_at = at[:, None, :], at[:, :, None]
        x_tile, w_tile = x + x_rows[None, :, None], w + w_columns[None, None, :]
        x_here, w_here = x_here[None, :, None], w_here[None, None, :]
        total = tl.zeros((SPLIT, TB, TN), tl.float32)
    for start in range(0, D, SPLIT * DEPTH):
        x_part = tl.load(x_tile + (start + x_at) * x_d, mask=x_here & (start + x_at < D), other=0.0)
        w_part = tl.load(w_tile + (start + w_at) * w_d, mask=w_here & (start + w_at < D), other=0.0)
        total = tl.dot(x_part, w_part, total, input_precision=PRECISION)
    if SPLIT > 1:
        total = tl.sum(total, 0)
    return total


@triton.jit
def forward(
    x, w, b, a, B, N, D, x_m, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, UNIT: tl.constexpr,
    TB: tl.constexpr, TN: tl.constexpr, SPLIT: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """a (M, B, N) ← g(x Wᵀ + b), for x (M, B, D), W (M, N, D), b (M, N); a tile of TB samples and TN units."""
    B, N, D = B * UNIT, N * UNIT, D * UNIT
    m = tl.program_id(2)
    rows = tl.program_id(0) * TB + tl.arange(0, TB)
    units = tl.program_id(1) * TN + tl.arange(0, TN)
    total = _product(
        x + m * (x_m * UNIT), rows * D, rows < B, 1, w + m * N * D, units * D, units < N, 1, D,
        PRECISION, TB, TN, SPLIT, DEPTH,
    )  # fmt: skip
    total += tl.load(b + m * N + units, mask=units < N, other=0.0)[None, :]
    here = (rows[:, None] < B) & (units[None, :] < N)
    tl.store(a + m * B * N + rows[:, None] * N + units[None, :], _activate(total, ACTIVATION), mask=here)


@triton.jit
def output(
    a, w, b, t, weight, z, delta, d, steps, taken, corrections, activity, M, B, K, N, a_m, t_m, weight_m,
    KIND: tl.constexpr, ACTIVATION: tl.constexpr, HIDDEN: tl.constexpr, BETA_1: tl.constexpr, BETA_2: tl.constexpr,
    PRECISION: tl.constexpr, UNIT: tl.constexpr, TB: tl.constexpr, TK: tl.constexpr, SPLIT: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """z, δ (M, K, B) of the output layer, and δ (M, N, B) of the layer below; counts the steps of the networks.

    a (M, B, N), W (M, K, N), b (M, K), t (M, K, B), weight (M, B); a program has TB samples and all K outputs.
    """
    B, N = B * UNIT, N * UNIT
    m = tl.program_id(1)
    rows = tl.program_id(0) * TB + tl.arange(0, TB)
    outputs = tl.arange(0, TK)
    a += m * (a_m * UNIT)
    w += m * K * N
    total = _product(
        a, rows * N, rows < B, 1, w, outputs * N, outputs < K, 1, N, PRECISION, TB, TK, SPLIT, DEPTH
    )  # fmt: skip
    total += tl.load(b + m * K + outputs, mask=outputs < K, other=0.0)[None, :]
    here = (rows[:, None] < B) & (outputs[None, :] < K)
    offset = outputs[None, :] * B + rows[:, None]
    share = tl.load(weight + m * weight_m + rows, mask=rows < B, other=0.0)[:, None]
    tl.store(z + m * K * B + offset, total, mask=here)
    if KIND == "multiclass":
        total = tl.where(outputs[None, :] < K, total, float("-inf"))
        grown = tl.exp(total - tl.max(total, 1)[:, None])
        error = grown / tl.sum(grown, 1)[:, None]
    elif KIND == "binary":
        error = tl.sigmoid(total)
    else:
        error = total
    error = (error - tl.load(t + m * t_m + offset, mask=here, other=0.0)) * share
    if KIND == "regression":
        error *= 2.0 / K
    error = tl.where(here, error, 0.0)
    tl.store(delta + m * K * B + offset, error, mask=here)
    if HIDDEN:
        l1, l2 = tl.load(activity + m), tl.load(activity + M + m)
        for start in range(0, N, SPLIT * DEPTH):
            units = start + tl.arange(0, SPLIT * DEPTH)
            w_back = tl.load(
                w + outputs[:, None] * N + units[None, :], mask=(outputs[:, None] < K) & (units[None, :] < N), other=0.0
            )
            below = (rows[:, None] < B) & (units[None, :] < N)
            a_below = tl.load(a + rows[:, None] * N + units[None, :], mask=below, other=0.0)
            part = tl.dot(error, w_back, input_precision=PRECISION)
            part = _differentiate(part, a_below, share, l1, l2, ACTIVATION)
            tl.store(d + m * B * N + units[None, :] * B + rows[:, None], part, mask=below)
    if tl.program_id(0) == 0:
        step = tl.load(steps + m) + tl.load(taken + m)
        tl.store(steps + m, step)
        step = step.to(tl.float64)  # 1 - β₂ after a step has four digits less in float32
        correction_1 = 1 - tl.exp2(step * tl.log2(tl.full((), BETA_1, tl.float64)))
        correction_2 = 1 - tl.exp2(step * tl.log2(tl.full((), BETA_2, tl.float64)))
        tl.store(corrections + m, correction_1.to(tl.float32))
        tl.store(corrections + M + m, correction_2.to(tl.float32))


@triton.jit
def propagate(
    above, w, a, weight, d, activity, M, B, N, D, weight_m, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    UNIT: tl.constexpr, TB: tl.constexpr, TN: tl.constexpr, SPLIT: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """δ (M, D, B) of a hidden layer with outputs a (M, B, D), from δ (M, N, B) and W (M, N, D) of the one above."""
    B, N, D = B * UNIT, N * UNIT, D * UNIT
    m = tl.program_id(2)
    rows = tl.program_id(0) * TB + tl.arange(0, TB)
    units = tl.program_id(1) * TN + tl.arange(0, TN)
    total = _product(
        above + m * N * B, rows, rows < B, B, w + m * N * D, units, units < D, D, N, PRECISION, TB, TN, SPLIT, DEPTH
    )  # fmt: skip
    here = (rows[:, None] < B) & (units[None, :] < D)
    share = tl.load(weight + m * weight_m + rows, mask=rows < B, other=0.0)[:, None]
    a_part = tl.load(a + m * B * D + rows[:, None] * D + units[None, :], mask=here, other=0.0)
    l1, l2 = tl.load(activity + m), tl.load(activity + M + m)
    total = _differentiate(total, a_part, share, l1, l2, ACTIVATION)
    tl.store(d + m * B * D + units[None, :] * B + rows[:, None], total, mask=here)


@triton.jit
def _update(
    p, first, second, value, g, here, rate, correction_1, correction_2, OPTIMIZER: tl.constexpr, MOMENTUM: tl.constexpr,
    BETA_1: tl.constexpr, BETA_2: tl.constexpr, EPSILON: tl.constexpr,
):  # fmt: skip
    """The optimiser's step of parameters at `p`, whose moments are at `first` and `second`, along their gradient."""
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
        value -= rate / correction_1 * mean / (tl.sqrt(square) / tl.sqrt(correction_2) + EPSILON)
    tl.store(p, value, mask=here)


@triton.jit
def _descend(
    tile, p, first, second, d, x, w_at, b_at, rates, penalty, corrections, M, B, N, D, x_m,
    OPTIMIZER: tl.constexpr, MOMENTUM: tl.constexpr, BETA_1: tl.constexpr, BETA_2: tl.constexpr, EPSILON: tl.constexpr,
    PRECISION: tl.constexpr, TN: tl.constexpr, TD: tl.constexpr, SPLIT: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The update of one tile of a layer; see `descend`."""
    m = tl.program_id(1)
    across = tl.cdiv(D, TD)
    units = tile // across * TN + tl.arange(0, TN)
    inputs = tile % across * TD + tl.arange(0, TD)
    d += m * N * B
    gradient = _product(
        d, units * B, units < N, 1, x + m * x_m, inputs, inputs < D, D, B, PRECISION, TN, TD, SPLIT, DEPTH
    )  # fmt: skip
    rate = tl.load(rates + m)
    correction_1, correction_2 = tl.load(corrections + m), tl.load(corrections + M + m)
    here = (units[:, None] < N) & (inputs[None, :] < D)
    offset = w_at + m * N * D + units[:, None] * D + inputs[None, :]
    value = tl.load(p + offset, mask=here, other=0.0)
    gradient += tl.load(penalty + m) * _sign(value) + 2 * tl.load(penalty + M + m) * value
    _update(
        p + offset, first + offset, second + offset, value, gradient, here, rate, correction_1, correction_2,
        OPTIMIZER, MOMENTUM, BETA_1, BETA_2, EPSILON,
    )  # fmt: skip
    if tile % across == 0:
        sums = tl.zeros((TN, 32), tl.float32)
        for start in range(0, B, 32):
            rows = start + tl.arange(0, 32)
            sums += tl.load(
                d + units[:, None] * B + rows[None, :], mask=(units[:, None] < N) & (rows[None, :] < B), other=0.0
            )
        of_b = b_at + m * N + units
        biases = tl.load(p + of_b, mask=units < N, other=0.0)
        _update(
            p + of_b, first + of_b, second + of_b, biases, tl.sum(sums, 1), units < N, rate, correction_1, correction_2,
            OPTIMIZER, MOMENTUM, BETA_1, BETA_2, EPSILON,
        )  # fmt: skip


@triton.jit
def descend(
    p, first, second, layers, rates, penalty, corrections, taken, M, B,
    OPTIMIZER: tl.constexpr, MOMENTUM: tl.constexpr, BETA_1: tl.constexpr, BETA_2: tl.constexpr, EPSILON: tl.constexpr,
    PRECISION: tl.constexpr, UNIT: tl.constexpr, TN: tl.constexpr, TD: tl.constexpr, SPLIT: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """Update all layers; networks without a batch stay as they are.

    A layer has δ (M, N, B), input x (M, B, D), and W (M, N, D) and b (M, N) at `w_at` and `b_at` in the parameters p;
    their moments have the same offsets. The gradients are δ x, plus the gradient of the penalty l1 Σ|w| + l2 Σw², and
    Σδ.
    """
    tile = tl.program_id(0)
    if tl.load(taken + tl.program_id(1)) > 0:
        for i in tl.static_range(len(layers)):
            d, x, w_at, b_at, N, D, x_m = layers[i]
            D = D * UNIT
            n = tl.cdiv(N, TN) * tl.cdiv(D, TD)
            if (tile >= 0) & (tile < n):
                _descend(
                    tile, p, first, second, d, x, w_at * UNIT, b_at, rates, penalty, corrections, M, B * UNIT, N, D,
                    x_m * UNIT, OPTIMIZER, MOMENTUM, BETA_1, BETA_2, EPSILON, PRECISION, TN, TD, SPLIT, DEPTH,
                )  # fmt: skip
            tile -= n


@triton.jit
def _try(x):
    tl.store(x, 1.0)


@cache
def works(device: torch.device) -> bool:
    """Whether Triton can compile for that device and launch the result; a warning says why not."""
    try:
        _try[1,](torch.zeros(1, device=device))
    except Exception as error:  # of many kinds: it needs a C compiler, Python's headers and a GPU that it supports
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        warnings.warn(f"training is slower than it could be, since Triton does not work here: {reason}", stacklevel=2)
        return False
    return True


def step_for(setup: Setup, work: Workload) -> "KernelStep | None":
    """The step, if the networks are too small to fill a GPU and Triton works."""
    linear = setup.networks[0].linear()
    size = setup.batch_size * max(layer.weight.numel() for layer in linear)  # of one network's largest product
    if size > SMALL or linear[-1].out_features > MAX_OUTPUTS or not works(setup.device):
        return None
    return KernelStep(setup, EXACT if size * len(setup.networks) <= SMALL else FAST)


class KernelStep(FlatParameters):
    """Steps of M networks on one device, with memory for the values between the layers.

    Parameters
    ----------
    precision : of the products, `EXACT` or `FAST`
    """

    def __init__(self, setup: Setup, precision: str) -> None:
        super().__init__(setup)
        m, size = len(setup.networks), setup.batch_size
        self.flat = [self.parameters, *self.moments, self.parameters, self.parameters][:3]
        factors = torch.tensor(setup.penalties, dtype=torch.float32, device=setup.device).T
        self.of_weights, self.of_activities = factors[:2].contiguous(), factors[2:].contiguous()
        self.widths = [layer.b.numel() // m for layer in self.layers]
        self.depths = [layer.w.numel() // layer.b.numel() for layer in self.layers]
        self.unit = 4 if all(n % 4 == 0 for n in (size, *self.depths)) else 1  # 4: rows are aligned to 16 bytes
        like: dict[str, Any] = {"PRECISION": precision, "UNIT": self.unit}
        self.active = {"ACTIVATION": self.activation, **like}
        self.betas = {"BETA_1": BETAS[0], "BETA_2": BETAS[1]}
        self.constants = {
            "OPTIMIZER": setup.optimizer, "MOMENTUM": MOMENTUM, **self.betas, "EPSILON": EPSILON, **like,
        }  # fmt: skip
        new = self._rates.new_empty
        self.a = [new(m * size * n) for n in self.widths[:-1]]
        self.d = [new(m * size * n) for n in self.widths]
        self.corrections = new(2 * m)
        self._counted: dict[tuple[bool, ...], Tensor] = {}  # 1 for each network that has a batch, 0 for the others
        self.prepare((True,) * m)

    def prepare(self, active: tuple[bool, ...]) -> None:
        """Prepare steps in which only the `active` networks have a batch."""
        self._counted[active] = torch.tensor(active, dtype=self.steps.dtype, device=self.steps.device)

    def step(self, x: Tensor, t: Tensor, w: Tensor, z: Tensor, active: tuple[bool, ...]) -> None:
        """One step; see `models.steps.Step`. All tensors are contiguous except where networks share them."""
        m, size, unit, widths, depths = len(self.networks), self.setup.batch_size, self.unit, self.widths, self.depths
        counted = self._counted[active]
        inputs = [x, *self.a]
        strides = [_stride(x), *(size * n for n in widths[:-1])]  # from a network's inputs to the next network's
        top = len(widths) - 1
        for i, layer in enumerate(self.layers[:-1]):
            grid, tile = _tiles(m, size, widths[i])
            forward[grid](
                inputs[i], layer.w, layer.b, self.a[i], size // unit, widths[i] // unit, depths[i] // unit,
                strides[i] // unit, **self.active, **tile,
            )  # fmt: skip
        last = self.layers[-1]
        output[triton.cdiv(size, OUTPUT["TB"]), m](
            inputs[top], last.w, last.b, t, w, z, self.d[top], self.d[top - 1] if top else z, self.steps, counted,
            self.corrections, self.of_activities, m, size // unit, widths[top], depths[top] // unit,
            strides[top] // unit, _stride(t), _stride(w), KIND=self.setup.kind, HIDDEN=bool(top), **self.betas,
            TK=max(16, triton.next_power_of_2(widths[top])), **self.active, **OUTPUT,
        )  # fmt: skip
        for i in range(top - 1, 0, -1):
            grid, tile = _tiles(m, size, depths[i])
            propagate[grid](
                self.d[i], self.layers[i].w, self.a[i - 1], w, self.d[i - 1], self.of_activities, m, size // unit,
                widths[i] // unit, depths[i] // unit, _stride(w), **self.active, **tile,
            )  # fmt: skip
        self._descend(inputs, strides, counted)

    def _descend(self, inputs: list[Tensor], strides: list[int], counted: Tensor) -> None:
        """The optimiser's step of all layers, in one launch."""
        m, unit, shapes = len(self.networks), self.unit, list(zip(self.widths, self.depths, strict=True))
        # These programs wait for memory more than they compute, so several run on each multiprocessor.
        tile = DESCENT[max(_tile(m, n, depth, 4) for n, depth in shapes)]
        tiles = sum(triton.cdiv(n, tile["TN"]) * triton.cdiv(depth, tile["TD"]) for n, depth in shapes)
        layers = tuple(
            (self.d[i], inputs[i], layer.w.storage_offset() // unit, layer.b.storage_offset(), self.widths[i],
             self.depths[i] // unit, strides[i] // unit)
            for i, layer in enumerate(self.layers)
        )  # fmt: skip
        descend[tiles, m](
            *self.flat, layers, self._rates, self.of_weights, self.corrections, counted, m,
            self.setup.batch_size // unit, **self.constants, **tile,
        )  # fmt: skip


def _stride(values: Tensor) -> int:
    """From one network's values to the next one's; 0 where they share them."""
    return values.stride(0) if values.ndim == 3 else 0


def _tile(m: int, rows: int, columns: int, work: int = 1) -> int:
    """Tile size for m matrices of that shape: the largest that still gives the whole GPU work."""
    for tile in (64, 32):
        if m * triton.cdiv(rows, tile) * triton.cdiv(columns, tile) >= work * MULTIPROCESSORS // 2:
            return tile
    return 16


def _tiles(m: int, rows: int, columns: int) -> tuple[tuple[int, int, int], dict[str, int]]:
    """The grid of programs that compute products of that shape, and the tile of each."""
    tile = PRODUCT[_tile(m, rows, columns)]
    return (triton.cdiv(rows, tile["TB"]), triton.cdiv(columns, tile["TN"]), m), tile
