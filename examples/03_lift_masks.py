# SPDX-License-Identifier: Apache-2.0
"""03 · Lift masks

Two clusters of splats, three views, each pixel labelled left or right: the labels are carried back to the splats, and
every splat ends up with the label of its cluster. This is how 2D segmentations become 3D ones without training.
Any device, about a second.
"""

import torch

from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import lift_ids, rasterize


def clusters(count: int = 40) -> Gaussians:
    """Half of the splats around (-0.6, 0, 4), half around (0.6, 0, 4)."""
    generator = torch.Generator().manual_seed(0)
    side = torch.arange(count) % 2 * 2.0 - 1.0
    means = torch.randn(count, 3, generator=generator) * 0.15
    means = means + torch.stack([0.6 * side, torch.zeros(count), torch.full((count,), 4.0)], dim=-1)
    return Gaussians(
        means=means,
        quats=torch.randn(count, 4, generator=generator),
        scales=torch.full((count, 3), 0.06),
        opacities=torch.full((count,), 0.7),
        colors=torch.stack([0.5 - 0.5 * side, torch.zeros(count), 0.5 + 0.5 * side], dim=-1),
    )


def main() -> float:
    gaussians, width, height = clusters(), 96, 64
    viewmats = torch.eye(4).repeat(3, 1, 1)
    viewmats[:, 0, 3] = torch.tensor([-0.3, 0.0, 0.3])  # three cameras side by side
    K = torch.tensor([[80.0, 0.0, width / 2], [0.0, 80.0, height / 2], [0.0, 0.0, 1.0]])
    Ks = K.expand(3, 3, 3)
    # The masks a segmenter would give: 0 where red, 1 where blue, -1 where nothing is.
    raster = rasterize(gaussians, viewmats, Ks, width, height)
    ids = (raster.colors[..., 2] > raster.colors[..., 0]).long()
    ids[raster.alphas[..., 0] < 0.5] = -1
    votes = lift_ids(gaussians, viewmats, Ks, ids, n_ids=2).to_sparse().to_dense()
    label = votes.argmax(dim=1)
    agreement = (label == torch.arange(len(gaussians)) % 2).float().mean().item()
    print(f"{agreement:.0%} of {len(gaussians)} splats got the label of their cluster.")
    return agreement


if __name__ == "__main__":
    main()
