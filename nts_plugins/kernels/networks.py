# SPDX-License-Identifier: Apache-2.0
"""Small networks of linear layers, all layers of a block of rows at once, and their gradient.

What lies between layers stays in the cache: a block of rows goes through the whole network, and its gradient makes it
anew instead of reading it. Vectors lie along a layer's outputs, for eight rows at a time, so that the weights that are
loaded once serve eight products.
"""

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.pieces import next_piece, pieces_of
from nts_plugins.kernels.vector_math import fma, maximum, minimum, round_down, select
from nts_plugins.kernels.vector_shapes import load_eight, store_eight
from nts_plugins.kernels.vectors import LANES, aligned, at, broadcast, helper, inlined, load, splat, store

RELU, SINE = 0, 1
"""What stands between layers. The argument of the first sine has a factor."""

ROWS = 8
"""Rows that a product treats at once."""
BLOCK = 4 * ROWS
"""Rows that go through a network together."""
PIECE = 512
"""Rows that a thread takes at a time. Their gradients of weights are summed up apart, so that results do not depend on
the number of threads."""

WIDEST = 256
"""Width of layers up to which this is faster than a matrix product of a library, which cuts large matrices to the size
of caches. At 512 it takes one and a half times as long."""

PI = (3.140625, 0.0009675025939941406, 1.5099579897537296e-07)
"""Three parts of pi, with few digits in the first two, so that multiples of them are exact."""
SIN = (-0.16666659549849147, 0.008333066233601215, -0.00019809602088127773, 2.6057789845666838e-06)
COS = (0.041666655772030374, -0.001388856914109183, 2.476930303920021e-05, -2.6193792944544984e-07)
"""sin r = r + r^3 SIN(r^2) and cos r = 1 - r^2/2 + r^4 COS(r^2) for |r| <= pi/2, least squares driven to equal ripples:
errors below 6e-9 (relative) and 4e-10."""

_F = np.float32


@njit(cache=True)
def whole(width):
    """A width, filled up to whole vectors."""
    return (width + LANES - 1) // LANES * LANES


@njit(cache=True)
def weights_size(widths):
    """Floats of all layers' weights and biases, as :func:`network_forward` wants them: [inputs, whole(outputs)] and
    [whole(outputs)], layer by layer."""
    size = 0
    for layer in range(widths.shape[0] - 1):
        size += (widths[layer] + 1) * whole(widths[layer + 1])
    return size


@njit(cache=True)
def gradients_size(widths):
    """Floats of a piece's gradients, which have whole(inputs) rows of weights instead."""
    size = 0
    for layer in range(widths.shape[0] - 1):
        size += (whole(widths[layer]) + 1) * whole(widths[layer + 1])
    return size


@njit(cache=True)
def values_size(widths):
    """Floats of what a block of rows has between layers, before the first and after the last."""
    size = 0
    for layer in range(widths.shape[0]):
        size += BLOCK * whole(widths[layer])
    return size


@inlined
def polynomial(x, c0, c1, c2, c3):
    y = fma(splat(_F(c3), LANES), x, splat(_F(c2), LANES))
    return fma(fma(y, x, splat(_F(c1), LANES)), x, splat(_F(c0), LANES))


@inlined
def sine_and_cosine(x):
    """To 2e-7 for |x| up to a million, and between -1 and 1 beyond."""
    turns = round_down(fma(x, splat(_F(1 / np.pi), LANES), splat(_F(0.5), LANES)))
    r = fma(turns, splat(_F(-PI[0]), LANES), x)
    r = fma(turns, splat(_F(-PI[1]), LANES), r)
    r = fma(turns, splat(_F(-PI[2]), LANES), r)
    r = minimum(splat(_F(np.pi / 2), LANES), maximum(splat(_F(-np.pi / 2), LANES), r))
    # Each half turn changes both signs.
    half = round_down(turns * splat(_F(0.5), LANES))
    sign = fma(fma(half, splat(_F(-2), LANES), turns), splat(_F(-2), LANES), splat(_F(1), LANES))
    square = r * r
    sine = fma(square * r, polynomial(square, SIN[0], SIN[1], SIN[2], SIN[3]), r)
    rest = fma(square, polynomial(square, COS[0], COS[1], COS[2], COS[3]), splat(_F(-0.5), LANES))
    return sign * sine, sign * fma(square, rest, splat(_F(1), LANES))


@helper
def multiply(rows, o, stride, inner, matrix, m, width, start, biased, out, to):
    """out [BLOCK, width] = rows [BLOCK, inner of stride] times matrix [inner, width], plus the vector at ``start`` of
    the matrix where it is ``biased``."""
    for c in range(0, width, LANES):
        first = load(matrix, start + c, LANES) if biased else splat(_F(0), LANES)
        for row in range(0, BLOCK, ROWS):
            r = o + row * stride
            a0, a1, a2, a3, a4, a5, a6, a7 = first, first, first, first, first, first, first, first
            for k in range(inner):
                column = load(matrix, m + k * width + c, LANES)
                a0 = fma(broadcast(rows, r + k, LANES), column, a0)
                a1 = fma(broadcast(rows, r + stride + k, LANES), column, a1)
                a2 = fma(broadcast(rows, r + 2 * stride + k, LANES), column, a2)
                a3 = fma(broadcast(rows, r + 3 * stride + k, LANES), column, a3)
                a4 = fma(broadcast(rows, r + 4 * stride + k, LANES), column, a4)
                a5 = fma(broadcast(rows, r + 5 * stride + k, LANES), column, a5)
                a6 = fma(broadcast(rows, r + 6 * stride + k, LANES), column, a6)
                a7 = fma(broadcast(rows, r + 7 * stride + k, LANES), column, a7)
            store_eight(out, to + row * width + c, width, a0, a1, a2, a3, a4, a5, a6, a7)


@helper
def add_products(rows, o, stride, inner, grads, g, width, out, to):
    """out [stride, width] += rows^T grads of rows [BLOCK, inner of stride] and grads [BLOCK, width]; behind it the sum
    of grads."""
    for c in range(0, width, LANES):
        for k in range(0, inner, ROWS):
            t = to + k * width + c
            a0, a1, a2, a3, a4, a5, a6, a7 = load_eight(out, t, width)
            for row in range(BLOCK):
                grad, r = load(grads, g + row * width + c, LANES), o + row * stride + k
                a0 = fma(broadcast(rows, r, LANES), grad, a0)
                a1 = fma(broadcast(rows, r + 1, LANES), grad, a1)
                a2 = fma(broadcast(rows, r + 2, LANES), grad, a2)
                a3 = fma(broadcast(rows, r + 3, LANES), grad, a3)
                a4 = fma(broadcast(rows, r + 4, LANES), grad, a4)
                a5 = fma(broadcast(rows, r + 5, LANES), grad, a5)
                a6 = fma(broadcast(rows, r + 6, LANES), grad, a6)
                a7 = fma(broadcast(rows, r + 7, LANES), grad, a7)
            store_eight(out, t, width, a0, a1, a2, a3, a4, a5, a6, a7)
        total = load(out, to + stride * width + c, LANES)
        for row in range(BLOCK):
            total = total + load(grads, g + row * width + c, LANES)
        store(out, to + stride * width + c, total)


@helper
def activate(kind, factor, values, o, count, slopes):
    """Apply what stands between layers to ``count`` values, and keep how it changes with them."""
    zero, one, times = splat(_F(0), LANES), splat(_F(1), LANES), splat(factor, LANES)
    for i in range(o, o + count, LANES):
        value = load(values, i, LANES)
        if kind == SINE:
            sine, cosine = sine_and_cosine(value * times)
            store(values, i, sine)
            store(slopes, i, cosine * times)
        else:
            # In this order both keep NaN, so that a network that has diverged does not look sound.
            store(values, i, maximum(zero, value))
            store(slopes, i, select(value <= zero, zero, one))


@helper
def copy_rows(source, first, last, width, out, stride):
    """Rows ``first`` to ``last`` of source [M, width], filled up with zeros to a block of rows of ``stride``."""
    for row in range(BLOCK):
        o = row * stride
        inside = first + row < last
        for c in range(width if inside else 0):
            out[at(o + c)] = source[at((first + row) * width + c)]
        for c in range(width if inside else 0, stride):
            out[at(o + c)] = _F(0)


@helper
def run_block(widths, kind, factor, weights, values, slopes):
    """A block of rows through all layers: ``values`` begins with the inputs, and the outputs follow as the last of what
    comes after each layer. Returns where they are."""
    o, w, layers = 0, 0, widths.shape[0] - 1
    for layer in range(layers):
        inner, stride, width = widths[at(layer)], whole(widths[at(layer)]), whole(widths[at(layer + 1)])
        following = o + BLOCK * stride
        multiply(values, o, stride, inner, weights, w, width, w + inner * width, True, values, following)
        if layer < layers - 1:
            activate(kind, factor if layer == 0 else _F(1), values, following, BLOCK * width, slopes)
        o, w = following, w + (inner + 1) * width
    return o


@njit(nogil=True, cache=True)
def network_forward(share, inputs, widths, kind, factor, weights, outputs):
    """Rows through a network.

    Args:
        share: of the work, see ``pieces``.
        inputs: [M * widths[0]].
        widths: [L + 1] int64 of the inputs and of each of the L layers.
        kind: RELU or SINE, between layers.
        factor: float32, of the argument of the first sine.
        weights: [weights_size(widths)].
        outputs: [M * widths[L]] written.
    """
    m, width, last = inputs.shape[0] // widths[0], widths[-1], whole(widths[-1])
    values, slopes = aligned(values_size(widths)), aligned(values_size(widths))
    while True:
        start = next_piece(share, pieces_of(m, PIECE)) * PIECE
        if start >= m:
            return
        for first in range(start, min(m, start + PIECE), BLOCK):
            copy_rows(inputs, first, m, widths[0], values, whole(widths[0]))
            o = run_block(widths, kind, factor, weights, values, slopes)
            for row in range(min(BLOCK, m - first)):
                for c in range(width):
                    outputs[at((first + row) * width + c)] = values[at(o + row * last + c)]


@njit(nogil=True, cache=True)
def network_backward(share, inputs, widths, kind, factor, weights, transposed, grad_outputs, grad_inputs, grad_weights):
    """The gradient of :func:`network_forward`.

    Args:
        share, inputs, widths, kind, factor, weights: as there.
        transposed: of all layers' weights, [outputs, whole(inputs)], layer by layer.
        grad_outputs: [M * widths[L]].
        grad_inputs: [M * widths[0]] written, or empty.
        grad_weights: [pieces_of(M, PIECE) * gradients_size(widths)] written: those of each piece's rows.
    """
    m, layers, size = inputs.shape[0] // widths[0], widths.shape[0] - 1, gradients_size(widths)
    values, slopes = aligned(values_size(widths)), aligned(values_size(widths))
    most = 0
    for layer in range(layers + 1):
        most = max(most, BLOCK * whole(widths[layer]))
    grads, passed = aligned(most), aligned(most)
    while True:
        piece = next_piece(share, pieces_of(m, PIECE))
        start, base = piece * PIECE, piece * size
        if start >= m:
            return
        grad_weights[base : base + size] = _F(0)
        for first in range(start, min(m, start + PIECE), BLOCK):
            copy_rows(inputs, first, m, widths[0], values, whole(widths[0]))
            o = run_block(widths, kind, factor, weights, values, slopes)
            copy_rows(grad_outputs, first, m, widths[layers], grads, whole(widths[layers]))
            g, t = base + size, transposed.shape[0]
            for back in range(layers):
                layer = layers - 1 - back
                stride, width = whole(widths[at(layer)]), whole(widths[at(layer + 1)])
                o -= BLOCK * stride
                g -= (stride + 1) * width
                t -= widths[at(layer + 1)] * stride
                add_products(values, o, stride, widths[at(layer)], grads, 0, width, grad_weights, g)
                if layer == 0 and grad_inputs.shape[0] == 0:
                    break
                multiply(grads, 0, width, widths[at(layer + 1)], transposed, t, stride, 0, False, passed, 0)
                if layer == 0:
                    for row in range(min(BLOCK, m - first)):
                        for c in range(widths[0]):
                            grad_inputs[at((first + row) * widths[0] + c)] = passed[at(row * stride + c)]
                else:
                    for i in range(0, BLOCK * stride, LANES):
                        store(grads, i, load(passed, i, LANES) * load(slopes, o + i, LANES))
