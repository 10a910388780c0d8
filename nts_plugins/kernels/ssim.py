# SPDX-License-Identifier: Apache-2.0
"""L1 and SSIM of two pictures and their gradient, row by row of the picture.

Windows are 11 x 11 with Gaussian weights and lie wholly inside the picture. A row of windows needs five blurred maps
(x, y, x^2, y^2, xy). Blurring down first, straight from the picture's rows, then along a row that stays in the cache,
needs no intermediate picture. Pictures stay interleaved [H, W, C]: along a row, a tap is C numbers away.
"""

import functools

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.pieces import next_piece
from nts_plugins.kernels.vector_math import fma, select, sum_lanes
from nts_plugins.kernels.vectors import LANES, aligned_zeros, broadcast, load, ramp, splat, store

WINDOW = 11
C1, C2 = 0.01**2, 0.03**2
"""The constants of SSIM for values in [0, 1]."""

_F = np.float32


@functools.lru_cache
def gaussian_taps() -> np.ndarray:
    """The 11 weights of the window along one axis, sigma 1.5, float32."""
    taps = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * 1.5**2))
    return (taps / taps.sum()).astype(np.float32)


def padded(length: int) -> int:
    """A row's length rounded up to whole vectors."""
    return -(-length // LANES) * LANES


@njit(nogil=True, cache=True)
def l1_rows(share, x, y, row, sums):
    """``sums`` [H] written: the sum of |x - y| of each row of ``row`` numbers."""
    while True:
        r = next_piece(share, sums.shape[0])
        if r >= sums.shape[0]:
            return
        total = 0.0
        for j in range(r * row, (r + 1) * row):
            total += abs(x[j] - y[j])
        sums[r] = total


@njit(nogil=True, cache=True)
def _blur_along(rows, at, step, taps):
    """sum_i taps[i] rows[at + i step], as a vector."""
    total = broadcast(taps, 0, LANES) * load(rows, at, LANES)
    for i in range(1, WINDOW):
        total = fma(broadcast(taps, i, LANES), load(rows, at + i * step, LANES), total)
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def ssim_rows(share, x, y, row, channels, taps, scale, sums, partials):
    """SSIM of every window, summed over each row of windows, and its partial derivatives.

    Args:
        share: of the work, see ``pieces``; a piece is a row of windows.
        x, y: [H * row] the pictures, row = W * channels numbers a row.
        taps: [11] from :func:`gaussian_taps`.
        scale: factor for ``partials``, 1 / number of windows.
        sums: [H - 10] float64 written.
        partials: [3, H - 10, padded((W - 10) * channels)] written, flat: d SSIM / d blurred x, x^2 and xy; empty to
            leave them out.
    """
    width = row - (WINDOW - 1) * channels
    wide = (width + LANES - 1) // LANES * LANES
    plane = sums.shape[0] * wide
    span = row + 2 * LANES
    down = aligned_zeros(5 * span)
    c1, c2, one, two = splat(_F(C1), LANES), splat(_F(C2), LANES), splat(_F(1), LANES), splat(_F(2), LANES)
    zero, factor = splat(_F(0), LANES), splat(scale, LANES)
    while True:
        r = next_piece(share, sums.shape[0])
        if r >= sums.shape[0]:
            return
        j = 0
        while j < row:
            # The last vector of a row is moved back to end with the row: it repeats numbers but reads no others.
            j = min(j, row - LANES)
            at = r * row + j
            a, b, aa, bb, ab = zero, zero, zero, zero, zero
            for i in range(WINDOW):
                tap, u, v = broadcast(taps, i, LANES), load(x, at + i * row, LANES), load(y, at + i * row, LANES)
                tu, tv = tap * u, tap * v
                a, b, aa, bb, ab = a + tu, b + tv, fma(tu, u, aa), fma(tv, v, bb), fma(tu, v, ab)
            store(down, j, a)
            store(down, span + j, b)
            store(down, 2 * span + j, aa)
            store(down, 3 * span + j, bb)
            store(down, 4 * span + j, ab)
            j += LANES
        total = 0.0
        for j in range(0, width, LANES):
            a, b = _blur_along(down, j, channels, taps), _blur_along(down, span + j, channels, taps)
            aa, bb = _blur_along(down, 2 * span + j, channels, taps), _blur_along(down, 3 * span + j, channels, taps)
            ab = _blur_along(down, 4 * span + j, channels, taps)
            luminance, contrast = fma(two, a * b, c1), fma(two, ab - a * b, c2)
            energy, variance = fma(a, a, fma(b, b, c1)), (aa - a * a) + (bb - b * b) + c2
            inverse = one / (energy * variance)
            index = luminance * contrast * inverse
            inside = splat(_F(width - j), LANES) > ramp(LANES)
            total += np.float64(sum_lanes(select(inside, index, zero)))
            if partials.shape[0] > 0:
                by_x = b * (contrast - luminance) * inverse + a * index * (one / variance - one / energy)
                at = r * wide + j
                store(partials, at, factor * select(inside, two * by_x, zero))
                store(partials, plane + at, factor * select(inside, zero - index / variance, zero))
                store(partials, 2 * plane + at, factor * select(inside, two * luminance * inverse, zero))
        sums[r] = total


@njit(nogil=True, cache=True)
def gradient_rows(share, x, y, row, channels, taps, partials, windows, ssim_weight, l1_weight, out):
    """ssim_weight dSSIM/dx + l1_weight sign(x - y): the adjoint of the blurs in :func:`ssim_rows`.

    Args:
        share: of the work, see ``pieces``; a piece is a row of the picture.
        partials: from :func:`ssim_rows`; empty when there is no SSIM.
        windows: H - 10, rows of windows.
        out: [H * row] written.
    """
    height = out.shape[0] // row
    width = row - (WINDOW - 1) * channels
    wide = (width + LANES - 1) // LANES * LANES
    plane = windows * wide
    margin = (WINDOW - 1) * channels
    span = margin + wide + margin + LANES
    # Zeros on both sides of the row stand for the windows that do not exist.
    across = aligned_zeros(3 * span)
    zero, two = splat(_F(0), LANES), splat(_F(2), LANES)
    ssim_factor, l1_factor = splat(ssim_weight, LANES), splat(l1_weight, LANES)
    while True:
        r = next_piece(share, height)
        if r >= height:
            return
        if partials.shape[0] > 0:
            first, last = max(0, r - windows + 1), min(WINDOW - 1, r)
            for j in range(0, wide, LANES):
                by_x, by_xx, by_xy = zero, zero, zero
                for i in range(first, last + 1):
                    tap, at = broadcast(taps, i, LANES), (r - i) * wide + j
                    by_x = fma(tap, load(partials, at, LANES), by_x)
                    by_xx = fma(tap, load(partials, plane + at, LANES), by_xx)
                    by_xy = fma(tap, load(partials, 2 * plane + at, LANES), by_xy)
                store(across, margin + j, by_x)
                store(across, span + margin + j, by_xx)
                store(across, 2 * span + margin + j, by_xy)
        j = 0
        while j < row:
            j = min(j, row - LANES)
            at = r * row + j
            u, v = load(x, at, LANES), load(y, at, LANES)
            gradient = select(u > v, l1_factor, select(v > u, zero - l1_factor, zero))
            if partials.shape[0] > 0:
                # The taps are symmetric, so walking them upwards serves the adjoint too.
                by_x = _blur_along(across, j, channels, taps)
                by_xx = _blur_along(across, span + j, channels, taps)
                by_xy = _blur_along(across, 2 * span + j, channels, taps)
                gradient = fma(ssim_factor, fma(two * u, by_xx, fma(v, by_xy, by_x)), gradient)
            store(out, at, gradient)
            j += LANES
