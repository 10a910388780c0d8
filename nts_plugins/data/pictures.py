# SPDX-License-Identifier: Apache-2.0
"""Pictures and masks as files hold them."""

from pathlib import Path
from typing import Tuple

import numpy as np
import numpy.typing as npt
import torch

from nts_plugins.errors import InputError


def image_size(path: Path) -> Tuple[int, int]:
    """Width and height in the file's header."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:
        raise _unreadable(path, error) from error


def has_alpha(path: Path) -> bool:
    """Whether the file's header announces transparency."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    except Exception as error:
        raise _unreadable(path, error) from error


def has_black_rim(image: torch.Tensor) -> bool:
    """Whether two sides of a picture end in black that the picture itself does not show, as undistorting leaves them.

    Args:
        image: [H, W, 3] or [H, W, 4], float from 0 to 1 or uint8.
    """
    height, width = image.shape[:2]
    if min(height, width) < 3:
        return False
    brightness = image[..., :3].amax(dim=-1).float() / (1.0 if image.is_floating_point() else 255.0)
    rows, columns = max(1, round(0.04 * height)), max(1, round(0.04 * width))
    edges = (
        *((brightness[0], brightness[rows]), (brightness[-1], brightness[-1 - rows])),
        *((brightness[:, 0], brightness[:, columns]), (brightness[:, -1], brightness[:, -1 - columns])),
    )
    ends = [(edge < 0.1).float().mean() > 0.9 and (near < 0.1).float().mean() < 0.5 for edge, near in edges]
    return sum(map(bool, ends)) > 1


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """A picture as [H, W, 3] or, where it has transparency, [H, W, 4] uint8, whatever the file stores."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith("I;16") or image.mode == "I":
                return _from_16_bit(np.asarray(image))
            transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            wanted = "RGBA" if transparent else "RGB"
            return np.array(image if image.mode == wanted else image.convert(wanted))
    except Exception as error:
        raise _unreadable(path, error) from error


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    """[H, W] bool: where any channel of the file but alpha is not zero."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            values = np.array(image)
    except Exception as error:
        raise _unreadable(path, error) from error
    if values.ndim == 3:
        # An alpha channel, the last of two or four, says nothing about what the mask shows.
        values = values[..., : 1 if values.shape[2] == 2 else 3].any(axis=-1)
    return values.astype(bool)


def _from_16_bit(values: npt.NDArray) -> npt.NDArray[np.uint8]:
    gray = np.clip(values.astype(np.float32) / 257.0 + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"The image {path} cannot be read: {error}. It may be damaged or half-copied: replace the file.")
