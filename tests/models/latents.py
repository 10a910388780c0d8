# SPDX-License-Identifier: Apache-2.0
"""Models of latents on their own, their codecs and their pictures."""

import math
from pathlib import Path
from typing import Any, Dict, Optional

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from nts_plugins.appearance.background import over_background
from nts_plugins.data.latent_data import SceneLatents, padded_picture
from nts_plugins.encoders.latents import LatentCodec
from nts_plugins.gaussians import Gaussians
from nts_plugins.models.latent import LatentModel, LatentModelConfig
from nts_plugins.rasterization import rasterize
from tests.captures import FOCAL, ring_pose
from tests.encoders.small import BlockCodec
from tests.encoders.test_latents import kl
from tests.models.scenes import Steps, make_model, picture

METHOD = "latent-radiance-field"
CODEC = ["--pipeline.datamanager.codec.name", "tests.encoders.small:block_codec"]
START = ["--pipeline.model.alignment-start", "12"]


def other_codec(folder: Optional[Path], option: str) -> BlockCodec:
    """Of the same size, and of another name."""
    codec = BlockCodec()
    codec.name = "other blocks"
    return codec


def kl_codec(folder: Optional[Path], option: str) -> LatentCodec:
    """An autoencoder of a latent diffusion model, small and random."""
    torch.manual_seed(0)
    return kl()


def config(**values: Any) -> LatentModelConfig:
    return LatentModelConfig(**{"num_downscales": 0, **values})


def encoded(codec: LatentCodec, image: Tensor, color: Any = None) -> Tensor:
    """[h, w, D] latents of a photograph."""
    with torch.no_grad():
        return codec.encode(padded_picture(over_background(image, color), codec.factor))[0].permute(1, 2, 0)


def scene_of(codec: LatentCodec) -> SceneLatents:
    """The four photographs that :class:`Steps` train on."""
    images = [picture(math.pi * number / 2)["image"] for number in range(4)]
    padded = [padded_picture(image / 255, codec.factor) for image in images]
    colors = [torch.nn.functional.avg_pool2d(each, codec.factor)[0].permute(1, 2, 0) for each in padded]
    return SceneLatents(codec, tuple(encoded(codec, image) for image in images), tuple(colors))


def blocks() -> BlockCodec:
    return BlockCodec().requires_grad_(False)


def latent_model(settings: Optional[LatentModelConfig] = None, **metadata: Any) -> LatentModel:
    return make_model(settings or config(), latents=scene_of(blocks()), **metadata)  # type: ignore[return-value]


def odd_camera(width: int = 49, height: int = 37, cx: float = 23.3, cy: float = 19.8) -> Cameras:
    made = Cameras(
        camera_to_worlds=ring_pose(0.3)[None, :3],
        fx=FOCAL * width,
        fy=1.1 * FOCAL * width,
        cx=cx,
        cy=cy,
        width=width,
        height=height,
        camera_type=CameraType.PERSPECTIVE,
    )
    made.metadata = {"cam_idx": 0}
    return made


class LatentSteps(Steps):
    """A training loop whose pictures come with their latents."""

    model: LatentModel

    def picture(self, angle: float, time: float) -> Dict[str, Any]:
        batch = super().picture(angle, time)
        mean = torch.nn.functional.avg_pool2d(padded_picture(batch["image"] / 255, self.model.codec.factor), 2)
        colors = mean[0].permute(1, 2, 0)
        return {**batch, "latents": encoded(self.model.codec, batch["image"]), "latent_colors": colors}


def values_of(module: torch.nn.Module) -> Dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def same(first: Dict[str, Tensor], second: Dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def drawn(model: LatentModel, params: Any, made: Cameras, background: Tensor) -> Tensor:
    """[h, w, C] of splats, at the latents' resolution."""
    gaussians = Gaussians(
        means=params["means"],
        quats=params["quats"],
        scales=params["scales"].exp(),
        opacities=params["opacities"].sigmoid()[:, 0],
        sh=torch.cat([params["features_dc"][:, None], params["features_rest"]], dim=1),
    )
    view = model._view(made, made.camera_to_worlds)
    with torch.no_grad():
        raster = rasterize(gaussians, *view.camera, sh_degree=3, background=background, backend="reference")
    return raster.colors[0]
