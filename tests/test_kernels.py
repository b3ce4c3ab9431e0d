"""The step of small networks on a GPU, without one: its results by Triton's interpreter, and that it compiles."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="not every PyTorch comes with Triton")

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from models import kernels
from models.backprop import BETAS, EPSILON, MOMENTUM

SIZES = {"M", "B", "N", "D", "K", "x_m", "a_m", "t_m", "weight_m", "d_m", "d_b", "d_n"}
NUMBERS = {"MOMENTUM": MOMENTUM, "BETA_1": BETAS[0], "BETA_2": BETAS[1], "EPSILON": EPSILON}


def build(kernel, tile, ones="", **constants):
    launch = kernels._launch(tile)
    options = {name: launch[name] for name in ("num_warps", "num_stages")}
    constants |= {"PRECISION": kernels.PRECISION, "DEPTH": launch["DEPTH"], **dict.fromkeys(ones.split(), 1)}
    names = kernel.arg_names
    types = {n: "constexpr" if n in constants else "i32" if n in SIZES else "*fp32" for n in names}
    values = {(i,): constants[n] for i, n in enumerate(names) if n in constants}
    triton.compile(ASTSource(kernel, types, values, {}), target=GPUTarget("cuda", 90, 32), options=options)
    print(kernel.__name__)


build(kernels.forward, 16, ACTIVATION="sigmoid", TB=16, TN=16)
build(kernels.forward, 32, "N D", ACTIVATION="relu", TB=32, TN=32)  # arguments of 1 are constants for Triton
build(kernels.forward, 64, ACTIVATION="tanh", TB=64, TN=64)
build(kernels.output, 16, KIND="multiclass", ACTIVATION="sigmoid", HIDDEN=True, TB=16, TK=16)
build(kernels.output, 16, "M K", KIND="binary", ACTIVATION="relu", HIDDEN=True, TB=16, TK=16)
build(kernels.output, 16, "N", KIND="regression", ACTIVATION="tanh", HIDDEN=False, TB=16, TK=128)
build(kernels.propagate, 32, "M", ACTIVATION="relu", TB=32, TN=32)
build(kernels.descend, 16, OPTIMIZER="sgd", TN=16, TD=16, **NUMBERS)
build(kernels.descend, 32, "M d_b", OPTIMIZER="momentum", TN=32, TD=32, **NUMBERS)
build(kernels.descend, 64, "D d_n", OPTIMIZER="adam", TN=64, TD=64, **NUMBERS)
"""


def run(*arguments: str, **environment: str) -> str:
    """What a Python process prints: Triton decides when it is imported whether it interprets."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *arguments], env=inherited | environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_interpreted_they_train_as_autograd_does() -> None:
    file = "tests/interpreted_kernels.py"
    assert run("-m", "pytest", "-q", "-p", "no:cacheprovider", file, TRITON_INTERPRET="1").startswith("." * 9)


def test_they_compile_for_a_gpu() -> None:
    """Here too, where there is none: what the interpreter lets pass, the compiler may not."""
    assert set(run("-c", COMPILE).split()) == {"forward", "output", "propagate", "descend"}


def test_where_triton_does_not_work_a_warning_says_why() -> None:
    program = """
import warnings
import torch
from models import kernels
with warnings.catch_warnings(record=True) as seen:
    print(kernels.work(torch.device("cpu")), *[warning.message for warning in seen])
"""
    said = "False training is slower than it could be, since Triton does not work here: "
    assert run("-c", program).startswith(said)
