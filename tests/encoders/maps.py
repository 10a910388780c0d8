# SPDX-License-Identifier: Apache-2.0
"""What is asked of every model that makes maps of patches, and what regions are as maps."""

from typing import Any, Sequence, Tuple

import torch
from torch import Tensor, nn

from nts_plugins.encoders.base import DenseEncoder, Regions

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def randomised(model: Any, size: float = 0.1, seed: int = 0) -> Any:
    """The model, with noise on all its weights: some, such as positions, begin as zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(size * torch.randn(value.shape, generator=generator))
    return model.eval()


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Colours [H, W, 3] at random."""
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


def as_input(colours: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """[H, W, 3] to [1, 3, H, W], normalised."""
    return ((colours - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1)[None]


def feature_map(regions: Regions, level: str) -> Tensor:
    """[H, W, C] feature of each pixel on one level; zeros where there is no region."""
    ids = regions.ids[regions.levels.index(level)].long()
    return torch.where((ids >= 0)[..., None], regions.features[ids.clamp_min(0)], 0.0)


def last_output(model: nn.Module, block: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    """What a block returns while the model is called."""
    kept = []
    handle = block.register_forward_hook(lambda _module, _args, output: kept.append(output))
    with torch.no_grad():
        model(*args, **kwargs)
    handle.remove()
    return kept[-1][0] if isinstance(kept[-1], tuple) else kept[-1]


def check_map(
    encoder: DenseEncoder, patch: int, width: int, sizes: Sequence[Tuple[int, int, int, int]], local: bool = True
) -> None:
    """Shapes, kind, sameness and orientation of an encoder's maps.

    Args:
        encoder: whatever is tested.
        patch: side of a patch of its, pixels.
        width: of a vector.
        sizes: height and width of pictures, rows and columns of their maps.
        local: whether a patch of the picture matters most for its own vector, with weights at random.
    """
    assert isinstance(encoder, DenseEncoder)
    assert encoder.width == width
    for height, across, rows, columns in sizes:
        colours = picture(height, across).requires_grad_()
        found = encoder.encode_map(colours)
        assert found.shape == (rows, columns, width)
        assert found.dtype == torch.float32 and not found.requires_grad and found.isfinite().all()
        assert found.flatten(0, 1).std(dim=0).max() > 1e-4, "all vectors are the same"
        assert torch.equal(found, encoder.encode_map(colours.detach())), "the same picture has another map"
    for row, column in ((3, 1), (0, 4), (3, 4), (0, 0)) if local else ():
        check_place(encoder, patch, row, column)


def check_place(encoder: DenseEncoder, patch: int, row: int, column: int) -> None:
    """Something that appears in one patch of a picture of 4 x 5 changes that patch's vector most."""
    before = 0.2 * picture(4 * patch, 5 * patch)
    after = before.clone()
    after[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] += 0.8
    change = (encoder.encode_map(after) - encoder.encode_map(before)).norm(dim=-1)
    assert change.shape == (4, 5)
    assert divmod(int(change.argmax()), 5) == (row, column), change
