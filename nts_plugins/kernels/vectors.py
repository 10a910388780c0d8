# SPDX-License-Identifier: Apache-2.0
"""SIMD values for numba: fixed-width vectors with operators, lowered straight to LLVM vector types.

numba's auto-vectoriser is a matter of luck; these types are not. A kernel written with them reads like scalar code,

    dx = splat(mean_x, LANES) - load(xs, 0, LANES)
    hit = (alpha >= splat(ALPHA_MIN, LANES)) & (sigma >= zero(LANES))

and LLVM lowers it to whatever the machine has: one AVX-512 register, one or two AVX ones, NEON pairs, SSE quadruples.
``fma`` becomes one instruction where the machine has it and a multiplication and an addition where it has not.

Three kinds of vector exist: ``f32``, ``i32`` and ``mask`` (one bit a lane). Lanes are compile-time constants. Vectors
live in registers only; they are loaded from and stored to one-dimensional contiguous arrays.
"""

import operator
import os
import platform
from typing import Callable, Dict

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.core.datamodel import models
from numba.core.datamodel.registry import register_default
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin

from nts_plugins.kernels._cache import njit

# A multiplication followed by an addition may be contracted to one fused operation. Nothing may be reassociated: the
# rounding trick in `exp_negative` would be optimised away.
FLAGS = ("contract", "nsz")


def _cpu_features() -> Dict[str, bool]:
    """The features numba compiles for: those of the host, unless NUMBA_CPU_NAME or NUMBA_CPU_FEATURES say otherwise."""
    if config.CPU_FEATURES is not None:
        return {name[1:]: name[0] == "+" for name in config.CPU_FEATURES.split(",") if name}
    if config.CPU_NAME is not None:
        return {}
    return dict(binding.get_host_cpu_features())


LANES = int(os.environ.get("NTS_CPU_LANES", "0")) or (16 if _cpu_features().get("avx512f") else 8)
"""Pixels that a kernel treats at once. NTS_CPU_LANES (8 or 16) overrides the choice; it is part of the compiled code,
so use another NUMBA_CACHE_DIR with it."""
if LANES not in (8, 16):
    raise ValueError(f"NTS_CPU_LANES={LANES} must be 8 or 16.")


PERMUTES = bool(_cpu_features().get("avx512f" if LANES == 16 else "avx2"))
"""Whether one instruction picks a vector's lanes by the numbers in another one, see ``vector_shapes.pick_lanes``."""


def helper(function: Callable) -> Callable:
    """Compile a function that kernels call in their inner loops.

    It may not make arrays. In return numba does not count references to the arrays that come in, which costs an atomic
    operation for each of them in every call, and more with every thread that does the same.
    """
    return njit(nogil=True, cache=True, error_model="numpy", _nrt=False)(function)


def inlined(function: Callable) -> Callable:
    """Compile a function into its callers: one that is called for every pixel, since arrays are costly to hand over."""
    return njit(nogil=True, error_model="numpy", _nrt=False, forceinline=True)(function)


class VectorType(types.Type):
    """numba type of a vector; ``kind`` is "f32", "i32" or "mask"."""

    def __init__(self, kind: str, lanes: int) -> None:
        self.kind = kind
        self.lanes = lanes
        super().__init__(name=f"Vector({kind} x {lanes})")


def llvm_type(kind: str, lanes: int) -> ir.VectorType:
    element = {"f32": ir.FloatType(), "i32": ir.IntType(32), "mask": ir.IntType(1)}[kind]
    return ir.VectorType(element, lanes)


@register_default(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, llvm_type(fe_type.kind, fe_type.lanes))


def is_vector(kind: str, *candidates: types.Type) -> bool:
    return all(isinstance(c, VectorType) and c.kind == kind for c in candidates) and len(set(candidates)) == 1


def constant(vector: ir.VectorType, value: float) -> ir.Constant:
    if isinstance(vector.element, ir.FloatType):
        value = float(np.float32(value))
    return ir.Constant(vector, [value] * vector.count)


# ---------------------------------------------------------------------------------------------- operators


def _operator(function, kinds: str, lower, result: str = "") -> None:
    """Teach numba ``function(vector, vector)`` for each of ``kinds``; the result is a ``result`` or the same."""

    class Template(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and any(is_vector(kind, *args) for kind in kinds.split()):
                out = VectorType(result, args[0].lanes) if result else args[0]
                return signature(out, *args)
            return None

    infer_global(function)(Template)

    @lower_builtin(function, VectorType, VectorType)
    def _(context, builder, sig, args):
        return lower(builder, sig.args[0].kind, *args)


def _arithmetic(float_name: str, int_name: str):
    def lower(builder, kind, a, b):
        if kind == "f32":
            return getattr(builder, float_name)(a, b, flags=FLAGS)
        return getattr(builder, int_name)(a, b)

    return lower


def _comparison(symbol: str):
    def lower(builder, kind, a, b):
        if kind == "f32":
            return builder.fcmp_ordered(symbol, a, b)
        return builder.icmp_signed(symbol, a, b)

    return lower


_operator(operator.add, "f32 i32", _arithmetic("fadd", "add"))
_operator(operator.sub, "f32 i32", _arithmetic("fsub", "sub"))
_operator(operator.mul, "f32 i32", _arithmetic("fmul", "mul"))
_operator(operator.truediv, "f32", lambda builder, kind, a, b: builder.fdiv(a, b, flags=FLAGS))
_operator(operator.and_, "mask i32", lambda builder, kind, a, b: builder.and_(a, b))
_operator(operator.or_, "mask i32", lambda builder, kind, a, b: builder.or_(a, b))
_operator(operator.lshift, "i32", lambda builder, kind, a, b: builder.shl(a, b))
for _function, _symbol in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
):
    _operator(_function, "f32 i32", _comparison(_symbol), result="mask")


# ---------------------------------------------------------------------------------------------- construction, memory


def _lanes(literal: types.Type) -> int:
    return literal.literal_value  # type: ignore[attr-defined]


def element_pointer(context, builder, array_type, array, index, vector):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _splat(builder, scalar, vector):
    undefined = ir.Constant(llvm_type(vector.kind, vector.lanes), ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), [0] * vector.lanes)
    return builder.shuffle_vector(one, undefined, zeros)


@intrinsic(prefer_literal=True)
def splat(typingctx, value, lanes):
    """``splat(x, LANES)``: x in every lane. A float32 gives f32, an integer i32."""
    kind = "f32" if isinstance(value, types.Float) else "i32"
    scalar = types.float32 if kind == "f32" else types.int32
    vector = VectorType(kind, _lanes(lanes))

    def codegen(context, builder, sig, args):
        return _splat(builder, args[0], vector)

    return vector(scalar, lanes), codegen


@intrinsic(prefer_literal=True)
def ramp(typingctx, lanes):
    """``ramp(LANES)``: the f32 vector 0, 1, 2, ..."""
    vector = VectorType("f32", _lanes(lanes))

    def codegen(context, builder, sig, args):
        return ir.Constant(llvm_type("f32", vector.lanes), [float(i) for i in range(vector.lanes)])

    return vector(lanes), codegen


@intrinsic(prefer_literal=True)
def int_ramp(typingctx, lanes):
    """``int_ramp(LANES)``: the i32 vector 0, 1, 2, ..."""
    vector = VectorType("i32", _lanes(lanes))

    def codegen(context, builder, sig, args):
        return ir.Constant(llvm_type("i32", vector.lanes), list(range(vector.lanes)))

    return vector(lanes), codegen


@intrinsic(prefer_literal=True)
def load(typingctx, array, index, lanes):
    """``load(array, index, LANES)``: consecutive elements of a one-dimensional float32 or int32 array."""
    vector = VectorType("f32" if array.dtype == types.float32 else "i32", _lanes(lanes))

    def codegen(context, builder, sig, args):
        llvm = llvm_type(vector.kind, vector.lanes)
        value = builder.load(element_pointer(context, builder, sig.args[0], args[0], args[1], llvm), align=4)
        return value

    return vector(array, types.intp, lanes), codegen


@intrinsic(prefer_literal=True)
def broadcast(typingctx, array, index, lanes):
    """``broadcast(array, index, LANES)``: one element in every lane. Negative indices do not wrap around."""
    vector = VectorType("f32" if array.dtype == types.float32 else "i32", _lanes(lanes))

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return _splat(builder, builder.load(builder.gep(data, [args[1]])), vector)

    return vector(array, types.intp, lanes), codegen


@intrinsic
def store(typingctx, array, index, value):
    """``store(array, index, vector)``: write the lanes to consecutive elements."""

    def codegen(context, builder, sig, args):
        llvm = llvm_type(value.kind, value.lanes)
        builder.store(args[2], element_pointer(context, builder, sig.args[0], args[0], args[1], llvm), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@njit(nogil=True, cache=True)
def aligned(count):
    """``count`` float32 that begin where a cache line does. numba's own arrays often begin in the middle of one, and
    then each vector of 64 bytes lies across two."""
    memory = np.empty(count + 16, np.float32)
    first = -memory.ctypes.data % 64 // 4
    return memory[first : first + count]


@njit(nogil=True, cache=True)
def aligned_zeros(count):
    """:func:`aligned`, filled with zeros."""
    memory = aligned(count)
    memory[:] = np.float32(0)
    return memory


@intrinsic
def at(typingctx, index):
    """``array[at(i)]``: an index that is known not to be negative.

    numba counts negative indices from the end, as Python does, and asks at every access: that takes longer than the
    access. It does not ask when the index is unsigned. Arithmetic goes inside the brackets, since numba turns the sum
    of an unsigned and a signed number into a float.
    """

    def codegen(context, builder, sig, args):
        return args[0]

    return types.uint64(types.int64), codegen


def _prefetch(write: bool, doc: str):
    def prefetch(typingctx, array, index):
        def codegen(context, builder, sig, args):
            data = context.make_array(sig.args[0])(context, builder, args[0]).data
            place = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
            flags = [ir.Constant(ir.IntType(32), flag) for flag in (int(write), 3, 1)]
            kind = ir.FunctionType(ir.VoidType(), [place.type, *(flag.type for flag in flags)])
            builder.call(builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind), [place, *flags])
            return context.get_dummy_value()

        return types.void(array, types.intp), codegen

    prefetch.__doc__ = doc
    return intrinsic(prefetch)


prefetch = _prefetch(False, "Start to fetch the cache line of ``array[index]``, which will be read.")
prefetch_to_write = _prefetch(True, "Start to fetch the cache line of ``array[index]``, which will be written.")


@intrinsic
def fetch_add(typingctx, array, index, value):
    """Atomically add to an element of an int64 array and return what it was: how threads share out their work."""

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [args[1]]), args[2], "monotonic")

    return types.int64(array, types.intp, types.int64), codegen


@intrinsic
def peek(typingctx, array, index):
    """An element of an int64 array as it is now in memory, whoever wrote it."""

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "acquire", 8)

    return types.int64(array, types.intp), codegen


@intrinsic
def pause(typingctx):
    """Tell the core that this thread only waits, so that it saves power and leaves room to others."""

    def codegen(context, builder, sig, args):
        machine = platform.machine().lower()
        number = ir.IntType(32)
        if machine in ("x86_64", "amd64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", [], kind), [])
        elif machine in ("aarch64", "arm64"):
            kind = ir.FunctionType(ir.VoidType(), [number])
            builder.call(builder.module.declare_intrinsic("llvm.aarch64.hint", [], kind), [ir.Constant(number, 1)])
        return context.get_dummy_value()

    return types.void(), codegen
