"""Bilinear sampling of many small pictures, each at positions of its own, in a function compiled by LLVM.

PyTorch's `grid_sample` reads the positions of all pixels from memory, where a matrix product has put them. Here they
are computed in registers, and two neighbouring pixels are one load from a copy of the picture with an empty border, so
that nothing has to be checked at its edges.
"""

import ctypes
from functools import cache
from itertools import product
from typing import Any

import torch
from llvmlite import ir
from torch import Tensor

from models.frontend import IMAGE_SIZE
from models.steps import llvm
from models.steps.llvm import FLOAT, I32, I64, POINTER, VECTOR, Writer, constant, floats

BIT = ir.IntType(1)
STRIDE = 32  # pixels from a row of the copy to the next
ROWS = IMAGE_SIZE + 3  # of the copy: one above the picture, two below
COLUMNS = (0, IMAGE_SIZE - VECTOR)  # where a row's two vectors begin, which overlap


class Job(ctypes.Structure):
    """Addresses of float32, and the number of pictures."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("x", "rows", "across", "copies", "background", "n")]


class Sampler:
    """Samples pictures in place.

    Parameters
    ----------
    across : functions of a pixel's column, float32 (R, 28), contiguous
    background : value of what is outside of a picture
    """

    def __init__(self, across: Tensor, background: float) -> None:
        self.across, self.background = across, torch.tensor(background)
        self._copies = torch.zeros(torch.get_num_threads(), ROWS, STRIDE)  # of the picture of each thread
        self._function = _compiled(len(across))

    def __call__(self, x: Tensor, rows: Tensor) -> None:
        """Pixel (r, c) of picture n becomes what is at the column Σ_k rows[n, 0, k, r] across[k, c] and the row
        Σ_k rows[n, 1, k, r] across[k, c], in pixels from the centre of the first one.

        x : float32 (N, 784), contiguous
        rows : float32 (N, 2, R, 28), contiguous
        """
        assert x.is_contiguous()
        assert rows.is_contiguous()
        tensors = {"x": x, "rows": rows, "across": self.across, "copies": self._copies, "background": self.background}
        job = Job(**{name: tensor.data_ptr() for name, tensor in tensors.items()}, n=len(x))
        llvm.run(self._function, job, min(torch.get_num_threads(), len(self._copies)))


@cache
def _compiled(rank: int) -> Any:
    (function,) = llvm.functions(Job, {"sample": lambda f: _write(f, rank)})
    return function


def _write(f: Writer, rank: int) -> None:
    """Sample this thread's share of the pictures."""
    b, side = f.b, IMAGE_SIZE
    background = f.scalar("background")
    copy = b.gep(f.job["copies"], [f.at(f.thread, ROWS * STRIDE)], source_etype=FLOAT)
    with f.loop(*f.share(f.number("n"))) as i:
        picture = f.at(i, side * side)
        with f.loop(0, side) as row:
            for column in COLUMNS:
                pixels = f.floats("x", b.add(picture, f.at(row, side, column)), VECTOR)
                inside = f.at(b.add(row, I64(1)), STRIDE, column + 1)
                f.store(b.fsub(pixels, f.splat(background, VECTOR)), copy, inside)
        with f.loop(0, side) as row:
            where = [[constant(floats(VECTOR), 0.0)] * 2 for _ in COLUMNS]  # column and row
            for axis, k in product((0, 1), range(rank)):
                of_row = f.scalar("rows", b.add(f.at(i, 2 * rank * side, (axis * rank + k) * side), row))
                for part, column in zip(where, COLUMNS, strict=True):
                    of_columns = f.floats("across", I64(k * side + column), VECTOR)
                    part[axis] = f.fma(f.splat(of_row, VECTOR), of_columns, part[axis])
            for part, column in zip(where, COLUMNS, strict=True):
                sampled = b.fadd(_bilinear(f, copy, part), f.splat(background, VECTOR))
                f.store(sampled, f.job["x"], b.add(picture, f.at(row, side, column)))


def _bilinear(f: Writer, copy: ir.Value, where: list[ir.Value]) -> ir.Value:
    """What is at those columns and rows of the picture in `copy`."""
    b, kind = f.b, floats(VECTOR)
    integers, longs, pointers, flags = (ir.VectorType(of, VECTOR) for of in (I32, I64, POINTER, BIT))
    shares, corner = [], []
    for place in where:
        for than, bound in (("<", constant(kind, -1.0)), (">", constant(kind, IMAGE_SIZE))):  # all is empty beyond
            place = b.select(b.fcmp_ordered(than, place, bound), bound, place)
        whole = f.intrinsic(f"llvm.floor.v{VECTOR}f32", kind, place)
        shares.append(b.fsub(place, whole))
        corner.append(b.add(b.fptosi(whole, integers), constant(integers, 1)))
    index = b.zext(b.add(b.mul(corner[1], constant(integers, STRIDE)), corner[0]), longs)
    address = b.add(b.mul(index, constant(longs, 4)), f.splat(b.ptrtoint(copy, I64), VECTOR))
    gather = f"llvm.masked.gather.v{VECTOR}i64.v{VECTOR}p0"
    upper_and_lower = []
    for down in (0, 4 * STRIDE):
        start = b.inttoptr(b.add(address, constant(longs, down)), pointers)
        pairs = f.intrinsic(gather, longs, start, I32(4), constant(flags, 1), longs(ir.Undefined))
        pixels = b.bitcast(pairs, floats(2 * VECTOR))
        left, right = (
            b.shuffle_vector(pixels, pixels, integers([I32(2 * k + second) for k in range(VECTOR)]))
            for second in (0, 1)
        )
        upper_and_lower.append(f.fma(shares[0], b.fsub(right, left), left))
    upper, lower = upper_and_lower
    return f.fma(shares[1], b.fsub(lower, upper), upper)
