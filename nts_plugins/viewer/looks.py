# SPDX-License-Identifier: Apache-2.0
"""What the viewer can show of splats besides the scene itself: their textures alone, and their outlines.

Each look is a drawing of changed splats and changed textures through the same call as the scene's own picture, so that
it needs no kernel of its own, works on every backend, and covers what the scene's picture covers.
"""

from dataclasses import dataclass, replace
from typing import Callable, Dict, Optional, Tuple

import torch

from nts_plugins.gaussians import Gaussians
from nts_plugins.gaussians.initialise import sh_to_rgb
from nts_plugins.rasterization import Seen, Textures, TextureSource
from nts_plugins.rasterization.rules import installed_rules
from nts_plugins.rasterization.textures import EXTENT

Drawing = Tuple[Gaussians, Optional[TextureSource]]

COLOR_GAIN = 4.0
"""Residuals of colour are shown so many times as strong as they are: +-1/8 reaches black and white."""
OPACITY_GAIN = 2.5
"""The same for residuals of opacity: +-0.2, the largest that the paper allows, reaches black and white."""
EDGE = 0.1
"""A splat's outline is where its opacity falls to this. Fainter splats have none, and hide nothing."""
RIM = 0.25
"""How bright a splat's colour is at its outline, against its middle."""
TEXELS = 8
"""Of the textures that shade splats, along each axis: as much memory as the paper's textures of objects take."""


@dataclass(frozen=True)
class Look:
    """One way to show splats with spherical harmonics in three colours."""

    draw: Callable[[Gaussians, Optional[TextureSource]], Drawing]
    """From what the scene's picture would be drawn from to what is drawn instead."""
    photographed: bool
    """Whether it shows the scene's colours, so that they are to be as bright as photographs around it."""


def bare(gaussians: Gaussians, textures: Optional[TextureSource]) -> Drawing:
    """The splats without their textures."""
    return gaussians, None


def texture_color(gaussians: Gaussians, textures: Optional[TextureSource]) -> Drawing:
    """What textures add to colour, around middle grey; splats cover each other as they do in the scene."""

    def brighter(made: Textures) -> Textures:
        red, green, blue, opacity = made.amplitudes
        return replace(made, amplitudes=(COLOR_GAIN * red, COLOR_GAIN * green, COLOR_GAIN * blue, opacity))

    return _grey(gaussians), _changed(textures, brighter)


def texture_opacity(gaussians: Gaussians, textures: Optional[TextureSource]) -> Drawing:
    """What textures add to opacity, around middle grey: lighter where a splat covers more than it would without."""

    def as_color(made: Textures) -> Textures:
        opacity, shown = made.amplitudes[3], OPACITY_GAIN * made.amplitudes[3]
        vectors = made.vectors[..., 3:].expand_as(made.vectors)
        return replace(made, vectors=vectors, amplitudes=(shown, shown, shown, opacity))

    return _grey(gaussians), _changed(textures, as_color)


def outlines(gaussians: Gaussians, textures: Optional[TextureSource]) -> Drawing:
    """Every splat as a solid body in its own colour, which ends where its opacity falls to :data:`EDGE`.

    A splat is skipped where it is fainter than 1/255, before its texture is read. With opacities lowered so that this
    happens at the edge, and a texture that makes everything within solid, the edge is sharp and in the right place.
    Colour falls with the squared distance x^2 + y^2 + z^2 from the splat's centre, a sum of one function an axis, which
    textures can hold.
    """
    assert gaussians.sh is not None
    colors = sh_to_rgb(gaussians.sh[:, 0]).clamp_min(0.0)
    squared_reach = 2 * torch.log(gaussians.opacities / EDGE).clamp_min(1e-2)

    def solid(seen: Seen) -> Textures:
        splats = (seen.radii.amin(dim=1) > 0).nonzero()[:, 0]
        places = torch.linspace(-EXTENT, EXTENT, TEXELS, dtype=colors.dtype, device=colors.device)
        darker = (RIM - 1) * colors[splats] / squared_reach[splats, None]
        vectors = colors.new_ones(len(splats), 3, TEXELS, 2, 4)
        # Three planes, a third of each, and each with one axis: x^2 on xy, y^2 on yz, z^2 on zx. Between the two texels
        # in the middle a splat has its own colour.
        squares = places.square() - places.square().min()
        vectors[:, :, :, 0, :3] = 3 * darker[:, None, None, :] * squares[:, None]
        return Textures(vectors, splats, amplitudes=(1.0, 1.0, 1.0, 1.0))

    faint = installed_rules().alpha_min / EDGE
    plain = replace(gaussians, sh=gaussians.sh[:, :1], sh_rest=None, opacities=gaussians.opacities * faint)
    return plain, solid


SPLAT_LOOKS: Dict[str, Look] = {"Splat outlines": Look(outlines, photographed=True)}
"""What every model can show besides the scene, by the name that the viewer's menu has for it."""

TEXTURE_LOOKS: Dict[str, Look] = {
    "Without textures": Look(bare, photographed=True),
    "Texture colour": Look(texture_color, photographed=False),
    "Texture opacity": Look(texture_opacity, photographed=False),
    **SPLAT_LOOKS,
}
"""The same for models whose splats have local textures."""


def _grey(gaussians: Gaussians) -> Gaussians:
    """Splats of a colour of 0.5 from all sides."""
    return replace(gaussians, sh=gaussians.means.new_zeros(len(gaussians), 1, 3), sh_rest=None)


def _changed(source: Optional[TextureSource], change: Callable[[Textures], Textures]) -> Optional[TextureSource]:
    """The source of changed textures."""
    if source is None or isinstance(source, Textures):
        return None if source is None else change(source)

    def made(seen: Seen) -> Optional[Textures]:
        textures = source(seen)
        return None if textures is None else change(textures)

    return made
