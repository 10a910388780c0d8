# SPDX-License-Identifier: Apache-2.0
"""Local textures of splats in Triton: reading them, and the way back, for the 256 pixels of a tile at once.

As ``kernels.texture_sampling`` and ``texture_tanh`` for the CPU. The gradient of texels is a matrix product over the
pixels of the tile: of what each texel weighs in each pixel, and of the pixels' gradients.
"""

import triton
import triton.language as tl


@triton.jit
def tile_pixels(tile, columns):
    lane = tl.arange(0, 256)
    return (tile % columns) * 16 + lane % 16, (tile // columns) * 16 + lane // 16


@triton.jit
def splat_strength(means2d, conics, opacities, splat, x, y):
    """The offset from a splat's centre, and o exp(-sigma)."""
    dx, dy = x - tl.load(means2d + splat * 2), y - tl.load(means2d + splat * 2 + 1)
    a, b, c = tl.load(conics + splat * 3), tl.load(conics + splat * 3 + 1), tl.load(conics + splat * 3 + 2)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    peak = tl.where(sigma >= 0, tl.load(opacities + splat) * tl.exp(-sigma), 0.0)
    return dx, dy, peak


@triton.jit
def from_ray(rays, row, dx, dy):
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
def place_on_axis(p, T: tl.constexpr):
    """The lower texel of points p, and the weights of it and of the next; 0 outside."""
    place = p * ((T - 1) / 6.0) + (T - 1) / 2.0
    inside = (place >= 0) & (place <= T - 1)
    low = tl.minimum(tl.maximum(tl.floor(tl.where(inside, place, 0.0)), 0.0), T - 2.0)
    high = tl.where(inside, place - low, 0.0)
    return low.to(tl.int32), tl.where(inside, 1.0 - high, 0.0), high


@triton.jit
def place_in_texture(rays, row, dx, dy, T: tl.constexpr):
    """:func:`place_on_axis` on the three axes."""
    d0, d1, d2, w0, w1, w2 = from_ray(rays, row, dx, dy)
    per_square = 1.0 / (d0 * d0 + d1 * d1 + d2 * d2)
    i0, l0, h0 = place_on_axis((d1 * w2 - d2 * w1) * per_square, T)
    i1, l1, h1 = place_on_axis((d2 * w0 - d0 * w2) * per_square, T)
    i2, l2, h2 = place_on_axis((d0 * w1 - d1 * w0) * per_square, T)
    return i0, l0, h0, i1, l1, h1, i2, l2, h2


@triton.jit
def read_texel(vectors, row, axis: tl.constexpr, i, end: tl.constexpr, P: tl.constexpr, T: tl.constexpr, mask):
    """[256, 4] texels i of an axis, as the first (0) or the second (1) end of one of P planes."""
    c = tl.arange(0, 4)
    place = ((row * P + axis % P) * T + i) * 8 + end * 4
    return tl.load(vectors + place[:, None] + c[None, :], mask=mask[:, None], other=0.0)


@triton.jit
def tanh_of(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def read_plane(
    vectors, row, axis: tl.constexpr, after: tl.constexpr, i, l, h, j, m, g,
    P: tl.constexpr, T: tl.constexpr, TANH: tl.constexpr, mask,
):  # fmt: skip
    """[256, 4] what a plane shows, between texels i, i + 1 on its first axis and j, j + 1 on its second."""
    a0, a1 = read_texel(vectors, row, axis, i, 0, P, T, mask), read_texel(vectors, row, axis, i + 1, 0, P, T, mask)
    b0, b1 = read_texel(vectors, row, after, j, 1, P, T, mask), read_texel(vectors, row, after, j + 1, 1, P, T, mask)
    l, h, m, g = l[:, None], h[:, None], m[:, None], g[:, None]
    if TANH:
        shown = l * (tanh_of(a0 * b0) * m + tanh_of(a0 * b1) * g) + h * (tanh_of(a1 * b0) * m + tanh_of(a1 * b1) * g)
    else:
        shown = (a0 * l + a1 * h) * (b0 * m + b1 * g)
    return shown


@triton.jit
def read_texture(
    vectors, planes, rays, row, dx, dy, amplitudes, mask, P: tl.constexpr, T: tl.constexpr, TANH: tl.constexpr
):
    """[256, 4] a splat's texture in all pixels of a tile."""
    i0, l0, h0, i1, l1, h1, i2, l2, h2 = place_in_texture(rays, row, dx, dy, T)
    shown = read_plane(vectors, row, 0, 1, i0, l0, h0, i1, l1, h1, P, T, TANH, mask) * tl.load(planes + row * P)
    if P == 3:
        shown += read_plane(vectors, row, 1, 2, i1, l1, h1, i2, l2, h2, P, T, TANH, mask) * tl.load(
            planes + row * 3 + 1
        )
        shown += read_plane(vectors, row, 2, 0, i2, l2, h2, i0, l0, h0, P, T, TANH, mask) * tl.load(
            planes + row * 3 + 2
        )
    return shown * tl.load(amplitudes + tl.arange(0, 4))[None, :]


@triton.jit
def column_of(table, c: tl.constexpr, C: tl.constexpr):
    """[256] one column of [256, C]."""
    return tl.sum(tl.where(tl.arange(0, C)[None, :] == c, table, 0.0), axis=1)


@triton.jit
def texel_weights(i, l, h, T: tl.constexpr, PAD: tl.constexpr):
    """[PAD, 256] what each texel of an axis weighs in each pixel."""
    t = tl.arange(0, PAD)[:, None]
    return tl.where(t == i[None, :], l[None, :], 0.0) + tl.where(t == i[None, :] + 1, h[None, :], 0.0)


@triton.jit
def side_by_side(first, second):
    """[256, 16] two [256, 4] side by side, and zeros."""
    c = tl.arange(0, 16)[None, :]
    table = tl.zeros((256, 16), tl.float32)
    for k in tl.static_range(4):
        table += tl.where(c == k, column_of(first, k, 4)[:, None], 0.0)
        table += tl.where(c == 4 + k, column_of(second, k, 4)[:, None], 0.0)
    return table


@triton.jit
def add_texels(grad_vectors, row, axis: tl.constexpr, hats, grad, P: tl.constexpr, T: tl.constexpr, PAD: tl.constexpr):
    """Add an axis' texel gradients; ``grad`` [256, 16] is that of the interpolated vectors."""
    sums = tl.dot(hats, grad, input_precision="ieee")
    t, c = tl.arange(0, PAD)[:, None], tl.arange(0, 16)[None, :]
    tl.atomic_add(grad_vectors + ((row * P + axis % P) * T + t) * 8 + c, sums, mask=(t < T) & (c < 8))


@triton.jit
def interpolate(vectors, row, axis: tl.constexpr, i, l, h, end: tl.constexpr, P: tl.constexpr, T: tl.constexpr, mask):
    low = read_texel(vectors, row, axis, i, end, P, T, mask) * l[:, None]
    return low + read_texel(vectors, row, axis, i + 1, end, P, T, mask) * h[:, None]


@triton.jit
def pull_products(
    vectors, planes, rays, row, dx, dy, grad, mask, grad_vectors, grad_planes,
    P: tl.constexpr, T: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """The gradient of a texture of products; ``grad`` [256, 4]. Returns those of the places on the three axes."""
    i0, l0, h0, i1, l1, h1, i2, l2, h2 = place_in_texture(rays, row, dx, dy, T)
    one, zero, none = tl.full((256,), 1.0, tl.float32), tl.zeros((256,), tl.float32), tl.zeros((256, 4), tl.float32)
    x0 = interpolate(vectors, row, 0, i0, l0, h0, 0, P, T, mask)
    y1 = interpolate(vectors, row, 1, i1, l1, h1, 1, P, T, mask)
    tl.atomic_add(grad_planes + row * P, tl.sum(grad * x0 * y1))
    xy = grad * tl.load(planes + row * P)
    gx0, gy1, gx1, gy0 = xy * y1, xy * x0, none, none
    # The slope between two texels is what weights -1 and 1 give.
    sx = tl.sum(gx0 * interpolate(vectors, row, 0, i0, -one, one, 0, P, T, mask), axis=1)
    sy = tl.sum(gy1 * interpolate(vectors, row, 1, i1, -one, one, 1, P, T, mask), axis=1)
    sz = zero
    if P == 3:
        x1 = interpolate(vectors, row, 0, i0, l0, h0, 1, P, T, mask)
        y0 = interpolate(vectors, row, 1, i1, l1, h1, 0, P, T, mask)
        z0 = interpolate(vectors, row, 2, i2, l2, h2, 0, P, T, mask)
        z1 = interpolate(vectors, row, 2, i2, l2, h2, 1, P, T, mask)
        tl.atomic_add(grad_planes + row * 3 + 1, tl.sum(grad * y0 * z1))
        tl.atomic_add(grad_planes + row * 3 + 2, tl.sum(grad * z0 * x1))
        yz, zx = grad * tl.load(planes + row * 3 + 1), grad * tl.load(planes + row * 3 + 2)
        gx1, gy0, gz0, gz1 = zx * z0, yz * z1, zx * x1, yz * y0
        add_texels(grad_vectors, row, 2, texel_weights(i2, l2, h2, T, PAD), side_by_side(gz0, gz1), P, T, PAD)
        sx += tl.sum(gx1 * interpolate(vectors, row, 0, i0, -one, one, 1, P, T, mask), axis=1)
        sy += tl.sum(gy0 * interpolate(vectors, row, 1, i1, -one, one, 0, P, T, mask), axis=1)
        sz = tl.sum(gz0 * interpolate(vectors, row, 2, i2, -one, one, 0, P, T, mask), axis=1)
        sz += tl.sum(gz1 * interpolate(vectors, row, 2, i2, -one, one, 1, P, T, mask), axis=1)
    add_texels(grad_vectors, row, 0, texel_weights(i0, l0, h0, T, PAD), side_by_side(gx0, gx1), P, T, PAD)
    add_texels(grad_vectors, row, 1, texel_weights(i1, l1, h1, T, PAD), side_by_side(gy0, gy1), P, T, PAD)
    return sx * (l0 + h0), sy * (l1 + h1), sz * (l2 + h2)


@triton.jit
def pull_tanh_plane(
    vectors, planes, grad_planes, row, number: tl.constexpr, axis: tl.constexpr, after: tl.constexpr,
    i, l, h, j, m, g, grad, mask, P: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """One plane's part: gradients of both texels on either axis, [256, 4] each, and of the places on them."""
    a0, a1 = read_texel(vectors, row, axis, i, 0, P, T, mask), read_texel(vectors, row, axis, i + 1, 0, P, T, mask)
    b0, b1 = read_texel(vectors, row, after, j, 1, P, T, mask), read_texel(vectors, row, after, j + 1, 1, P, T, mask)
    inside_a, inside_b = l + h, m + g
    l, h, m, g = l[:, None], h[:, None], m[:, None], g[:, None]
    t00, t01, t10, t11 = tanh_of(a0 * b0), tanh_of(a0 * b1), tanh_of(a1 * b0), tanh_of(a1 * b1)
    plane = l * (t00 * m + t01 * g) + h * (t10 * m + t11 * g)
    tl.atomic_add(grad_planes + row * P + number, tl.sum(grad * plane))
    grad = grad * tl.load(planes + row * P + number)
    slope_a = inside_a * tl.sum(grad * ((t10 - t00) * m + (t11 - t01) * g), axis=1)
    slope_b = inside_b * tl.sum(grad * ((t01 - t00) * l + (t11 - t10) * h), axis=1)
    q00, q01 = grad * l * m * (1.0 - t00 * t00), grad * l * g * (1.0 - t01 * t01)
    q10, q11 = grad * h * m * (1.0 - t10 * t10), grad * h * g * (1.0 - t11 * t11)
    return q00 * b0 + q01 * b1, q10 * b0 + q11 * b1, q00 * a0 + q10 * a1, q01 * a0 + q11 * a1, slope_a, slope_b


@triton.jit
def pull_tanh(
    vectors, planes, rays, row, dx, dy, grad, mask, grad_vectors, grad_planes,
    P: tl.constexpr, T: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """The gradient of a texture with tanh of every texel; as :func:`pull_products`."""
    i0, l0, h0, i1, l1, h1, i2, l2, h2 = place_in_texture(rays, row, dx, dy, T)
    one, zero, none = tl.full((256,), 1.0, tl.float32), tl.zeros((256,), tl.float32), tl.zeros((256, 4), tl.float32)
    x_low, x_high, y_low_, y_high_, sx, sy = pull_tanh_plane(
        vectors, planes, grad_planes, row, 0, 0, 1, i0, l0, h0, i1, l1, h1, grad, mask, P, T
    )
    y_low, y_high, x_low_, x_high_, sz = none, none, none, none, zero
    if P == 3:
        y_low, y_high, z_low_, z_high_, sy_, sz = pull_tanh_plane(
            vectors, planes, grad_planes, row, 1, 1, 2, i1, l1, h1, i2, l2, h2, grad, mask, P, T
        )
        z_low, z_high, x_low_, x_high_, sz_, sx_ = pull_tanh_plane(
            vectors, planes, grad_planes, row, 2, 2, 0, i2, l2, h2, i0, l0, h0, grad, mask, P, T
        )
        sx, sy, sz = sx + sx_, sy + sy_, sz + sz_
        add_texels(grad_vectors, row, 2, texel_weights(i2, one, zero, T, PAD), side_by_side(z_low, z_low_), P, T, PAD)
        add_texels(grad_vectors, row, 2, texel_weights(i2, zero, one, T, PAD), side_by_side(z_high, z_high_), P, T, PAD)
    add_texels(grad_vectors, row, 0, texel_weights(i0, one, zero, T, PAD), side_by_side(x_low, x_low_), P, T, PAD)
    add_texels(grad_vectors, row, 0, texel_weights(i0, zero, one, T, PAD), side_by_side(x_high, x_high_), P, T, PAD)
    add_texels(grad_vectors, row, 1, texel_weights(i1, one, zero, T, PAD), side_by_side(y_low, y_low_), P, T, PAD)
    add_texels(grad_vectors, row, 1, texel_weights(i1, zero, one, T, PAD), side_by_side(y_high, y_high_), P, T, PAD)
    return sx, sy, sz


@triton.jit
def pull_rays(rays, row, dx, dy, s0, s1, s2, grad_rays, T: tl.constexpr):
    """Add what the gradients of the places, in texels, mean to a splat's rays: means2d (2), then as :data:`RAYS`."""
    d0, d1, d2, w0, w1, w2 = from_ray(rays, row, dx, dy)
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
