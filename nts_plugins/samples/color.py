# SPDX-License-Identifier: Apache-2.0
"""Between linear light, in which the scene is computed, and sRGB, in which pictures are stored (IEC 61966-2-1)."""

from typing import Sequence, Union

import numpy as np
from numpy.typing import NDArray


def to_srgb(linear: NDArray) -> NDArray[np.uint8]:
    """Linear colour, clipped to [0, 1], to 8-bit sRGB. Any shape."""
    x = np.clip(linear, 0.0, 1.0)
    curve = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1.0 / 2.4) - 0.055)
    return np.rint(curve * 255.0).astype(np.uint8)


def to_linear(srgb: Union[NDArray, Sequence[float]]) -> NDArray[np.float32]:
    """sRGB, in 8 bits or as floats in [0, 1], to linear colour. Any shape."""
    values = np.asarray(srgb)
    x = values / 255.0 if values.dtype == np.uint8 else values
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(np.float32)
