# SPDX-License-Identifier: Apache-2.0
"""What splats weigh in the pixels that their own centres are in: only these pixels are drawn."""

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.pieces import next_piece, pieces_of
from nts_plugins.kernels.vectors import at

ROWS = 16
"""Rows of a picture that a thread draws at a time."""
_F = np.float32


@njit(nogil=True, cache=True, error_model="numpy")
def draw_centres(
    share, means, conics, opacities, boxes, pixels, wanted, weights, width, alpha_min, alpha_cap, transmittance_stop
):
    """Draw some pixels of a picture, and note every splat's alpha T in its own.

    A band of rows goes through all splats, front to back. There are few such pixels in a splat: nothing is listed, and
    the part of a row that lies in the splat's ellipse of ``alpha_min`` is found with a root.

    Args:
        share: of the work, see ``pieces``; a piece is a band of rows.
        means, conics, opacities: [M, 2], [M, 3] and [M] float64, front to back, in pixels.
        boxes: [M, 4] int64 left, top, right and bottom of the tiles that a splat is drawn in.
        pixels: [M] int64 of a splat's centre, -1 where that is not in the picture.
        wanted: [H * W] bool, of pixels that are drawn.
        weights: [M] float32 zeros; written.
        width: of the picture.
        alpha_min, alpha_cap, transmittance_stop: see ``rasterization.Rules``.
    """
    height = wanted.shape[0] // width
    behind = np.empty(ROWS * width, np.float64)
    while True:
        top = next_piece(share, pieces_of(height, ROWS)) * ROWS
        if top >= height:
            return
        bottom = min(top + ROWS, height)
        behind[:] = 1.0
        for i in range(weights.shape[0]):
            if boxes[i, 1] >= bottom or boxes[i, 3] <= top:
                continue
            x, y, opacity = means[i, 0], means[i, 1], opacities[i]
            a, b, c = conics[i, 0], conics[i, 1], conics[i, 2]
            reach = 2 * np.log(opacity / alpha_min)
            for row in range(max(top, boxes[i, 1]), min(bottom, boxes[i, 3])):
                dy = y - (row + 0.5)
                inside = a * reach - (a * c - b * b) * dy * dy
                if not inside > 0:
                    continue
                middle, half = x + b / a * dy, np.sqrt(inside) / a
                # Rounded outwards; the conditions below are what counts.
                left, right = max(boxes[i, 0], int(middle - half - 1)), min(boxes[i, 2], int(middle + half + 1))
                for column in range(left, right):
                    place = row * width + column
                    left_over = behind[at(place - top * width)]
                    if left_over == 0 or not wanted[at(place)]:
                        continue
                    dx = x - (column + 0.5)
                    exponent = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                    alpha = min(opacity * np.exp(-exponent), alpha_cap)
                    if exponent < 0 or alpha < alpha_min:
                        continue
                    if left_over * (1 - alpha) <= transmittance_stop:
                        behind[at(place - top * width)] = 0  # The pixel is finished, before this splat.
                        continue
                    if pixels[i] == place:
                        weights[i] = left_over * alpha
                    behind[at(place - top * width)] = left_over * (1 - alpha)
