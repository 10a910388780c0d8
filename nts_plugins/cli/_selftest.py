# SPDX-License-Identifier: Apache-2.0
"""A drawing of a few splats that shows whether a backend computes what it should."""

from typing import Tuple

import torch

from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import rasterize


def compare_with_reference(backend: str, device: str) -> Tuple[float, float]:
    """Draw forty splats and send a gradient back, with ``backend`` and with the float64 reference.

    Returns:
        Largest difference of a pixel (colours in [0, 1]), and largest difference of a gradient relative to the
        largest gradient of the same tensor.
    """
    expected = _draw("reference", "cpu", torch.float64)
    actual = _draw(backend, device, torch.float32)
    errors = [float((a - e).abs().max()) for a, e in zip(actual, expected, strict=True)]
    sizes = [float(e.abs().max()) for e in expected]
    return errors[0], max(error / size for error, size in zip(errors[1:], sizes[1:], strict=True))


def _draw(backend: str, device: str, dtype: torch.dtype) -> "list[torch.Tensor]":
    """Image and gradients of means, quaternions, scales, opacities and colours, in float64 on the CPU."""
    generator = torch.Generator().manual_seed(1)
    n = 40
    means = torch.rand(n, 3, generator=generator) * torch.tensor([2.0, 1.5, 1.0]) - torch.tensor([1.0, 0.75, -2.0])
    quats = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=-1)
    scales = 0.05 + 0.2 * torch.rand(n, 3, generator=generator)
    opacities = 0.2 + 0.6 * torch.rand(n, generator=generator)
    colors = torch.rand(n, 3, generator=generator)
    leaves = [value.to(device, dtype).requires_grad_() for value in (means, quats, scales, opacities, colors)]
    gaussians = Gaussians(*leaves[:4], colors=leaves[4])
    viewmats = torch.eye(4, device=device, dtype=dtype)[None]
    Ks = torch.tensor([[[40.0, 0.0, 24.0], [0.0, 40.0, 17.0], [0.0, 0.0, 1.0]]], device=device, dtype=dtype)
    raster = rasterize(gaussians, viewmats, Ks, 48, 34, backend=backend)
    pattern = torch.linspace(-1.0, 1.0, raster.colors.numel(), device=device, dtype=dtype).view_as(raster.colors)
    (raster.colors * pattern).sum().backward()
    results = [raster.colors.detach(), *(leaf.grad for leaf in leaves)]
    return [tensor.double().cpu() for tensor in results]  # type: ignore[union-attr]
