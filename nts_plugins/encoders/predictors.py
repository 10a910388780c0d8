# SPDX-License-Identifier: Apache-2.0
"""Networks that predict cameras and depth from photographs alone."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Protocol, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.encoders import weight_files, weights
from nts_plugins.errors import InputError
from nts_plugins.files.prediction import Prediction

LICENCES: Dict[str, str] = {
    "facebook/VGGT-1B": "CC-BY-NC-4.0",
    "facebook/VGGT-1B-Commercial": "VGGT licence, commercial use allowed",
}
"""Of published weights."""

Place = Tuple[int, int, int, int]
"""Of a picture in another one: row and column of its first pixel, height, width."""


class Predictor(Protocol):
    """Whatever makes a prediction."""

    def predict(self, names: Sequence[str], pictures: Sequence[Tensor]) -> Prediction:
        """Of pictures [H, W, 3] in [0, 1], which may differ in size, that are called so. No gradient.

        Raises:
            InputError: where the pictures cannot be predicted from.
        """
        ...


class Vggt:
    """VGGT (Wang et al., CVPR 2025, arXiv 2503.11651): all views in one pass, in the frame of the first camera.

    Depth and cameras are taken, which its authors prefer to the head of points. Pictures are resized as a whole, so
    that nothing is cropped; where they differ in shape, smaller ones are continued in white on both sides, as its
    program does: the network takes the middle of what it is shown for that of the lens.

    Args:
        model: a ``vggt.models.vggt.VGGT``.
        source: what its weights are called.
        longest: pixels of a picture's longer side, a multiple of 14.
    """

    PATCH = 14
    WEIGHTS = "model.safetensors"
    """The file in its repositories on the hub."""

    def __init__(self, model: Any, source: str, longest: int = 518) -> None:
        self._check(longest)
        self.model, self.source, self.longest = model.eval(), source, longest

    @classmethod
    def _check(cls, longest: int) -> None:
        if longest < cls.PATCH or longest % cls.PATCH:
            raise InputError(f"VGGT reads squares of 14 pixels: --longest is {longest}, and must be a multiple of 14.")

    @classmethod
    def load(
        cls, path: Optional[Path], device: torch.device, longest: int = 518, hub: str = "facebook/VGGT-1B"
    ) -> "Vggt":
        """The model on a device, with weights of a file or of the hub.

        Raises:
            InputError: where the package is not installed, or weights are not to be had.
        """
        cls._check(longest)
        try:
            from vggt.models.vggt import VGGT  # type: ignore[import-not-found]
        except ImportError as error:
            raise InputError(
                "VGGT's package is not installed. Its repository, facebookresearch/vggt, says how to."
            ) from error
        if path is None:
            try:
                model = weights.loaded(VGGT.from_pretrained, None, hub, cls.WEIGHTS)
            except OSError as error:
                raise weights.missing(
                    "VGGT", cls.WEIGHTS, hub, Path("~/.cache/huggingface").expanduser(), "--weights", error
                ) from error
            return cls(model.to(device), hub, longest)
        file = weights.given(path, "VGGT")
        model = VGGT()
        weight_files.fill(model, weight_files.read(file, "VGGT"), file, "VGGT")
        return cls(model.to(device), file.name, longest)

    @torch.no_grad()
    def predict(self, names: Sequence[str], pictures: Sequence[Tensor]) -> Prediction:
        """See :meth:`Predictor.predict`."""
        from vggt.utils.pose_enc import pose_encoding_to_extri_intri  # type: ignore[import-not-found]

        device = next(self.model.parameters()).device
        batch, places = self._shown(pictures)
        found = self.model(batch.to(device))
        extrinsics, intrinsics = pose_encoding_to_extri_intri(found["pose_enc"], tuple(batch.shape[-2:]))
        viewmats = np.tile(np.eye(4), (len(names), 1, 1))
        viewmats[:, :3] = extrinsics[0].double().cpu().numpy()
        Ks = intrinsics[0].double().cpu().numpy()
        if not np.isfinite(Ks).all():
            raise InputError("VGGT predicted cameras without a field of view. Are these photographs of one scene?")
        sizes = np.array([picture.shape[1::-1] for picture in pictures], np.int64)
        # From pixels of what was shown to those of the photograph.
        corners = np.array([(left, top) for top, left, _, _ in places])
        shown = np.array([(width, height) for _, _, height, width in places])
        Ks[:, :2, 2] -= corners
        Ks[:, :2] *= (sizes / shown)[:, :, None]
        maps = [found[name][0].float().cpu().reshape(len(names), *batch.shape[-2:]) for name in ("depth", "depth_conf")]
        depths, sure = (self._together(each, places) for each in maps)
        licence = LICENCES.get(self.source, "unknown")
        return Prediction(tuple(names), viewmats, Ks, sizes, depths, sure, f"VGGT {self.source}", licence)

    def _shown(self, pictures: Sequence[Tensor]) -> Tuple[Tensor, List[Place]]:
        """[V, 3, H, W], and where in it each picture is."""
        resized = []
        for picture in pictures:
            ratio = self.longest / max(picture.shape[:2])
            size = [max(1, round(side * ratio / self.PATCH)) * self.PATCH for side in picture.shape[:2]]
            batch = picture.permute(2, 0, 1)[None].float()
            resized.append(F.interpolate(batch, size, mode="bicubic", antialias=True).clamp(0.0, 1.0))
        height, width = (max(each.shape[axis] for each in resized) for axis in (2, 3))
        padded, places = [], []
        for each in resized:
            below, right = height - each.shape[2], width - each.shape[3]
            top, left = below // 2, right // 2
            padded.append(F.pad(each, (left, right - left, top, below - top), value=1.0))
            places.append((top, left, each.shape[2], each.shape[3]))
        return torch.cat(padded), places

    @staticmethod
    def _together(maps: Tensor, places: Sequence[Place]) -> np.ndarray:
        """[V, h, w] of maps without what pictures were continued by, all at the size of the largest picture."""
        size = max((place[2:] for place in places), key=lambda each: each[0] * each[1])
        found = []
        for values, (top, left, height, width) in zip(maps, places, strict=True):
            cut = values[top : top + height, left : left + width]
            own = (height, width) == size
            found.append(cut if own else F.interpolate(cut[None, None], size, mode="nearest-exact")[0, 0])
        return torch.stack(found).numpy()
