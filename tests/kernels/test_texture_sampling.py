# SPDX-License-Identifier: Apache-2.0
"""Reading a plane of a texture, and the way back, where places lie exactly on texels, on the last one, or outside.

Scenes hardly ever have such places, and comparisons of backends leave them out: rounding decides there.
"""

import numpy as np
import pytest
from numba import njit

from nts_plugins.kernels.texture_sampling import (
    AXES,
    OUTSIDE,
    PER_VECTOR,
    TEXEL,
    four_kept,
    keep_four,
    pull_products,
    sample_products,
)
from nts_plugins.kernels.vectors import LANES, load, store


@njit
def read(vectors, planes, places, resolution, axes, out):
    x, y, z = load(places, 0, LANES), load(places, LANES, LANES), load(places, 2 * LANES, LANES)
    red, green, blue, opacity = sample_products(vectors, 0, resolution, x, y, z, planes, 0, axes, 0, True)
    keep_four(out, 0, red, green, blue, opacity)


@njit
def pull(vectors, planes, resolution, axes, upstream, grads, slopes, of_planes):
    red, green, blue, opacity = four_kept(upstream, 0)
    of_xy, of_yz, of_zx = pull_products(
        vectors, 0, resolution, planes, 0, axes, 0, red, green, blue, opacity, grads, 0, slopes, True
    )
    store(of_planes, 0, of_xy)
    store(of_planes, LANES, of_yz)
    store(of_planes, 2 * LANES, of_zx)


@pytest.mark.parametrize("plane", [0, 1, 2], ids=["xy", "yz", "zx"])
@pytest.mark.parametrize("resolution", [2, 3, 5])
def test_places_on_texels_and_beyond_the_ends(resolution: int, plane: int) -> None:
    """Of one plane; the others have weight 0 and are left alone."""
    rng, a, b = np.random.default_rng(0), plane, (plane + 1) % 3
    vectors = rng.standard_normal((3, resolution, TEXEL)).astype(np.float32)
    upstream = rng.standard_normal((PER_VECTOR, LANES)).astype(np.float32)
    places = rng.uniform(0, resolution - 1, (3, LANES)).astype(np.float32)
    places[a, :resolution], places[a, resolution] = np.arange(resolution), OUTSIDE
    places[b, -resolution:], places[b, 0] = np.arange(resolution), OUTSIDE
    planes = np.zeros(3, np.float32)
    planes[plane] = 0.7
    low = np.clip(np.floor(places).astype(int), 0, resolution - 2)
    weights = np.zeros((3, LANES, resolution))
    for axis in range(3):
        lanes = np.arange(LANES)
        weights[axis, lanes, low[axis]] = 1 - (places[axis] - low[axis])
        weights[axis, lanes, low[axis] + 1] = places[axis] - low[axis]
    weights[places < 0] = 0
    first, second = vectors[a, :, :PER_VECTOR], vectors[b, :, PER_VECTOR:]
    on_a, on_b = (weights[a] @ first).T, (weights[b] @ second).T  # [4, LANES]

    axes, out = np.full(AXES, np.nan, np.float32), np.zeros(PER_VECTOR * LANES, np.float32)
    read(vectors.reshape(-1), planes, places.reshape(-1), resolution, axes, out)
    np.testing.assert_allclose(out.reshape(PER_VECTOR, LANES), 0.7 * on_a * on_b, atol=1e-6)

    grads = np.ones((3, resolution, TEXEL), np.float32)
    slopes, of_planes = np.zeros(3 * LANES, np.float32), np.zeros(3 * LANES, np.float32)
    pull(vectors.reshape(-1), planes, resolution, axes, upstream.reshape(-1), grads.reshape(-1), slopes, of_planes)
    grad_a, grad_b = 0.7 * upstream * on_b, 0.7 * upstream * on_a
    expected = np.ones((3, resolution, TEXEL))
    expected[a, :, :PER_VECTOR] += (grad_a @ weights[a]).T
    expected[b, :, PER_VECTOR:] += (grad_b @ weights[b]).T
    np.testing.assert_allclose(grads, expected, atol=3e-6)
    rises = np.zeros((3, LANES))
    rises[a] = (grad_a * (first[low[a] + 1] - first[low[a]]).T).sum(axis=0) * (places[a] >= 0)
    rises[b] = (grad_b * (second[low[b] + 1] - second[low[b]]).T).sum(axis=0) * (places[b] >= 0)
    np.testing.assert_allclose(slopes.reshape(3, LANES), rises, atol=3e-6)
    shown = np.zeros((3, LANES))
    shown[plane] = (upstream * on_a * on_b).sum(axis=0)
    np.testing.assert_allclose(of_planes.reshape(3, LANES), shown, atol=3e-6)
