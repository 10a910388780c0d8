# SPDX-License-Identifier: Apache-2.0
"""Compositing of splats with local textures on a GPU, in Triton: nobody needs a compiler of CUDA.

One program draws a tile of 16 x 16 pixels, a pixel a lane, and walks through the tile's splats in depth order. Where
rays meet a splat, and what its texture shows there, is as in ``kernels.texture_sampling``. In the gradient the texels'
part is a matrix product over the pixels of the tile: of what each texel weighs in each pixel, and of the pixels'
gradients. It is added to the splat's by atomic operations, so that its last bits depend on the order of tiles.
"""

from typing import Any, NamedTuple, Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16
PIXELS = TILE * TILE
RAYS = 15
"""Numbers of a textured splat beside its centre, see ``kernels.texture_sampling``."""


class TileLists(NamedTuple):
    """The splats of every tile, nearest first."""

    offsets: Tensor  # [T + 1] int32: tile t, row by row, owns splats offsets[t] to offsets[t + 1]
    splats: Tensor  # [M] int32
    columns: int


@triton.jit
def _pixels(tile, columns):
    lane = tl.arange(0, 256)
    return (tile % columns) * 16 + lane % 16, (tile // columns) * 16 + lane // 16


@triton.jit
def _strength(means2d, conics, opacities, splat, x, y):
    """The offset from a splat's centre, and o exp(-sigma)."""
    dx, dy = x - tl.load(means2d + splat * 2), y - tl.load(means2d + splat * 2 + 1)
    a, b, c = tl.load(conics + splat * 3), tl.load(conics + splat * 3 + 1), tl.load(conics + splat * 3 + 2)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    peak = tl.where(sigma >= 0, tl.load(opacities + splat) * tl.exp(-sigma), 0.0)
    return dx, dy, peak


@triton.jit
def _from_ray(rays, row, dx, dy):
    """d and w of pixels at offsets dx, dy: the ray meets the splat at d x w / d.d."""
    r = rays + row * 15
    d0 = tl.load(r) * dx + tl.load(r + 3) * dy + tl.load(r + 6)
    d1 = tl.load(r + 1) * dx + tl.load(r + 4) * dy + tl.load(r + 7)
    d2 = tl.load(r + 2) * dx + tl.load(r + 5) * dy + tl.load(r + 8)
    w0 = tl.load(r + 9) * dx + tl.load(r + 12) * dy
    w1 = tl.load(r + 10) * dx + tl.load(r + 13) * dy
    w2 = tl.load(r + 11) * dx + tl.load(r + 14) * dy
    return d0, d1, d2, w0, w1, w2


@triton.jit
def _place(p, T: tl.constexpr):
    """The lower texel of points p, and the weights of it and of the next; 0 outside."""
    place = p * ((T - 1) / 6.0) + (T - 1) / 2.0
    inside = (place >= 0) & (place <= T - 1)
    low = tl.minimum(tl.maximum(tl.floor(tl.where(inside, place, 0.0)), 0.0), T - 2.0)
    high = tl.where(inside, place - low, 0.0)
    return low.to(tl.int32), tl.where(inside, 1.0 - high, 0.0), high


@triton.jit
def _places(rays, row, dx, dy, T: tl.constexpr):
    """:func:`_place` on the three axes."""
    d0, d1, d2, w0, w1, w2 = _from_ray(rays, row, dx, dy)
    per_square = 1.0 / (d0 * d0 + d1 * d1 + d2 * d2)
    i0, l0, h0 = _place((d1 * w2 - d2 * w1) * per_square, T)
    i1, l1, h1 = _place((d2 * w0 - d0 * w2) * per_square, T)
    i2, l2, h2 = _place((d0 * w1 - d1 * w0) * per_square, T)
    return i0, l0, h0, i1, l1, h1, i2, l2, h2


@triton.jit
def _texel(vectors, row, axis: tl.constexpr, i, end: tl.constexpr, T: tl.constexpr, mask):
    """[256, 4] texels i of an axis, as the first (0) or the second (1) end of a plane."""
    c = tl.arange(0, 4)
    place = ((row * 3 + axis) * T + i) * 8 + end * 4
    return tl.load(vectors + place[:, None] + c[None, :], mask=mask[:, None], other=0.0)


@triton.jit
def _tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def _plane(
    vectors, row, axis: tl.constexpr, after: tl.constexpr, i, l, h, j, m, g, T: tl.constexpr, TANH: tl.constexpr, mask
):
    """[256, 4] what a plane shows, between texels i, i + 1 on its first axis and j, j + 1 on its second."""
    a0, a1 = _texel(vectors, row, axis, i, 0, T, mask), _texel(vectors, row, axis, i + 1, 0, T, mask)
    b0, b1 = _texel(vectors, row, after, j, 1, T, mask), _texel(vectors, row, after, j + 1, 1, T, mask)
    l, h, m, g = l[:, None], h[:, None], m[:, None], g[:, None]
    if TANH:
        shown = l * (_tanh(a0 * b0) * m + _tanh(a0 * b1) * g) + h * (_tanh(a1 * b0) * m + _tanh(a1 * b1) * g)
    else:
        shown = (a0 * l + a1 * h) * (b0 * m + b1 * g)
    return shown


@triton.jit
def _shown(vectors, planes, rays, row, dx, dy, amplitudes, mask, T: tl.constexpr, TANH: tl.constexpr):
    """[256, 4] a splat's texture in all pixels of a tile."""
    i0, l0, h0, i1, l1, h1, i2, l2, h2 = _places(rays, row, dx, dy, T)
    shown = _plane(vectors, row, 0, 1, i0, l0, h0, i1, l1, h1, T, TANH, mask) * tl.load(planes + row * 3)
    shown += _plane(vectors, row, 1, 2, i1, l1, h1, i2, l2, h2, T, TANH, mask) * tl.load(planes + row * 3 + 1)
    shown += _plane(vectors, row, 2, 0, i2, l2, h2, i0, l0, h0, T, TANH, mask) * tl.load(planes + row * 3 + 2)
    return shown * tl.load(amplitudes + tl.arange(0, 4))[None, :]


@triton.jit
def _column(table, c: tl.constexpr, C: tl.constexpr):
    """[256] one column of [256, C]."""
    return tl.sum(tl.where(tl.arange(0, C)[None, :] == c, table, 0.0), axis=1)


@triton.jit
def _forward(
    means2d, conics, opacities, values, background, offsets, splats, row_of, rays, vectors, planes, amplitudes,
    image, behind, last, columns, width, height, cap, faintest, stop,
    E: tl.constexpr, WIDE: tl.constexpr, T: tl.constexpr, TANH: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    x, y = _pixels(tile, columns)
    inside = (x < width) & (y < height)
    px, py = x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5
    c = tl.arange(0, WIDE)
    through = tl.where(inside, 1.0, 0.0)
    going = inside
    total = tl.zeros((256, WIDE), tl.float32)
    final = tl.full((256,), -1, tl.int32)
    j, end = tl.load(offsets + tile), tl.load(offsets + tile + 1)
    while (j < end) & (tl.max(going.to(tl.int32), axis=0) > 0):
        splat = tl.load(splats + j)
        dx, dy, peak = _strength(means2d, conics, opacities, splat, px, py)
        seen = going & (tl.minimum(peak, cap) >= faintest)
        value = tl.load(values + splat * E + c, mask=c < E, other=0.0)[None, :] + tl.zeros((256, WIDE), tl.float32)
        row = tl.load(row_of + splat)
        if (row >= 0) & (tl.max(seen.to(tl.int32), axis=0) > 0):
            shown = _shown(vectors, planes, rays, row, dx, dy, amplitudes, seen, T, TANH)
            peak += _column(shown, 3, 4)
            for k in tl.static_range(3):
                floor = tl.minimum(value, 0.0)
                moved = value + _column(shown, k, 4)[:, None]
                value = tl.where(c[None, :] == k, tl.where(moved >= floor, moved, floor), value)
        alpha = tl.minimum(peak, cap)
        seen = seen & (alpha >= faintest)
        after = through * (1.0 - alpha)
        adds = seen & (after > stop)
        total += tl.where(adds, alpha * through, 0.0)[:, None] * value
        going = going & ((seen & (after <= stop)) == 0)
        through = tl.where(adds, after, through)
        final = tl.where(adds, j, final)
        j += 1
    pixel = y * width + x
    total += through[:, None] * tl.load(background + c, mask=c < E, other=0.0)[None, :]
    tl.store(image + pixel[:, None] * E + c[None, :], total, mask=inside[:, None] & (c < E)[None, :])
    tl.store(behind + pixel, through, mask=inside)
    tl.store(last + pixel, final, mask=inside)


@triton.jit
def _hats(i, l, h, T: tl.constexpr, PAD: tl.constexpr):
    """[PAD, 256] what each texel of an axis weighs in each pixel."""
    t = tl.arange(0, PAD)[:, None]
    return tl.where(t == i[None, :], l[None, :], 0.0) + tl.where(t == i[None, :] + 1, h[None, :], 0.0)


@triton.jit
def _beside(first, second):
    """[256, 16] two [256, 4] side by side, and zeros."""
    c = tl.arange(0, 16)[None, :]
    table = tl.zeros((256, 16), tl.float32)
    for k in tl.static_range(4):
        table += tl.where(c == k, _column(first, k, 4)[:, None], 0.0)
        table += tl.where(c == 4 + k, _column(second, k, 4)[:, None], 0.0)
    return table


@triton.jit
def _add_texels(grad_vectors, row, axis: tl.constexpr, hats, grad, T: tl.constexpr, PAD: tl.constexpr):
    """Add an axis' texel gradients; ``grad`` [256, 16] is that of the interpolated vectors."""
    sums = tl.dot(hats, grad, input_precision="ieee")
    t, c = tl.arange(0, PAD)[:, None], tl.arange(0, 16)[None, :]
    tl.atomic_add(grad_vectors + ((row * 3 + axis) * T + t) * 8 + c, sums, mask=(t < T) & (c < 8))


@triton.jit
def _lerp(vectors, row, axis: tl.constexpr, i, l, h, end: tl.constexpr, T: tl.constexpr, mask):
    low = _texel(vectors, row, axis, i, end, T, mask) * l[:, None]
    return low + _texel(vectors, row, axis, i + 1, end, T, mask) * h[:, None]


@triton.jit
def _pull_products(
    vectors, planes, rays, row, dx, dy, grad, mask, grad_vectors, grad_planes, T: tl.constexpr, PAD: tl.constexpr
):
    """The gradient of a texture of products; ``grad`` [256, 4]. Returns those of the places on the three axes."""
    i0, l0, h0, i1, l1, h1, i2, l2, h2 = _places(rays, row, dx, dy, T)
    x0, x1 = _lerp(vectors, row, 0, i0, l0, h0, 0, T, mask), _lerp(vectors, row, 0, i0, l0, h0, 1, T, mask)
    y0, y1 = _lerp(vectors, row, 1, i1, l1, h1, 0, T, mask), _lerp(vectors, row, 1, i1, l1, h1, 1, T, mask)
    z0, z1 = _lerp(vectors, row, 2, i2, l2, h2, 0, T, mask), _lerp(vectors, row, 2, i2, l2, h2, 1, T, mask)
    tl.atomic_add(grad_planes + row * 3, tl.sum(grad * x0 * y1))
    tl.atomic_add(grad_planes + row * 3 + 1, tl.sum(grad * y0 * z1))
    tl.atomic_add(grad_planes + row * 3 + 2, tl.sum(grad * z0 * x1))
    xy, yz = grad * tl.load(planes + row * 3), grad * tl.load(planes + row * 3 + 1)
    zx = grad * tl.load(planes + row * 3 + 2)
    gx0, gx1, gy0, gy1, gz0, gz1 = xy * y1, zx * z0, yz * z1, xy * x0, zx * x1, yz * y0
    _add_texels(grad_vectors, row, 0, _hats(i0, l0, h0, T, PAD), _beside(gx0, gx1), T, PAD)
    _add_texels(grad_vectors, row, 1, _hats(i1, l1, h1, T, PAD), _beside(gy0, gy1), T, PAD)
    _add_texels(grad_vectors, row, 2, _hats(i2, l2, h2, T, PAD), _beside(gz0, gz1), T, PAD)
    one = tl.full((256,), 1.0, tl.float32)
    # The slope between two texels is what weights -1 and 1 give.
    sx = tl.sum(gx0 * _lerp(vectors, row, 0, i0, -one, one, 0, T, mask), axis=1)
    sx += tl.sum(gx1 * _lerp(vectors, row, 0, i0, -one, one, 1, T, mask), axis=1)
    sy = tl.sum(gy0 * _lerp(vectors, row, 1, i1, -one, one, 0, T, mask), axis=1)
    sy += tl.sum(gy1 * _lerp(vectors, row, 1, i1, -one, one, 1, T, mask), axis=1)
    sz = tl.sum(gz0 * _lerp(vectors, row, 2, i2, -one, one, 0, T, mask), axis=1)
    sz += tl.sum(gz1 * _lerp(vectors, row, 2, i2, -one, one, 1, T, mask), axis=1)
    return sx * (l0 + h0), sy * (l1 + h1), sz * (l2 + h2)


@triton.jit
def _pull_tanh_plane(
    vectors, planes, grad_planes, row, number: tl.constexpr, axis: tl.constexpr, after: tl.constexpr,
    i, l, h, j, m, g, grad, mask, T: tl.constexpr,
):  # fmt: skip
    """One plane's part: gradients of both texels on either axis, [256, 4] each, and of the places on them."""
    a0, a1 = _texel(vectors, row, axis, i, 0, T, mask), _texel(vectors, row, axis, i + 1, 0, T, mask)
    b0, b1 = _texel(vectors, row, after, j, 1, T, mask), _texel(vectors, row, after, j + 1, 1, T, mask)
    inside_a, inside_b = l + h, m + g
    l, h, m, g = l[:, None], h[:, None], m[:, None], g[:, None]
    t00, t01, t10, t11 = _tanh(a0 * b0), _tanh(a0 * b1), _tanh(a1 * b0), _tanh(a1 * b1)
    plane = l * (t00 * m + t01 * g) + h * (t10 * m + t11 * g)
    tl.atomic_add(grad_planes + row * 3 + number, tl.sum(grad * plane))
    grad = grad * tl.load(planes + row * 3 + number)
    slope_a = inside_a * tl.sum(grad * ((t10 - t00) * m + (t11 - t01) * g), axis=1)
    slope_b = inside_b * tl.sum(grad * ((t01 - t00) * l + (t11 - t10) * h), axis=1)
    q00, q01 = grad * l * m * (1.0 - t00 * t00), grad * l * g * (1.0 - t01 * t01)
    q10, q11 = grad * h * m * (1.0 - t10 * t10), grad * h * g * (1.0 - t11 * t11)
    return q00 * b0 + q01 * b1, q10 * b0 + q11 * b1, q00 * a0 + q10 * a1, q01 * a0 + q11 * a1, slope_a, slope_b


@triton.jit
def _pull_tanh(
    vectors, planes, rays, row, dx, dy, grad, mask, grad_vectors, grad_planes, T: tl.constexpr, PAD: tl.constexpr
):
    """The gradient of a texture with tanh of every texel; as :func:`_pull_products`."""
    i0, l0, h0, i1, l1, h1, i2, l2, h2 = _places(rays, row, dx, dy, T)
    x_low, x_high, y_low_, y_high_, sx, sy = _pull_tanh_plane(
        vectors, planes, grad_planes, row, 0, 0, 1, i0, l0, h0, i1, l1, h1, grad, mask, T
    )
    y_low, y_high, z_low_, z_high_, sy_, sz = _pull_tanh_plane(
        vectors, planes, grad_planes, row, 1, 1, 2, i1, l1, h1, i2, l2, h2, grad, mask, T
    )
    z_low, z_high, x_low_, x_high_, sz_, sx_ = _pull_tanh_plane(
        vectors, planes, grad_planes, row, 2, 2, 0, i2, l2, h2, i0, l0, h0, grad, mask, T
    )
    one, zero = tl.full((256,), 1.0, tl.float32), tl.zeros((256,), tl.float32)
    _add_texels(grad_vectors, row, 0, _hats(i0, one, zero, T, PAD), _beside(x_low, x_low_), T, PAD)
    _add_texels(grad_vectors, row, 0, _hats(i0, zero, one, T, PAD), _beside(x_high, x_high_), T, PAD)
    _add_texels(grad_vectors, row, 1, _hats(i1, one, zero, T, PAD), _beside(y_low, y_low_), T, PAD)
    _add_texels(grad_vectors, row, 1, _hats(i1, zero, one, T, PAD), _beside(y_high, y_high_), T, PAD)
    _add_texels(grad_vectors, row, 2, _hats(i2, one, zero, T, PAD), _beside(z_low, z_low_), T, PAD)
    _add_texels(grad_vectors, row, 2, _hats(i2, zero, one, T, PAD), _beside(z_high, z_high_), T, PAD)
    return sx + sx_, sy + sy_, sz + sz_


@triton.jit
def _pull_rays(rays, row, dx, dy, s0, s1, s2, grad_rays, T: tl.constexpr):
    """Add what the gradients of the places, in texels, mean to a splat's rays: means2d (2), then as :data:`RAYS`."""
    d0, d1, d2, w0, w1, w2 = _from_ray(rays, row, dx, dy)
    per_square = 1.0 / (d0 * d0 + d1 * d1 + d2 * d2)
    scale = per_square * ((T - 1) / 6.0)
    p0, p1, p2 = s0 * scale, s1 * scale, s2 * scale
    g0, g1, g2 = p1 * d2 - p2 * d1, p2 * d0 - p0 * d2, p0 * d1 - p1 * d0
    c0, c1, c2 = w1 * p2 - w2 * p1, w2 * p0 - w0 * p2, w0 * p1 - w1 * p0
    shrink = 2.0 * per_square * (p0 * (d1 * w2 - d2 * w1) + p1 * (d2 * w0 - d0 * w2) + p2 * (d0 * w1 - d1 * w0))
    c0, c1, c2 = c0 - shrink * d0, c1 - shrink * d1, c2 - shrink * d2
    r, out = rays + row * 15, grad_rays + row * 17
    along_x = c0 * tl.load(r) + c1 * tl.load(r + 1) + c2 * tl.load(r + 2)
    along_x += g0 * tl.load(r + 9) + g1 * tl.load(r + 10) + g2 * tl.load(r + 11)
    along_y = c0 * tl.load(r + 3) + c1 * tl.load(r + 4) + c2 * tl.load(r + 5)
    along_y += g0 * tl.load(r + 12) + g1 * tl.load(r + 13) + g2 * tl.load(r + 14)
    tl.atomic_add(out, -tl.sum(along_x))
    tl.atomic_add(out + 1, -tl.sum(along_y))
    tl.atomic_add(out + 2, tl.sum(c0 * dx))
    tl.atomic_add(out + 3, tl.sum(c1 * dx))
    tl.atomic_add(out + 4, tl.sum(c2 * dx))
    tl.atomic_add(out + 5, tl.sum(c0 * dy))
    tl.atomic_add(out + 6, tl.sum(c1 * dy))
    tl.atomic_add(out + 7, tl.sum(c2 * dy))
    tl.atomic_add(out + 8, tl.sum(c0))
    tl.atomic_add(out + 9, tl.sum(c1))
    tl.atomic_add(out + 10, tl.sum(c2))
    tl.atomic_add(out + 11, tl.sum(g0 * dx))
    tl.atomic_add(out + 12, tl.sum(g1 * dx))
    tl.atomic_add(out + 13, tl.sum(g2 * dx))
    tl.atomic_add(out + 14, tl.sum(g0 * dy))
    tl.atomic_add(out + 15, tl.sum(g1 * dy))
    tl.atomic_add(out + 16, tl.sum(g2 * dy))


@triton.jit
def _backward(
    means2d, conics, opacities, values, background, offsets, splats, row_of, rays, vectors, planes, amplitudes,
    behind, last, grad_image, grad_alphas, grad_means2d, grad_abs, grad_conics, grad_opacities, grad_values,
    grad_vectors, grad_planes, grad_rays, columns, width, height, cap, faintest,
    E: tl.constexpr, WIDE: tl.constexpr, T: tl.constexpr, PAD: tl.constexpr, TANH: tl.constexpr, MOVES: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    x, y = _pixels(tile, columns)
    inside = (x < width) & (y < height)
    px, py = x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5
    pixel, c, four = y * width + x, tl.arange(0, WIDE), tl.arange(0, 4)[None, :]
    through = tl.load(behind + pixel, mask=inside, other=1.0)
    final = tl.load(last + pixel, mask=inside, other=-1)
    wanted = inside[:, None] & (c < E)[None, :]
    grad = tl.load(grad_image + pixel[:, None] * E + c[None, :], mask=wanted, other=0.0)
    rest = tl.sum(grad * tl.load(background + c, mask=c < E, other=0.0)[None, :], axis=1)
    rest = through * (rest - tl.load(grad_alphas + pixel, mask=inside, other=0.0))
    gains = tl.load(amplitudes + tl.arange(0, 4))[None, :]
    j, start = tl.max(final, axis=0), tl.load(offsets + tile)
    while j >= start:
        splat = tl.load(splats + j)
        dx, dy, peak = _strength(means2d, conics, opacities, splat, px, py)
        adds = (j <= final) & (tl.minimum(peak, cap) >= faintest)
        value = tl.load(values + splat * E + c, mask=c < E, other=0.0)[None, :] + tl.zeros((256, WIDE), tl.float32)
        passes = tl.full((256, WIDE), 1.0, tl.float32)
        kept = passes
        row = tl.load(row_of + splat)
        strength = peak
        if row >= 0:
            shown = _shown(vectors, planes, rays, row, dx, dy, amplitudes, adds, T, TANH)
            strength += _column(shown, 3, 4)
            for k in tl.static_range(3):
                floor = tl.minimum(value, 0.0)
                moved = value + _column(shown, k, 4)[:, None]
                here = c[None, :] == k
                passes = tl.where(here & (moved < floor), 0.0, passes)
                kept = tl.where(here & (moved < floor) & (value >= 0.0), 0.0, kept)
                value = tl.where(here, tl.where(moved >= floor, moved, floor), value)
        alpha = tl.minimum(strength, cap)
        adds = adds & (alpha >= faintest)
        if tl.max(adds.to(tl.int32), axis=0) > 0:
            alpha = tl.where(adds, alpha, 0.0)
            through = through / (1.0 - alpha)
            weight = alpha * through
            here = tl.sum(value * grad, axis=1)
            grad_alpha = through * here - rest / (1.0 - alpha)
            rest += weight * here
            free = tl.where(adds & (strength <= cap), grad_alpha, 0.0)
            grad_sigma = -peak * free
            a, b, d = tl.load(conics + splat * 3), tl.load(conics + splat * 3 + 1), tl.load(conics + splat * 3 + 2)
            grad_x, grad_y = -grad_sigma * (a * dx + b * dy), -grad_sigma * (b * dx + d * dy)
            tl.atomic_add(grad_means2d + splat * 2, tl.sum(grad_x))
            tl.atomic_add(grad_means2d + splat * 2 + 1, tl.sum(grad_y))
            tl.atomic_add(grad_abs + splat * 2, tl.sum(tl.abs(grad_x)))
            tl.atomic_add(grad_abs + splat * 2 + 1, tl.sum(tl.abs(grad_y)))
            tl.atomic_add(grad_conics + splat * 3, tl.sum(0.5 * grad_sigma * dx * dx))
            tl.atomic_add(grad_conics + splat * 3 + 1, tl.sum(grad_sigma * dx * dy))
            tl.atomic_add(grad_conics + splat * 3 + 2, tl.sum(0.5 * grad_sigma * dy * dy))
            tl.atomic_add(grad_opacities + splat, -tl.sum(grad_sigma) / tl.load(opacities + splat))
            weighted = weight[:, None] * grad
            tl.atomic_add(grad_values + splat * E + c, tl.sum(weighted * kept, axis=0), mask=c < E)
            if row >= 0:
                weighted = weighted * passes
                of_shown = tl.where(four == 3, free[:, None], 0.0)
                for k in tl.static_range(3):
                    of_shown += tl.where(four == k, _column(weighted, k, WIDE)[:, None], 0.0)
                of_shown = of_shown * gains
                if TANH:
                    s0, s1, s2 = _pull_tanh(
                        vectors, planes, rays, row, dx, dy, of_shown, adds, grad_vectors, grad_planes, T, PAD
                    )
                else:
                    s0, s1, s2 = _pull_products(
                        vectors, planes, rays, row, dx, dy, of_shown, adds, grad_vectors, grad_planes, T, PAD
                    )
                if MOVES:
                    _pull_rays(rays, row, dx, dy, s0, s1, s2, grad_rays, T)
        j -= 1


class Settings(NamedTuple):
    """What the kernels need beside tensors."""

    width: int
    height: int
    alpha_cap: float
    alpha_min: float
    transmittance_stop: float
    tanh: bool
    moves: bool
    amplitudes: Tuple[float, float, float, float]


class CompositeTextured(torch.autograd.Function):
    """One camera's picture [H, W, E] and accumulated opacity [H, W, 1].

    Differentiable with respect to means2d [N, 2], conics [N, 3], opacities [N], values [N, E], background [E], vectors
    [M, 3, T, 2, 4], planes [M, 3] and rays [M, 17] (whose first two columns, the centres, are read from means2d).
    """

    @staticmethod
    def forward(
        ctx: Any, means2d, conics, opacities, values, background, vectors, planes, rays, row_of, lists, settings,
        absgrad,
    ):  # fmt: skip
        given = [each.contiguous() for each in (means2d, conics, opacities, values, background)]
        texture = [rays[:, 2:].float().contiguous(), vectors.contiguous(), planes.contiguous()]
        amplitudes = torch.tensor(settings.amplitudes, device=values.device)
        width, height, channels = settings.width, settings.height, values.shape[1]
        image, behind = values.new_empty(height, width, channels), values.new_empty(height, width)
        last = torch.empty(height, width, dtype=torch.int32, device=values.device)
        _forward[(len(lists.offsets) - 1,)](
            *given, lists.offsets, lists.splats, row_of, *texture, amplitudes, image, behind, last, lists.columns,
            width, height, settings.alpha_cap, settings.alpha_min, settings.transmittance_stop,
            E=channels, WIDE=_power(channels), T=vectors.shape[2], TANH=settings.tanh, num_warps=8,
        )  # fmt: skip
        ctx.save_for_backward(*given, *texture, row_of, amplitudes, behind, last)
        ctx.lists, ctx.settings, ctx.absgrad = lists, settings, absgrad
        return image, 1.0 - behind[..., None]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_image: Tensor, grad_alphas: Optional[Tensor]):
        means2d, conics, opacities, values, background, rays, vectors, planes, row_of, amplitudes, behind, last = (
            ctx.saved_tensors
        )
        settings, lists, channels = ctx.settings, ctx.lists, values.shape[1]
        grads = [torch.zeros_like(each) for each in (means2d, means2d, conics, opacities, values, vectors, planes)]
        grad_rays = rays.new_zeros(len(rays), 2 + RAYS)
        grad_image = grad_image.contiguous()
        _backward[(len(lists.offsets) - 1,)](
            means2d, conics, opacities, values, background, lists.offsets, lists.splats, row_of, rays, vectors, planes,
            amplitudes, behind, last, grad_image, grad_alphas.contiguous(), *grads, grad_rays, lists.columns,
            settings.width, settings.height, settings.alpha_cap, settings.alpha_min,
            E=channels, WIDE=_power(channels), T=vectors.shape[2], PAD=max(16, _power(vectors.shape[2])),
            TANH=settings.tanh, MOVES=settings.moves, num_warps=8,
        )  # fmt: skip
        grad_means2d, grad_abs, *others, grad_vectors, grad_planes = grads
        if ctx.absgrad is not None:
            ctx.absgrad += grad_abs
        grad_background = behind.flatten() @ grad_image.view(-1, channels)
        return (
            *(grad_means2d, *others, grad_background, grad_vectors, grad_planes, grad_rays.to(torch.float64)),
            *(None, None, None, None),
        )


def _power(width: int) -> int:
    """The smallest power of two that is not below ``width``, at least 4."""
    return max(4, 1 << (width - 1).bit_length())
