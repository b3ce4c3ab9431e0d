"""The compiled step, dense or sparse: equal to autograd, for any number of threads and on any machine."""

import ctypes
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from llvmlite import binding

from models.mlp import MLP
from models.steps import cpu, llvm, sparse
from models.steps.closed_form import BETAS, EPSILON, MOMENTUM, Backprop, Setup
from models.steps.cpu import CompiledStep
from models.steps.llvm import FLOAT, I64, Writer
from models.steps.reference import Penalties
from models.steps.sparse import Differences, Sparse, SparseBatch, background
from pipeline.task import Augment, Train
from pipeline.train.batches import Feed
from pipeline.train.data import Dataset
from pipeline.train.distortion import Distortion
from pipeline.train.trainers import Autograd, ClosedForm
from tests.models.steps.test_closed_form import ACTIVATIONS, KINDS, OPTIMIZERS, PENALTIES

CASES = [
    (kind, activation, optimizer, penalties)
    for (kind, activation), (optimizer, penalties) in zip(
        list(product(KINDS, ACTIVATIONS)) * 2, list(product(OPTIMIZERS, [{}, *PENALTIES])), strict=False
    )
]


@pytest.fixture(autouse=True)
def always_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "COMPILED", 0)  # however little there is to train


def problem(kind: str, n: int = 90, n_inputs: int = 37, n_outputs: int = 5, filled: float = 0.2) -> Dataset:
    """Samples with one background, and a few features that have another; some samples have nothing else."""
    draw = torch.Generator().manual_seed(0)
    x = torch.full((n, n_inputs), -0.4)
    x[:, ::7] = 1.5
    differ = torch.rand(x.shape, generator=draw) < filled
    differ[::11] = False
    x[differ] = torch.randn(int(differ.sum()), generator=draw)
    if kind == "regression":
        return Dataset(x, torch.randn(n, n_outputs, generator=draw))
    return Dataset(x, torch.randint(2 if kind == "binary" else n_outputs, (n,), generator=draw))


def network(data: Dataset, kind: str, units: int = 21, activation: Any = "relu") -> MLP:
    return MLP(data.x.shape[1], [units], 1 if kind == "binary" else 5, activation)


def trained(trainer: Any, mlp: MLP, feed: Feed, kind: Any, options: Train) -> torch.Tensor:
    """Losses and accuracies of three epochs."""
    running = trainer([mlp], feed, kind, [options])
    assert trainer is Autograd or isinstance(running.step, CompiledStep)
    return torch.stack([torch.stack(running.epoch(epoch, 1 / (1 + epoch))) for epoch in range(3)])


def is_sparse(data: Dataset, units: int = 21) -> bool:
    return background(data.x, units, 16, anew=False) is not None


def agree(kind: Any, options: Train, data: Dataset, activation: Any, units: int = 21, transform: Any = None) -> None:
    reference, ours = (network(data, kind, units, activation) for _ in range(2))
    feeds = [Feed([data], [0], options.batch_size, transform, options.mix) for _ in range(2)]
    expected = trained(Autograd, reference, feeds[0], kind, options)
    found = trained(ClosedForm, ours, feeds[1], kind, options)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    for ours_p, reference_p in zip(ours.parameters(), reference.parameters(), strict=True):
        # Adam's first steps have the sign of the gradient, which is random for a tiny gradient.
        torch.testing.assert_close(ours_p, reference_p, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("filled", [0.2, 1.0])
@pytest.mark.parametrize(("kind", "activation", "optimizer", "penalties"), CASES)
def test_training_equals_autograd(
    kind: Any, activation: Any, optimizer: Any, penalties: dict[str, float], filled: float
) -> None:
    options = Train(batch_size=16, learning_rate=OPTIMIZERS[optimizer], optimizer=optimizer, **penalties)
    data = problem(kind, filled=filled)
    assert is_sparse(data) == (filled < 0.5)
    agree(kind, options, data, activation)


@pytest.mark.parametrize("filled", [0.2, 1.0])
@pytest.mark.parametrize(
    ("n_inputs", "units", "size"), [(16, 1, 1), (33, 16, 90), (1, 130, 7), (5, 64, 5), (100, 257, 33)]
)
def test_training_equals_autograd_for_any_size(n_inputs: int, units: int, size: int, filled: float) -> None:
    options = Train(batch_size=size, learning_rate=0.02, optimizer="momentum")
    agree("multiclass", options, problem("multiclass", n_inputs=n_inputs, filled=filled), "tanh", units)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_many_networks_are_trained_as_each_alone_bit_for_bit(optimizer: Any) -> None:
    rates, sizes = (0.5, 1.0, 2.0), (90, 50, 90)  # the second has fewer batches
    options = [
        Train(batch_size=16, learning_rate=OPTIMIZERS[optimizer] * rate, l2=rate / 1e3, optimizer=optimizer, seed=m)
        for m, rate in enumerate(rates)
    ]
    data = [problem("multiclass", n, filled=1.0) for n in sizes]
    together, alone = ([MLP(37, [21], 5, "relu", m) for m in range(3)] for _ in range(2))
    running = ClosedForm(together, Feed(data, [0, 1, 2], 16), "multiclass", options)
    assert isinstance(running.step, CompiledStep)
    found = torch.stack([torch.stack(running.epoch(epoch, 1 / (1 + epoch))) for epoch in range(3)])
    for m, mlp in enumerate(alone):
        expected = trained(ClosedForm, mlp, Feed([data[m]], [m], 16), "multiclass", options[m])
        torch.testing.assert_close(found[..., m : m + 1], expected, rtol=1e-12, atol=1e-12)
        assert all(map(torch.equal, together[m].parameters(), mlp.parameters()))


@pytest.mark.parametrize("filled", [0.2, 1.0])
def test_networks_that_share_their_batches_are_trained_as_each_alone(filled: float) -> None:
    options = [Train(batch_size=16, learning_rate=rate) for rate in (0.01, 0.02)]
    data = problem("multiclass", filled=filled)
    together, alone = ([network(data, "multiclass") for _ in range(2)] for _ in range(2))
    running = ClosedForm(together, Feed([data] * 2, [0, 0], 16), "multiclass", options)
    assert isinstance(running.step, CompiledStep)
    assert (running.step.samples is not None) == (filled < 0.5)
    for epoch in range(3):
        running.epoch(epoch, 1 / (1 + epoch))
    for m, mlp in enumerate(alone):
        trained(ClosedForm, mlp, Feed([data], [0], 16), "multiclass", options[m])
        assert all(map(torch.equal, together[m].parameters(), mlp.parameters()))
    z = running.step.logits(data.x, [1])  # from weights stored feature by feature
    torch.testing.assert_close(z[0], together[1](data.x), rtol=1e-4, atol=1e-5)


def test_mixed_samples() -> None:
    options = Train(batch_size=16, learning_rate=0.02, optimizer="momentum", mix=0.4)
    agree("multiclass", options, problem("multiclass", filled=0.05), "relu", 130)


def test_distorted_images() -> None:
    options = Train(batch_size=16, learning_rate=0.02, optimizer="momentum")
    images = torch.full((90, 28, 28), -0.4)
    images[:, 9:19, 9:19] = torch.randn(90, 10, 10, generator=torch.Generator().manual_seed(0))
    data = Dataset(images.flatten(1), torch.arange(90) % 5)
    agree("multiclass", options, data, "relu", 130, Distortion(Augment(), -0.4, torch.device("cpu")))


def steps(threads: int, sparse: bool, units: int = 100) -> list[torch.Tensor]:
    data = problem("multiclass", 64, 301)
    common = background(data.x, units, 64, anew=False)
    assert common is not None
    mlp = network(data, "multiclass", units, "sigmoid")
    penalties = Penalties(1e-4, 1e-4, 1e-3, 1e-3)
    differences = Differences.of(lambda rows: data.x[rows.start : rows.stop], len(data.x), common)
    step = CompiledStep(
        Setup([mlp], "multiclass", 64, "adam", [0.01], [penalties]), Sparse(differences, True) if sparse else None
    )
    step.threads = threads
    t = torch.nn.functional.one_hot(data.y, 5).to(torch.float32).T.contiguous()
    z, w = torch.empty(5, 64), torch.full((1, 64), 1 / 64)
    rows = torch.arange(64).flip(0)
    batch = SparseBatch(differences, rows) if sparse else data.x[rows]
    before = torch.get_num_threads()
    try:
        for _ in range(20):
            step.step(batch, t.flip(1).contiguous(), w, z, (True,))
    finally:
        torch.set_num_threads(before)
    return [z, *(p.detach().clone() for p in mlp.parameters())]


@pytest.mark.skipif(torch.get_num_threads() < 2, reason="one core")
@pytest.mark.parametrize("sparse", [True, False])
def test_the_number_of_threads_changes_no_bit(sparse: bool) -> None:
    for alone, together in zip(steps(1, sparse), steps(2, sparse), strict=True):
        assert torch.equal(alone, together)


def test_dense_and_sparse_steps_agree() -> None:
    for dense, of_differences in zip(steps(1, False), steps(1, True), strict=True):
        torch.testing.assert_close(dense, of_differences, rtol=1e-4, atol=1e-4)


def test_without_pytorchs_openmp_one_thread_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = steps(1, True, 99)
    monkeypatch.setattr(llvm, "library", lambda: None)
    cpu._compiled.cache_clear()
    try:
        assert all(map(torch.equal, steps(2, True, 99), expected))
    finally:
        cpu._compiled.cache_clear()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("filled", [0.2, 1.0])
def test_large_values_saturate(activation: Any, filled: float) -> None:
    data = problem("multiclass", filled=filled)
    data.x.mul_(1e6)
    agree("multiclass", Train(batch_size=90, learning_rate=1e-9, optimizer="sgd"), data, activation)


@pytest.mark.parametrize(("kind", "activation"), list(product(KINDS, ACTIVATIONS)))
def test_nan_stays_nan(kind: Any, activation: Any) -> None:
    data = problem(kind)
    data.x[3, 5] = torch.nan
    assert is_sparse(data)
    mlp = network(data, kind, activation=activation)
    losses = trained(ClosedForm, mlp, Feed([data], [0], 90), kind, Train(batch_size=90))[:, 0]
    assert losses.isnan().all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    x=st.integers(1, 40).flatmap(
        lambda n: hnp.arrays(np.float32, (9, n), elements=st.sampled_from(np.float32([0, -0.0, 1, 0.1, -2, np.inf])))
    )
)
def test_differences_from_the_background(x: np.ndarray) -> None:
    common = torch.from_numpy(x).mode(0).values
    common[common.isinf()] = 0
    found = Differences.of(lambda rows: torch.from_numpy(x[rows.start : rows.stop]), len(x), common)
    rows, columns = np.nonzero(x != common.numpy())
    counts = np.bincount(rows, minlength=len(x))
    np.testing.assert_array_equal(found.starts.numpy(), np.concatenate([[0], counts.cumsum()]))
    np.testing.assert_array_equal(found.features[: len(rows)], columns)
    np.testing.assert_array_equal(found.values[: len(rows)], (x - common.numpy())[rows, columns])


def test_the_background_is_the_value_that_most_samples_share() -> None:
    data = problem("multiclass")
    common = background(data.x, 100, 16, anew=False)
    assert common is not None
    assert torch.equal(common, torch.where(torch.arange(37) % 7 == 0, 1.5, -0.4))
    assert background(problem("multiclass", filled=0.6).x, 100, 16, anew=False) is None
    assert background(torch.randn(90, 37), 100, 16, anew=False) is None
    few = problem("multiclass", filled=0.38).x  # finding the differences pays only for a wider layer
    assert background(few, 800, 16, anew=True) is not None
    assert background(few, 100, 16, anew=True) is None
    assert background(few, 100, 16, anew=False) is not None
    assert background(few, 100, 70_000, anew=False) is None


def test_digits_have_a_background(real_data: Path) -> None:
    raw = np.fromfile(real_data / "MNIST" / "raw" / "t10k-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 784)
    digits = Dataset((torch.from_numpy(raw).to(torch.float32) - 33) / 79, torch.arange(len(raw)) % 10)
    running = ClosedForm([MLP(784, [100], 10, "relu")], Feed([digits], [0], 100), "multiclass", [Train()])
    assert isinstance(running.step, CompiledStep)
    assert running.step.samples is not None
    assert (running.step.samples.differences.starts[-1] == np.count_nonzero(raw)).item()


def test_a_checkpoint_is_read_by_the_other_step(monkeypatch: pytest.MonkeyPatch) -> None:
    data, options = problem("multiclass"), Train(batch_size=16, learning_rate=0.01)
    feed = Feed([data], [0], 16)
    ours, theirs = network(data, "multiclass"), network(data, "multiclass")
    one = ClosedForm([ours], feed, "multiclass", [options])
    one.epoch(0, 1.0)
    monkeypatch.setattr(cpu, "COMPILED", 10**18)
    other = ClosedForm([theirs], feed, "multiclass", [options])
    assert isinstance(other.step, Backprop)
    other.load({name: tensor.clone() for name, tensor in one.state().items()})
    torch.testing.assert_close(torch.stack(other.epoch(1, 1.0)), torch.stack(one.epoch(1, 1.0)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-5)


class Numbers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("x", "y")]


@pytest.mark.parametrize(
    ("name", "expected", "error"),
    [("exp", np.exp, 2.5e-7), ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), 4e-7), ("sign", np.sign, 0.0)],
)
def test_functions_are_as_accurate_as_float32(name: str, expected: Any, error: float) -> None:
    x = np.concatenate([np.linspace(-86, 86, 100_000), [0.0, -0.0, 1e-30, -1e-30] * 4]).astype(np.float32)
    y = np.empty_like(x)

    def write(f: Writer) -> None:
        with f.loop(0, len(x), 16) as j:
            f.store(getattr(f, name)(f.floats("x", j, 16)), f.job["y"], j)

    (function,) = llvm.functions(Numbers, {"function": write})
    llvm.run(function, Numbers(x=x.ctypes.data, y=y.ctypes.data), 1)
    np.testing.assert_allclose(y, expected(x.astype(np.float64)), rtol=error)


def test_threads_share_all_of_the_work_once() -> None:
    x, y = np.arange(101, dtype=np.float32), np.zeros(101, np.float32)

    def write(f: Writer) -> None:
        with f.loop(*f.share(I64(len(x)))) as j:
            f.store(f.b.fadd(f.scalar("y", j), f.load(FLOAT, f.job["x"], j)), f.job["y"], j)

    (function,) = llvm.functions(Numbers, {"function": write})
    for threads in (1, 2, 3):
        y[:] = 0
        llvm.run(function, Numbers(x=x.ctypes.data, y=y.ctypes.data), threads)
        np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize(
    ("triple", "processor"),
    [
        ("x86_64-unknown-linux-gnu", "x86-64-v3"), ("x86_64-unknown-linux-gnu", "x86-64"),
        ("aarch64-unknown-linux-gnu", "generic"), ("arm64-apple-macosx", "apple-m1"),
    ],
)  # fmt: skip
def test_the_step_compiles_for_other_machines(triple: str, processor: str) -> None:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=processor, opt=3)
    adam = cpu.Rule("adam", MOMENTUM, *BETAS, EPSILON)
    shapes = [cpu.Shape(33, 21, 5, 16, of_differences) for of_differences in (True, False)]
    written = [cpu.written(shape, "multiclass", "sigmoid", adam) for shape in shapes]
    for module in (sparse.fill_written(33), *written):
        assert machine.emit_object(llvm.optimised(module, machine))


def test_a_warning_says_why_compiling_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object) -> None:
        raise RuntimeError("cannot allocate executable memory")

    data = problem("multiclass")
    monkeypatch.setattr(binding, "create_mcjit_compiler", forbid)
    llvm.works.cache_clear()
    try:
        with pytest.warns(UserWarning, match="slower than it could be, .* cannot allocate executable memory"):
            assert not llvm.works()
        running = ClosedForm([network(data, "multiclass")], Feed([data], [0], 16), "multiclass", [Train()])
        assert isinstance(running.step, Backprop)
    finally:
        llvm.works.cache_clear()


HARDENED = """
import ctypes, sys, warnings
from models.steps import llvm
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE: written memory cannot be executed
    sys.exit("this system cannot forbid it")
warnings.simplefilter("error")
try:
    llvm.works()
except UserWarning as warning:
    print(warning)
"""


def test_a_process_that_may_not_execute_written_memory_gets_a_warning() -> None:
    done = subprocess.run([sys.executable, "-c", HARDENED], capture_output=True, text=True)
    if done.stderr == "this system cannot forbid it\n":
        pytest.skip("PR_SET_MDWE came with Linux 6.3")
    assert "slower than it could be, since" in done.stdout, done.stderr
    assert "may not execute memory that it wrote" in done.stdout


@pytest.mark.parametrize(("hidden", "n_outputs"), [((), 5), ((9, 9), 5), ((9,), 200)])
def test_other_networks_use_the_plain_step(hidden: tuple[int, ...], n_outputs: int) -> None:
    data = problem("multiclass", n_outputs=n_outputs)
    running = ClosedForm([MLP(37, hidden, n_outputs, "relu")], Feed([data], [0], 16), "multiclass", [Train()])
    assert isinstance(running.step, Backprop)
    assert running.epoch(0, 1.0)[0].isfinite().all()
