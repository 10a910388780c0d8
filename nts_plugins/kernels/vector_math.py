# SPDX-License-Identifier: Apache-2.0
"""Functions of the SIMD values in :mod:`nts_plugins.kernels.vectors`: arithmetic, choice, reductions, exponential."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nts_plugins.kernels.vectors import (
    FLAGS,
    LANES,
    VectorType,
    constant,
    element_pointer,
    inlined,
    is_vector,
    llvm_type,
    splat,
)

POWER_OF_TWO = (-1.32647273e-3, 9.67151282e-3, -5.55073374e-2, 2.40222421e-1, -6.93146978e-1, 1.0)
"""Polynomial for 2^-x on [-1/2, 1/2], highest power first: relative error below 1.1e-7 (weighted least squares, weights
driven to equal ripples, the last coefficient held at 1)."""


def _call(builder, name: str, result, args):
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, fused where the machine can."""
    if not is_vector("f32", a, b, c):
        return None

    def codegen(context, builder, sig, args):
        return _call(builder, f"llvm.fmuladd.v{a.lanes}f32", llvm_type("f32", a.lanes), args)

    return a(a, b, c), codegen


@intrinsic
def select(typingctx, mask, a, b):
    """Lane by lane: a where the mask is set, else b."""
    return a(mask, a, b), lambda context, builder, sig, args: builder.select(*args)


def _compare(builder, symbol: str, vector, args):
    return builder.fcmp_ordered(symbol, *args) if vector.kind == "f32" else builder.icmp_signed(symbol, *args)


@intrinsic
def minimum(typingctx, a, b):
    """The smaller of two f32 or i32 vectors; b where a is NaN."""

    def codegen(context, builder, sig, args):
        return builder.select(_compare(builder, "<", a, args), *args)

    return a(a, b), codegen


@intrinsic
def maximum(typingctx, a, b):
    """The larger of two f32 or i32 vectors; b where a is NaN."""

    def codegen(context, builder, sig, args):
        return builder.select(_compare(builder, ">", a, args), *args)

    return a(a, b), codegen


def _unary(name: str, doc: str):
    def declare(typingctx, a):
        def codegen(context, builder, sig, args):
            return _call(builder, f"llvm.{name}.v{a.lanes}f32", llvm_type("f32", a.lanes), args)

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
        return builder.fptosi(args[0], llvm_type("i32", a.lanes))

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


def _extreme(name: str, symbol: str, doc: str):
    def extreme(typingctx, a):
        def codegen(context, builder, sig, args):
            return _reduce(
                builder, args[0], a.lanes, lambda x, y: builder.select(builder.fcmp_ordered(symbol, x, y), x, y)
            )

        return types.float32(a), codegen

    extreme.__name__, extreme.__doc__ = name, doc
    return intrinsic(extreme)


least_lane = _extreme("least_lane", "<", "The smallest lane of an f32 vector.")
largest_lane = _extreme("largest_lane", ">", "The largest lane of an f32 vector.")


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


@intrinsic(prefer_literal=True)
def or_groups(typingctx, a, size):
    """The bitwise or of the first ``size`` lanes of an i32 vector, of the next, ...: an i32 vector of as many lanes,
    in which the result of a group stands in its first lane."""

    def codegen(context, builder, sig, args):
        value, step = args[0], size.literal_value // 2
        while step > 0:
            indices = [(i + step) % a.lanes for i in range(a.lanes)]
            turn = ir.Constant(ir.VectorType(ir.IntType(32), a.lanes), indices)
            value = builder.or_(value, builder.shuffle_vector(value, value, turn))
            step //= 2
        return value

    return a(a, size), codegen


@intrinsic
def trailing_zeros(typingctx, a):
    """How many of the lowest bits of an int64 are 0; 64 for 0."""

    def codegen(context, builder, sig, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), codegen


@intrinsic
def power_of_two(typingctx, a, table):
    """2^-a for -100 <= a <= 100 with a relative error below 2e-7; ``table`` is :func:`power_table`.

    a is split into an integer n and a rest in [-1/2, 1/2] by adding and subtracting 1.5 * 2^23, 2^-rest is a polynomial
    of degree 5, and -n is added to the exponent bits. The polynomial's coefficients come from memory, as operands of
    the instructions that use them: as constants they would fill half of the registers.
    """

    def codegen(context, builder, sig, args):
        floats, ints = llvm_type("f32", a.lanes), llvm_type("i32", a.lanes)

        def coefficient(i):
            place = ir.Constant(context.get_value_type(types.intp), i * a.lanes)
            return builder.load(element_pointer(context, builder, sig.args[1], args[1], place, floats), align=4)

        magic = constant(floats, 12582912.0)
        shifted = builder.fsub(magic, args[0])
        rest = builder.fadd(args[0], builder.fsub(shifted, magic))
        power = coefficient(0)
        for i in range(1, len(POWER_OF_TWO)):
            power = _call(builder, f"llvm.fmuladd.v{a.lanes}f32", floats, [power, rest, coefficient(i)])
        exponent = builder.shl(builder.bitcast(shifted, ints), constant(ints, 23))
        return builder.bitcast(builder.add(builder.bitcast(power, ints), exponent), floats)

    return a(a, table), codegen


def power_table() -> np.ndarray:
    """The coefficients that :func:`power_of_two` reads, each in every lane: float32 [6 * LANES]."""
    return np.repeat(np.array(POWER_OF_TWO, np.float32), LANES)


def hyperbolic_tangent_of(lanes: int):
    """A function for kernels: tanh of f32 vectors of so many lanes, to 2e-7, from a table for :func:`power_of_two`."""

    @inlined
    def hyperbolic_tangent(x, table):
        one, least, most = splat(np.float32(1), lanes), splat(np.float32(-20), lanes), splat(np.float32(20), lanes)
        # 2^-y with y = 2 x / ln 2; beyond |y| = 20 tanh is 1 in all its digits but the last.
        y = minimum(maximum(x * splat(np.float32(2.885390081777927), lanes), least), most)
        power = power_of_two(y, table)
        return (one - power) / (one + power)

    return hyperbolic_tangent
