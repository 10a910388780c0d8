# SPDX-License-Identifier: Apache-2.0
"""The ray tracer's inner loops, compiled by numba. They read a :class:`~nts_plugins.samples._pack.Packed` scene.

All geometry is float64, so that depth is exact to rounding. Nothing here draws random numbers: sample patterns are
low-discrepancy sequences shifted by a hash of the pixel or texel, so that a picture depends on its scene alone.
Kernels release the interpreter's lock; callers run several of them in threads, each writing rows of its own.
One file on purpose: numba's cache does not notice changes in functions of another file.
"""

import math

import numpy as np
from numba import njit

RECTANGLE, BOX, SPHERE, CYLINDER = 0, 1, 2, 3
OFFSET = 1e-4
"""Metres that a secondary ray starts off its surface."""
FAR = 1e30


@njit(cache=True, nogil=True)
def _slab(o, d, low, high):
    """Where a ray crosses one axis' pair of planes."""
    inverse = 1.0 / d if abs(d) > 1e-300 else 1e300
    a, b = (low - o) * inverse, (high - o) * inverse
    return (a, b) if a < b else (b, a)


@njit(cache=True, nogil=True)
def _hit_rectangle(ox, oy, oz, dx, dy, dz, near):
    if dz >= 0.0:
        return FAR, 0
    t = -oz / dz
    if t > near and abs(ox + t * dx) <= 1.0 and abs(oy + t * dy) <= 1.0:
        return t, 0
    return FAR, 0


@njit(cache=True, nogil=True)
def _hit_box(ox, oy, oz, dx, dy, dz, near):
    x0, x1 = _slab(ox, dx, -1.0, 1.0)
    y0, y1 = _slab(oy, dy, -1.0, 1.0)
    z0, z1 = _slab(oz, dz, -1.0, 1.0)
    t = max(x0, y0, z0)
    if t > min(x1, y1, z1) or t <= near:
        return FAR, 0
    if t == x0:
        return t, 0 if dx < 0.0 else 1
    if t == y0:
        return t, 2 if dy < 0.0 else 3
    return t, 4 if dz < 0.0 else 5


@njit(cache=True, nogil=True)
def _hit_sphere(ox, oy, oz, dx, dy, dz, near):
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    # The squared distance of the ray's line from the centre, without the cancellation of b^2 - a c.
    k = b / a
    lx, ly, lz = ox - k * dx, oy - k * dy, oz - k * dz
    rest = 1.0 - (lx * lx + ly * ly + lz * lz)
    if rest <= 0.0:
        return FAR, 0
    t = -k - math.sqrt(rest / a)
    return (t, 0) if t > near else (FAR, 0)


@njit(cache=True, nogil=True)
def _hit_cylinder(ox, oy, oz, dx, dy, dz, near):
    if abs(dz) > 1e-300:
        cap = 1.0 if dz < 0.0 else -1.0
        t = (cap - oz) / dz
        x, y = ox + t * dx, oy + t * dy
        if t > near and x * x + y * y <= 1.0:
            return t, 1 if dz < 0.0 else 2
    a = dx * dx + dy * dy
    if a < 1e-300:
        return FAR, 0
    k = (ox * dx + oy * dy) / a
    lx, ly = ox - k * dx, oy - k * dy
    rest = 1.0 - (lx * lx + ly * ly)
    if rest <= 0.0:
        return FAR, 0
    t = -k - math.sqrt(rest / a)
    return (t, 0) if t > near and abs(oz + t * dz) <= 1.0 else (FAR, 0)


@njit(cache=True, nogil=True)
def _hit(s, i, ox, oy, oz, dx, dy, dz, near):
    """Distance along a world ray to primitive i from outside, and the face (chart) that it meets."""
    m = s.to_local[i]
    px = m[0, 0] * ox + m[0, 1] * oy + m[0, 2] * oz + m[0, 3]
    py = m[1, 0] * ox + m[1, 1] * oy + m[1, 2] * oz + m[1, 3]
    pz = m[2, 0] * ox + m[2, 1] * oy + m[2, 2] * oz + m[2, 3]
    qx = m[0, 0] * dx + m[0, 1] * dy + m[0, 2] * dz
    qy = m[1, 0] * dx + m[1, 1] * dy + m[1, 2] * dz
    qz = m[2, 0] * dx + m[2, 1] * dy + m[2, 2] * dz
    kind = s.kind[i]
    if kind == RECTANGLE:
        return _hit_rectangle(px, py, pz, qx, qy, qz, near)
    if kind == BOX:
        return _hit_box(px, py, pz, qx, qy, qz, near)
    if kind == SPHERE:
        return _hit_sphere(px, py, pz, qx, qy, qz, near)
    return _hit_cylinder(px, py, pz, qx, qy, qz, near)


@njit(cache=True, nogil=True)
def closest(s, ox, oy, oz, dx, dy, dz, far, moving):
    """First thing that a ray meets: distance, primitive (-1 for none) and face.

    Fixed primitives come from the tree of boxes, moving ones (if asked for) from the list behind them.
    """
    best, prim, face = far, -1, 0
    stack = np.empty(48, np.int64)
    stack[0] = 0
    top = 1 if s.tree_next.shape[0] else 0
    while top > 0:
        top -= 1
        node = stack[top]
        low, high = s.tree_low[node], s.tree_high[node]
        x0, x1 = _slab(ox, dx, low[0], high[0])
        y0, y1 = _slab(oy, dy, low[1], high[1])
        z0, z1 = _slab(oz, dz, low[2], high[2])
        t = max(x0, y0, z0)
        if t > min(x1, y1, z1, best) or min(x1, y1, z1) < 0.0:
            continue
        if s.tree_count[node] == 0:
            stack[top], stack[top + 1] = s.tree_next[node], node + 1
            top += 2
            continue
        for k in range(s.tree_next[node], s.tree_next[node] + s.tree_count[node]):
            i = s.tree_prims[k]
            t, f = _hit(s, i, ox, oy, oz, dx, dy, dz, 0.0)
            if t < best:
                best, prim, face = t, i, f
    if moving:
        for i in range(s.n_fixed, s.kind.shape[0]):
            t, f = _hit(s, i, ox, oy, oz, dx, dy, dz, 0.0)
            if t < best:
                best, prim, face = t, i, f
    return best, prim, face


@njit(cache=True, nogil=True)
def _local(s, i, x, y, z):
    m = s.to_local[i]
    return (
        m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3],
        m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3],
        m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3],
    )


@njit(cache=True, nogil=True)
def _face_normal(kind, face, x, y, z):
    """Outward normal at a local surface point of a canonical shape, not normalised."""
    if kind == SPHERE:
        return x, y, z
    if kind == CYLINDER and face == 0:
        return x, y, 0.0
    if kind == CYLINDER:
        return 0.0, 0.0, 1.0 if face == 1 else -1.0
    if kind == RECTANGLE:
        return 0.0, 0.0, 1.0
    sign = 1.0 if face % 2 == 0 else -1.0
    axis = face // 2
    return sign if axis == 0 else 0.0, sign if axis == 1 else 0.0, sign if axis == 2 else 0.0


@njit(cache=True, nogil=True)
def _world_normal(s, i, face, x, y, z):
    """Unit world normal at a local surface point."""
    a, b, c = _face_normal(s.kind[i], face, x, y, z)
    m = s.normal[i]
    nx = m[0, 0] * a + m[0, 1] * b + m[0, 2] * c
    ny = m[1, 0] * a + m[1, 1] * b + m[1, 2] * c
    nz = m[2, 0] * a + m[2, 1] * b + m[2, 2] * c
    scale = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
    return nx * scale, ny * scale, nz * scale


@njit(cache=True, nogil=True)
def _chart(kind, face, x, y, z):
    """Position on a face's map: u to the right and v down, both in [0, 1], as one sees the face from outside."""
    if kind == SPHERE:
        return math.atan2(y, x) / (2.0 * math.pi) + 0.5, math.acos(min(1.0, max(-1.0, z))) / math.pi
    if kind == CYLINDER and face == 0:
        return math.atan2(y, x) / (2.0 * math.pi) + 0.5, 0.5 - 0.5 * z
    if kind == RECTANGLE or kind == CYLINDER:
        return 0.5 + (-0.5 * x if face == 2 else 0.5 * x), 0.5 - 0.5 * y
    if face < 2:
        return 0.5 + (0.5 * y if face == 0 else -0.5 * y), 0.5 - 0.5 * z
    if face < 4:
        return 0.5 + (-0.5 * x if face == 2 else 0.5 * x), 0.5 - 0.5 * z
    return 0.5 + (0.5 * x if face == 4 else -0.5 * x), 0.5 - 0.5 * y


@njit(cache=True, nogil=True)
def _unchart(kind, face, u, v):
    """The inverse of :func:`_chart`."""
    a, b = 2.0 * u - 1.0, 1.0 - 2.0 * v
    if kind == SPHERE:
        angle, polar = math.pi * a, math.pi * v
        return math.sin(polar) * math.cos(angle), math.sin(polar) * math.sin(angle), math.cos(polar)
    if kind == CYLINDER and face == 0:
        return math.cos(math.pi * a), math.sin(math.pi * a), b
    if kind == RECTANGLE:
        return a, b, 0.0
    if kind == CYLINDER:
        return (a, b, 1.0) if face == 1 else (-a, b, -1.0)
    if face < 2:
        return (1.0, a, b) if face == 0 else (-1.0, -a, b)
    if face < 4:
        return (-a, 1.0, b) if face == 2 else (a, -1.0, b)
    return (a, b, 1.0) if face == 4 else (-a, b, -1.0)


@njit(cache=True, nogil=True)
def _bilinear(data, first, width, height, u, v, repeat_u, repeat_v):
    """Smooth look-up in a picture stored from row ``first`` of ``data`` [..., 3]; u and v in [0, 1] span it."""
    x, y = u * width - 0.5, v * height - 0.5
    x0, y0 = math.floor(x), math.floor(y)
    fx, fy = x - x0, y - y0
    xa, ya = int(x0), int(y0)
    xb, yb = xa + 1, ya + 1
    if repeat_u:
        xa, xb = xa % width, xb % width
    else:
        xa, xb = min(max(xa, 0), width - 1), min(max(xb, 0), width - 1)
    if repeat_v:
        ya, yb = ya % height, yb % height
    else:
        ya, yb = min(max(ya, 0), height - 1), min(max(yb, 0), height - 1)
    p, q = data[first + ya * width + xa], data[first + ya * width + xb]
    m, n = data[first + yb * width + xa], data[first + yb * width + xb]
    wp, wq, wm, wn = (1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy
    return (
        wp * p[0] + wq * q[0] + wm * m[0] + wn * n[0],
        wp * p[1] + wq * q[1] + wm * m[1] + wn * n[1],
        wp * p[2] + wq * q[2] + wm * m[2] + wn * n[2],
    )


@njit(cache=True, nogil=True)
def _reflectance(s, i, face, u, v, footprint):
    """Texture colour of a surface point, averaged over about ``footprint`` metres (trilinear look-up)."""
    k = s.texture[i]
    tile_u, tile_v = s.tile[i, 0], s.tile[i, 1]
    size_u, size_v = s.chart_size[i, face, 0], s.chart_size[i, face, 1]
    if tile_u > 0.0:
        u, v = u * size_u / tile_u, v * size_v / tile_v
    else:
        tile_u, tile_v = size_u, size_v
    levels = s.texture_levels[k]
    texel = math.sqrt(tile_u / levels[0, 1] * tile_v / levels[0, 2])
    last = s.texture_depth[k] - 1
    level = min(max(math.log2(max(footprint / texel, 1e-9)), 0.0), float(last))
    low = int(level)
    part = level - low
    repeat = s.texture_repeat[k]
    r, g, b = _bilinear(s.texels, levels[low, 0], levels[low, 1], levels[low, 2], u, v, repeat, repeat)
    if part > 0.0:
        low += 1
        x, y, z = _bilinear(s.texels, levels[low, 0], levels[low, 1], levels[low, 2], u, v, repeat, repeat)
        r, g, b = r + part * (x - r), g + part * (y - g), b + part * (z - b)
    return r, g, b


@njit(cache=True, nogil=True)
def _hash(a, b):
    """A number in [0, 1) that looks random, from two integers."""
    h = (np.uint64(a) * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(b) * np.uint64(0xC2B2AE3D27D4EB4F))
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    return float(h >> np.uint64(11)) / 9007199254740992.0


@njit(cache=True, nogil=True)
def _lamp(s, l, px, py, pz, nx, ny, nz, a, b):
    """Direction and distance to a point (a, b in [-1, 1]) of lamp l, and what it would add there unoccluded.

    The power is radiance's factor: cos cos' area / distance^2, times the spotlight's cone.
    """
    q = s.lamps[l]
    lx = q[0] + a * q[3] + b * q[6] - px
    ly = q[1] + a * q[4] + b * q[7] - py
    lz = q[2] + a * q[5] + b * q[8] - pz
    square = lx * lx + ly * ly + lz * lz
    distance = math.sqrt(square)
    lx, ly, lz = lx / distance, ly / distance, lz / distance
    here = lx * nx + ly * ny + lz * nz
    there = -(lx * q[9] + ly * q[10] + lz * q[11])
    if here <= 0.0 or there <= 0.0:
        return lx, ly, lz, distance, 0.0
    power = here * there * q[12] / square
    if q[16] > -1.0:
        edge = min(max((there - q[17]) / (q[16] - q[17]), 0.0), 1.0)
        power *= edge * edge * (3.0 - 2.0 * edge)
    return lx, ly, lz, distance, power


@njit(cache=True, nogil=True)
def _direct(s, px, py, pz, nx, ny, nz, side, shift_a, shift_b, moving):
    """Irradiance from all lamps with soft shadows, side x side samples a lamp."""
    r, g, b = 0.0, 0.0, 0.0
    for l in range(s.lamps.shape[0]):
        total = 0.0
        for k in range(side * side):
            a = (k % side + (shift_a + 0.754877666 * k) % 1.0) / side * 2.0 - 1.0
            c = (k // side + (shift_b + 0.569840291 * k) % 1.0) / side * 2.0 - 1.0
            dx, dy, dz, distance, power = _lamp(s, l, px, py, pz, nx, ny, nz, a, c)
            if power > 0.0:
                _, i, _ = closest(s, px, py, pz, dx, dy, dz, distance - 1e-3, moving)
                if i < 0:
                    total += power
        total /= side * side
        r, g, b = r + total * s.lamps[l, 13], g + total * s.lamps[l, 14], b + total * s.lamps[l, 15]
    return r, g, b


@njit(cache=True, nogil=True)
def _unshadowed(s, px, py, pz, nx, ny, nz, side):
    """Fraction of the lamps' light, as it were without fixed things in the way, that moving things let through."""
    free, total = 0.0, 0.0
    for l in range(s.lamps.shape[0]):
        lx, ly, lz, distance, power = _lamp(s, l, px, py, pz, nx, ny, nz, 0.0, 0.0)
        weight = s.lamps[l, 13] + s.lamps[l, 14] + s.lamps[l, 15]
        reach = s.lamps[l, 18]
        near = False
        for i in range(s.n_fixed, s.kind.shape[0]):
            bx, by, bz = s.bound[i, 0] - px, s.bound[i, 1] - py, s.bound[i, 2] - pz
            along = min(max(bx * lx + by * ly + bz * lz, 0.0), distance)
            bx, by, bz = bx - along * lx, by - along * ly, bz - along * lz
            wide = s.bound[i, 3] + reach * along / distance
            near = near or bx * bx + by * by + bz * bz < wide * wide
        if not near:
            free, total = free + weight * power, total + weight * power
            continue
        for k in range(side * side):
            a = (k % side + 0.5) / side * 2.0 - 1.0
            c = (k // side + 0.5) / side * 2.0 - 1.0
            dx, dy, dz, distance, power = _lamp(s, l, px, py, pz, nx, ny, nz, a, c)
            power *= weight / (side * side)
            total += power
            blocked = False
            for i in range(s.n_fixed, s.kind.shape[0]):
                t, _ = _hit(s, i, px, py, pz, dx, dy, dz, 0.0)
                blocked = blocked or t < distance - 1e-3
            free += 0.0 if blocked else power
    return free / total if total > 1e-12 else 1.0


@njit(cache=True, nogil=True)
def _baked(s, i, face, u, v, table, first):
    """Look-up in the light maps: first = 0 for direct light, 3 for bounced."""
    m = s.maps[i, face]
    kind = s.kind[i]
    around = kind == SPHERE or (kind == CYLINDER and face == 0)
    return _bilinear(table, m[first], m[first + 1], m[first + 2], u, v, around, False)


@njit(cache=True, nogil=True)
def _irradiance(s, i, face, u, v, px, py, pz, nx, ny, nz):
    """Light that falls on a surface point: from the maps where it stands still, traced where it moves."""
    ox, oy, oz = px + OFFSET * nx, py + OFFSET * ny, pz + OFFSET * nz
    if i < s.n_fixed:
        r, g, b = _baked(s, i, face, u, v, s.direct, 0)
        if s.n_fixed < s.kind.shape[0]:
            part = _unshadowed(s, ox, oy, oz, nx, ny, nz, 4)
            r, g, b = part * r, part * g, part * b
        x, y, z = _baked(s, i, face, u, v, s.bounced, 3)
        return r + x, g + y, b + z
    r, g, b = _direct(s, ox, oy, oz, nx, ny, nz, 3, 0.5, 0.5, True)
    cube = s.ambient[i - s.n_fixed]
    for axis in range(3):
        n = nx if axis == 0 else (ny if axis == 1 else nz)
        side = cube[2 * axis if n > 0.0 else 2 * axis + 1]
        r, g, b = r + n * n * side[0], g + n * n * side[1], b + n * n * side[2]
    return r, g, b


@njit(cache=True, nogil=True)
def _radiance(s, ox, oy, oz, dx, dy, dz, spread, memo):
    """Linear colour that a ray brings back, with mirror reflections; ``spread`` is its cone's width per metre.

    The cone's width picks the texture's level; a curved mirror opens the cone. ``memo`` keeps the light on a moving
    face for the other rays of the same pixel: [primitive, face, r, g, b].
    """
    red, green, blue = 0.0, 0.0, 0.0
    wr, wg, wb = 1.0, 1.0, 1.0
    width = 0.0
    for bounce in range(3):
        t, i, face = closest(s, ox, oy, oz, dx, dy, dz, FAR, True)
        if i < 0:
            break
        px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
        x, y, z = _local(s, i, px, py, pz)
        nx, ny, nz = _world_normal(s, i, face, x, y, z)
        u, v = _chart(s.kind[i], face, x, y, z)
        cosine = max(-(nx * dx + ny * dy + nz * dz), 1e-3)
        width += t * spread
        ar, ag, ab = _reflectance(s, i, face, u, v, width / math.sqrt(cosine))
        fresnel = s.reflectance[i]
        if fresnel > 0.0:
            fresnel += (1.0 - fresnel) * (1.0 - cosine) ** 5
        red, green, blue = red + wr * s.emission[i, 0], green + wg * s.emission[i, 1], blue + wb * s.emission[i, 2]
        if not s.metal[i]:
            if bounce == 0 and memo[0] == i and memo[1] == face:
                er, eg, eb = memo[2], memo[3], memo[4]
            else:
                er, eg, eb = _irradiance(s, i, face, u, v, px, py, pz, nx, ny, nz)
                if bounce == 0 and i >= s.n_fixed:
                    memo[0], memo[1], memo[2], memo[3], memo[4] = i, face, er, eg, eb
            part = (1.0 - fresnel) / math.pi
            red, green, blue = red + wr * part * ar * er, green + wg * part * ag * eg, blue + wb * part * ab * eb
            ar, ag, ab = 1.0, 1.0, 1.0
        wr, wg, wb = wr * fresnel * ar, wg * fresnel * ag, wb * fresnel * ab
        if max(wr, wg, wb) < 0.004:
            break
        along = 2.0 * (nx * dx + ny * dy + nz * dz)
        dx, dy, dz = dx - along * nx, dy - along * ny, dz - along * nz
        ox, oy, oz = px + OFFSET * nx, py + OFFSET * ny, pz + OFFSET * nz
        spread += 2.0 * width * s.curvature[i] / cosine
    return red, green, blue


@njit(cache=True, nogil=True)
def _pixel_ray(camera, focal, x, y, width, height):
    """Unit world direction through image position (x, y), and its share along the viewing axis."""
    a, b = (x - 0.5 * width) / focal, -(y - 0.5 * height) / focal
    scale = 1.0 / math.sqrt(a * a + b * b + 1.0)
    dx = (camera[0, 0] * a + camera[0, 1] * b - camera[0, 2]) * scale
    dy = (camera[1, 0] * a + camera[1, 1] * b - camera[1, 2]) * scale
    dz = (camera[2, 0] * a + camera[2, 1] * b - camera[2, 2]) * scale
    return dx, dy, dz, scale


@njit(cache=True, nogil=True)
def trace_colors(s, camera, focal, samples, colors):
    """Fill a picture with linear colour; samples x samples rays a pixel, box filter.

    Each ray is clipped to 1 before the mean, so that the edge of a lamp is as smooth as any other edge.
    """
    height, width = colors.shape[0], colors.shape[1]
    spread = 1.0 / (focal * samples)
    memo = np.empty(5)
    for y in range(height):
        for x in range(width):
            memo[0] = -1.0
            r, g, b = 0.0, 0.0, 0.0
            for k in range(samples * samples):
                sx, sy = x + (k % samples + 0.5) / samples, y + (k // samples + 0.5) / samples
                dx, dy, dz, _ = _pixel_ray(camera, focal, sx, sy, width, height)
                p, q, m = _radiance(s, camera[0, 3], camera[1, 3], camera[2, 3], dx, dy, dz, spread, memo)
                r, g, b = r + min(p, 1.0), g + min(q, 1.0), b + min(m, 1.0)
            colors[y, x, 0] = r / (samples * samples)
            colors[y, x, 1] = g / (samples * samples)
            colors[y, x, 2] = b / (samples * samples)


@njit(cache=True, nogil=True)
def trace_geometry(s, camera, focal, depth, normals, primitives):
    """Depth along the viewing axis, unit world normal and primitive (-1 for none) at every pixel's centre."""
    height, width = depth.shape
    for y in range(height):
        for x in range(width):
            dx, dy, dz, scale = _pixel_ray(camera, focal, x + 0.5, y + 0.5, width, height)
            ox, oy, oz = camera[0, 3], camera[1, 3], camera[2, 3]
            t, i, face = closest(s, ox, oy, oz, dx, dy, dz, FAR, True)
            primitives[y, x] = i
            if i < 0:
                continue
            depth[y, x] = t * scale
            a, b, c = _local(s, i, ox + t * dx, oy + t * dy, oz + t * dz)
            nx, ny, nz = _world_normal(s, i, face, a, b, c)
            normals[y, x, 0], normals[y, x, 1], normals[y, x, 2] = nx, ny, nz


@njit(cache=True, nogil=True)
def _texel(s, i, face, u, v):
    """World point a little off a primitive's face, and the normal there."""
    x, y, z = _unchart(s.kind[i], face, u, v)
    nx, ny, nz = _world_normal(s, i, face, x, y, z)
    m = s.to_world[i]
    px = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3] + OFFSET * nx
    py = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3] + OFFSET * ny
    pz = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3] + OFFSET * nz
    return px, py, pz, nx, ny, nz


@njit(cache=True, nogil=True)
def bake_direct(s, i, face, side):
    """Fill one face's map of direct light; side x side shadow rays a lamp and texel."""
    first, width, height = s.maps[i, face, 0], s.maps[i, face, 1], s.maps[i, face, 2]
    for k in range(width * height):
        px, py, pz, nx, ny, nz = _texel(s, i, face, (k % width + 0.5) / width, (k // width + 0.5) / height)
        r, g, b = _direct(s, px, py, pz, nx, ny, nz, side, _hash(first + k, 1), _hash(first + k, 2), False)
        s.direct[first + k, 0], s.direct[first + k, 1], s.direct[first + k, 2] = r, g, b


@njit(cache=True, nogil=True)
def _gather(s, px, py, pz, nx, ny, nz, rays, shift_a, shift_b):
    """Irradiance from light that other surfaces send on, by cosine-weighted rays; reads both light maps."""
    # Any two unit vectors square to the normal and to each other (Duff et al. 2017 gives a branchless way).
    sign = 1.0 if nz >= 0.0 else -1.0
    a = -1.0 / (sign + nz)
    b = nx * ny * a
    red, green, blue = 0.0, 0.0, 0.0
    for k in range(rays):
        angle = 2.0 * math.pi * ((shift_a + 0.618033989 * k) % 1.0)
        square = (k + shift_b) / rays
        radius, up = math.sqrt(square), math.sqrt(1.0 - square)
        c, d = radius * math.cos(angle), radius * math.sin(angle)
        dx = c * (1.0 + sign * nx * nx * a) + d * b + up * nx
        dy = c * sign * b + d * (sign + ny * ny * a) + up * ny
        dz = -c * sign * nx - d * ny + up * nz
        t, i, face = closest(s, px, py, pz, dx, dy, dz, FAR, False)
        if i < 0:
            continue
        x, y, z = _local(s, i, px + t * dx, py + t * dy, pz + t * dz)
        u, v = _chart(s.kind[i], face, x, y, z)
        r, g, e = _baked(s, i, face, u, v, s.direct, 0)
        p, q, m = _baked(s, i, face, u, v, s.bounced, 3)
        mean = s.mean_color[i]
        red, green, blue = red + mean[0] * (r + p), green + mean[1] * (g + q), blue + mean[2] * (e + m)
    return red / rays, green / rays, blue / rays


@njit(cache=True, nogil=True)
def bake_bounced(s, i, face, rays, out):
    """Fill one face's map of bounced light in ``out`` from the maps so far."""
    first, width, height = s.maps[i, face, 3], s.maps[i, face, 4], s.maps[i, face, 5]
    for k in range(width * height):
        px, py, pz, nx, ny, nz = _texel(s, i, face, (k % width + 0.5) / width, (k // width + 0.5) / height)
        r, g, b = _gather(s, px, py, pz, nx, ny, nz, rays, _hash(first + k, 3), _hash(first + k, 4))
        out[first + k, 0], out[first + k, 1], out[first + k, 2] = r, g, b


@njit(cache=True, nogil=True)
def ambient_cube(s, x, y, z, rays, cube):
    """Bounced light at a point in space on six little faces: +x, -x, +y, -y, +z, -z."""
    for side in range(6):
        n = 1.0 if side % 2 == 0 else -1.0
        axis = side // 2
        nx, ny, nz = n if axis == 0 else 0.0, n if axis == 1 else 0.0, n if axis == 2 else 0.0
        cube[side, 0], cube[side, 1], cube[side, 2] = _gather(s, x, y, z, nx, ny, nz, rays, 0.5, 0.5)
