"""The fast training step on a CPU where most values of a sample are the same in most samples: a network of one hidden
layer in two compiled functions, which multiply only the values that differ.

Four fifths of the pixels of a digit are empty. With the background β, one value for each feature, a sample is
x = β + s, where s is sparse, and

    x Wᵀ + b = s Wᵀ + (W β + b)        ∂L/∂W = Σ_i δ_i x_iᵀ = Σ_i δ_i s_iᵀ + (Σ_i δ_i) βᵀ

need a multiplication by each value of s that is not 0 and by each of β. PyTorch's sparse products take longer than its
dense ones here. What is left is then so short that a dozen calls of PyTorch's for the output layer and the optimiser
take as long, so the whole step is compiled: first each sample goes forward and its δ back, then each weight moves along
its gradient, which is never written to memory.

The first weights lie feature by feature, (n, H) in memory: what a value is multiplied with is one row. The number of
threads changes no bit of the results: samples are divided among them first, features then, and each sum has one order.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from llvmlite import ir
from torch import Tensor

from models import compiled
from models.card import Kind
from models.compiled import DOUBLE, FLOAT, I16, I32, I64, Piece, Writer, constant, floats, pieces

SHARE = 0.45  # of values that differ from the background, with which dense products are as fast
FINDING = 40  # units whose dense products take as long as finding out where samples differ
SAMPLES = 1000  # by which the background is judged
PART = 4 << 20  # bytes of samples that are compared with the background at a time
INDEX = 1 << 16  # features, and samples of a batch, that two bytes can tell
ROOM = 1 << 24  # features times samples of a batch for which a thread keeps places
BLOCK = 128  # units whose sums stay in a core's registers
UNITS = 1024  # of which more take seconds to compile
AHEAD = 2  # samples whose values are called from memory before their turn


def background(x: Tensor, units: int, batch_size: int, anew: bool) -> Tensor | None:
    """The value that most samples share, for each feature: float32 (N, n) → (n,).

    It is judged by some of the samples. None where too many values differ for a layer of so many units, the batches are
    too large, or the machine is not made for it; `anew`, if the samples are others in every epoch.
    """
    n = x.shape[1]
    if max(n, batch_size) > INDEX or n * batch_size > ROOM or units > UNITS or not compiled.is_fast():
        return None
    some = x[:: -(-len(x) // SAMPLES)]
    common = some.mode(0).values
    share = (some != common).to(torch.float32).mean().item()
    return common if share / SHARE + anew * FINDING / units < 1 else None


class Differences:
    """Where samples differ from their background, and by how much: a sparse matrix, row by row.

    Parameters
    ----------
    background : β, float32 (n,)
    n_samples, room : samples and values that there is place for
    """

    def __init__(self, background: Tensor, n_samples: int, room: int) -> None:
        self.background = background
        self.starts = torch.zeros(n_samples + 1, dtype=torch.int64)
        self.features = torch.empty(room + compiled.VECTOR, dtype=torch.int16)
        self.values = torch.empty(room + compiled.VECTOR)
        self._take = _compiled_take(len(background))

    @classmethod
    def of(cls, x: Tensor, background: Tensor) -> "Differences":
        """Those of samples float32 (N, n), contiguous."""
        parts = torch.split(x, max(1, PART // (4 * x.shape[1])))
        made = cls(background, len(x), sum(int((part != background).sum()) for part in parts))
        made.take(x)
        return made

    def take(self, x: Tensor) -> None:
        """Become those of samples float32 (N, n), contiguous, for which there is place."""
        job = _Job(x=x.data_ptr(), n_samples=len(x), background=self.background.data_ptr(), **self.addresses())
        compiled.run(self._take, job, 1)  # where the values of a sample go depends on those before

    def addresses(self) -> dict[str, int]:
        return {name: getattr(self, name).data_ptr() for name in ("starts", "features", "values")}


class Picked(NamedTuple):
    """A batch: some rows of many samples, int64 (B,), contiguous."""

    samples: Differences
    rows: Tensor


class Shape(NamedTuple):
    """Features, hidden units, outputs, and samples of a batch."""

    n: int
    units: int
    n_outputs: int
    batch_size: int


class Optimizer(NamedTuple):
    """One of `sgd`, `momentum` and `adam`, with its constants, and whether weights have the penalty l1."""

    name: str
    momentum: float
    beta_1: float
    beta_2: float
    epsilon: float
    l1: bool = True


class Step:
    """Steps of a network of one hidden layer, with memory of its own for what lies between the layers.

    Parameters
    ----------
    background : β, float32 (n,)
    parts : weights and biases of the two layers, then for each moment that the optimiser keeps, what it keeps of them;
        the first layer's (H, n) lie in memory as their contiguous transpose
    batch_size : samples of a step
    rates : learning rate, float32 (1,); read anew in every step
    steps : float32 (1,), taken so far, which a step counts
    penalties : factors l1, l2 of the weights and then of the activities, float32 (4, 1)
    """

    def __init__(
        self,
        background: Tensor,
        parts: Sequence[tuple[list[Tensor], list[Tensor]]],
        batch_size: int,
        kind: Kind,
        activation: str,
        optimizer: Optimizer,
        rates: Tensor,
        steps: Tensor,
        penalties: Tensor,
    ) -> None:
        n, threads = len(background), torch.get_num_threads()
        n_outputs, units = parts[0][0][1].shape
        shape = Shape(n, units, n_outputs, batch_size)
        self._forward, self._backward = compiled_step(shape, kind, activation, optimizer)
        self._memory = {
            "a": torch.empty(batch_size, units), "d": torch.empty(batch_size, units),
            "delta": torch.empty(n_outputs, batch_size), "answers": torch.empty(threads, n_outputs),
            "counts": torch.empty(threads, n, dtype=torch.int32),
            "sorted_rows": torch.empty(threads, n, batch_size, dtype=torch.int16),
            "sorted_values": torch.empty(threads, n, batch_size),
            "background": background, "rate": rates, "steps": steps, "penalties": penalties.contiguous(),
        }  # fmt: skip
        for name, (w, b) in zip(("", "_first", "_second"), parts, strict=False):
            self._memory |= {f"w{name}": w[0], f"v{name}": w[1], f"b{name}": b[0], f"c{name}": b[1]}
        self._job = _Job(**{name: tensor.data_ptr() for name, tensor in self._memory.items()})

    def __call__(self, x: Picked, t: Tensor, w: Tensor, z: Tensor) -> None:
        """One step; t, w and z as `Backprop.step` takes them, contiguous."""
        job = self._job
        for name, address in x.samples.addresses().items():
            setattr(job, name, address)
        job.rows, job.n_samples, job.t, job.weight, job.z = (
            x.rows.data_ptr(), len(x.rows), t.data_ptr(), w.data_ptr(), z.data_ptr(),
        )  # fmt: skip
        threads = min(torch.get_num_threads(), len(self._memory["counts"]))
        compiled.run(self._forward, job, threads)
        compiled.run(self._backward, job, threads)


class _Job(ctypes.Structure):
    """Addresses of float32 unless a comment says otherwise, and the number of samples."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            "n_samples", "x", "background",
            "starts", "features", "values", "rows",  # int64, int16, float32, int64
            "w", "b", "v", "c", "w_first", "b_first", "v_first", "c_first",  # hidden and output layer, and moments
            "w_second", "b_second", "v_second", "c_second",
            "rate", "steps", "penalties", "t", "weight", "z", "a", "d", "delta", "answers",
            "counts", "sorted_rows", "sorted_values",  # int32, int16, float32
        )
    ]  # fmt: skip


@cache
def _compiled_take(n: int) -> Any:
    return compiled.for_this_machine(take_written(n), ["take"])[0]


def take_written(n: int) -> str:
    return compiled.written(_Job, {"take": lambda writer: _write_take(writer, n)})


def _write_take(f: Writer, n: int) -> None:
    """Differences of all samples, without a branch for each feature."""
    b = f.b
    count = f.variable(I64(0))

    def take(row: ir.Value, j: ir.Value, size: int) -> None:
        x, common = f.floats("x", b.add(row, j), size), f.floats("background", j, size)
        differs = b.fcmp_unordered("!=", x, common)
        places = ir.VectorType(I32, size)(list(range(size)))
        features = f.compressed(b.add(f.splat(b.trunc(j, I32), size), places), differs)
        here = b.load(count)
        f.store(f.compressed(b.fsub(x, common), differs), f.job["values"], here)
        f.store(b.trunc(features, ir.VectorType(I16, size)), f.job["features"], here)
        b.store(b.add(here, b.zext(b.ctpop(b.bitcast(differs, ir.IntType(size))), I64)), count)

    with f.loop(0, f.number("n_samples")) as i:
        row = f.at(i, n)
        _along(f, n, lambda j, size: take(row, j, size))
        f.store(b.load(count), f.job["starts"], b.add(i, I64(1)))


@cache
def compiled_step(*step: Any) -> list[Any]:
    return compiled.for_this_machine(step_written(*step), ["forward", "backward"])


def step_written(shape: Shape, kind: Kind, activation: str, optimizer: Optimizer) -> str:
    def forward(writer: Writer) -> None:
        _write_affine(writer, shape)
        _write_output(writer, shape, kind, activation)

    def backward(writer: Writer) -> None:
        move = _Move(writer, optimizer)
        _write_hidden_gradient(writer, shape, move)
        _write_output_gradient(writer, shape, move)

    return compiled.written(_Job, {"forward": forward, "backward": backward})


def _write_affine(f: Writer, shape: Shape) -> None:
    """a ← x Wᵀ + b of this thread's samples, one after the other for each block of units."""
    b, units = f.b, shape.units
    start, stop = f.share(f.number("n_samples"))
    for block in _blocks(units):
        base = [f.variable(f.floats("b", I64(at), size)) for at, size in block]
        with f.loop(0, shape.n) as j:
            _add(f, base, f.scalar("background", j), "w", f.at(j, units), block)
        with f.loop(start, stop) as i:
            _call_ahead(f, i, stop)
            sums = [f.variable(b.load(total)) for total in base]
            with f.loop(*_bounds(f, i)) as k:
                _add(f, sums, f.scalar("values", k), "w", f.at(f.index("features", k), units), block)
            for total, (at, _) in zip(sums, block, strict=True):
                f.store(b.load(total), f.job["a"], f.at(i, units, at))


def _write_output(f: Writer, shape: Shape, kind: Kind, activation: str) -> None:
    """Activation, output and loss of this thread's samples, and their δ of both layers; the step is counted."""
    b, units, n_outputs, size = f.b, shape.units, shape.n_outputs, shape.batch_size
    answers = f.at(f.thread, n_outputs)  # of one sample
    l1, l2 = (f.scalar("penalties", k) for k in (2, 3))
    with f.loop(*f.share(f.number("n_samples"))) as i:
        row = f.at(i, units)

        def activate(j: ir.Value, width: int) -> None:
            place = b.add(row, j)
            f.store(_activated(f, activation, f.floats("a", place, width)), f.job["a"], place)

        _along(f, units, activate)
        weight = f.scalar("weight", i)
        with f.loop(0, n_outputs) as k:
            total = f.variable(f.scalar("c", k))
            _add_product(f, total, units, ("v", f.at(k, units)), ("a", row))
            f.store(b.load(total), f.job["z"], f.at(k, size, i))
            f.store(b.load(total), f.job["answers"], b.add(answers, k))
        factor = weight if kind != "regression" else b.fmul(weight, FLOAT(2 / n_outputs))
        _write_answers(f, kind, answers, n_outputs)
        with f.loop(0, n_outputs) as k:
            error = b.fsub(f.scalar("answers", b.add(answers, k)), f.scalar("t", f.at(k, size, i)))
            error = b.fmul(error, factor)
            f.store(error, f.job["delta"], f.at(k, size, i))
            f.store(error, f.job["answers"], b.add(answers, k))

        def back(j: ir.Value, width: int) -> None:
            total = f.variable(floats(width)(None))
            with f.loop(0, n_outputs) as k:
                error = f.splat(f.scalar("answers", b.add(answers, k)), width)
                b.store(f.fma(error, f.floats("v", f.at(k, units, j), width), b.load(total)), total)
            a = f.floats("a", b.add(row, j), width)
            pulled = f.fma(f.splat(l1, width), f.sign(a), b.fmul(f.splat(b.fmul(FLOAT(2), l2), width), a))
            d = f.fma(pulled, f.splat(weight, width), b.load(total))
            f.store(_differentiated(f, activation, d, a), f.job["d"], b.add(row, j))

        _along(f, units, back)
    with f.first_thread():
        f.store(b.fadd(f.scalar("steps"), FLOAT(1)), f.job["steps"], I64(0))


def _write_answers(f: Writer, kind: Kind, answers: ir.Value, n_outputs: int) -> None:
    """The output activation of the logits at `answers`."""
    b = f.b

    def put(j: ir.Value, width: int, function: Callable[[ir.Value], ir.Value]) -> None:
        place = b.add(answers, j)
        f.store(function(f.floats("answers", place, width)), f.job["answers"], place)

    if kind == "binary":
        _along(f, n_outputs, lambda j, width: put(j, width, f.sigmoid))
    elif kind == "multiclass":
        most, total = f.variable(FLOAT(float("-inf"))), f.variable(FLOAT(0.0))
        with f.loop(0, n_outputs) as k:
            z = f.scalar("answers", b.add(answers, k))
            b.store(b.select(b.fcmp_ordered(">", z, b.load(most)), z, b.load(most)), most)
        _along(
            f, n_outputs,
            lambda j, width: put(j, width, lambda z: f.exp(b.fsub(z, f.splat(b.load(most), width)))),
        )  # fmt: skip
        with f.loop(0, n_outputs) as k:
            b.store(b.fadd(b.load(total), f.scalar("answers", b.add(answers, k))), total)
        _along(f, n_outputs, lambda j, width: put(j, width, lambda p: b.fdiv(p, f.splat(b.load(total), width))))


def _write_hidden_gradient(f: Writer, shape: Shape, move: "_Move") -> None:
    """This thread's features, once the batch is sorted by feature: a product is then a sum in registers."""
    b, (n, units, _, size) = f.b, shape
    own = f.at(f.thread, n)
    start, stop = f.share(I64(n))
    with f.loop(start, stop) as j:
        f.store(I32(0), f.job["counts"], b.add(own, j))
    with f.loop(0, f.number("n_samples")) as i:
        _call_ahead(f, i, f.number("n_samples"))
        with f.loop(*_bounds(f, i)) as k:
            feature = f.index("features", k)
            with b.if_then(b.and_(b.icmp_unsigned(">=", feature, start), b.icmp_unsigned("<", feature, stop))):
                j = b.add(own, feature)
                count = f.load(I32, f.job["counts"], j)
                place = f.at(j, size, b.zext(count, I64))
                f.store(b.trunc(i, I16), f.job["sorted_rows"], place)
                f.store(f.scalar("values", k), f.job["sorted_values"], place)
                f.store(b.add(count, I32(1)), f.job["counts"], j)
    for block in _blocks(units):
        d_sums = [f.variable(floats(width)(None)) for _, width in block]
        with f.loop(0, f.number("n_samples")) as i:
            _add(f, d_sums, FLOAT(1.0), "d", f.at(i, units), block)
        with f.first_thread():
            for total, (at, _) in zip(d_sums, block, strict=True):
                move.bias("b", I64(at), b.load(total))
        with f.loop(start, stop) as j:
            common = f.scalar("background", j)
            sums = [
                f.variable(b.fmul(f.splat(common, width), b.load(d_sum)))
                for d_sum, (_, width) in zip(d_sums, block, strict=True)
            ]
            mine = b.add(own, j)
            with f.loop(f.at(mine, size), f.at(mine, size, b.zext(f.load(I32, f.job["counts"], mine), I64))) as place:
                _add(f, sums, f.scalar("sorted_values", place), "d", f.at(f.index("sorted_rows", place), units), block)
            for total, (at, _) in zip(sums, block, strict=True):
                move.weights("w", f.at(j, units, at), b.load(total))


def _write_output_gradient(f: Writer, shape: Shape, move: "_Move") -> None:
    """This thread's outputs."""
    b, (_, units, n_outputs, size) = f.b, shape
    with f.loop(*f.share(I64(n_outputs))) as k:
        total = f.variable(floats(1)(None))
        with f.loop(0, f.number("n_samples")) as i:
            b.store(b.fadd(b.load(total), f.floats("delta", f.at(k, size, i), 1)), total)
        move.bias("c", k, b.load(total))
        for block in _blocks(units):
            sums = [f.variable(floats(width)(None)) for _, width in block]
            with f.loop(0, f.number("n_samples")) as i:
                _add(f, sums, f.scalar("delta", f.at(k, size, i)), "a", f.at(i, units), block)
            for total, (at, _) in zip(sums, block, strict=True):
                move.weights("v", f.at(k, units, at), b.load(total))


class _Move:
    """The optimiser's step, as torch.optim takes it."""

    def __init__(self, f: Writer, optimizer: Optimizer) -> None:
        self.f, self.optimizer = f, optimizer
        b = f.b
        self.rate, self.l2 = f.scalar("rate"), b.fmul(FLOAT(2), f.scalar("penalties", 1))
        self.l1 = f.scalar("penalties", 0) if optimizer.l1 else None
        if optimizer.name == "adam":
            steps = b.fpext(f.scalar("steps"), DOUBLE)  # 1 - β₂ after a step has four digits less in float32
            mean_is, square_is = (
                b.fsub(DOUBLE(1), f.intrinsic("llvm.pow.f64", DOUBLE, DOUBLE(beta), steps))
                for beta in (optimizer.beta_1, optimizer.beta_2)
            )
            self.mean_rate = b.fptrunc(b.fdiv(b.fpext(self.rate, DOUBLE), mean_is), FLOAT)
            self.root = b.fptrunc(b.fdiv(DOUBLE(1), f.intrinsic("llvm.sqrt.f64", DOUBLE, square_is)), FLOAT)

    def weights(self, name: str, place: ir.Value, gradient: ir.Value) -> None:
        """With the penalties."""
        f, size = self.f, gradient.type.count
        value = f.floats(name, place, size)
        gradient = f.fma(f.splat(self.l2, size), value, gradient)
        if self.l1 is not None:
            gradient = f.fma(f.splat(self.l1, size), f.sign(value), gradient)
        self.bias(name, place, gradient)

    def bias(self, name: str, place: ir.Value, gradient: ir.Value) -> None:
        f, b, size = self.f, self.f.b, gradient.type.count

        def c(value: float) -> ir.Value:
            return constant(gradient.type, value)

        rate, along = self.rate, gradient
        if self.optimizer.name == "momentum":
            along = f.fma(c(self.optimizer.momentum), f.floats(f"{name}_first", place, size), gradient)
            f.store(along, f.job[f"{name}_first"], place)
        elif self.optimizer.name == "adam":
            beta_1, beta_2 = self.optimizer.beta_1, self.optimizer.beta_2
            mean = f.floats(f"{name}_first", place, size)
            mean = f.fma(c(1 - beta_1), b.fsub(gradient, mean), mean)
            square = b.fmul(c(beta_2), f.floats(f"{name}_second", place, size))
            square = f.fma(b.fmul(c(1 - beta_2), gradient), gradient, square)
            f.store(mean, f.job[f"{name}_first"], place)
            f.store(square, f.job[f"{name}_second"], place)
            spread = f.fma(f.sqrt(square), f.splat(self.root, size), c(self.optimizer.epsilon))
            rate, along = self.mean_rate, b.fdiv(mean, spread)
        step = b.fsub(f.floats(name, place, size), b.fmul(f.splat(rate, size), along))
        f.store(step, f.job[name], place)


def _bounds(f: Writer, i: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Where the differences of the batch's sample i begin and end."""
    row = f.load(I64, f.job["rows"], i)
    return f.load(I64, f.job["starts"], row), f.load(I64, f.job["starts"], f.b.add(row, I64(1)))


def _call_ahead(f: Writer, i: ir.Value, stop: ir.Value) -> None:
    """Have the differences of a later sample brought from memory."""
    ahead = f.b.add(i, I64(AHEAD))
    bounds = _bounds(f, f.b.select(f.b.icmp_unsigned("<", ahead, stop), ahead, i))
    f.call_ahead("values", FLOAT, *bounds)
    f.call_ahead("features", I16, *bounds)


def _add(f: Writer, sums: list[ir.Value], value: ir.Value, name: str, row: ir.Value, block: list[Piece]) -> None:
    """Add a value's products with a block of a row to the sums."""
    for total, (at, size) in zip(sums, block, strict=True):
        factor = f.floats(name, f.b.add(row, I64(at)), size)
        f.b.store(f.fma(f.splat(value, size), factor, f.b.load(total)), total)


def _add_product(f: Writer, total: ir.Value, n: int, left: tuple[str, ir.Value], right: tuple[str, ir.Value]) -> None:
    """Add the inner product of n numbers with n others to a sum."""
    b, sums = f.b, {size: f.variable(floats(size)(None)) for _, size in pieces(0, n)}

    def add(j: ir.Value, size: int) -> None:
        x, y = (f.floats(name, b.add(start, j), size) for name, start in (left, right))
        b.store(f.fma(x, y, b.load(sums[size])), sums[size])

    _along(f, n, add)
    for part in sums.values():
        b.store(b.fadd(b.load(total), f.total(b.load(part))), total)


def _along(f: Writer, n: int, write: Callable[[ir.Value, int], None]) -> None:
    """Do something with n numbers, a vector at a time: from where, and how many."""
    whole = n // compiled.VECTOR * compiled.VECTOR
    if whole:
        with f.loop(0, whole, compiled.VECTOR) as j:
            write(j, compiled.VECTOR)
    for at, size in pieces(whole, n):
        write(I64(at), size)


def _activated(f: Writer, activation: str, z: ir.Value) -> ir.Value:
    b, zero = f.b, constant(z.type, 0.0)
    if activation == "sigmoid":
        return f.sigmoid(z)
    if activation == "tanh":
        two = constant(z.type, 2.0)
        return b.fsub(b.fmul(two, f.sigmoid(b.fmul(two, z))), constant(z.type, 1.0))
    return b.select(b.fcmp_ordered("<", z, zero), zero, z)


def _differentiated(f: Writer, activation: str, d: ir.Value, a: ir.Value) -> ir.Value:
    """d ⊙ g'(z), where a = g(z)."""
    b, one = f.b, constant(a.type, 1.0)
    if activation == "sigmoid":
        return b.fmul(d, b.fmul(a, b.fsub(one, a)))
    if activation == "tanh":
        return b.fmul(d, b.fsub(one, b.fmul(a, a)))
    zero = constant(a.type, 0.0)
    return b.select(b.fcmp_ordered(">", a, zero), d, zero)


def _blocks(units: int) -> list[list[Piece]]:
    """Units in blocks of about one size."""
    n = -(-units // BLOCK)
    bounds = [round(units * k / n / compiled.VECTOR) * compiled.VECTOR for k in range(n)] + [units]
    return [pieces(start, stop) for start, stop in pairwise(bounds)]
