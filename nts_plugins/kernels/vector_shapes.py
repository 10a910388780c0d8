# SPDX-License-Identifier: Apache-2.0
"""Rearranging the lanes of the SIMD values in :mod:`nts_plugins.kernels.vectors`."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nts_plugins.kernels.vectors import LANES, VectorType, element_pointer, inlined, llvm_type, load, store


def _shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes)))


def _half(first: bool):
    def half(typingctx, a):
        count = a.lanes // 2
        lanes = range(count) if first else range(count, a.lanes)
        return VectorType(a.kind, count)(a), lambda context, builder, sig, args: _shuffle(
            builder, args[0], args[0], lanes
        )

    half.__doc__ = f"The {'first' if first else 'second'} half of the lanes."
    return intrinsic(half)


first_half, second_half = _half(True), _half(False)


@intrinsic
def join(typingctx, a, b):
    """The lanes of a, then those of b."""

    def codegen(context, builder, sig, args):
        return _shuffle(builder, *args, range(2 * a.lanes))

    return VectorType(a.kind, 2 * a.lanes)(a, b), codegen


@intrinsic
def pick_lanes(typingctx, table, lanes):
    """Of an f32 vector of :data:`LANES` the lanes whose numbers (0 to LANES - 1) an i32 vector holds; only for
    processors that have this, see ``vectors.PERMUTES``."""
    name = "llvm.x86.avx512.permvar.sf.512" if LANES == 16 else "llvm.x86.avx2.permps"

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(args[0].type, [each.type for each in args])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)

    return table(table, lanes), codegen


@intrinsic
def mask_bits(typingctx, mask):
    """A mask as an int64 whose bit i is lane i."""

    def codegen(context, builder, sig, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(mask.lanes)), ir.IntType(64))

    return types.int64(mask), codegen


@intrinsic(prefer_literal=True)
def load_every_fourth(typingctx, array, index, first, lanes):
    """``load_every_fourth(array, index, first, LANES)``: the elements index + first, index + first + 4, ... of a
    float32 array: one of four channels that lie side by side."""
    count, start = lanes.literal_value, first.literal_value
    vector = VectorType("f32", count)

    def codegen(context, builder, sig, args):
        llvm = llvm_type("f32", count)
        quarters = []
        for quarter in range(4):
            place = builder.add(args[1], ir.Constant(args[1].type, quarter * count))
            pointer = element_pointer(context, builder, sig.args[0], args[0], place, llvm)
            quarters.append(builder.load(pointer, align=4))
        picks = range(start, 2 * count, 4)
        halves = [_shuffle(builder, *pair, picks) for pair in (quarters[:2], quarters[2:])]
        return _shuffle(builder, *halves, range(count))

    return vector(array, types.intp, first, lanes), codegen


@intrinsic
def store_interleaved(typingctx, array, index, a, b, c, d):
    """Write four f32 vectors so that a[i], b[i], c[i], d[i] lie side by side: the inverse of
    :func:`load_every_fourth`."""

    def codegen(context, builder, sig, args):
        llvm, count = llvm_type("f32", a.lanes), a.lanes
        pairs = [_shuffle(builder, x, y, range(2 * count)) for x, y in (args[2:4], args[4:6])]
        for quarter in range(4):
            lanes = []
            for i in range(quarter * count // 4, (quarter + 1) * count // 4):
                lanes += [i, count + i, 2 * count + i, 3 * count + i]
            place = builder.add(args[1], ir.Constant(args[1].type, quarter * count))
            pointer = element_pointer(context, builder, sig.args[0], args[0], place, llvm)
            builder.store(_shuffle(builder, *pairs, lanes), pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, a, b, c, d), codegen


@inlined
def load_eight(array, o, step):
    """Eight vectors, each ``step`` further."""
    return (
        load(array, o, LANES),
        load(array, o + step, LANES),
        load(array, o + 2 * step, LANES),
        load(array, o + 3 * step, LANES),
        load(array, o + 4 * step, LANES),
        load(array, o + 5 * step, LANES),
        load(array, o + 6 * step, LANES),
        load(array, o + 7 * step, LANES),
    )


@inlined
def store_eight(array, o, step, a, b, c, d, e, f, g, h):
    """The inverse of :func:`load_eight`."""
    store(array, o, a)
    store(array, o + step, b)
    store(array, o + 2 * step, c)
    store(array, o + 3 * step, d)
    store(array, o + 4 * step, e)
    store(array, o + 5 * step, f)
    store(array, o + 6 * step, g)
    store(array, o + 7 * step, h)
