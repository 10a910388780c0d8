# SPDX-License-Identifier: Apache-2.0
"""Where a photograph was taken, found by comparing it with what splats look like from there.

Methods that estimate poses themselves cannot be scored at poses of another's frame: a pixel's shift costs more than
what they are compared for. So the poses of test views are refined first, with the splats as they are (BARF, Lin et al.
2021; Feat2GS, Chen et al. 2025, and InstantSplat do so).
"""

from dataclasses import dataclass
from typing import Callable, Optional, Tuple

import torch
from torch import Tensor


@dataclass
class PoseRefinement:
    """How poses of test views are refined; Feat2GS's numbers."""

    steps: int = 500
    """Of Adam, a view. 0 takes poses as they are."""
    turn_rate: float = 1e-4
    """Learning rate of the rotation, radians. (The program: of a quaternion, which turns by twice as much.)"""
    shift_rate: float = 3e-4
    """Learning rate of the position, scene units."""


def refined_pose(
    draw: Callable[[Tensor], Tensor],
    photograph: Tensor,
    camera_to_world: Tensor,
    settings: PoseRefinement,
    mask: Optional[Tensor] = None,
) -> Tuple[Tensor, float]:
    """The pose from which a drawn picture is closest to a photograph, by mean absolute error; the best one met.

    Args:
        draw: pose [3, 4] to a picture [H, W, 3], differentiable with respect to the pose.
        photograph: [H, W, 3] in [0, 1].
        camera_to_world: [3, 4] to begin at.
        settings: how.
        mask: [H, W, 1] bool, pixels that count; None for all.

    Returns:
        [3, 4] without a gradient, and its error.
    """
    weight = torch.ones_like(photograph[..., :1]) if mask is None else mask.to(photograph)
    total = 3.0 * weight.sum().clamp_min(1.0)
    turn = torch.zeros(3, device=photograph.device, requires_grad=True)
    shift = torch.zeros(3, device=photograph.device, requires_grad=True)
    optimizer = torch.optim.Adam(
        [{"params": [turn], "lr": settings.turn_rate}, {"params": [shift], "lr": settings.shift_rate}]
    )
    best, least = camera_to_world.detach().clone(), float("inf")
    with torch.enable_grad():
        for step in range(settings.steps + 1):
            pose = moved(camera_to_world.detach(), turn, shift)
            error = ((draw(pose) - photograph).abs() * weight).sum() / total
            found = float(error.detach())
            if found < least:
                best, least = pose.detach().clone(), found
            if step == settings.steps:
                break
            # Not backward(), which would leave gradients in whatever else draws the picture.
            turn.grad, shift.grad = torch.autograd.grad(error, [turn, shift])
            optimizer.step()
    return best, least


def moved(camera_to_world: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """A pose [3, 4] turned about the camera by a rotation vector [3], radians, and shifted by [3], both in the axes of
    the world. Differentiable."""
    x, y, z = turn
    zero = torch.zeros_like(x)
    across = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
    rotation = torch.linalg.matrix_exp(across)
    return torch.cat([rotation @ camera_to_world[:, :3], camera_to_world[:, 3:] + shift[:, None]], dim=1)
