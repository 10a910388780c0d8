# SPDX-License-Identifier: Apache-2.0
"""Stands in for VGGT's package, which is not on the package index: modules with its documented interface.

The network is none: it knows a scene, namely a plane before cameras that it tells apart by the red of their pictures,
which are of one colour. As the true one it takes the middle of what it is shown for the middle of the lens.
"""

import math
import sys
from types import ModuleType
from typing import Any, Dict, List, Tuple

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

FOCAL = 1.1
"""Of all cameras, in widths of the picture."""
NORMAL, OFFSET = torch.tensor([0.2, -0.1, 1.0]), 3.0
"""All cameras see the plane NORMAL . x = OFFSET."""
STEP = 0.05
"""Of red between two pictures."""


def pose(number: int) -> Tuple[List[float], List[float]]:
    """World to camera of a picture's camera: shift, and quaternion with its real part last."""
    return [0.1 * number, -0.05 * number, 0.02 * number], Rotation.from_euler(
        "yxz", [0.1 * number, 0.03, 0.2]
    ).as_quat()


def picture(number: int, width: int, height: int) -> Tensor:
    """[H, W, 3] in [0, 1]"""
    return torch.tensor([STEP * number, 0.2, 0.4]).expand(height, width, 3).clone()


class Vggt(nn.Module):
    """Depth of white pixels, by which pictures are continued, is 1000."""

    shown: Tensor
    loaded: List[str] = []

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.lens = 1.0

    @classmethod
    def from_pretrained(cls, name: str, **_: Any) -> "Vggt":
        cls.loaded.append(name)
        return cls()

    def forward(self, images: Tensor) -> Dict[str, Tensor]:
        assert not self.training and not torch.is_grad_enabled()
        assert images.ndim == 4 and images.shape[1] == 3 and images.dtype == torch.float32
        assert images.shape[2] % 14 == 0 and images.shape[3] % 14 == 0
        assert float(images.min()) >= 0 and float(images.max()) <= 1
        type(self).shown = images
        height, width = images.shape[2:]
        codes, depths = [], []
        for image in images:
            own = (image < 0.99).any(dim=0)
            rows, columns = (int(own.any(dim=axis).sum()) for axis in (1, 0))
            number = round(float(image[0][own].mean()) / STEP)
            # The pictures' own width and height are known to be those of TRUE_SIZES; the network would see it.
            true_width, true_height = TRUE_SIZES[number]
            fx, fy = FOCAL * columns, FOCAL * true_width * rows / true_height
            shift, quaternion = pose(number)
            fields = [2 * math.atan(height / 2 / fy), 2 * math.atan(width / 2 / fx)]
            codes.append(torch.tensor([*shift, *quaternion, *[self.lens * each for each in fields]]))
            x = (torch.arange(width) + 0.5 - width / 2) / fx
            y = (torch.arange(height) + 0.5 - height / 2) / fy
            rays = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width), torch.ones(height, width)], dim=-1)
            turn = torch.from_numpy(Rotation.from_quat(quaternion).as_matrix()).float()
            position = -turn.T @ torch.tensor(shift)
            depth = (OFFSET - position @ NORMAL) / (rays @ turn @ NORMAL)
            depths.append(torch.where(own, depth, 1000.0))
        depth = torch.stack(depths)
        confidence = torch.where(depth == 1000.0, 1.0, 1.0 + torch.exp(-depth))
        return {"pose_enc": torch.stack(codes)[None], "depth": depth[None, ..., None], "depth_conf": confidence[None]}


TRUE_SIZES: Dict[int, Tuple[int, int]] = {}
"""Width and height of pictures, by number."""


def pose_encoding_to_extri_intri(codes: Tensor, size: Tuple[int, int]) -> Tuple[Tensor, Tensor]:
    """Cameras [B, S, 3, 4] and intrinsics [B, S, 3, 3] of codes [B, S, 9]: shift, quaternion (x, y, z, w), fields of
    view in height and in width."""
    height, width = size
    extrinsics, intrinsics = torch.zeros(*codes.shape[:2], 3, 4), torch.zeros(*codes.shape[:2], 3, 3)
    for batch, view in torch.cartesian_prod(torch.arange(codes.shape[0]), torch.arange(codes.shape[1])).tolist():
        code = codes[batch, view]
        extrinsics[batch, view, :, :3] = torch.from_numpy(Rotation.from_quat(code[3:7].numpy()).as_matrix())
        extrinsics[batch, view, :, 3] = code[:3]
        lens = torch.tensor([[0, 0, width / 2], [0, 0, height / 2], [0, 0, 1]])
        lens[0, 0], lens[1, 1] = (side / 2 / torch.tan(code[at] / 2) for side, at in ((width, 8), (height, 7)))
        intrinsics[batch, view] = lens
    return extrinsics, intrinsics


def install(monkeypatch: pytest.MonkeyPatch, sizes: List[Tuple[int, int]]) -> None:
    """Let ``import vggt`` find this, and the hub have its weights; pictures have these widths and heights."""
    contents: Dict[str, Any] = {
        "vggt": {},
        "vggt.models": {},
        "vggt.models.vggt": {"VGGT": Vggt},
        "vggt.utils": {},
        "vggt.utils.pose_enc": {"pose_encoding_to_extri_intri": pose_encoding_to_extri_intri},
    }
    for name, values in contents.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("nts_plugins.encoders.weights.ask_hub", lambda _repository, _name: True)
    Vggt.loaded.clear()
    TRUE_SIZES.clear()
    TRUE_SIZES.update(enumerate(sizes))


def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``import vggt`` fail, also where it is installed."""
    for name in ("vggt", "vggt.models", "vggt.models.vggt"):
        monkeypatch.setitem(sys.modules, name, None)
