"""The step of small networks on a GPU, without one: its results by Triton's interpreter, and that it compiles."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="not every PyTorch comes with Triton")

from models.steps import gpu

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from models.steps import gpu
from models.steps.closed_form import BETAS, EPSILON, MOMENTUM

SIZES = {"M", "B", "N", "D", "K", "x_m", "a_m", "t_m", "weight_m"}
NUMBERS = {"MOMENTUM": MOMENTUM, "BETA_1": BETAS[0], "BETA_2": BETAS[1], "EPSILON": EPSILON}
BETA = {name: NUMBERS[name] for name in ("BETA_1", "BETA_2")}
LAYER = ("*fp32", "*fp32", *5 * ("i32",))


def build(kernel, settings, ones="", **constants):
    options = {name: value for name, value in settings.items() if name.islower()}
    constants = {"PRECISION": gpu.EXACT, "UNIT": 4, **constants, **dict.fromkeys(ones.split(), 1)}
    constants |= {name: value for name, value in settings.items() if name.isupper()}
    names = kernel.arg_names
    types = {n: "constexpr" if n in constants else "i32" if n in SIZES else "*fp32" for n in names}
    if "layers" in types:
        types["layers"] = (LAYER, LAYER)
    values = {(i,): constants[n] for i, n in enumerate(names) if n in constants}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if types[n] == "*fp32"}
    source = ASTSource(kernel, types, values, aligned)
    code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    print(kernel.__name__)
    return code


product, last, descent = gpu.PRODUCT, gpu.OUTPUT, gpu.DESCENT
code = build(gpu.forward, product[16], ACTIVATION="sigmoid")
assert "cp.async.cg" in code and "cp.async.ca" not in code, "numbers are not read four at a time"
build(gpu.forward, product[32], "N D", ACTIVATION="relu")  # arguments of 1 are constants for Triton
build(gpu.forward, product[64], ACTIVATION="tanh", PRECISION=gpu.FAST)
build(gpu.output, last, KIND="multiclass", ACTIVATION="sigmoid", HIDDEN=True, TK=16, **BETA)
build(gpu.output, last, "M K", KIND="binary", ACTIVATION="relu", HIDDEN=True, TK=16, UNIT=1, **BETA)
build(gpu.output, last, "N", KIND="regression", ACTIVATION="tanh", HIDDEN=False, TK=128, **BETA)
build(gpu.propagate, product[32], "M", ACTIVATION="relu")
build(gpu.descend, descent[16], OPTIMIZER="sgd", **NUMBERS)
build(gpu.descend, descent[32], "M B", OPTIMIZER="momentum", UNIT=1, **NUMBERS)
build(gpu.descend, descent[64], OPTIMIZER="adam", PRECISION=gpu.FAST, **NUMBERS)
"""


def run(*arguments: str, **environment: str) -> str:
    """Output of a Python process: Triton decides on import whether it interprets."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *arguments], env=inherited | environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_interpreted_kernels_train_as_autograd_does() -> None:
    file = "tests/models/steps/interpreted_kernels.py"
    options = ("-q", "--noconftest", "-p", "no:cacheprovider")  # what conftest.py imports takes seconds
    assert run("-m", "pytest", *options, file, TRITON_INTERPRET="1").startswith("." * 11)


def test_kernels_compile_for_a_gpu() -> None:
    """Also without a GPU: the compiler may refuse code that the interpreter accepts."""
    assert set(run("-c", COMPILE).split()) == {"forward", "output", "propagate", "descend"}


def test_where_triton_does_not_work_a_warning_says_why() -> None:
    with pytest.warns(UserWarning, match="^training is slower than it could be, since Triton does not work here: "):
        assert not gpu.works.__wrapped__(torch.device("cpu"))  # without its cache, for other tests
