# SPDX-License-Identifier: Apache-2.0
"""From a lens with distortion to the pinhole camera that splatting needs, for pictures and what is drawn on them."""

from dataclasses import dataclass
from typing import Callable, Optional, Tuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray


@dataclass(frozen=True)
class Undistortion:
    """A warp from a distorted picture to a smaller undistorted one without empty borders.

    Brown-Conrady model as in OpenCV. Pixel centres are at +0.5, as everywhere in this package (OpenCV has them at 0).
    """

    K: Array
    """[3, 3] intrinsics of the undistorted picture, pixels."""
    width: int
    height: int
    _columns: Array
    """[height, width] float32: where to read the distorted picture, OpenCV's pixel centres."""
    _rows: Array
    """[height, width] float32. (One map for both coordinates is misread by OpenCV 5.0.)"""

    @classmethod
    def for_camera(cls, K: Array, distortion: Array, width: int, height: int) -> Optional["Undistortion"]:
        """The warp for one camera; None when its lens has no distortion.

        Args:
            K: [3, 3] intrinsics of the distorted picture, pixels.
            distortion: [6] nerfstudio's order k1, k2, k3, k4, p1, p2.
            width: of the distorted picture.
            height: of the distorted picture.

        Raises:
            ValueError: when k4 is not zero, because OpenCV's model means something else by it.
        """
        import cv2

        k1, k2, k3, k4, p1, p2 = (float(value) for value in distortion)
        if k4 != 0.0:
            raise ValueError(f"k4={k4:g} is not part of the Brown-Conrady lens model; only k1, k2, k3, p1, p2 are.")
        if not any((k1, k2, k3, p1, p2)):
            return None
        coefficients = np.array([k1, k2, p1, p2, k3])
        centred = _shift_principal_point(K, -0.5)
        # alpha=0 keeps only pixels for which the distorted picture has a value; the region of interest crops the rest.
        new, (x, y, w, h) = cv2.getOptimalNewCameraMatrix(centred, coefficients, (width, height), 0)
        if w <= 0 or h <= 0:
            raise ValueError(
                f"undistortion leaves no picture: the coefficients {coefficients.tolist()} are too strong."
            )
        maps = cv2.initUndistortRectifyMap(centred, coefficients, np.eye(3), new, (width, height), cv2.CV_32FC1)
        columns, rows = (np.ascontiguousarray(each[y : y + h, x : x + w]) for each in maps)
        new = np.array(new, dtype=np.float64)
        new[0, 2] -= x
        new[1, 2] -= y
        return cls(K=_shift_principal_point(new, 0.5), width=w, height=h, _columns=columns, _rows=rows)

    def apply(self, picture: Array, *, labels: bool = False) -> Array:
        """The undistorted picture.

        Args:
            picture: [H, W] or [H, W, C], aligned with the distorted picture; four channels are colour and alpha.
            labels: take the nearest value instead of mixing neighbours; for masks, ids and depth.
        """
        import cv2

        mode = cv2.INTER_NEAREST if labels else cv2.INTER_LINEAR

        def warp(values: Array) -> Array:
            warped = cv2.remap(values, self._columns, self._rows, mode, borderMode=cv2.BORDER_REPLICATE)
            return warped.reshape(self.height, self.width, *values.shape[2:])

        is_rgba = picture.ndim == 3 and picture.shape[2] == 4 and not labels
        return weighted_by_alpha(picture, warp) if is_rgba else warp(picture)


def area_resize(picture: Array, size: Tuple[int, int]) -> Array:
    """A smaller picture in which each pixel is the mean of the pixels it covers; the right filter for making smaller.

    Args:
        picture: [H, W, C] uint8 or float; four channels are colour and straight alpha.
        size: width and height wanted.
    """
    import cv2

    if picture.shape[2] != 4:
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], picture.shape[2])
    return weighted_by_alpha(picture, lambda values: cv2.resize(values, size, interpolation=cv2.INTER_AREA))


def weighted_by_alpha(picture: Array, mix: Callable[[Array], Array]) -> Array:
    """Let ``mix`` make new pixels out of those of a picture, counting each colour in proportion to its alpha.

    Otherwise the colour of transparent pixels, which nobody sees, would bleed out.

    Args:
        picture: [H, W, 4] colour and straight alpha, uint8 or float in [0, 1].
        mix: linear in the pixels; gets, and returns, float32 colours that are multiplied by alpha, and alpha.
    """
    top = 255.0 if picture.dtype == np.uint8 else 1.0
    values = picture.astype(np.float32) / top
    values[..., :3] *= values[..., 3:]
    values = mix(values)
    values[..., :3] /= np.maximum(values[..., 3:], 1e-6)
    values = np.clip(values, 0.0, 1.0) * top
    return (values + 0.5).astype(np.uint8) if picture.dtype == np.uint8 else values


def _shift_principal_point(K: Array, offset: float) -> Array:
    shifted = np.array(K, dtype=np.float64)
    shifted[:2, 2] += offset
    return shifted
