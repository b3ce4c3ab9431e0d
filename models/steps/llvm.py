"""Functions written from Python in LLVM's intermediate representation and compiled for this machine.

A function takes a job, a record of addresses and numbers. Several of PyTorch's own threads may run it at once, each for
its share of the work.
"""

import ctypes
import mmap
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from llvmlite import binding as llvm
from llvmlite import ir

VECTOR = 16  # floats of the widest register; LLVM splits it where a machine has narrower ones
I16, I32, I64 = (ir.IntType(bits) for bits in (16, 32, 64))
FLOAT, DOUBLE, POINTER = ir.FloatType(), ir.DoubleType(), ir.PointerType()
Piece = tuple[int, int]  # of a row: index of its first number, and how many numbers, as a register holds

_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_OPENMP = {"omp_get_thread_num": 0, "omp_get_num_threads": 1}  # called by a function; values without OpenMP
_compilers: list[Any] = []  # they own the compiled code


@cache
def library() -> ctypes.CDLL | None:
    """PyTorch's OpenMP library, since the threads of another would compete with its own; None if it is not GNU's.

    Its entry points are those that compilers use: https://gcc.gnu.org/onlinedocs/libgomp/The-libgomp-ABI.html
    """
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    try:
        openmp = ctypes.CDLL(found[0].name, os.RTLD_NOLOAD)  # the one in use, wherever it was loaded from
    except (IndexError, OSError):
        return None
    parallel = openmp.GOMP_parallel
    parallel.argtypes, parallel.restype = [_FUNCTION, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    for name in _OPENMP:
        llvm.add_symbol(name, ctypes.cast(openmp[name], ctypes.c_void_p).value)
    return openmp


@cache
def is_wide() -> bool:
    """Whether the machine has 32 registers of 16 floats, not 16 of 8."""
    return bool(llvm.get_host_cpu_features().get("avx512f", False))


def run(function: Any, job: ctypes.Structure, threads: int) -> None:
    """Run a compiled function on that many threads, or on one if PyTorch's cannot be used."""
    openmp = library()
    if openmp and threads > 1:
        openmp.GOMP_parallel(function, ctypes.byref(job), threads, 0)
    else:
        function(ctypes.byref(job))


def functions(job: type[ctypes.Structure], write: Mapping[str, Callable[["Writer"], None]]) -> list[Any]:
    """Compile functions of a job, whose fields are all 8 bytes long, for `run`."""
    return for_this_machine(written(job, write), list(write))


def for_this_machine(module: str, names: Sequence[str]) -> list[Any]:
    """Functions of those names, compiled."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    compiler = llvm.create_mcjit_compiler(optimised(module, machine), machine)
    compiler.finalize_object()
    _compilers.append(compiler)
    return [_FUNCTION(compiler.get_function_address(name)) for name in names]


def optimised(module: str, machine: Any) -> Any:
    """A module, parsed and optimised for a machine."""
    parsed = llvm.parse_assembly(module)
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(parsed, passes)
    return parsed


def written(job: type[ctypes.Structure], write: Mapping[str, Callable[["Writer"], None]]) -> str:
    """A module of functions void (job *)."""
    module = ir.Module()
    for name, alone in _OPENMP.items():
        query = ir.Function(module, ir.FunctionType(I32, []), name)
        if library() is None:
            ir.IRBuilder(query.append_basic_block()).ret(I32(alone))
    for name, write_body in write.items():
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), name)
        entry, body = (ir.IRBuilder(function.append_basic_block(part)) for part in ("entry", "body"))
        write_body(Writer(entry, body, function.args[0], [field for field, *_ in job._fields_]))
        entry.branch(function.blocks[1])
        body.ret_void()
    return str(module)


class _Nothing(ctypes.Structure):
    _fields_ = [("nothing", ctypes.c_void_p)]


def _check_memory() -> None:
    """Raise OSError where a process may not execute memory that it wrote (PR_SET_MDWE, systemd's
    MemoryDenyWriteExecute, SELinux without execmem): there LLVM would end the process."""
    if sys.platform != "linux":
        return
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    libc = ctypes.CDLL(None, use_errno=True)
    address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    if libc.mprotect(address, ctypes.c_size_t(len(page)), mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "this process may not execute memory that it wrote")


@cache
def works() -> bool:
    """Whether compiled functions run, and run fast, on this machine; warns with the reason if they fail."""
    if not llvm.get_host_cpu_features().get("fma", True):
        return False  # some virtual machines hide that their processor has fused multiply-add
    try:
        _check_memory()
        (nothing,) = functions(_Nothing, {"nothing": lambda writer: None})
        run(nothing, _Nothing(), 1)
    except Exception as error:  # of many types: a system may forbid executing memory that was written
        warnings.warn(f"training is slower than it could be, since LLVM does not work here: {error}", stacklevel=2)
        return False
    return True


class Writer:
    """Writes the body of a function, with methods that take and return LLVM's values: numbers and vectors.

    Variables are allocated in memory at the entry; LLVM moves them into registers.

    Attributes
    ----------
    job : the fields of the job, as addresses
    thread, threads : index of this thread, and how many there are
    """

    def __init__(self, entry: ir.IRBuilder, body: ir.IRBuilder, job: ir.Value, fields: Sequence[str]) -> None:
        self._entry, self.b, self._module = entry, body, body.module
        self.job = {name: self.load(POINTER, job, I64(k)) for k, name in enumerate(fields)}
        self.thread, self.threads = (body.zext(body.call(self._module.get_global(name), []), I64) for name in _OPENMP)

    def number(self, field: str) -> ir.Value:
        """A field that is a number, int64."""
        return self.b.ptrtoint(self.job[field], I64)

    def share(self, n: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Start and end of this thread's share of n."""
        b = self.b
        start, stop = (b.udiv(b.mul(n, t), self.threads) for t in (self.thread, b.add(self.thread, I64(1))))
        return start, stop

    def is_last(self) -> ir.Value:
        """Whether this is the last thread, which does the remainder and the work that only one thread may do."""
        return self.b.icmp_unsigned("==", self.thread, self.b.sub(self.threads, I64(1)))

    @contextmanager
    def loop(self, start: ir.Value | int, stop: ir.Value | int, step: int = 1) -> Iterator[ir.Value]:
        b = self.b
        start, stop = map(_int64, (start, stop))
        counter = self.variable(start)
        condition, body, after = (b.append_basic_block(name) for name in ("while", "do", "done"))
        b.branch(condition)
        b.position_at_end(condition)
        value = b.load(counter)
        b.cbranch(b.icmp_unsigned("<", value, stop), body, after)
        b.position_at_end(body)
        yield value
        b.store(b.add(value, I64(step)), counter)
        b.branch(condition)
        b.position_at_end(after)

    def along(self, n: int, write: Callable[[ir.Value, int], None]) -> None:
        """Call `write` with first index and size, for each vector of n numbers and the smaller pieces at the end."""
        whole = n // VECTOR * VECTOR
        if whole:
            with self.loop(0, whole, VECTOR) as j:
                write(j, VECTOR)
        for at, size in pieces(whole, n):
            write(I64(at), size)

    def blocks(self, n: int, vectors: int, write: Callable[[ir.Value, list[Piece]], None]) -> None:
        """Call `write` with first index and pieces, for each block of so many vectors of n numbers."""
        width = vectors * VECTOR
        whole = n // width * width
        if whole:
            with self.loop(0, whole, width) as first:
                write(first, pieces(0, width))
        if n > whole:
            write(I64(whole), pieces(0, n - whole))

    def variable(self, value: ir.Value) -> ir.Value:
        address = self._entry.alloca(value.type)
        self.b.store(value, address)
        return address

    def at(self, row: ir.Value, width: int, column: ir.Value | int = 0) -> ir.Value:
        """Index of an element of a matrix of rows of that width."""
        return self.b.add(self.b.mul(row, I64(width)), _int64(column))

    def load(self, of: ir.Type, p: ir.Value, index: ir.Value) -> ir.Value:
        """The number, or the vector that begins, at an index of an array."""
        element = getattr(of, "element", of)
        return self.b.load(self.b.gep(p, [index], source_etype=element), typ=of, align=_bytes(element))

    def store(self, value: ir.Value, p: ir.Value, index: ir.Value) -> None:
        element = getattr(value.type, "element", value.type)
        self.b.store(value, self.b.gep(p, [index], source_etype=element), align=_bytes(element))

    def floats(self, field: str, index: ir.Value, size: int) -> ir.Value:
        return self.load(floats(size), self.job[field], index)

    def scalar(self, field: str, index: ir.Value | int = 0) -> ir.Value:
        return self.load(FLOAT, self.job[field], _int64(index))

    def index(self, field: str, k: ir.Value) -> ir.Value:
        """An unsigned number of 16 bits, as int64."""
        return self.b.zext(self.load(I16, self.job[field], k), I64)

    def prefetch(self, field: str, of: ir.Type, start: ir.Value, stop: ir.Value) -> None:
        """Prefetch that part of an array, one cache line of 64 bytes after the other."""
        with self.loop(start, stop, 64 // _bytes(of)) as k:
            address = self.b.gep(self.job[field], [k], source_etype=of)
            self.intrinsic("llvm.prefetch.p0", ir.VoidType(), address, I32(0), I32(3), I32(1))  # to read, and keep

    def splat(self, value: ir.Value, size: int) -> ir.Value:
        vector = ir.VectorType(value.type, size)(ir.Undefined)
        first = self.b.insert_element(vector, value, I32(0))
        return self.b.shuffle_vector(first, vector, ir.VectorType(I32, size)(None))

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """x y + z, rounded once, so that it is the same in vectors of any size."""
        return self.intrinsic(f"llvm.fma.{_name(x.type)}", x.type, x, y, z)

    def sqrt(self, x: ir.Value) -> ir.Value:
        return self.intrinsic(f"llvm.sqrt.{_name(x.type)}", x.type, x)

    def total(self, x: ir.Value) -> ir.Value:
        """Sum of a vector's numbers, in pairs."""
        sums = f"llvm.vector.reduce.fadd.{_name(x.type)}"
        return self.intrinsic(sums, FLOAT, FLOAT(-0.0), x, fastmath=("reassoc",))

    def compressed(self, x: ir.Value, kept: ir.Value) -> ir.Value:
        """The kept numbers moved to the front; those after them are undefined."""
        if x.type.count == 1:
            return x
        return self.intrinsic(
            f"llvm.experimental.vector.compress.{_name(x.type)}", x.type, x, kept, x.type(ir.Undefined)
        )

    def exp(self, x: ir.Value) -> ir.Value:
        """eˣ of a vector, x limited to ±87, within two units in the last place: 2ⁿ eʳ with |r| ≤ ln 2 / 2, and the
        polynomial of Cephes (Moshier) for eʳ. NaN stays NaN.
        """
        b, kind = self.b, x.type

        def c(value: float) -> ir.Value:
            return constant(kind, value)

        for than, bound in (("<", c(-87.0)), (">", c(87.0))):
            x = b.select(b.fcmp_ordered(than, x, bound), bound, x)
        n = self.intrinsic(f"llvm.rint.{_name(kind)}", kind, b.fmul(x, c(1.44269504088896341)))
        r = self.fma(n, c(-0.693359375), x)
        r = self.fma(n, c(2.12194440e-4), r)
        p = c(1.9875691500e-4)
        for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            p = self.fma(p, r, c(coefficient))
        p = b.fadd(self.fma(p, b.fmul(r, r), r), c(1.0))
        integers = ir.VectorType(I32, kind.count)
        whole = self.intrinsic(f"llvm.fptosi.sat.{_name(integers)}.{_name(kind)}", integers, n)
        power = b.shl(b.add(whole, constant(integers, 127)), constant(integers, 23))
        return b.fmul(p, b.bitcast(power, kind))

    def sigmoid(self, x: ir.Value) -> ir.Value:
        one = constant(x.type, 1.0)
        return self.b.fdiv(one, self.b.fadd(one, self.exp(self.b.fsub(constant(x.type, 0.0), x))))

    def sign(self, x: ir.Value) -> ir.Value:
        b, zero = self.b, constant(x.type, 0.0)
        above, below = (b.uitofp(b.fcmp_ordered(than, x, zero), x.type) for than in (">", "<"))
        return b.fsub(above, below)

    def intrinsic(self, name: str, of: ir.Type, *arguments: ir.Value, fastmath: Sequence[str] = ()) -> ir.Value:
        if name not in self._module.globals:
            ir.Function(self._module, ir.FunctionType(of, [a.type for a in arguments]), name)
        return self.b.call(self._module.get_global(name), arguments, fastmath=fastmath)


def floats(size: int) -> ir.Type:
    return ir.VectorType(FLOAT, size)


def constant(vector: ir.VectorType, value: float) -> ir.Value:
    return vector([vector.element(value)] * vector.count)


def pieces(start: int, stop: int) -> list[Piece]:
    """start … stop divided into pieces whose sizes are powers of two.

    >>> pieces(0, 21)
    [(0, 16), (16, 4), (20, 1)]
    """
    made, size = [], VECTOR
    while start < stop:
        while start + size > stop:
            size //= 2
        made.append((start, size))
        start += size
    return made


def _int64(value: ir.Value | int) -> ir.Value:
    return I64(value) if isinstance(value, int) else value


def _bytes(of: ir.Type) -> int:
    return {I16: 2, I32: 4, FLOAT: 4}.get(of, 8)


def _name(of: ir.Type) -> str:
    if isinstance(of, ir.VectorType):
        return f"v{of.count}{_name(of.element)}"
    return {FLOAT: "f32", DOUBLE: "f64", I32: "i32"}[of]
