# SPDX-License-Identifier: Apache-2.0
"""Where rays meet shapes: the geometric inner loops, compiled by numba.

They read a :class:`~nts_plugins.samples._pack.Packed` scene, called ``s``. All of it is float64, so that depth is exact
to rounding. A shape is met from outside only: a ray that starts inside one passes through its far wall.
"""

import math

from numba.core.registry import cpu_target

from nts_plugins.kernels._cache import njit

# Taking an array out of a tuple counts a reference, an atomic write each time, which would cost more than the rays.
# None of these kernels makes or keeps an array, so counting can be turned off, where numba knows the option.
_UNCOUNTED = {"_nrt": False} if hasattr(cpu_target.options, "_nrt") else {}

COMPILE = {"cache": True, "nogil": True, "error_model": "numpy", **_UNCOUNTED}
"""Options of the kernels that Python calls. They let go of the interpreter's lock; what is compiled is kept on disk."""
INLINE = {"error_model": "numpy", "forceinline": True, **_UNCOUNTED}
"""Options of the functions that those are made of. A call that is not inlined would copy the whole tuple."""

RECTANGLE, BOX, SPHERE, CYLINDER = 0, 1, 2, 3
OFFSET = 1e-4
"""Metres that a secondary ray starts off its surface."""
FAR = 1e30


@njit(**INLINE)
def _inverse(d):
    """1 / d, and a huge number instead of infinity, which would make a NaN of 0 times it."""
    return 1.0 / d if abs(d) > 1e-300 else 1e300


@njit(**INLINE)
def _slab(o, inverse, low, high):
    """Where a ray crosses one axis' pair of planes; ``inverse`` is that of its direction."""
    a, b = (low - o) * inverse, (high - o) * inverse
    return min(a, b), max(a, b)


@njit(**INLINE)
def _hit_rectangle(ox, oy, oz, dx, dy, dz):
    if dz >= 0.0:
        return FAR, 0
    t = -oz / dz
    if t > 0.0 and abs(ox + t * dx) <= 1.0 and abs(oy + t * dy) <= 1.0:
        return t, 0
    return FAR, 0


@njit(**INLINE)
def _hit_box(ox, oy, oz, dx, dy, dz):
    x0, x1 = _slab(ox, _inverse(dx), -1.0, 1.0)
    y0, y1 = _slab(oy, _inverse(dy), -1.0, 1.0)
    z0, z1 = _slab(oz, _inverse(dz), -1.0, 1.0)
    t = max(x0, y0, z0)
    if t > min(x1, y1, z1) or t <= 0.0:
        return FAR, 0
    if t == x0:
        return t, 0 if dx < 0.0 else 1
    if t == y0:
        return t, 2 if dy < 0.0 else 3
    return t, 4 if dz < 0.0 else 5


@njit(**INLINE)
def _hit_sphere(ox, oy, oz, dx, dy, dz):
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    # The squared distance of the ray's line from the centre, without the cancellation of b^2 - a c.
    k = b / a
    lx, ly, lz = ox - k * dx, oy - k * dy, oz - k * dz
    rest = 1.0 - (lx * lx + ly * ly + lz * lz)
    if rest <= 0.0:
        return FAR, 0
    t = -k - math.sqrt(rest / a)
    return (t, 0) if t > 0.0 else (FAR, 0)


@njit(**INLINE)
def _hit_cylinder(ox, oy, oz, dx, dy, dz):
    if abs(dz) > 1e-300:
        cap = 1.0 if dz < 0.0 else -1.0
        t = (cap - oz) / dz
        x, y = ox + t * dx, oy + t * dy
        if t > 0.0 and x * x + y * y <= 1.0:
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
    return (t, 0) if t > 0.0 and abs(oz + t * dz) <= 1.0 else (FAR, 0)


@njit(**INLINE)
def hit(s, i, ox, oy, oz, dx, dy, dz):
    """Distance along a world ray to primitive i from outside, and the face (chart) that it meets."""
    m = s.to_local
    px = m[i, 0, 0] * ox + m[i, 0, 1] * oy + m[i, 0, 2] * oz + m[i, 0, 3]
    py = m[i, 1, 0] * ox + m[i, 1, 1] * oy + m[i, 1, 2] * oz + m[i, 1, 3]
    pz = m[i, 2, 0] * ox + m[i, 2, 1] * oy + m[i, 2, 2] * oz + m[i, 2, 3]
    qx = m[i, 0, 0] * dx + m[i, 0, 1] * dy + m[i, 0, 2] * dz
    qy = m[i, 1, 0] * dx + m[i, 1, 1] * dy + m[i, 1, 2] * dz
    qz = m[i, 2, 0] * dx + m[i, 2, 1] * dy + m[i, 2, 2] * dz
    kind = s.kind[i]
    if kind == RECTANGLE:
        return _hit_rectangle(px, py, pz, qx, qy, qz)
    if kind == BOX:
        return _hit_box(px, py, pz, qx, qy, qz)
    if kind == SPHERE:
        return _hit_sphere(px, py, pz, qx, qy, qz)
    return _hit_cylinder(px, py, pz, qx, qy, qz)


@njit(**INLINE)
def closest(s, ox, oy, oz, dx, dy, dz, far, moving):
    """First thing that a ray meets: distance, primitive (-1 for none) and face.

    Fixed primitives come from the tree of boxes, moving ones (if asked for) from the list behind them. The tree is
    walked without a stack: a node's first child is the next row, and a box that is missed is skipped with all in it.
    """
    best, prim, face = far, -1, 0
    ix, iy, iz = _inverse(dx), _inverse(dy), _inverse(dz)
    node, end = 0, s.tree_skip.shape[0]
    while node < end:
        x0, x1 = _slab(ox, ix, s.tree_box[node, 0], s.tree_box[node, 3])
        y0, y1 = _slab(oy, iy, s.tree_box[node, 1], s.tree_box[node, 4])
        z0, z1 = _slab(oz, iz, s.tree_box[node, 2], s.tree_box[node, 5])
        leave = min(x1, y1, z1)
        if max(x0, y0, z0) > min(leave, best) or leave < 0.0:
            node = s.tree_skip[node]
            continue
        for k in range(s.tree_first[node], s.tree_first[node] + s.tree_count[node]):
            i = s.tree_prims[k]
            t, f = hit(s, i, ox, oy, oz, dx, dy, dz)
            if t < best:
                best, prim, face = t, i, f
        node += 1
    if moving:
        for i in range(s.n_fixed, s.kind.shape[0]):
            t, f = hit(s, i, ox, oy, oz, dx, dy, dz)
            if t < best:
                best, prim, face = t, i, f
    return best, prim, face


@njit(**INLINE)
def to_shape(s, i, x, y, z):
    m = s.to_local
    return (
        m[i, 0, 0] * x + m[i, 0, 1] * y + m[i, 0, 2] * z + m[i, 0, 3],
        m[i, 1, 0] * x + m[i, 1, 1] * y + m[i, 1, 2] * z + m[i, 1, 3],
        m[i, 2, 0] * x + m[i, 2, 1] * y + m[i, 2, 2] * z + m[i, 2, 3],
    )


@njit(**INLINE)
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


@njit(**INLINE)
def normal_at(s, i, face, x, y, z):
    """Unit world normal at a local surface point."""
    a, b, c = _face_normal(s.kind[i], face, x, y, z)
    m = s.normal
    nx = m[i, 0, 0] * a + m[i, 0, 1] * b + m[i, 0, 2] * c
    ny = m[i, 1, 0] * a + m[i, 1, 1] * b + m[i, 1, 2] * c
    nz = m[i, 2, 0] * a + m[i, 2, 1] * b + m[i, 2, 2] * c
    scale = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
    return nx * scale, ny * scale, nz * scale


@njit(**INLINE)
def chart(kind, face, x, y, z):
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


@njit(**INLINE)
def unchart(kind, face, u, v):
    """The inverse of :func:`chart`."""
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


@njit(**INLINE)
def crosses(s, i, px, py, pz, dx, dy, dz, distance, extra):
    """Whether a ray of some length comes near primitive i's bounding sphere, made ``extra`` wider at its far end."""
    bx, by, bz = s.bound[i, 0] - px, s.bound[i, 1] - py, s.bound[i, 2] - pz
    along = min(max(bx * dx + by * dy + bz * dz, 0.0), distance)
    bx, by, bz = bx - along * dx, by - along * dy, bz - along * dz
    reach = s.bound[i, 3] + extra * along / distance
    return bx * bx + by * by + bz * bz < reach * reach


@njit(**INLINE)
def surface_point(s, i, face, u, v):
    """World point a little off a primitive's face, and the normal there."""
    x, y, z = unchart(s.kind[i], face, u, v)
    nx, ny, nz = normal_at(s, i, face, x, y, z)
    m = s.to_world
    px = m[i, 0, 0] * x + m[i, 0, 1] * y + m[i, 0, 2] * z + m[i, 0, 3] + OFFSET * nx
    py = m[i, 1, 0] * x + m[i, 1, 1] * y + m[i, 1, 2] * z + m[i, 1, 3] + OFFSET * ny
    pz = m[i, 2, 0] * x + m[i, 2, 1] * y + m[i, 2, 2] * z + m[i, 2, 3] + OFFSET * nz
    return px, py, pz, nx, ny, nz


@njit(**INLINE)
def pixel_ray(camera, focal, x, y, width, height):
    """Unit world direction through image position (x, y), and its share along the viewing axis."""
    a, b = (x - 0.5 * width) / focal, -(y - 0.5 * height) / focal
    scale = 1.0 / math.sqrt(a * a + b * b + 1.0)
    dx = (camera[0, 0] * a + camera[0, 1] * b - camera[0, 2]) * scale
    dy = (camera[1, 0] * a + camera[1, 1] * b - camera[1, 2]) * scale
    dz = (camera[2, 0] * a + camera[2, 1] * b - camera[2, 2]) * scale
    return dx, dy, dz, scale


@njit(**COMPILE)
def trace_geometry(s, camera, focal, depth, normals, primitives):
    """Depth along the viewing axis, unit world normal and primitive (-1 for none) at every pixel's centre."""
    height, width = depth.shape
    for y in range(height):
        for x in range(width):
            dx, dy, dz, scale = pixel_ray(camera, focal, x + 0.5, y + 0.5, width, height)
            ox, oy, oz = camera[0, 3], camera[1, 3], camera[2, 3]
            t, i, face = closest(s, ox, oy, oz, dx, dy, dz, FAR, True)
            primitives[y, x] = i
            if i < 0:
                continue
            depth[y, x] = t * scale
            a, b, c = to_shape(s, i, ox + t * dx, oy + t * dy, oz + t * dz)
            nx, ny, nz = normal_at(s, i, face, a, b, c)
            normals[y, x, 0], normals[y, x, 1], normals[y, x, 2] = nx, ny, nz
