# SPDX-License-Identifier: Apache-2.0
"""Reading an axis of a texture, and the way back, where a place lies exactly on a texel, on the last one, or outside.

Scenes hardly ever have such places, and comparisons of backends leave them out: rounding decides there.
"""

import numpy as np
import pytest
from numba import njit

from nts_plugins.kernels.texture_sampling import OUTSIDE, TEXEL, keep_axis, pull_axis, read_axis
from nts_plugins.kernels.vectors import LANES, load, store


@njit
def read(vectors, places, resolution, out):
    v0, v1, v2, v3, v4, v5, v6, v7 = read_axis(vectors, 0, resolution, load(places, 0, LANES))
    keep_axis(out, 0, v0, v1, v2, v3, v4, v5, v6, v7)


@njit
def pull(vectors, places, resolution, upstream, grads, slopes):
    slope = pull_axis(
        vectors, 0, resolution, load(places, 0, LANES), grads, 0, True,
        load(upstream, 0, LANES), load(upstream, LANES, LANES), load(upstream, 2 * LANES, LANES),
        load(upstream, 3 * LANES, LANES), load(upstream, 4 * LANES, LANES), load(upstream, 5 * LANES, LANES),
        load(upstream, 6 * LANES, LANES), load(upstream, 7 * LANES, LANES),
    )  # fmt: skip
    store(slopes, 0, slope)


@pytest.mark.parametrize("resolution", [2, 3, 5])
def test_places_on_texels_and_beyond_the_ends(resolution: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((resolution, TEXEL)).astype(np.float32)
    upstream = rng.standard_normal((TEXEL, LANES)).astype(np.float32)
    places = rng.uniform(0, resolution - 1, LANES).astype(np.float32)
    places[:resolution], places[resolution] = np.arange(resolution), OUTSIDE
    inside = places >= 0
    low = np.clip(np.floor(places).astype(int), 0, resolution - 2)
    weights = np.zeros((LANES, resolution))
    lanes = np.arange(LANES)
    weights[lanes, low], weights[lanes, low + 1] = 1 - (places - low), places - low
    weights[~inside] = 0

    out = np.zeros(TEXEL * LANES, np.float32)
    read(vectors.reshape(-1), places, resolution, out)
    np.testing.assert_allclose(out.reshape(TEXEL, LANES).T, weights @ vectors, atol=1e-6)

    grads, slopes = np.ones(resolution * TEXEL, np.float32), np.zeros(LANES, np.float32)
    pull(vectors.reshape(-1), places, resolution, upstream.reshape(-1), grads, slopes)
    np.testing.assert_allclose(grads.reshape(resolution, TEXEL), 1 + (upstream @ weights).T, atol=2e-6)
    rise = np.einsum("cl,lc->l", upstream, vectors[low + 1] - vectors[low])
    np.testing.assert_allclose(slopes, np.where(inside, rise, 0), atol=2e-6)
