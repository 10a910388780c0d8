# SPDX-License-Identifier: Apache-2.0
"""02 · Learn a photograph

Two thousand splats at random places become a picture of a cat (from scikit-image) by gradient descent through the
rasterizer. CPU: about fifteen seconds for 300 steps. Next: 03 carries masks from pictures back to splats.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from nts_plugins.gaussians import Gaussians
from nts_plugins.losses import photometric_loss
from nts_plugins.rasterization import rasterize


def photograph(width: int) -> torch.Tensor:
    """[H, W, 3] in [0, 1]."""
    from skimage import data

    cat = Image.fromarray(data.chelsea())
    small = cat.resize((width, width * cat.height // cat.width), Image.Resampling.BOX)
    return torch.tensor(list(small.tobytes())).view(small.height, small.width, 3) / 255.0


def main(output: Path, steps: int = 300, count: int = 2000, width: int = 200) -> float:
    torch.manual_seed(0)
    target = photograph(width)
    height = target.shape[0]
    viewmats = torch.eye(4)[None]
    Ks = torch.tensor([[[width, 0.0, width / 2], [0.0, width, height / 2], [0.0, 0.0, 1.0]]])
    spread = torch.tensor([1.0, height / width, 0.2])
    values = {
        "means": (torch.rand(count, 3) - 0.5) * spread + torch.tensor([0.0, 0.0, 1.0]),
        "quats": torch.randn(count, 4),
        "scales": torch.full((count, 3), 0.015).log(),
        "opacities": torch.full((count,), -1.0),
        "colors": torch.rand(count, 3),
    }
    rates = {"means": 2e-3, "quats": 1e-2, "scales": 1e-2, "opacities": 5e-2, "colors": 1e-2}
    params = {name: value.requires_grad_() for name, value in values.items()}
    optimizer = torch.optim.Adam([{"params": [params[name]], "lr": rate} for name, rate in rates.items()])
    picture = target
    for step in range(steps):
        gaussians = Gaussians(
            means=params["means"],
            quats=params["quats"],
            scales=params["scales"].exp(),
            opacities=params["opacities"].sigmoid(),
            colors=params["colors"],
        )
        picture = rasterize(gaussians, viewmats, Ks, width, height).colors[0]
        loss = photometric_loss(picture, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    psnr = -10 * torch.log10((picture - target).square().mean()).item()
    both = torch.cat([target, picture.detach().clamp(0, 1)], dim=1)
    Image.fromarray((both * 255).byte().numpy()).save(output)
    print(f"{output}: photograph and splats, {psnr:.1f} dB.")
    return psnr


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("cat.png"))
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    main(arguments.output, arguments.steps)
