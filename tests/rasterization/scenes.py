# SPDX-License-Identifier: Apache-2.0
"""Seeded scenes for the tests: like trained ones, like freshly initialised ones, and degenerate ones."""

from dataclasses import dataclass, replace
from typing import Callable, Dict, Optional, Sequence

import torch
from torch import Tensor

from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import Textures


@dataclass(frozen=True)
class Scene:
    """What one call of ``rasterize`` needs. Made in float32 and cast with ``to``, so that copies hold equal numbers."""

    gaussians: Gaussians
    viewmats: Tensor  # [C, 4, 4]
    Ks: Tensor  # [C, 3, 3]
    width: int
    height: int
    background: Optional[Tensor] = None  # [C, D]
    channels: Optional[Tensor] = None  # [N, E] or [C, N, E]
    channel_background: Optional[Tensor] = None  # [C, E]
    textures: Optional[Textures] = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Scene":
        """The scene with ``function`` applied to every tensor."""
        names = ("viewmats", "Ks", "background", "channels", "channel_background")
        values = {name: getattr(self, name) for name in names}
        mapped = {name: None if value is None else function(value) for name, value in values.items()}
        textures = None if self.textures is None else self.textures.map(function)
        return replace(self, gaussians=self.gaussians.map(function), textures=textures, **mapped)

    def to(self, *args) -> "Scene":
        return self.map(lambda tensor: tensor.to(*args))

    def leaves(self) -> "tuple[Scene, Dict[str, Tensor]]":
        """A copy whose differentiable tensors are fresh leaves, and those leaves by name."""
        scene = self.map(lambda tensor: tensor.detach().clone())
        named = {name: getattr(scene.gaussians, name) for name in Gaussians.__dataclass_fields__}
        named.update(
            viewmats=scene.viewmats,
            background=scene.background,
            channels=scene.channels,
            channel_background=scene.channel_background,
        )
        if scene.textures is not None:
            named.update(vectors=scene.textures.vectors, weights=scene.textures.weights)
        return scene, {name: leaf.requires_grad_() for name, leaf in named.items() if leaf is not None}

    def arguments(self) -> dict:
        """Keyword arguments for ``rasterize``."""
        return {
            "gaussians": self.gaussians,
            "viewmats": self.viewmats,
            "Ks": self.Ks,
            "width": self.width,
            "height": self.height,
            "background": self.background,
            "channels": self.channels,
            "channel_background": self.channel_background,
            "textures": self.textures,
        }


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def look_at(eye: Sequence[float], target: Sequence[float] = (0.0, 0.0, 0.0)) -> Tensor:
    """World-to-camera matrix [4, 4] in OpenCV axes, the world's y axis pointing down in the picture."""
    eye, target = torch.tensor(eye, dtype=torch.float64), torch.tensor(target, dtype=torch.float64)
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    down = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward), dim=0)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3], matrix[:3, 3] = rotation, -rotation @ eye
    return matrix.float()


def cameras(count: int, width: int, height: int) -> "tuple[Tensor, Tensor]":
    """Viewmats and intrinsics of cameras on an arc around the origin; principal points are off centre."""
    angles = [0.3 + 0.7 * index for index in range(count)]
    eyes = [
        (4.0 * torch.tensor(a).sin().item(), -0.5 + 0.4 * i, -4.0 * torch.tensor(a).cos().item())
        for i, a in enumerate(angles)
    ]
    intrinsics = torch.tensor([[0.9 * width, 0, 0.53 * width], [0, 0.95 * width, 0.46 * height], [0, 0, 1.0]])
    return torch.stack([look_at(eye) for eye in eyes]), intrinsics.expand(count, 3, 3).clone()


def scene(
    n: int = 150,
    *,
    kind: str = "trained",
    cameras_: int = 1,
    width: int = 37,
    height: int = 23,
    color_channels: int = 3,
    sh_degree: Optional[int] = None,
    channels: int = 0,
    seed: int = 0,
) -> Scene:
    """A ball in a room.

    Args:
        n: number of splats.
        kind: "trained" lies on surfaces, flat, with opacities near 0 and near 1; "init" is round with opacity 0.1.
        cameras_: number of cameras.
        width: pixels.
        height: pixels.
        color_channels: D.
        sh_degree: give spherical harmonics of this degree, split into ``sh`` and ``sh_rest``; None gives plain colours.
        channels: E, width of the further channels; 0 for none.
        seed: of the random numbers.
    """
    g = generator(seed)
    ball = torch.nn.functional.normalize(torch.randn(n, 3, generator=g), dim=-1)
    wall = 5 * torch.rand(n, 3, generator=g) - 2.5
    wall[:, 2] = 1.5
    on_ball = (torch.rand(n, generator=g) < 0.6)[:, None]
    means = torch.where(on_ball, ball, wall)
    quats = torch.randn(n, 4, generator=g)
    spacing = 2.5 / max(n, 1) ** 0.5
    if kind == "init":
        scales, opacities = torch.full((n, 3), 0.6 * spacing), torch.full((n,), 0.1)
    else:
        spread = torch.tensor([0.7, 0.5, 0.08]) * torch.exp(0.5 * torch.randn(n, 3, generator=g))
        scales, opacities = spacing * spread, torch.sigmoid(1.9 * torch.randn(n, generator=g))
    appearance = {"colors": torch.rand(n, color_channels, generator=g)}
    if sh_degree is not None:
        bands = (sh_degree + 1) ** 2
        coefficients = 0.5 * torch.randn(n, bands, color_channels, generator=g)
        appearance = {"sh": coefficients[:, :1]}
        if bands > 1:
            appearance["sh_rest"] = coefficients[:, 1:]
    viewmats, Ks = cameras(cameras_, width, height)
    return Scene(
        gaussians=Gaussians(means, quats, scales, opacities, **appearance),
        viewmats=viewmats,
        Ks=Ks,
        width=width,
        height=height,
        background=torch.rand(cameras_, color_channels, generator=g),
        channels=torch.randn(n, channels, generator=g) if channels else None,
        channel_background=torch.randn(cameras_, channels, generator=g) if channels else None,
    )


def textured(
    base: Scene, share: float = 0.7, texels: int = 5, strength: float = 0.8, planes: int = 3, **options
) -> Scene:
    """The scene with textures on a part of its splats, on three planes or on one of them."""
    n, g = len(base.gaussians), generator(30)
    splats = torch.randperm(n, generator=g)[: round(share * n)]
    vectors = strength * torch.randn(len(splats), planes, texels, 2, 4, generator=g)
    weights = torch.rand(len(splats), planes, generator=g)
    faces = None if planes == 3 else torch.randint(3, (len(splats),), generator=g)
    return replace(base, textures=Textures(vectors, splats, weights, faces, **options))


def facing(means: Sequence[Sequence[float]], *, size: int = 17, focal: float = 16.0, **fields) -> Scene:
    """A few splats in front of a camera at the origin that looks along +z, its axis through the middle pixel's centre.

    ``fields`` replaces quats, scales, opacities, colors; by default they are round (0.1), half opaque and white.
    """
    n = len(means)
    values = {
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(n, 4).clone(),
        "scales": torch.full((n, 3), 0.1),
        "opacities": torch.full((n,), 0.5),
        "colors": torch.ones(n, 3),
    }
    values.update({name: torch.as_tensor(value, dtype=torch.float32) for name, value in fields.items()})
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    return Scene(
        gaussians=Gaussians(torch.tensor(means, dtype=torch.float32).reshape(n, 3), **values),
        viewmats=torch.eye(4)[None],
        Ks=K[None],
        width=size,
        height=size,
    )


def _with(base: Scene, **fields: Tensor) -> Scene:
    return replace(base, gaussians=replace(base.gaussians, **fields))


def half_behind(base: Scene) -> Scene:
    """Every second splat moved behind the first camera."""
    centre = -base.viewmats[0, :3, :3].T @ base.viewmats[0, :3, 3]
    means = base.gaussians.means.clone()
    means[::2] = 2 * centre - means[::2]
    return _with(base, means=means)


def _tied() -> Scene:
    """Stacks of splats at exactly equal depths in every precision, each with its own colour."""
    g = generator(5)
    xy = torch.randint(-24, 25, (60, 2), generator=g) / 16
    z = torch.tensor([2.0, 4.0, 8.0]).repeat(20)
    return facing(
        torch.cat([xy * z[:, None] / 4, z[:, None]], dim=1).tolist(),
        size=33,
        scales=0.4 * torch.rand(60, 3, generator=g) + 0.05,
        quats=torch.randn(60, 4, generator=g),
        opacities=0.1 + 0.7 * torch.rand(60, generator=g),
        colors=torch.rand(60, 3, generator=g),
    )


def ordinary_scenes() -> Dict[str, Callable[[], Scene]]:
    """Scenes on which every backend must agree with the float64 reference, values and gradients."""
    return {
        "trained": lambda: scene(sh_degree=3, channels=5, seed=1),
        "init": lambda: scene(200, kind="init", sh_degree=1, width=48, height=32, seed=2),
        "dense": lambda: scene(600, width=20, height=50, seed=3),
        "three cameras": lambda: scene(cameras_=3, sh_degree=2, channels=2, width=33, height=17, seed=4),
        "channels per camera": lambda: _channels_per_camera(scene(60, cameras_=2, channels=3, seed=5)),
        "one grey channel": lambda: scene(80, color_channels=1, sh_degree=0, width=16, height=16, seed=6),
        "seven colour channels": lambda: scene(80, color_channels=7, sh_degree=3, seed=7),
        "64 channels": lambda: scene(80, channels=64, seed=8),
        "one splat": lambda: scene(1, width=19, height=31, sh_degree=1, seed=9),
        "one pixel": lambda: scene(40, width=1, height=1, seed=10),
        "half behind the camera": lambda: half_behind(scene(100, sh_degree=1, seed=11)),
        "wide": lambda: _scaled(scene(40, seed=12), 4.0),
        "tiny": lambda: _scaled(scene(120, sh_degree=1, seed=13), 0.02),
        "opaque": lambda: _with(scene(150, seed=14), opacities=torch.ones(150)),
        "equal depths": _tied,
        "textured": lambda: textured(scene(sh_degree=2, channels=2, cameras_=2, seed=16)),
        "textured by tanh": lambda: textured(scene(seed=22), texels=8, product_tanh=True),
        "textures move splats": lambda: textured(scene(seed=18), texels=4, moves_splats=True),
        "tanh moves splats": lambda: textured(scene(sh_degree=1, seed=19), 1.0, moves_splats=True, product_tanh=True),
        "two texels move splats": lambda: textured(scene(seed=24), texels=2, moves_splats=True),
        # Many pixels end before the last splat, and a tile has more entries than are treated at once.
        "a textured crowd": lambda: textured(
            scene(600, width=20, height=50, seed=3), texels=3, moves_splats=True, amplitudes=(1.0, 0.6, 0.3, 0.4)
        ),
        # Many alphas lie at their cap, where gradients pass that would lower them.
        "textures at the cap": lambda: textured(
            scene(300, sh_degree=1, width=20, height=50, seed=23), texels=4, amplitudes=(1.0, 1.0, 1.0, 1.0)
        ),
        "textures of one plane": lambda: textured(scene(seed=26), texels=4, moves_splats=True, planes=1),
        "tanh of one plane": lambda: textured(scene(seed=27), texels=4, product_tanh=True, planes=1),
        "tanh of one plane moves": lambda: textured(
            scene(cameras_=2, seed=28), texels=3, product_tanh=True, moves_splats=True, planes=1
        ),
        "two texels on all": lambda: textured(scene(300, kind="init", seed=20), 1.0, texels=2),
    }


def needles() -> Scene:
    """Splats four hundred times as long as wide, of which plain float32 arithmetic loses several digits."""
    base = scene(60, sh_degree=1, width=320, height=240, seed=15)
    return _with(base, scales=torch.tensor([0.8, 0.004, 0.002]).expand(60, 3).clone())


def empty_scenes() -> Dict[str, Callable[[], Scene]]:
    """Scenes of which nothing is visible: the picture is the background, every gradient but its own is zero."""
    return {
        "no splats": lambda: scene(0, sh_degree=3, channels=2, cameras_=2),
        "all behind": lambda: _behind_all(scene(20, sh_degree=3, channels=2)),
        "all behind, textured": lambda: textured(_behind_all(scene(20, sh_degree=3, channels=2)), moves_splats=True),
        "all transparent": lambda: _with(scene(20, sh_degree=1), opacities=torch.zeros(20)),
        "all to the side": lambda: facing([[50.0, 0.0, 2.0], [0.0, -50.0, 2.0]]),
    }


def extreme_scenes() -> Dict[str, Callable[[], Scene]]:
    """Scenes at the end of what float32 can hold: results must be finite, and are not compared."""
    base = scene(60, sh_degree=1, channels=2, seed=20)
    thinnest = base.gaussians.scales * torch.tensor([1e4, 1e-4, 1e-4])
    return {
        "enormous": lambda: _scaled(base, 1e4),
        "needles": lambda: _with(base, scales=thinnest),
        "points": lambda: _scaled(base, 1e-12),
        "zero quaternions": lambda: _with(base, quats=torch.zeros(60, 4)),
        "at the camera": lambda: _with(
            base, means=(-base.viewmats[0, :3, :3].T @ base.viewmats[0, :3, 3]).repeat(60, 1)
        ),
        "very far": lambda: _with(base, means=base.gaussians.means * 1e6),
        "enormous, textured": lambda: textured(_scaled(base, 1e4), moves_splats=True),
        "points, textured": lambda: textured(_scaled(base, 1e-12), moves_splats=True, product_tanh=True),
        "needles, textured": lambda: textured(_with(base, scales=thinnest), moves_splats=True),
        "opacity 0 and 1": lambda: _with(base, opacities=(torch.arange(60) % 2).float()),
    }


def _channels_per_camera(base: Scene) -> Scene:
    channels = torch.randn(base.viewmats.shape[0], *base.channels.shape, generator=generator(6))
    return replace(base, channels=channels)


def _scaled(base: Scene, factor: float) -> Scene:
    return _with(base, scales=base.gaussians.scales * factor)


def _behind_all(base: Scene) -> Scene:
    centre = -base.viewmats[0, :3, :3].T @ base.viewmats[0, :3, 3]
    return _with(base, means=2 * centre - base.gaussians.means)
