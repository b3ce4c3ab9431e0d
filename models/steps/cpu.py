"""The fast training step of a network with one hidden layer on a CPU, in two functions compiled by LLVM.

The plain step of 784-100-10 makes a dozen calls of PyTorch, which take as long as its small products. Here the whole
step is compiled: `forward` computes the outputs and δ of each sample, `backward` updates each weight by its gradient,
which is never written to memory. Dense products are sums in registers, of a few samples or features by a few vectors of
units; products with samples that have a background (`models.steps.sparse`) run over the differences only.

The first weights are stored feature by feature, (n, H), so that a feature's value is multiplied by one row. The results
are the same bit for bit with any number of threads: `forward` divides the samples among them, `backward` features and
outputs, and the order of each sum is fixed.
"""

import ctypes
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from llvmlite import ir
from torch import Tensor

from models.card import Kind
from models.steps import Workload, llvm, sparse
from models.steps.closed_form import BETAS, EPSILON, MOMENTUM, THREADED_WORK, FlatParameters, Optimizer, Setup
from models.steps.llvm import DOUBLE, FLOAT, I16, I32, I64, Piece, Writer, constant, floats
from models.steps.sparse import Sparse, SparseBatch

CALLS = 4_000_000  # multiplications that take as long as the plain step's calls of PyTorch
COMPILED = 20_000_000_000  # multiplications of a training's first layers, plus CALLS a step, from which compiling pays
MAX_OUTPUTS = 128  # of the network
ROWS = 6  # samples or features whose sums are in registers together, each with a few vectors of units
AHEAD = 2  # samples ahead whose differences are prefetched


class Shape(NamedTuple):
    """Features, hidden units, outputs, samples of a batch, and whether these have a background."""

    n: int
    units: int
    n_outputs: int
    batch_size: int
    sparse: bool


class Rule(NamedTuple):
    """How parameters are updated: an optimiser, its constants, and whether weights have the penalty l1."""

    optimizer: Optimizer
    momentum: float
    beta_1: float
    beta_2: float
    epsilon: float
    l1: bool = True


class Part(NamedTuple):
    """The parameters, or one of their moments: weights (H, n), stored transposed, and biases (H,) of the hidden layer;
    weights (K, H) and biases (K,) of the output layer."""

    w: Tensor
    b: Tensor
    v: Tensor
    c: Tensor


def step_for(setup: Setup, work: Workload) -> "CompiledStep | None":
    """The step, if the networks have one hidden layer, training is long enough and LLVM works."""
    linear = setup.networks[0].linear()
    if setup.device.type != "cpu" or len(linear) != 2 or linear[1].out_features > MAX_OUTPUTS:
        return None
    one = setup.batch_size * linear[0].weight.numel() + CALLS
    if len(setup.networks) * work.n_steps * one <= COMPILED or not llvm.works():
        return None
    samples = sparse.samples_for(work, linear[0].out_features, setup.batch_size) if setup.shared else None
    return CompiledStep(setup, samples)


class CompiledStep(FlatParameters):
    """Steps of networks of one hidden layer, each by two compiled functions.

    Parameters
    ----------
    samples : the samples that all networks share, if they have a background; batches are then rows of them
    """

    def __init__(self, setup: Setup, samples: Sparse | None = None) -> None:
        super().__init__(setup)
        self.samples = samples
        self.has_samples = samples is not None and samples.complete
        rule = Rule(setup.optimizer, MOMENTUM, *BETAS, EPSILON, self._l1 is not None)
        factors = torch.tensor(setup.penalties, dtype=torch.float32)
        background = samples.differences.background if samples else None
        one = not setup.lead
        self._functions = [
            Functions(
                [Part(*(p if one else p[m] for layer in part for p in layer)) for part in self.parts],
                setup, rule, self._rates[m : m + 1], self.steps[m : m + 1], factors[m], background,
            )
            for m in range(len(setup.networks))
        ]  # fmt: skip
        self._large = self.layers[0].w.numel() * setup.batch_size > THREADED_WORK

    def _views(self, flat: Tensor) -> list[Tensor]:
        """Like those of any step, but with the first weights feature by feature."""
        first, *others = super()._views(flat)
        *lead, units, n = first.shape
        return [first.view(*lead, n, units).mT, *others]

    def prepare(self, active: tuple[bool, ...]) -> None:
        """Nothing to do: a step skips networks without a batch."""

    def batches(self, rows: Tensor, gather: Callable[[], Tensor]) -> Iterable[Any]:
        """The result of `gather`; if the samples have a background, a `SparseBatch` for each step."""
        return gather() if self.samples is None else self.samples.batches(rows, gather)

    def step(self, x: Tensor | SparseBatch, t: Tensor, w: Tensor, z: Tensor, active: tuple[bool, ...]) -> None:
        """One step; see `models.steps.Step`."""
        torch.set_num_threads(self.threads if self._large else 1)
        for m, functions in enumerate(self._functions):
            if active[m]:
                own_t, own_w, own_z = (v if v.ndim == 2 else v[m] for v in (t, w, z))
                functions(x if isinstance(x, SparseBatch) or x.ndim == 2 else x[m], own_t, own_w, own_z)


class Functions:
    """The two compiled functions of one network, and the memory for the values between the layers.

    Parameters
    ----------
    parts : the parameters themselves, and the moments that the optimiser keeps of them
    rate : learning rate, float32 (1,); read in every step
    steps : float32 (1,), taken so far; a step adds one
    penalties : factors l1, l2 of the weights and then of the activities, float32 (4,), contiguous
    background : float32 (n,), of samples that have one
    """

    def __init__(
        self,
        parts: Sequence[Part],
        setup: Setup,
        rule: Rule,
        rate: Tensor,
        steps: Tensor,
        penalties: Tensor,
        background: Tensor | None = None,
    ) -> None:
        (units, n), n_outputs, batch_size = parts[0].w.shape, len(parts[0].c), setup.batch_size
        shape = Shape(n, units, n_outputs, batch_size, background is not None)
        self._forward, self._backward = _compiled(shape, setup.kind, setup.networks[0].activation, rule)
        self.batch_size, self._threads = batch_size, torch.get_num_threads()
        self._memory = {
            "rate": rate, "steps": steps, "penalties": penalties,
            "a": torch.empty(batch_size, units), "d": torch.empty(batch_size, units),
            "delta": torch.empty(n_outputs, batch_size), "answers": torch.empty(self._threads, n_outputs),
        }  # fmt: skip
        for name, part in zip(("", "_first", "_second"), parts, strict=False):
            self._memory |= {f"{key}{name}": tensor for key, tensor in part._asdict().items()}
        if background is not None:
            sizes = (self._threads, n, batch_size)
            self._memory |= {
                "background": background, "counts": torch.empty(sizes[:2], dtype=torch.int32),
                "sorted_rows": torch.empty(sizes, dtype=torch.int16), "sorted_values": torch.empty(sizes),
            }  # fmt: skip
        self._job = Job(**{name: tensor.data_ptr() for name, tensor in self._memory.items()})

    def __call__(self, x: Tensor | SparseBatch, t: Tensor, w: Tensor, z: Tensor) -> None:
        """One step.

        Parameters
        ----------
        x : float32 (B, n), or rows of samples that have a background
        t, w, z : float32 (K, B), (1, B) and (K, B), as `models.steps.Step.step` takes them

        All are contiguous.
        """
        job = self._job
        assert isinstance(x, SparseBatch) == ("background" in self._memory)
        if isinstance(x, SparseBatch):
            assert len(x.rows) == self.batch_size
            for name, address in x.samples.addresses().items():
                setattr(job, name, address)
            job.rows = x.rows.data_ptr()
        else:
            assert len(x) == self.batch_size
            job.x = x.data_ptr()
        job.t, job.weight, job.z = t.data_ptr(), w.data_ptr(), z.data_ptr()
        threads = min(torch.get_num_threads(), self._threads)
        llvm.run(self._forward, job, threads)
        llvm.run(self._backward, job, threads)


class Job(ctypes.Structure):
    """Addresses of float32 unless a comment says otherwise."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            "x", "background", "starts", "features", "values", "rows",  # starts int64, features int16, rows int64
            *(part + of for of in ("", "_first", "_second") for part in Part._fields),
            "rate", "steps", "penalties", "t", "weight", "z", "a", "d", "delta", "answers",
            "counts", "sorted_rows", "sorted_values",  # int32, int16, float32
        )
    ]  # fmt: skip


@cache
def _compiled(shape: Shape, kind: Kind, activation: str, rule: Rule) -> list[Any]:
    return llvm.for_this_machine(written(shape, kind, activation, rule), ["forward", "backward"])


def written(shape: Shape, kind: Kind, activation: str, rule: Rule) -> str:
    """Both functions in LLVM's intermediate representation."""

    def forward(f: Writer) -> None:
        (_write_sparse_affine if shape.sparse else _write_affine)(f, shape)
        _write_output(f, shape, kind, activation)

    def backward(f: Writer) -> None:
        update = _Update(f, rule)
        (_write_sparse_gradient if shape.sparse else _write_gradient)(f, shape, update)
        _write_other_gradients(f, shape, update)

    return llvm.written(Job, {"forward": forward, "backward": backward})


def _write_affine(f: Writer, shape: Shape) -> None:
    """a ← x Wᵀ + b of this thread's samples, for each block of units a few samples at a time."""
    b, (n, units, _, size, _) = f.b, shape

    def write(first: ir.Value, block: list[Piece]) -> None:
        def tile(i: ir.Value, rows: int) -> None:
            sums = [_sums(f, block, "b", first) for _ in range(rows)]
            samples = [f.at(b.add(i, I64(k)), n) for k in range(rows)]
            with f.loop(0, n) as j:
                w = _row(f, "w", f.at(j, units, first), block)
                for total, sample in zip(sums, samples, strict=True):
                    _add(f, total, f.scalar("x", b.add(sample, j)), w)
            for k, total in enumerate(sums):
                _store_outputs(f, total, f.at(b.add(i, I64(k)), units, first), block)

        _tiles(f, size, tile)

    f.blocks(units, _vectors(ROWS), write)


def _write_sparse_affine(f: Writer, shape: Shape) -> None:
    """The same for samples with a background, one after the other."""
    b, (n, units, _, size, _) = f.b, shape

    def write(first: ir.Value, block: list[Piece]) -> None:
        base = _sums(f, block, "b", first)
        with f.loop(0, n) as j:
            _add(f, base, f.scalar("background", j), _row(f, "w", f.at(j, units, first), block))
        with f.loop(*_samples(f, size)) as i:
            _prefetch(f, i, size)
            sums = [f.variable(b.load(total)) for total in base]
            with f.loop(*_bounds(f, i)) as k:
                w = _row(f, "w", f.at(f.index("features", k), units, first), block)
                _add(f, sums, f.scalar("values", k), w)
            _store_outputs(f, sums, f.at(i, units, first), block)

    f.blocks(units, _vectors(1), write)


def _write_output(f: Writer, shape: Shape, kind: Kind, activation: str) -> None:
    """Activation, output and loss of this thread's samples, and the δ of both layers; counts the step."""
    b, (_, units, n_outputs, size, _) = f.b, shape
    answers = f.at(f.thread, n_outputs)  # of one sample
    l1, l2 = (f.scalar("penalties", k) for k in (2, 3))
    with f.loop(*_samples(f, size)) as i:
        row, weight = f.at(i, units), f.scalar("weight", i)

        def activate(j: ir.Value, width: int) -> None:
            index = b.add(row, j)
            f.store(_activated(f, activation, f.floats("a", index, width)), f.job["a"], index)

        f.along(units, activate)
        with f.loop(0, n_outputs) as k:
            z = _inner_product(f, units, ("v", f.at(k, units)), ("a", row), f.scalar("c", k))
            f.store(z, f.job["z"], f.at(k, size, i))
            f.store(z, f.job["answers"], b.add(answers, k))
        _write_answers(f, kind, answers, n_outputs)
        factor = b.fmul(weight, FLOAT(2 / n_outputs)) if kind == "regression" else weight
        with f.loop(0, n_outputs) as k:
            error = b.fsub(f.scalar("answers", b.add(answers, k)), f.scalar("t", f.at(k, size, i)))
            error = b.fmul(error, factor)
            f.store(error, f.job["delta"], f.at(k, size, i))
            f.store(error, f.job["answers"], b.add(answers, k))

        def back(j: ir.Value, width: int) -> None:
            total = f.variable(floats(width)(None))
            with f.loop(0, n_outputs) as k:
                _add(f, [total], f.scalar("answers", b.add(answers, k)), [f.floats("v", f.at(k, units, j), width)])
            a = f.floats("a", b.add(row, j), width)
            penalty = f.fma(f.splat(l1, width), f.sign(a), b.fmul(f.splat(b.fmul(FLOAT(2), l2), width), a))
            d = f.fma(penalty, f.splat(weight, width), b.load(total))
            f.store(_differentiated(f, activation, d, a), f.job["d"], b.add(row, j))

        f.along(units, back)
    with f.b.if_then(f.is_last()):
        f.store(b.fadd(f.scalar("steps"), FLOAT(1)), f.job["steps"], I64(0))


def _write_answers(f: Writer, kind: Kind, answers: ir.Value, n_outputs: int) -> None:
    """The output activation of the logits at `answers`."""
    b = f.b

    def change(function: Callable[[ir.Value], ir.Value]) -> None:
        def write(j: ir.Value, width: int) -> None:
            index = b.add(answers, j)
            f.store(function(f.floats("answers", index, width)), f.job["answers"], index)

        f.along(n_outputs, write)

    if kind == "binary":
        change(f.sigmoid)
    elif kind == "multiclass":
        most, total = f.variable(FLOAT(float("-inf"))), f.variable(FLOAT(0.0))
        with f.loop(0, n_outputs) as k:
            z = f.scalar("answers", b.add(answers, k))
            b.store(b.select(b.fcmp_ordered(">", z, b.load(most)), z, b.load(most)), most)
        change(lambda z: f.exp(b.fsub(z, f.splat(b.load(most), z.type.count))))
        with f.loop(0, n_outputs) as k:
            b.store(b.fadd(b.load(total), f.scalar("answers", b.add(answers, k))), total)
        change(lambda p: b.fdiv(p, f.splat(b.load(total), p.type.count)))


def _write_gradient(f: Writer, shape: Shape, update: "_Update") -> None:
    """The step of this thread's features, some of them at a time for each block of units."""
    b, (n, units, _, size, _) = f.b, shape

    def write(first: ir.Value, block: list[Piece]) -> None:
        def tile(j: ir.Value, features: int) -> None:
            sums = [_sums(f, block) for _ in range(features)]
            with f.loop(0, size) as i:
                d = _row(f, "d", f.at(i, units, first), block)
                for k, total in enumerate(sums):
                    _add(f, total, f.scalar("x", f.at(i, n, b.add(j, I64(k)))), d)
            for k, total in enumerate(sums):
                update.weights("w", f.at(b.add(j, I64(k)), units, first), block, total)

        _tiles(f, n, tile)

    f.blocks(units, _vectors(ROWS), write)


def _write_sparse_gradient(f: Writer, shape: Shape, update: "_Update") -> None:
    """The same for a batch with a background, first sorted by feature, so that a gradient is a sum in registers."""
    b, (n, units, _, size, _) = f.b, shape
    own = f.at(f.thread, n)
    start, stop = f.share(I64(n))
    with f.loop(start, stop) as j:
        f.store(I32(0), f.job["counts"], b.add(own, j))
    with f.loop(0, size) as i:
        _prefetch(f, i, size)
        with f.loop(*_bounds(f, i)) as k:
            feature = f.index("features", k)
            with b.if_then(b.and_(b.icmp_unsigned(">=", feature, start), b.icmp_unsigned("<", feature, stop))):
                j = b.add(own, feature)
                count = f.load(I32, f.job["counts"], j)
                index = f.at(j, size, b.zext(count, I64))
                f.store(b.trunc(i, I16), f.job["sorted_rows"], index)
                f.store(f.scalar("values", k), f.job["sorted_values"], index)
                f.store(b.add(count, I32(1)), f.job["counts"], j)

    def write(first: ir.Value, block: list[Piece]) -> None:
        d_sums = _sums_of_d(f, shape, first, block)
        with f.loop(start, stop) as j:
            sums = _sums(f, block)
            _add(f, sums, f.scalar("background", j), [b.load(total) for total in d_sums])
            mine = b.add(own, j)
            last = f.at(mine, size, b.zext(f.load(I32, f.job["counts"], mine), I64))
            with f.loop(f.at(mine, size), last) as index:
                d = _row(f, "d", f.at(f.index("sorted_rows", index), units, first), block)
                _add(f, sums, f.scalar("sorted_values", index), d)
            update.weights("w", f.at(j, units, first), block, sums)

    f.blocks(units, _vectors(1), write)


def _write_other_gradients(f: Writer, shape: Shape, update: "_Update") -> None:
    """Update the weights and biases of this thread's outputs; one thread updates the biases of the hidden layer too."""
    b, (_, units, n_outputs, size, _) = f.b, shape
    with f.loop(*f.share(I64(n_outputs))) as k:
        total = f.variable(floats(1)(None))
        with f.loop(0, size) as i:
            b.store(b.fadd(b.load(total), f.floats("delta", f.at(k, size, i), 1)), total)
        update.biases("c", k, [(0, 1)], [total])

        def weights(first: ir.Value, block: list[Piece]) -> None:
            sums = _sums(f, block)
            with f.loop(0, size) as i:
                _add(f, sums, f.scalar("delta", f.at(k, size, i)), _row(f, "a", f.at(i, units, first), block))
            update.weights("v", f.at(k, units, first), block, sums)

        f.blocks(units, _vectors(1), weights)
    with f.b.if_then(f.is_last()):

        def biases(first: ir.Value, block: list[Piece]) -> None:
            update.biases("b", first, block, _sums_of_d(f, shape, first, block))

        f.blocks(units, _vectors(1), biases)


def _sums_of_d(f: Writer, shape: Shape, first: ir.Value, block: list[Piece]) -> list[ir.Value]:
    """Σ δ over the batch's samples, for a block of hidden units."""
    sums = _sums(f, block)
    with f.loop(0, shape.batch_size) as i:
        _add(f, sums, FLOAT(1.0), _row(f, "d", f.at(i, shape.units, first), block))
    return sums


class _Update:
    """Writes the optimiser's update, as in torch.optim, by gradients held in variables."""

    def __init__(self, f: Writer, rule: Rule) -> None:
        self.f, self.rule = f, rule
        b = f.b
        self.rate, self.l2 = f.scalar("rate"), b.fmul(FLOAT(2), f.scalar("penalties", 1))
        self.l1 = f.scalar("penalties", 0) if rule.l1 else None
        if rule.optimizer == "adam":
            steps = b.fpext(f.scalar("steps"), DOUBLE)  # 1 - β₂ after a step has four digits less in float32
            correction_1, correction_2 = (
                b.fsub(DOUBLE(1), f.intrinsic("llvm.pow.f64", DOUBLE, DOUBLE(beta), steps))
                for beta in (rule.beta_1, rule.beta_2)
            )
            self.mean_rate = b.fptrunc(b.fdiv(b.fpext(self.rate, DOUBLE), correction_1), FLOAT)
            self.root = b.fptrunc(b.fdiv(DOUBLE(1), f.intrinsic("llvm.sqrt.f64", DOUBLE, correction_2)), FLOAT)

    def weights(self, name: str, row: ir.Value, block: list[Piece], gradients: list[ir.Value]) -> None:
        """Update weights by gradients of the loss, after adding the gradients of the penalties."""
        f = self.f
        for (at, size), total in zip(block, gradients, strict=True):
            index = f.b.add(row, I64(at))
            value = f.floats(name, index, size)
            gradient = f.fma(f.splat(self.l2, size), value, f.b.load(total))
            if self.l1 is not None:
                gradient = f.fma(f.splat(self.l1, size), f.sign(value), gradient)
            self._update(name, index, gradient)

    def biases(self, name: str, row: ir.Value, block: list[Piece], gradients: list[ir.Value]) -> None:
        for (at, _), total in zip(block, gradients, strict=True):
            self._update(name, self.f.b.add(row, I64(at)), self.f.b.load(total))

    def _update(self, name: str, index: ir.Value, gradient: ir.Value) -> None:
        f, b, size = self.f, self.f.b, gradient.type.count

        def c(value: float) -> ir.Value:
            return constant(gradient.type, value)

        rate, along = self.rate, gradient
        if self.rule.optimizer == "momentum":
            along = f.fma(c(self.rule.momentum), f.floats(f"{name}_first", index, size), gradient)
            f.store(along, f.job[f"{name}_first"], index)
        elif self.rule.optimizer == "adam":
            beta_1, beta_2 = self.rule.beta_1, self.rule.beta_2
            mean = f.floats(f"{name}_first", index, size)
            mean = f.fma(c(1 - beta_1), b.fsub(gradient, mean), mean)
            square = b.fmul(c(beta_2), f.floats(f"{name}_second", index, size))
            square = f.fma(b.fmul(c(1 - beta_2), gradient), gradient, square)
            f.store(mean, f.job[f"{name}_first"], index)
            f.store(square, f.job[f"{name}_second"], index)
            spread = f.fma(f.sqrt(square), f.splat(self.root, size), c(self.rule.epsilon))
            rate, along = self.mean_rate, b.fdiv(mean, spread)
        moved = b.fsub(f.floats(name, index, size), b.fmul(f.splat(rate, size), along))
        f.store(moved, f.job[name], index)


def _tiles(f: Writer, n: int, tile: Callable[[ir.Value, int], None]) -> None:
    """Call `tile` with the first row and the number of rows, for each `ROWS` of this thread's part of n rows."""
    start, stop = f.share(I64(n // ROWS))
    with f.loop(start, stop) as k:
        tile(f.b.mul(k, I64(ROWS)), ROWS)
    if n % ROWS:
        with f.b.if_then(f.is_last()):
            tile(I64(n // ROWS * ROWS), n % ROWS)


def _samples(f: Writer, size: int) -> tuple[ir.Value, ir.Value]:
    """First and last sample of this thread's tiles."""
    b = f.b
    start, stop = (b.mul(bound, I64(ROWS)) for bound in f.share(I64(size // ROWS)))
    return start, b.select(f.is_last(), I64(size), stop)


def _bounds(f: Writer, i: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Start and end, in memory, of the differences of the batch's sample i."""
    row = f.load(I64, f.job["rows"], i)
    return f.load(I64, f.job["starts"], row), f.load(I64, f.job["starts"], f.b.add(row, I64(1)))


def _prefetch(f: Writer, i: ir.Value, size: int) -> None:
    """Prefetch the differences of a later sample."""
    ahead = f.b.add(i, I64(AHEAD))
    bounds = _bounds(f, f.b.select(f.b.icmp_unsigned("<", ahead, I64(size)), ahead, i))
    f.prefetch("values", FLOAT, *bounds)
    f.prefetch("features", I16, *bounds)


def _vectors(rows: int) -> int:
    """How many vectors of units have their sums in registers at a time, for one row or for `ROWS`."""
    wide, narrow = (8, 4) if rows == 1 else (4, 1)
    return wide if llvm.is_wide() else narrow


def _row(f: Writer, name: str, row: ir.Value, block: list[Piece]) -> list[ir.Value]:
    return [f.floats(name, f.b.add(row, I64(at)), size) for at, size in block]


def _sums(f: Writer, block: list[Piece], name: str | None = None, row: ir.Value | None = None) -> list[ir.Value]:
    """Variables that start at 0, or at the values of a row."""
    first = [floats(size)(None) for _, size in block] if name is None else _row(f, name, row, block)
    return [f.variable(value) for value in first]


def _add(f: Writer, sums: list[ir.Value], value: ir.Value, row: list[ir.Value]) -> None:
    """sums ← sums + value · row"""
    for total, factor in zip(sums, row, strict=True):
        f.b.store(f.fma(f.splat(value, factor.type.count), factor, f.b.load(total)), total)


def _store_outputs(f: Writer, sums: list[ir.Value], row: ir.Value, block: list[Piece]) -> None:
    for total, (at, _) in zip(sums, block, strict=True):
        f.store(f.b.load(total), f.job["a"], f.b.add(row, I64(at)))


def _inner_product(
    f: Writer, n: int, left: tuple[str, ir.Value], right: tuple[str, ir.Value], start: ir.Value
) -> ir.Value:
    """start + Σ of the products of n numbers with n others."""
    b = f.b
    sums: dict[int, ir.Value] = {size: f.variable(floats(size)(None)) for _, size in llvm.pieces(0, n)}

    def add(j: ir.Value, size: int) -> None:
        x, y = (f.floats(name, b.add(row, j), size) for name, row in (left, right))
        b.store(f.fma(x, y, b.load(sums[size])), sums[size])

    f.along(n, add)
    for part in sums.values():
        start = b.fadd(start, f.total(b.load(part)))
    return start


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
