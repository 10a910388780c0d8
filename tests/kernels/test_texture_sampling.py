# SPDX-License-Identifier: Apache-2.0
"""Reading a plane of a texture, and the way back, where places lie exactly on texels, on the last one, or outside.

Scenes hardly ever have such places, and comparisons of backends leave them out: rounding decides there.
"""

import numpy as np
import pytest
from numba import njit

from nts_plugins.kernels.pieces import counters
from nts_plugins.kernels.texture_places import OUTSIDE
from nts_plugins.kernels.texture_sampling import (
    AXES,
    PER_VECTOR,
    TEXEL,
    four_kept,
    keep_four,
    pull_products,
    sample_products,
    table_width,
    tabulate,
)
from nts_plugins.kernels.vectors import LANES, load, store


@njit
def read(vectors, n_planes, planes, places, resolution, axes, out):
    x, y, z = load(places, 0, LANES), load(places, LANES, LANES), load(places, 2 * LANES, LANES)
    red, green, blue, opacity = sample_products(vectors, 0, n_planes, resolution, x, y, z, planes, 0, axes, 0, True)
    keep_four(out, 0, red, green, blue, opacity)


@njit
def pull(vectors, n_planes, planes, resolution, axes, upstream, grads, slopes, of_planes):
    red, green, blue, opacity = four_kept(upstream, 0)
    of_xy, of_yz, of_zx = pull_products(
        vectors, 0, n_planes, resolution, planes, 0, axes, 0, red, green, blue, opacity, grads, 0, slopes, True
    )
    store(of_planes, 0, of_xy)
    store(of_planes, LANES, of_yz)
    store(of_planes, 2 * LANES, of_zx)


@pytest.mark.parametrize("n_planes", [1, 3])
@pytest.mark.parametrize("resolution", [2, 3, 5, 19])  # 19 texels fill more than one vector
def test_places_on_texels_and_beyond_the_ends(resolution: int, n_planes: int) -> None:
    rng, lanes = np.random.default_rng(0), np.arange(LANES)
    vectors = rng.standard_normal((n_planes, resolution, TEXEL)).astype(np.float32)
    upstream = rng.standard_normal((PER_VECTOR, LANES)).astype(np.float32)
    places = rng.uniform(0, resolution - 1, (3, LANES)).astype(np.float32)
    some = np.linspace(0, resolution - 1, min(resolution, LANES - 1), dtype=int)
    places[0, : len(some)], places[0, len(some)] = some, OUTSIDE
    places[1, -len(some) :], places[1, 0] = some, OUTSIDE
    planes = np.array([0.7, -0.3, 1.1], np.float32)[:n_planes]
    low = np.clip(np.floor(places).astype(int), 0, resolution - 2)
    weights = np.zeros((3, LANES, resolution))
    for axis in range(3):
        weights[axis, lanes, low[axis]] = 1 - (places[axis] - low[axis])
        weights[axis, lanes, low[axis] + 1] = places[axis] - low[axis]
    weights[places < 0] = 0

    shown, grads = np.zeros((PER_VECTOR, LANES)), np.ones((n_planes, resolution, TEXEL))
    rises, of_planes = np.zeros((3, LANES)), np.zeros((3, LANES))
    for plane in range(n_planes):
        a, b = plane, (plane + 1) % 3
        first, second = vectors[plane, :, :PER_VECTOR], vectors[(plane + 1) % n_planes, :, PER_VECTOR:]
        on_a, on_b = (weights[a] @ first).T, (weights[b] @ second).T  # [4, LANES]
        shown += planes[plane] * on_a * on_b
        of_planes[plane] = (upstream * on_a * on_b).sum(axis=0)
        grad_a, grad_b = planes[plane] * upstream * on_b, planes[plane] * upstream * on_a
        grads[plane, :, :PER_VECTOR] += (grad_a @ weights[a]).T
        grads[(plane + 1) % n_planes, :, PER_VECTOR:] += (grad_b @ weights[b]).T
        rises[a] += (grad_a * (first[low[a] + 1] - first[low[a]]).T).sum(axis=0) * (places[a] >= 0)
        rises[b] += (grad_b * (second[low[b] + 1] - second[low[b]]).T).sum(axis=0) * (places[b] >= 0)

    tables = np.full(n_planes * TEXEL * table_width(resolution), np.nan, np.float32)
    tabulate((counters(1), 0), vectors.reshape(-1), resolution, tables)
    axes, out = np.full(AXES, np.nan, np.float32), np.zeros((PER_VECTOR, LANES), np.float32)
    read(tables, n_planes, planes, places.reshape(-1), resolution, axes, out.reshape(-1))
    np.testing.assert_allclose(out, shown, atol=2e-6)
    found = np.ones((n_planes, resolution, TEXEL), np.float32)
    slopes, by_plane = np.zeros((3, LANES), np.float32), np.zeros((3, LANES), np.float32)
    pull(
        tables, n_planes, planes, resolution, axes, upstream.reshape(-1), found.reshape(-1),
        slopes.reshape(-1), by_plane.reshape(-1),
    )  # fmt: skip
    np.testing.assert_allclose(found, grads, atol=6e-6)
    np.testing.assert_allclose(slopes, rises, atol=6e-6)
    np.testing.assert_allclose(by_plane, of_planes, atol=6e-6)
