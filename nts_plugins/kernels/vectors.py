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
from typing import Dict

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.datamodel.registry import register_default
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin

# A multiplication followed by an addition may be contracted to one fused operation. Nothing may be reassociated: the
# rounding trick in `exp_negative` would be optimised away.
FLAGS = ("contract", "nsz")

LOG2_E = 1.4426950408889634
POWER_OF_TWO = (1.5345812e-4, 1.3399931e-3, 9.6184891e-3, 5.5503286e-2, 2.4022646e-1, 6.9314718e-1, 1.0)
"""Polynomial for 2^x on [-1/2, 1/2], highest power first: relative error below 2e-9 (weighted least squares, weights
driven to equal ripples)."""


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


class VectorType(types.Type):
    """numba type of a vector; ``kind`` is "f32", "i32" or "mask"."""

    def __init__(self, kind: str, lanes: int) -> None:
        self.kind = kind
        self.lanes = lanes
        super().__init__(name=f"Vector({kind} x {lanes})")


def _llvm_type(kind: str, lanes: int) -> ir.VectorType:
    element = {"f32": ir.FloatType(), "i32": ir.IntType(32), "mask": ir.IntType(1)}[kind]
    return ir.VectorType(element, lanes)


@register_default(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, _llvm_type(fe_type.kind, fe_type.lanes))


def _is(kind: str, *candidates: types.Type) -> bool:
    return all(isinstance(c, VectorType) and c.kind == kind for c in candidates) and len(set(candidates)) == 1


def _constant(vector: ir.VectorType, value: float) -> ir.Constant:
    if isinstance(vector.element, ir.FloatType):
        value = float(np.float32(value))
    return ir.Constant(vector, [value] * vector.count)


# ---------------------------------------------------------------------------------------------- operators


def _operator(function, kinds: str, lower, result: str = "") -> None:
    """Teach numba ``function(vector, vector)`` for each of ``kinds``; the result is a ``result`` or the same."""

    class Template(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and any(_is(kind, *args) for kind in kinds.split()):
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


def _element_pointer(context, builder, array_type, array, index, vector):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _splat(builder, scalar, vector):
    undefined = ir.Constant(_llvm_type(vector.kind, vector.lanes), ir.Undefined)
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
        return ir.Constant(_llvm_type("f32", vector.lanes), [float(i) for i in range(vector.lanes)])

    return vector(lanes), codegen


@intrinsic(prefer_literal=True)
def int_ramp(typingctx, lanes):
    """``int_ramp(LANES)``: the i32 vector 0, 1, 2, ..."""
    vector = VectorType("i32", _lanes(lanes))

    def codegen(context, builder, sig, args):
        return ir.Constant(_llvm_type("i32", vector.lanes), list(range(vector.lanes)))

    return vector(lanes), codegen


@intrinsic(prefer_literal=True)
def load(typingctx, array, index, lanes):
    """``load(array, index, LANES)``: consecutive elements of a one-dimensional float32 or int32 array."""
    vector = VectorType("f32" if array.dtype == types.float32 else "i32", _lanes(lanes))

    def codegen(context, builder, sig, args):
        llvm = _llvm_type(vector.kind, vector.lanes)
        value = builder.load(_element_pointer(context, builder, sig.args[0], args[0], args[1], llvm), align=4)
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
        llvm = _llvm_type(value.kind, value.lanes)
        builder.store(args[2], _element_pointer(context, builder, sig.args[0], args[0], args[1], llvm), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


# ---------------------------------------------------------------------------------------------- functions of vectors


def _call(builder, name: str, result, args):
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, fused where the machine can."""
    if not _is("f32", a, b, c):
        return None

    def codegen(context, builder, sig, args):
        return _call(builder, f"llvm.fmuladd.v{a.lanes}f32", _llvm_type("f32", a.lanes), args)

    return a(a, b, c), codegen


@intrinsic
def select(typingctx, mask, a, b):
    """Lane by lane: a where the mask is set, else b."""
    return a(mask, a, b), lambda context, builder, sig, args: builder.select(*args)


@intrinsic
def minimum(typingctx, a, b):
    """The smaller of two f32 vectors; b where a is NaN."""

    def codegen(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered("<", *args), *args)

    return a(a, b), codegen


@intrinsic
def maximum(typingctx, a, b):
    """The larger of two f32 vectors; b where a is NaN."""

    def codegen(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return a(a, b), codegen


def _unary(name: str, doc: str):
    def declare(typingctx, a):
        def codegen(context, builder, sig, args):
            return _call(builder, f"llvm.{name}.v{a.lanes}f32", _llvm_type("f32", a.lanes), args)

        return a(a), codegen

    declare.__name__ = name
    declare.__doc__ = doc
    return intrinsic(declare)


absolute = _unary("fabs", "Lane by lane |a|.")
square_root = _unary("sqrt", "Lane by lane sqrt(a).")
round_down = _unary("floor", "Lane by lane the largest integer <= a, still f32.")
round_up = _unary("ceil", "Lane by lane the smallest integer >= a, still f32.")


@intrinsic
def to_int(typingctx, a):
    """f32 lanes cut to i32. Lanes outside the range of int32 are undefined."""

    def codegen(context, builder, sig, args):
        return builder.fptosi(args[0], _llvm_type("i32", a.lanes))

    return VectorType("i32", a.lanes)(a), codegen


@intrinsic
def any_lane(typingctx, mask):
    """True when the mask is set in at least one lane."""

    def codegen(context, builder, sig, args):
        bits = ir.IntType(mask.lanes)
        return builder.icmp_unsigned("!=", builder.bitcast(args[0], bits), ir.Constant(bits, 0))

    return types.boolean(mask), codegen


def _reduce(builder, value, lanes: int, combine):
    """Combine the lanes as a tree of halves: the order depends on nothing but the number of lanes."""
    indices = ir.IntType(32)
    while lanes > 1:
        lanes //= 2
        low = ir.Constant(ir.VectorType(indices, lanes), list(range(lanes)))
        high = ir.Constant(ir.VectorType(indices, lanes), list(range(lanes, 2 * lanes)))
        value = combine(builder.shuffle_vector(value, value, low), builder.shuffle_vector(value, value, high))
    return builder.extract_element(value, ir.Constant(indices, 0))


@intrinsic
def sum_lanes(typingctx, a):
    """The sum of the lanes of an f32 vector."""

    def codegen(context, builder, sig, args):
        return _reduce(builder, args[0], a.lanes, lambda x, y: builder.fadd(x, y, flags=FLAGS))

    return types.float32(a), codegen


@intrinsic
def sum_lanes_of_eight(typingctx, a, b, c, d, e, f, g, h):
    """The sums of the lanes of eight f32 vectors, as one vector of eight lanes.

    Reducing them together, by merging pairs of half-reduced vectors, takes a third of the instructions of eight
    separate sums.
    """

    def codegen(context, builder, sig, args):
        def merge(x, y, low, high):
            indices = ir.VectorType(ir.IntType(32), 8)
            return builder.fadd(
                builder.shuffle_vector(x, y, ir.Constant(indices, low)),
                builder.shuffle_vector(x, y, ir.Constant(indices, high)),
                flags=FLAGS,
            )

        low, high = list(range(8)), list(range(8, 16))
        values = [merge(x, x, low, high) for x in args] if a.lanes == 16 else list(args)
        # The index patterns stay within 128-bit halves until the last step, where crossing them is cheap.
        low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
        values = [merge(values[i], values[i + 1], low, high) for i in range(0, 8, 2)]
        low, high = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
        values = [merge(values[i], values[i + 1], low, high) for i in range(0, 4, 2)]
        return merge(values[0], values[1], [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])

    return VectorType("f32", 8)(a, b, c, d, e, f, g, h), codegen


@intrinsic
def or_lanes(typingctx, a):
    """The bitwise or of the lanes of an i32 vector."""
    return types.int32(a), lambda context, builder, sig, args: _reduce(builder, args[0], a.lanes, builder.or_)


@intrinsic
def exp_negative(typingctx, a, table):
    """exp(-a) for 0 <= a <= 80 with a relative error below 2e-7; ``table`` is :func:`exp_table`.

    -a / ln 2 is split into an integer n and a rest in [-1/2, 1/2] by adding and subtracting 1.5 * 2^23, 2^rest is a
    polynomial of degree 6, and n is added to the exponent bits. The polynomial's coefficients come from memory, as
    operands of the instructions that use them: as constants they would fill half of the registers.
    """

    def codegen(context, builder, sig, args):
        floats, ints = _llvm_type("f32", a.lanes), _llvm_type("i32", a.lanes)

        def fused(x, y, z):
            return _call(builder, f"llvm.fmuladd.v{a.lanes}f32", floats, [x, y, z])

        def coefficient(i):
            place = ir.Constant(context.get_value_type(types.intp), i * a.lanes)
            return builder.load(_element_pointer(context, builder, sig.args[1], args[1], place, floats), align=4)

        magic = _constant(floats, 12582912.0)
        shifted = builder.fadd(builder.fmul(args[0], _constant(floats, -LOG2_E)), magic)
        whole = builder.fsub(shifted, magic)
        # From the unrounded product where it can be fused: most of the error would come from rounding that.
        rest = fused(args[0], _constant(floats, -LOG2_E), builder.fneg(whole))
        power = coefficient(0)
        for i in range(1, len(POWER_OF_TWO)):
            power = fused(power, rest, coefficient(i))
        exponent = builder.shl(builder.bitcast(shifted, ints), _constant(ints, 23))
        return builder.bitcast(builder.add(builder.bitcast(power, ints), exponent), floats)

    return a(a, table), codegen


def exp_table() -> np.ndarray:
    """The coefficients that :func:`exp_negative` reads, each in every lane: float32 [7 * LANES]."""
    return np.repeat(np.array(POWER_OF_TWO, np.float32), LANES)


@intrinsic
def fetch_add(typingctx, array, index, value):
    """Atomically add to an element of an int64 array and return what it was: how threads share out their work."""

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [args[1]]), args[2], "monotonic")

    return types.int64(array, types.intp, types.int64), codegen
