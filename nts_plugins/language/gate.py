# SPDX-License-Identifier: Apache-2.0
"""Which splats may take what a picture shows: those that can be seen in it where they themselves are.

VALA's visibility gate (2025). A splat has some weight in every region that it is drawn over, however far behind or at
the edge of something it lies, and takes that region's feature in part. Where its centre is hidden in a picture, or
faint, the picture shows something else there. So each picture's splats are told apart by their weight alpha T in the
pixel of their own centre, and the others' votes of this picture do not count.

What a splat then takes differs: in VALA the feature in its centre's pixel, here those of all regions of the picture
that it is part of, by their weights (:mod:`nts_plugins.language.votes`).
"""

from dataclasses import dataclass
from typing import Sequence, Tuple, Union

import torch
from torch import Tensor

from nts_plugins.gaussians import Gaussians
from nts_plugins.language.votes import Votes
from nts_plugins.rasterization import installed_rules, rasterize


@dataclass(frozen=True)
class GateSettings:
    """VALA's constants for photographs of scenes; for ScanNet it takes ``mass=0.9, absolute=0.01``."""

    mass: float = 0.75
    """Of all weight in a picture: the heaviest splats that together have this share of it."""
    absolute: float = 0.13
    """A splat's weight, at least."""
    floor: float = 0.15
    """The same, of the second stage."""
    quantile: float = 0.85
    """Of the weights of all visible splats: a splat's weight, at least."""
    most: float = 0.5
    """Share of the visible splats that may be let in."""


def gate(weights: Tensor, settings: GateSettings = GateSettings()) -> Tensor:
    """Which splats may take what a picture shows.

    A splat is visible where its weight is above zero. Let in are those of the smallest set of splats that has its share
    of all weight, whose own weight is large enough, both absolutely and among those of all visible ones. Where that is
    none, it is the heaviest one, and never more than a share of those visible.

    The quantile, of which nothing more is published, is that of all visible splats. Who has exactly a bound's weight is
    above it: weights end at the cap of alpha, and many splats may share that. Of equal ones the first count as heavier.

    Args:
        weights: [N] of splats in the pixels of their centres, see :func:`centre_weights`.
        settings: see there.

    Returns:
        [N] bool; none where no splat is visible.
    """
    allowed = torch.zeros(len(weights), dtype=torch.bool, device=weights.device)
    visible = (weights > 0).nonzero()[:, 0]
    if len(visible) == 0:
        return allowed
    sorted_weights, order = weights[visible].double().sort(descending=True, stable=True)
    before = sorted_weights.cumsum(dim=0) - sorted_weights
    # A splat belongs to the smallest set while those before it are too few.
    good = before < settings.mass * sorted_weights.sum()
    good &= sorted_weights >= max(settings.absolute, settings.floor)
    good &= sorted_weights >= _quantile(sorted_weights, settings.quantile)
    # Each condition holds for the first so many, so that all do.
    count = min(int(good.sum()), int(settings.most * len(visible)))
    allowed[visible[order[: max(1, count)]]] = True
    return allowed


def _quantile(descending: Tensor, share: float) -> Tensor:
    """A share of the values lies below it; between two values it is interpolated. torch's own takes no more than 2^24
    values."""
    place = (1 - share) * (len(descending) - 1)
    first = int(place)
    one, other = descending[first], descending[min(first + 1, len(descending) - 1)]
    return one + (other - one) * (place - first)


def gated(votes: Votes, allowed: Union[Tensor, Sequence[Tensor]], keep_unseen: bool = True) -> Votes:
    """The votes of splats in pictures that they are let into.

    Args:
        votes: of one level.
        allowed: [V, N] bool, or V times [N], see :func:`gate`; in the order in which pictures were collected.
        keep_unseen: what becomes of a splat of which no vote would be left. VALA drops it; then it has no feature, and
            can never be found. With True it keeps all its votes: hidden splats are many, they show where a picture is
            taken from elsewhere, and what is around them is a better guess than nothing.

    Returns:
        Some of the votes.
    """
    table = allowed if isinstance(allowed, Tensor) else torch.stack(list(allowed))
    entries = table.to(votes.splats.device)[votes.of_views(), votes.splats]
    if keep_unseen:
        left = torch.zeros(votes.n_splats, dtype=torch.bool, device=votes.splats.device)
        left[votes.splats[entries]] = True
        entries = entries | ~left[votes.splats]
    return votes.chosen(entries)


# --- weights at centres --------------------------------------------------------------------------------------------


def centre_weights(gaussians: Gaussians, viewmat: Tensor, K: Tensor, size: Tuple[int, int]) -> Tensor:
    """Each splat's weight alpha T in the pixel that its centre is in.

    As exact as drawing is: the splats in the image plane are those that the rasterizer of their device made, and only
    the pixels that hold a centre are drawn, once more. Lifting these pixels, each an id of its own
    (:func:`~nts_plugins.rasterization.lift_ids`), finds the same, but in all pixels of a splat: gigabytes of it.

    Args:
        gaussians: N splats.
        viewmat: [4, 4] world to camera, OpenCV axes.
        K: [3, 3] in pixels.
        size: height and width of the picture in pixels.

    Returns:
        [N] float32, on the splats' device; 0 where a splat is not drawn, hidden, or its centre not in the picture.
    """
    # numba is loaded when it is needed: recipes import this module, and they are light.
    from nts_plugins.kernels.centres import draw_centres
    from nts_plugins.kernels.threads import run

    height, width = size
    rules = installed_rules()
    weights = gaussians.means.new_zeros(len(gaussians), dtype=torch.float32)
    colors = gaussians.means.new_zeros(len(gaussians), 1)
    plain = gaussians.with_colors(colors).detach()
    with torch.no_grad():
        info = rasterize(plain, viewmat[None], K[None], width, height, rules=rules).info
    means, conics, opacities, depths, radii = (
        info[name][0].cpu() for name in ("means2d", "conics", "opacities", "depths", "radii")
    )
    radii = radii if radii.ndim == 2 else radii[:, None].expand(-1, 2)
    drawn = (radii > 0).all(dim=1).nonzero()[:, 0]
    # Equal depths keep their order, as they do in the rasterizer.
    drawn = drawn[depths[drawn].argsort(stable=True)]
    means, conics, opacities = (values[drawn].double() for values in (means, conics, opacities))
    corner, tile = torch.tensor([width, height]), rules.tile_size
    first = (torch.floor((means - radii[drawn]) / tile) * tile).clamp_min(0)
    last = torch.ceil((means + radii[drawn]) / tile) * tile
    boxes = torch.cat([first, last.minimum(corner)], dim=1).long()
    pixels = means.floor().long()
    inside = ((pixels >= 0) & (pixels < corner)).all(dim=1)
    pixels = torch.where(inside, pixels[:, 1] * width + pixels[:, 0], -1)
    wanted = torch.zeros(height * width, dtype=torch.bool)
    wanted[pixels[inside]] = True
    found = torch.zeros(len(drawn))
    arrays = [each.numpy() for each in (means, conics, opacities, boxes, pixels, wanted, found)]
    run(draw_centres, *arrays, width, rules.alpha_min, rules.alpha_cap, rules.transmittance_stop)
    weights[drawn.to(weights.device)] = found.to(weights.device)
    return weights
