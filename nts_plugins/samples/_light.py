# SPDX-License-Identifier: Apache-2.0
"""What light rays bring back: textures, lamps, baked light and mirrors, compiled by numba.

Nothing here draws random numbers: sample patterns are low-discrepancy sequences shifted by a hash of the texel, so
that a picture depends on its scene alone. ``s`` is a :class:`~nts_plugins.samples._pack.Packed` scene.
"""

import math

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.samples._rays import (
    COMPILE,
    CYLINDER,
    FAR,
    INLINE,
    OFFSET,
    SPHERE,
    chart,
    closest,
    crosses,
    hit,
    normal_at,
    pixel_ray,
    surface_point,
    to_shape,
)


@njit(**INLINE)
def _neighbours(u, size, repeat):
    """The two texels on both sides of a position along one axis, and how far it is from the first to the second."""
    x = (u - math.floor(u) if repeat else u) * size - 0.5
    low = math.floor(x)
    a, b = int(low), int(low) + 1
    if repeat:
        return a + size if a < 0 else a, b - size if b >= size else b, x - low
    return min(max(a, 0), size - 1), min(max(b, 0), size - 1), x - low


@njit(**INLINE)
def _bilinear(data, first, width, height, u, v, repeat_u, repeat_v):
    """Smooth look-up in a picture stored from row ``first`` of ``data`` [..., 3]; u and v in [0, 1] span it."""
    xa, xb, fx = _neighbours(u, width, repeat_u)
    ya, yb, fy = _neighbours(v, height, repeat_v)
    p, q, m, n = first + ya * width + xa, first + ya * width + xb, first + yb * width + xa, first + yb * width + xb
    wp, wq, wm, wn = (1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy
    return (
        wp * data[p, 0] + wq * data[q, 0] + wm * data[m, 0] + wn * data[n, 0],
        wp * data[p, 1] + wq * data[q, 1] + wm * data[m, 1] + wn * data[n, 1],
        wp * data[p, 2] + wq * data[q, 2] + wm * data[m, 2] + wn * data[n, 2],
    )


@njit(**INLINE)
def _reflectance(s, i, face, u, v, area):
    """Texture colour of a surface point, averaged over about ``area`` square metres (trilinear look-up)."""
    k = s.texture[i]
    u, v = u * s.copies[i, face, 0], v * s.copies[i, face, 1]
    last = s.texture_depth[k] - 1
    level = min(max(0.5 * math.log2(area / s.texel_area[i, face]), 0.0), float(last))
    low = int(level)
    part = level - low
    levels, repeat = s.texture_levels, s.texture_repeat[k]
    r, g, b = _bilinear(s.texels, levels[k, low, 0], levels[k, low, 1], levels[k, low, 2], u, v, repeat, repeat)
    if part > 0.0:
        low += 1
        x, y, z = _bilinear(s.texels, levels[k, low, 0], levels[k, low, 1], levels[k, low, 2], u, v, repeat, repeat)
        r, g, b = r + part * (x - r), g + part * (y - g), b + part * (z - b)
    return r, g, b


@njit(**INLINE)
def _hash(a, b):
    """A number in [0, 1) that looks random, from two integers."""
    h = (np.uint64(a) * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(b) * np.uint64(0xC2B2AE3D27D4EB4F))
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    return float(h >> np.uint64(11)) / 9007199254740992.0


@njit(**INLINE)
def _lamp(s, l, px, py, pz, nx, ny, nz, a, b):
    """Direction and distance to a point (a, b in [-1, 1]) of lamp l, and what it would add there unoccluded.

    The power is radiance's factor: cos cos' area / distance^2, times the spotlight's cone.
    """
    q = s.lamps
    lx = q[l, 0] + a * q[l, 3] + b * q[l, 6] - px
    ly = q[l, 1] + a * q[l, 4] + b * q[l, 7] - py
    lz = q[l, 2] + a * q[l, 5] + b * q[l, 8] - pz
    square = lx * lx + ly * ly + lz * lz
    distance = math.sqrt(square)
    lx, ly, lz = lx / distance, ly / distance, lz / distance
    here = lx * nx + ly * ny + lz * nz
    there = -(lx * q[l, 9] + ly * q[l, 10] + lz * q[l, 11])
    if here <= 0.0 or there <= 0.0:
        return lx, ly, lz, distance, 0.0
    power = here * there * q[l, 12] / square
    if q[l, 16] > -1.0:
        edge = min(max((there - q[l, 17]) / (q[l, 16] - q[l, 17]), 0.0), 1.0)
        power *= edge * edge * (3.0 - 2.0 * edge)
    return lx, ly, lz, distance, power


@njit(**INLINE)
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


@njit(**INLINE)
def _passes(s, l, px, py, pz, nx, ny, nz, side):
    """Share of one lamp's light that moving things let through; side x side rays."""
    free, total = 0.0, 0.0
    for k in range(side * side):
        a = (k % side + 0.5) / side * 2.0 - 1.0
        b = (k // side + 0.5) / side * 2.0 - 1.0
        dx, dy, dz, distance, power = _lamp(s, l, px, py, pz, nx, ny, nz, a, b)
        total += power
        i = s.n_fixed
        while i < s.kind.shape[0]:
            if crosses(s, i, px, py, pz, dx, dy, dz, distance, 0.0):
                t, _ = hit(s, i, px, py, pz, dx, dy, dz)
                if t < distance - 1e-3:
                    break
            i += 1
        if i == s.kind.shape[0]:
            free += power
    return free / total if total > 0.0 else 1.0


@njit(**INLINE)
def _unshadowed(s, px, py, pz, nx, ny, nz):
    """Share of the lamps' light, as it were without fixed things in the way, that moving things let through."""
    free, total = 0.0, 0.0
    for l in range(s.lamps.shape[0]):
        dx, dy, dz, distance, power = _lamp(s, l, px, py, pz, nx, ny, nz, 0.0, 0.0)
        if power <= 0.0:
            continue
        power *= s.lamps[l, 13] + s.lamps[l, 14] + s.lamps[l, 15]
        total += power
        near = False
        for i in range(s.n_fixed, s.kind.shape[0]):
            near = near or crosses(s, i, px, py, pz, dx, dy, dz, distance, s.lamps[l, 18])
        free += power * (_passes(s, l, px, py, pz, nx, ny, nz, 4) if near else 1.0)
    return free / total if total > 0.0 else 1.0


@njit(**INLINE)
def _baked(s, i, face, u, v, table, first):
    """Look-up in the light maps: first = 0 for direct light, 3 for bounced."""
    m = s.maps
    kind = s.kind[i]
    around = kind == SPHERE or (kind == CYLINDER and face == 0)
    return _bilinear(table, m[i, face, first], m[i, face, first + 1], m[i, face, first + 2], u, v, around, False)


@njit(**INLINE)
def _irradiance(s, i, face, u, v, px, py, pz, nx, ny, nz):
    """Light that falls on a surface point: from the maps where it stands still, traced where it moves."""
    ox, oy, oz = px + OFFSET * nx, py + OFFSET * ny, pz + OFFSET * nz
    if i < s.n_fixed:
        r, g, b = _baked(s, i, face, u, v, s.direct, 0)
        if s.n_fixed < s.kind.shape[0]:
            part = _unshadowed(s, ox, oy, oz, nx, ny, nz)
            r, g, b = part * r, part * g, part * b
        x, y, z = _baked(s, i, face, u, v, s.bounced, 3)
        return r + x, g + y, b + z
    r, g, b = _direct(s, ox, oy, oz, nx, ny, nz, 3, 0.5, 0.5, True)
    cube, k = s.ambient, i - s.n_fixed
    for axis in range(3):
        n = nx if axis == 0 else (ny if axis == 1 else nz)
        side = 2 * axis if n > 0.0 else 2 * axis + 1
        r, g, b = r + n * n * cube[k, side, 0], g + n * n * cube[k, side, 1], b + n * n * cube[k, side, 2]
    return r, g, b


@njit(**INLINE)
def _radiance(s, ox, oy, oz, dx, dy, dz, spread, memo):
    """Linear colour that a ray brings back, with mirror reflections; ``spread`` is its cone's width per metre.

    The cone's width picks the texture's level; a curved mirror opens the cone. ``memo`` keeps the light that falls on
    a face for the other rays of the same pixel, where it is all but the same: [primitive, face, r, g, b].
    """
    red, green, blue = 0.0, 0.0, 0.0
    wr, wg, wb = 1.0, 1.0, 1.0
    width = 0.0
    for bounce in range(3):
        t, i, face = closest(s, ox, oy, oz, dx, dy, dz, FAR, True)
        if i < 0:
            break
        px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
        x, y, z = to_shape(s, i, px, py, pz)
        nx, ny, nz = normal_at(s, i, face, x, y, z)
        u, v = chart(s.kind[i], face, x, y, z)
        cosine = max(-(nx * dx + ny * dy + nz * dz), 1e-3)
        width += t * spread
        ar, ag, ab = _reflectance(s, i, face, u, v, width * width / cosine)
        fresnel = s.reflectance[i]
        if fresnel > 0.0:
            fresnel += (1.0 - fresnel) * (1.0 - cosine) ** 5
        red, green, blue = red + wr * s.emission[i, 0], green + wg * s.emission[i, 1], blue + wb * s.emission[i, 2]
        if not s.metal[i]:
            if bounce == 0 and memo[0] == i and memo[1] == face:
                er, eg, eb = memo[2], memo[3], memo[4]
            else:
                er, eg, eb = _irradiance(s, i, face, u, v, px, py, pz, nx, ny, nz)
                if bounce == 0:
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


@njit(**COMPILE)
def trace_colors(s, camera, focal, samples, colors, memo):
    """Fill a picture with linear colour; samples x samples rays a pixel, box filter.

    Each ray is clipped to 1 before the mean, so that the edge of a lamp is as smooth as any other edge. ``memo`` [5] is
    working space.
    """
    height, width = colors.shape[0], colors.shape[1]
    spread = 1.0 / (focal * samples)

    for y in range(height):
        for x in range(width):
            memo[0] = -1.0
            r, g, b = 0.0, 0.0, 0.0
            for k in range(samples * samples):
                sx, sy = x + (k % samples + 0.5) / samples, y + (k // samples + 0.5) / samples
                dx, dy, dz, _ = pixel_ray(camera, focal, sx, sy, width, height)
                p, q, m = _radiance(s, camera[0, 3], camera[1, 3], camera[2, 3], dx, dy, dz, spread, memo)
                r, g, b = r + min(p, 1.0), g + min(q, 1.0), b + min(m, 1.0)
            colors[y, x, 0] = r / (samples * samples)
            colors[y, x, 1] = g / (samples * samples)
            colors[y, x, 2] = b / (samples * samples)


@njit(**COMPILE)
def bake_direct(s, i, face, side):
    """Fill one face's map of direct light; side x side shadow rays a lamp and texel."""
    first, width, height = s.maps[i, face, 0], s.maps[i, face, 1], s.maps[i, face, 2]
    for k in range(width * height):
        px, py, pz, nx, ny, nz = surface_point(s, i, face, (k % width + 0.5) / width, (k // width + 0.5) / height)
        r, g, b = _direct(s, px, py, pz, nx, ny, nz, side, _hash(first + k, 1), _hash(first + k, 2), False)
        s.direct[first + k, 0], s.direct[first + k, 1], s.direct[first + k, 2] = r, g, b


@njit(**INLINE)
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
        x, y, z = to_shape(s, i, px + t * dx, py + t * dy, pz + t * dz)
        u, v = chart(s.kind[i], face, x, y, z)
        r, g, e = _baked(s, i, face, u, v, s.direct, 0)
        p, q, m = _baked(s, i, face, u, v, s.bounced, 3)
        red += s.mean_color[i, 0] * (r + p)
        green += s.mean_color[i, 1] * (g + q)
        blue += s.mean_color[i, 2] * (e + m)
    return red / rays, green / rays, blue / rays


@njit(**COMPILE)
def bake_bounced(s, i, face, rays, out):
    """Fill one face's map of bounced light in ``out`` from the maps so far."""
    first, width, height = s.maps[i, face, 3], s.maps[i, face, 4], s.maps[i, face, 5]
    for k in range(width * height):
        px, py, pz, nx, ny, nz = surface_point(s, i, face, (k % width + 0.5) / width, (k // width + 0.5) / height)
        r, g, b = _gather(s, px, py, pz, nx, ny, nz, rays, _hash(first + k, 3), _hash(first + k, 4))
        out[first + k, 0], out[first + k, 1], out[first + k, 2] = r, g, b


@njit(**COMPILE)
def ambient_cube(s, x, y, z, rays, cube):
    """Bounced light at a point in space on six little faces: +x, -x, +y, -y, +z, -z."""
    for side in range(6):
        n = 1.0 if side % 2 == 0 else -1.0
        axis = side // 2
        nx, ny, nz = n if axis == 0 else 0.0, n if axis == 1 else 0.0, n if axis == 2 else 0.0
        cube[side, 0], cube[side, 1], cube[side, 2] = _gather(s, x, y, z, nx, ny, nz, rays, 0.5, 0.5)
