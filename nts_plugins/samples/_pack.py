# SPDX-License-Identifier: Apache-2.0
"""A scene as flat arrays, the form that the kernels read."""

from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from nts_plugins.samples.scene import Light, Material, Scene, Solid, Texture, solid_bounds, solid_to_world

KINDS = {"rectangle": 0, "box": 1, "sphere": 2, "cylinder": 3}
FACES = {"rectangle": 1, "box": 6, "sphere": 1, "cylinder": 3}


class Packed(NamedTuple):
    """N primitives, fixed ones first, with everything that a ray may ask about them."""

    n_fixed: int
    kind: NDArray[np.int64]  # [N] see KINDS
    to_local: NDArray[np.float64]  # [N, 3, 4] world to the canonical shape in [-1, 1]
    to_world: NDArray[np.float64]  # [N, 3, 4]
    normal: NDArray[np.float64]  # [N, 3, 3] carries normals of the canonical shape to the world
    bound: NDArray[np.float64]  # [N, 4] bounding sphere
    curvature: NDArray[np.float64]  # [N] 1/m, how much a mirror opens a ray's cone
    texture: NDArray[np.int64]  # [N] row of the texture tables
    copies: NDArray[np.float64]  # [N, 6, 2] copies of the texture across and down each face
    texel_area: NDArray[np.float64]  # [N, 6] square metres of one texel
    reflectance: NDArray[np.float64]  # [N]
    metal: NDArray[np.bool_]  # [N]
    emission: NDArray[np.float64]  # [N, 3]
    mean_color: NDArray[np.float64]  # [N, 3] what a face sends on, for bounced light
    texels: NDArray[np.float32]  # [T, 3] all levels of all textures
    texture_levels: NDArray[np.int64]  # [K, L, 3] first texel, width, height of a level
    texture_depth: NDArray[np.int64]  # [K] number of levels
    texture_repeat: NDArray[np.bool_]  # [K]
    lamps: NDArray[np.float64]  # [L, 19] see _pack_lamp
    maps: NDArray[np.int64]  # [N, 6, 6] first texel, width, height in `direct`, then in `bounced`
    direct: NDArray[np.float32]  # [D, 3] irradiance straight from the lamps
    bounced: NDArray[np.float32]  # [B, 3] irradiance by way of other surfaces
    ambient: NDArray[np.float32]  # [N - n_fixed, 6, 3] bounced irradiance around each moving primitive
    tree_box: NDArray[np.float64]  # [M, 6] lowest and highest corner, in the tree over the fixed primitives
    tree_skip: NDArray[np.int64]  # [M] row behind everything inside this box
    tree_first: NDArray[np.int64]  # [M] first of a leaf's primitives
    tree_count: NDArray[np.int64]  # [M] primitives of a leaf, 0 for others
    tree_prims: NDArray[np.int64]  # [n_fixed]


def pack(scene: Scene, texel: float) -> Tuple[Packed, List[Solid]]:
    """Flatten a scene as it is at time 0, light maps allotted but dark.

    Args:
        scene: what to flatten.
        texel: metres that a texel of the direct light's maps covers; bounced light gets texels three times as wide.

    Returns:
        The arrays, and the solids in the order of the primitives.
    """
    solids = [s for s in scene.solids if s.motion is None] + [s for s in scene.solids if s.motion is not None]
    n_fixed = sum(solid.motion is None for solid in solids)
    rows: Dict[int, int] = {}
    for solid in solids:
        rows.setdefault(id(solid.material.texture), len(rows))
    textures = list({id(solid.material.texture): solid.material.texture for solid in solids}.values())
    texels, levels, depth = _pack_textures(textures)
    sizes = np.stack([_chart_sizes(solid) for solid in solids])
    maps, n_direct, n_bounced = _allot_maps(solids[:n_fixed], sizes, texel)
    materials = [solid.material for solid in solids]
    copies, areas = _texture_scales(sizes, materials)
    placed = _place(solids, 0.0)
    tree = _build_tree([solid_bounds(solid) for solid in solids[:n_fixed]])
    packed = Packed(
        n_fixed=n_fixed,
        kind=np.array([KINDS[solid.shape] for solid in solids], np.int64),
        **placed,
        curvature=np.array([_curvature(solid) for solid in solids]),
        texture=np.array([rows[id(material.texture)] for material in materials], np.int64),
        copies=copies,
        texel_area=areas,
        reflectance=np.array([material.reflectance for material in materials], np.float64),
        metal=np.array([material.metal for material in materials], np.bool_),
        emission=np.array([material.emission for material in materials], np.float64),
        mean_color=np.array([_sent_on(m, texels[levels[rows[id(m.texture)]].max(0)[0]]) for m in materials]),
        texels=texels,
        texture_levels=levels,
        texture_depth=depth,
        texture_repeat=np.array([texture.repeat for texture in textures], np.bool_),
        lamps=np.array([_pack_lamp(light) for light in scene.lights], np.float64).reshape(-1, 19),
        maps=np.concatenate([maps, np.zeros((len(solids) - n_fixed, 6, 6), np.int64)]),
        direct=np.zeros((n_direct, 3), np.float32),
        bounced=np.zeros((n_bounced, 3), np.float32),
        ambient=np.zeros((len(solids) - n_fixed, 6, 3), np.float32),
        tree_box=tree[0],
        tree_skip=tree[1],
        tree_first=tree[2],
        tree_count=tree[3],
        tree_prims=tree[4],
    )
    return packed, solids


def move(packed: Packed, solids: List[Solid], time: float) -> Packed:
    """The same scene at another time. Light maps are shared; ``ambient`` is a fresh array to be filled."""
    if packed.n_fixed == len(solids):
        return packed
    return packed._replace(**_place(solids, time), ambient=np.zeros_like(packed.ambient))


def _place(solids: List[Solid], time: float) -> Dict[str, NDArray[np.float64]]:
    """The arrays that say where things are."""
    poses = np.stack([solid_to_world(solid, time) for solid in solids])
    sizes = np.array([solid.half_size for solid in solids], np.float64)
    sizes[[solid.shape == "rectangle" for solid in solids], 2] = 1.0
    to_world = poses[:, :3].copy()
    to_world[:, :, :3] *= sizes[:, None, :]
    turned = poses[:, :3, :3].transpose(0, 2, 1) / sizes[:, :, None]
    shift = -np.einsum("nij,nj->ni", turned, poses[:, :3, 3])
    radius = np.where(
        [solid.shape == "sphere" for solid in solids], sizes.max(1), np.linalg.norm(to_world[:, :, :3], axis=(1, 2))
    )
    return {
        "to_world": to_world,
        "to_local": np.concatenate([turned, shift[:, :, None]], axis=2),
        "normal": np.ascontiguousarray(turned.transpose(0, 2, 1)),
        "bound": np.concatenate([poses[:, :3, 3], radius[:, None]], axis=1),
    }


def _chart_sizes(solid: Solid) -> NDArray[np.float64]:
    """[6, 2] width and height of a solid's faces in metres; zeros for faces that it lacks."""
    x, y, z = (2.0 * value for value in solid.half_size)
    around = np.pi * (x + y) / 2.0
    sizes = {
        "rectangle": [(x, y)],
        "box": [(y, z), (y, z), (x, z), (x, z), (x, y), (x, y)],
        "sphere": [(around, np.pi * z / 2.0)],
        "cylinder": [(around, z), (x, y), (x, y)],
    }[solid.shape]
    return np.array(sizes + [(0.0, 0.0)] * (6 - len(sizes)), np.float64)


def _sent_on(material: Material, mean: NDArray[np.float32]) -> NDArray[np.float64]:
    """Share of the light on a surface that it sends on. A lamp's own light is not in it: lamps are lit directly."""
    return mean.astype(np.float64) * (material.reflectance if material.metal else 1.0)


def _texture_scales(
    sizes: NDArray[np.float64], materials: List[Material]
) -> Tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``copies`` and ``texel_area`` of :class:`Packed`; ones for faces that a shape lacks."""
    copies, areas = np.ones((len(materials), 6, 2)), np.ones((len(materials), 6))
    for i, material in enumerate(materials):
        there = sizes[i, :, 0] > 0.0
        if material.tile is not None:
            copies[i, there] = sizes[i, there] / material.tile
        height, width = material.texture.texels.shape[:2]
        areas[i, there] = (sizes[i, there] / copies[i, there]).prod(1) / (width * height)
    return copies, areas


def _curvature(solid: Solid) -> float:
    if solid.shape == "sphere":
        return 3.0 / sum(solid.half_size)
    return 1.0 / (solid.half_size[0] + solid.half_size[1]) if solid.shape == "cylinder" else 0.0


def _pack_textures(
    textures: List[Texture],
) -> Tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Every texture with its ever smaller versions, each half as wide, down to one texel."""
    import cv2

    pyramids = []
    for texture in textures:
        levels = [np.ascontiguousarray(texture.texels, np.float32)]
        while max(levels[-1].shape[:2]) > 1:
            height, width = levels[-1].shape[:2]
            size = (max(1, width // 2), max(1, height // 2))
            levels.append(np.asarray(cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA), np.float32))
        pyramids.append(levels)
    table = np.zeros((len(pyramids), max(map(len, pyramids)), 3), np.int64)
    first, flat = 0, []
    for row, levels in zip(table, pyramids, strict=True):
        for entry, level in zip(row, levels, strict=False):
            entry[:] = first, level.shape[1], level.shape[0]
            flat.append(level.reshape(-1, 3))
            first += len(flat[-1])
    return np.concatenate(flat), table, np.array([len(levels) for levels in pyramids], np.int64)


def _allot_maps(solids: List[Solid], sizes: NDArray[np.float64], texel: float) -> Tuple[NDArray[np.int64], int, int]:
    """Room for the light maps of every face of the fixed solids."""
    maps = np.zeros((len(solids), 6, 6), np.int64)
    used = [0, 0]
    for i, solid in enumerate(solids):
        for face in range(FACES[solid.shape]):
            for table, step in enumerate((texel, 3.0 * texel)):
                width, height = np.maximum(np.ceil(sizes[i, face] / step), 2).astype(int)
                maps[i, face, 3 * table : 3 * table + 3] = used[table], width, height
                used[table] += width * height
    return maps, used[0], used[1]


def _pack_lamp(light: Light) -> NDArray[np.float64]:
    """centre 0:3, half_u 3:6, half_v 6:9, front 9:12, area 12, radiance 13:16, cosines of the cone 16:18, reach 18.

    A lamp without a cone has -1 as both cosines.
    """
    u, v = np.asarray(light.half_u, np.float64), np.asarray(light.half_v, np.float64)
    front = np.cross(u, v)
    area = 4.0 * np.linalg.norm(front)
    cone = (-1.0, -1.0) if light.cone is None else tuple(np.cos(np.radians(light.cone)))
    reach = np.linalg.norm(np.abs(u) + np.abs(v))
    return np.concatenate([light.centre, u, v, 4.0 * front / area, [area], light.radiance, cone, [reach]])


def _build_tree(boxes: List[Tuple[NDArray[np.float64], NDArray[np.float64]]]):
    """A binary tree of bounding boxes in depth-first order.

    Returns:
        The arrays ``tree_box``, ``tree_skip``, ``tree_first``, ``tree_count`` and ``tree_prims`` of :class:`Packed`.
    """
    # A little wider, so that rounding cannot lose a ray that meets a flat thing in its box's own plane.
    low = np.array([box[0] for box in boxes]).reshape(-1, 3) - 1e-6
    high = np.array([box[1] for box in boxes]).reshape(-1, 3) + 1e-6
    corners: List[NDArray[np.float64]] = []
    links: List[List[int]] = []  # skip, first, count
    order: List[int] = []

    def split(members: NDArray[np.int64]) -> None:
        row = len(links)
        corners.append(np.concatenate([low[members].min(0), high[members].max(0)]))
        links.append([0, len(order), 0])
        parts = _cheapest_split(low[members], high[members])
        if parts is None:
            links[row][2] = len(members)
            order.extend(members.tolist())
        else:
            split(members[parts[0]])
            split(members[parts[1]])
        links[row][0] = len(links)

    if boxes:
        split(np.arange(len(boxes)))
    table = np.array(links, np.int64).reshape(-1, 3)
    skip, first, count = (np.ascontiguousarray(column) for column in table.T)
    return np.array(corners).reshape(-1, 6), skip, first, count, np.array(order, np.int64)


def _cheapest_split(low: NDArray[np.float64], high: NDArray[np.float64]) -> Optional[Tuple[NDArray, NDArray]]:
    """Cut a set of boxes in two where rays will have least to do: surface area heuristic over all cuts of all axes.

    Returns:
        Row numbers of both parts, or None when testing every box at once is cheaper.
    """
    n = len(low)
    best, parts = 2.0 * _area(low.min(0), high.max(0)) * (n - 0.5), None
    for axis in range(3):
        order = np.argsort(low[:, axis] + high[:, axis], kind="stable")
        a, b = low[order], high[order]
        left = _area(np.minimum.accumulate(a), np.maximum.accumulate(b))[:-1]
        right = _area(np.minimum.accumulate(a[::-1]), np.maximum.accumulate(b[::-1]))[::-1][1:]
        count = np.arange(1, n)
        cost = 2.0 * (left * count + right * (n - count))
        if n > 1 and cost.min() < best:
            cut = int(np.argmin(cost)) + 1
            best, parts = float(cost.min()), (order[:cut], order[cut:])
    return parts


def _area(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the surface of boxes [..., 3]."""
    x, y, z = np.moveaxis(high - low, -1, 0)
    return x * y + y * z + z * x
