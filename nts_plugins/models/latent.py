# SPDX-License-Identifier: Apache-2.0
"""Splats in the latent space of a picture codec.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Literal, Mapping, Optional, Sequence, Tuple, Type

import torch
import torch.nn.functional as F
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallbackAttributes
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn
from torch.nn import Parameter

from nts_plugins.appearance.background import Background
from nts_plugins.data.cameras import View, view_of
from nts_plugins.data.latent_data import SceneLatents, padded_picture
from nts_plugins.encoders.latent_space import AlignedDecoder, LatentSpace
from nts_plugins.encoders.latents import Bounded, LatentCodec, MinMax
from nts_plugins.errors import InputError
from nts_plugins.evaluation.images import compare
from nts_plugins.evaluation.metrics import psnr
from nts_plugins.gaussians.initialise import rgb_to_sh, sh_to_rgb
from nts_plugins.models._initial import SeedPoints, initial_splats
from nts_plugins.models.splat import SplatModel, SplatModelConfig
from nts_plugins.rasterization import Raster
from nts_plugins.viewer.pca import PcaColors
from nts_plugins.viewer.thread import in_motion, in_viewer

DECODER = "latent_decoder"
"""The name of the decoder's optimizer."""


class LatentBackground(Background):
    """What is behind splats of latents: the numbers of a picture that has one colour everywhere.

    Args:
        data_color: that colour, as the data names it; None for black.
        codec: makes latents of it.
        space: makes numbers of these.
        with_colors: whether the colour itself follows them.
    """

    def __init__(
        self, data_color: Optional[Sequence[float]], codec: LatentCodec, space: LatentSpace, with_colors: bool
    ) -> None:
        super().__init__("data", data_color)
        self._codec, self._space, self._with_colors = codec, space, with_colors
        self._known: Dict[Tuple[float, ...], Tensor] = {}

    def in_training(self, device: torch.device) -> Tensor:
        """[D or D + 3] numbers of a training step."""
        return self._numbers(super().in_training(device))

    def on_show(self, device: torch.device) -> Tensor:
        """[D or D + 3] numbers of a picture that is not for training."""
        return self._numbers(self.color(device))

    @torch.no_grad()
    def _numbers(self, color: Tensor) -> Tensor:
        latent = self._known.get(tuple(color.tolist()))
        if latent is None:
            # Large enough that the codec does not see the border from the middle.
            picture = color.view(1, 3, 1, 1).expand(1, 3, 16 * self._codec.factor, 16 * self._codec.factor)
            latent = self._codec.encode(picture)[0, :, 8:9, 8:9].permute(1, 2, 0)
            self._known[tuple(color.tolist())] = latent
        numbers = self._space.numbers(latent)[0, 0]
        return torch.cat([numbers, color]) if self._with_colors else numbers


@dataclass
class LatentModelConfig(SplatModelConfig):
    """Settings of :class:`LatentModel`."""

    _target: Type = field(default_factory=lambda: LatentModel)
    normalisation: Literal["min-max", "bounded"] = "min-max"
    """How latents become numbers in [0, 1]: by the smallest and largest value of each channel in the training pictures,
    or by a bounded function that is the same for all scenes. Bounded numbers lie close to 0.5, where SSIM hardly tells
    them apart."""
    with_colors: bool = False
    """Splats have colours besides latents, drawn in the same pass and as small, and trained on the photographs' mean
    colours. ``latent_colors``, the viewer's view while it moves, and what exporters write are then these; without, they
    are what is linear in latents."""
    alignment_start: int = 20000
    """First step in which splats stay as they are, and the decoder learns to make pictures of what they look like."""
    novel_every: int = 8
    """One in so many training pictures is kept from the splats until then, so that the decoder sees what they look like
    where they were not trained, too. 0 keeps none."""
    alignment_crop: int = 16
    """The decoder learns from squares of so many latents a side, elsewhere in each step; 0 takes whole pictures."""


class LatentModel(SplatModel):
    """Splats whose colours are latents (Latent Radiance Fields, Zhou, Liu, Luo, Huang, ICLR 2025), drawn at the
    latents' resolution and decoded.

    Outputs are as large as the photograph: ``rgb`` is the decoded picture; ``latent_colors`` is one without a decoder,
    linear in latents, or drawn ``with_colors``; ``latent_pca`` shows latents' three main directions. ``latent`` [h, w,
    D] are the numbers. While
    somebody moves the viewer's view it shows ``latent_colors``, drawn at its own resolution.

    Raises:
        InputError: also where a checkpoint has the latents of another codec.
    """

    config: LatentModelConfig  # type: ignore[assignment]
    looks = {}

    def populate_modules(self) -> None:
        config, scene = self.config, self._scene
        if config.exposure or config.num_downscales:
            raise InputError(
                "Latents have no exposure, and are small already: --pipeline.model.exposure and --pipeline.model."
                "num-downscales are not for this method."
            )
        if config.novel_every == 1 or min(config.novel_every, config.alignment_start - 1, config.alignment_crop) < 0:
            raise InputError(
                "--pipeline.model.novel-every must be 0 or at least 2, --pipeline.model.alignment-start at least 1, "
                "and --pipeline.model.alignment-crop at least 0."
            )
        if config.background_color not in ("auto", "data"):
            raise InputError(
                "Pictures with alpha become latents over the data's own colour: --pipeline.model.background-color is "
                "auto or data for this method, and --alpha-color of the data says which."
            )
        channels = scene.codec.channels
        normaliser = MinMax(channels) if config.normalisation == "min-max" else Bounded()
        self.space, self.pca = LatentSpace(channels, normaliser), PcaColors(channels)
        if scene.maps:
            maps = [each.cpu() for each in scene.maps]
            self.space.fit(maps, [each.cpu() for each in scene.colors])
            self.pca.fit(torch.cat([self.space.numbers(each).flatten(0, 1) for each in maps]))
        metadata = self.kwargs["metadata"]
        if config.with_colors and "training_numbers" in metadata:  # The datamanager counted latents alone.
            numbers = metadata["training_numbers"] * (channels + 3) // channels
            self.kwargs["metadata"] = {**metadata, "training_numbers": numbers}
        super().populate_modules()
        self.decoder = AlignedDecoder(scene.codec)
        self._fingerprint = scene.codec.fingerprint()
        color = self.kwargs["metadata"].get("alpha_color")
        self.background = LatentBackground(color, scene.codec, self.space, config.with_colors)

    @property
    def _scene(self) -> SceneLatents:
        return self.kwargs["metadata"]["latents"]

    @property
    def codec(self) -> LatentCodec:
        """As it came; see :class:`~nts_plugins.encoders.latent_space.AlignedDecoder` for what is trained."""
        return self.decoder.codec

    def first_splats(  # type: ignore[override]
        self, config: Any, seed_points: Optional[SeedPoints], metadata: Mapping[str, Any]
    ) -> Dict[str, Tensor]:
        """Splats of the seed points, whose latents are those that pictures have where they have such colours."""
        splats = initial_splats(config, seed_points, metadata)
        colors = sh_to_rgb(splats["features_dc"])
        numbers = self.space.numbers_of(colors)
        if self.config.with_colors:
            numbers = torch.cat([numbers, colors], dim=-1)
        rest = splats["features_rest"]
        return {
            **splats,
            "features_dc": rgb_to_sh(numbers),
            "features_rest": rest.new_zeros(*rest.shape[:2], numbers.shape[-1]),
        }

    # ---- what is trained

    def get_training_callbacks(self, training_callback_attributes: TrainingCallbackAttributes):
        trainer, start = training_callback_attributes.trainer, self.config.alignment_start
        if trainer is not None and trainer.config.max_num_iterations <= start:
            CONSOLE.print(
                f"[yellow]The decoder learns from step {start} on (--pipeline.model.alignment-start), and training "
                f"ends before: pictures will be those of the codec's own decoder."
            )
        return super().get_training_callbacks(training_callback_attributes)

    def trains_splats(self) -> bool:
        return self.step < self.config.alignment_start

    def pictures_at(self, step: int) -> Optional[Sequence[int]]:
        every, count = self.config.novel_every, self.num_train_data
        if every == 0 or count < every or step >= self.config.alignment_start:
            return None
        return [number for number in range(count) if number % every != every // 2]

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        return {**super().get_param_groups(), DECODER: list(self.decoder.parameters())}

    def step_cb(self, optimizers: Any, step: int) -> None:
        super().step_cb(optimizers, step)
        if not self.trains_splats():
            from nts_plugins.kernels.threads import share_with_torch  # numba, which recipes must not import

            share_with_torch()

    # ---- from a camera to pictures

    def _view(self, camera: Cameras, camera_to_worlds: Tensor) -> View:
        factor = self.codec.factor
        view = view_of(camera, camera_to_worlds)
        if in_motion():
            return view  # Decoding takes longer than people wait; see below.
        scale = view.Ks.new_tensor([1.0 / factor, 1.0 / factor, 1.0])
        size = (-(-view.width // factor), -(-view.height // factor))
        return View(view.viewmats, view.Ks * scale[:, None], *size, view.times)

    def _pictures(self, rgb: Tensor, raster: Raster, background: Tensor, camera: Cameras) -> Dict[str, Tensor]:
        outputs = super()._pictures(rgb, raster, background, camera)
        numbers, colors = self._latent_part(rgb), self._color_part(rgb).clamp(0.0, 1.0)
        if not in_viewer():  # All that the viewer offers is as large as its picture.
            outputs["latent"] = numbers
        if self.training and self.trains_splats():
            return outputs
        if in_motion():
            behind = self.background.color(rgb.device).expand_as(colors)
            shown = {"rgb": colors, "background": behind, "latent_colors": colors}
            return {**outputs, **shown, "latent_pca": self.pca(numbers)}
        size = int(camera.height.reshape(-1)[0]), int(camera.width.reshape(-1)[0])
        if self.training:
            numbers, size, outputs["corner"] = self._somewhere(numbers, size)
        outputs["rgb"] = self.decoded(numbers, size, self.decoder)
        outputs["background"] = self.background.color(rgb.device).expand(*size, 3)
        if self.training:
            return outputs
        outputs["rgb"] = outputs["rgb"].clamp(0.0, 1.0)
        for name in ("accumulation", "depth"):
            if name in outputs:
                outputs[name] = self._enlarged(outputs[name], size)
        outputs["latent_colors"] = self._enlarged(colors, size)
        outputs["latent_pca"] = self._enlarged(self.pca(numbers), size)
        return outputs

    @torch.no_grad()
    def drawn_numbers(self, camera: Cameras) -> Tensor:
        """[h, w, D] what a camera sees, without decoding it; a training camera, which has a ``cam_idx``, as refined."""
        view = self._view(camera, self.camera_optimizer.apply_to_camera(camera)[..., :3, :4])
        params = self.splat_params(camera)
        background = self.background.on_show(self.device)
        raster, _ = self._draw(self._gaussians(params), params, [], view, background=background)
        return self._latent_part(raster.colors[0])

    def _latent_part(self, drawn: Tensor) -> Tensor:
        """[..., D] those numbers among drawn ones [..., D or D + 3] that latents are made of."""
        return drawn[..., : self.codec.channels]

    def _color_part(self, drawn: Tensor) -> Tensor:
        """[..., 3] colours, about [0, 1]: those that were drawn, or what is linear in latents."""
        return drawn[..., self.codec.channels :] if self.config.with_colors else self.space.colors(drawn)

    def decoded(self, numbers: Tensor, size: Tuple[int, int], decoder: nn.Module) -> Tensor:
        """[H, W, 3] of drawn numbers [h, w, D]; not clamped. Differentiable."""
        latents = self.space.latents(numbers).permute(2, 0, 1)[None]
        return decoder(latents)[0].permute(1, 2, 0)[: size[0], : size[1]]

    def _somewhere(self, numbers: Tensor, size: Tuple[int, int]) -> Tuple[Tensor, Tuple[int, int], Tensor]:
        """A square of drawn numbers, the size of its picture in pixels, and where that begins: row and column."""
        crop, factor = self.config.alignment_crop or max(numbers.shape[:2]), self.codec.factor
        sides = [min(crop, side) for side in numbers.shape[:2]]
        corner = [int(torch.randint(whole - part + 1, ())) for whole, part in zip(numbers.shape, sides, strict=False)]
        part = numbers[corner[0] : corner[0] + sides[0], corner[1] : corner[1] + sides[1]]
        height, width = (
            min(factor * side, whole - factor * at) for side, whole, at in zip(sides, size, corner, strict=True)
        )
        return part, (height, width), factor * torch.tensor(corner)

    def _enlarged(self, picture: Tensor, size: Tuple[int, int]) -> Tensor:
        factor = self.codec.factor
        return picture.repeat_interleave(factor, dim=0).repeat_interleave(factor, dim=1)[: size[0], : size[1]]

    # ---- losses and metrics

    def _prediction_and_target(self, outputs: Dict[str, Tensor], batch: Dict[str, Any]) -> Tuple[Tensor, Tensor]:
        """In training drawn numbers and those of the picture, [h, w, D or D + 3]; later parts of decoded and true
        picture."""
        if not self.training:
            return super()._prediction_and_target(outputs, batch)
        if "_compared" not in batch:
            pair = self._numbers(outputs, batch) if self.trains_splats() else self._part(outputs, batch)
            batch["_compared"] = pair
        return batch["_compared"]

    def _numbers(self, outputs: Dict[str, Tensor], batch: Dict[str, Any]) -> Tuple[Tensor, Tensor]:
        prediction, target = outputs["rgb"], self.space.numbers(batch["latents"].to(self.device))
        if self.config.with_colors:
            target = torch.cat([target, batch["latent_colors"].to(target)], dim=-1)
        if "mask" not in batch:
            return prediction, target
        padded = padded_picture(batch["mask"].to(self.device).float(), self.codec.factor)
        # A latent is of all of its pixels, so that all of them must count.
        mask = F.avg_pool2d(padded, self.codec.factor)[0, 0, ..., None] > 1.0 - 1e-4
        return prediction * mask, target * mask

    def _part(self, outputs: Dict[str, Tensor], batch: Dict[str, Any]) -> Tuple[Tensor, Tensor]:
        (top, left), (height, width) = outputs["corner"].tolist(), outputs["rgb"].shape[:2]
        maps = {name: batch[name] for name in ("image", "mask") if name in batch}
        part = {name: value[top : top + height, left : left + width] for name, value in maps.items()}
        return super()._prediction_and_target(outputs, part)

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> Dict[str, Tensor]:
        if not self.training or self.trains_splats():
            return super().get_loss_dict(outputs, batch, metrics_dict)
        prediction, target = self._prediction_and_target(outputs, batch)
        losses = {"alignment_loss": (prediction - target).abs().mean()}
        return {**losses, **self.heads.losses(self.step, outputs, self._targets(batch), self.splat_params())}

    @torch.no_grad()
    def get_image_metrics_and_images(self, outputs, batch) -> Tuple[Dict[str, float], Dict[str, Tensor]]:
        """Numbers and pictures of one evaluation view: photograph, drawn, and what the codec makes of the photograph.

        Besides those of the drawn picture there are ``raw_*``, of the same latents under the codec's own decoder;
        ``ceiling_*``, of the codec's picture of the photograph; and ``latent_psnr``, of the numbers.
        """
        metrics, pictures = super().get_image_metrics_and_images(outputs, batch)
        target, size = pictures["img"][:, : outputs["rgb"].shape[1]], outputs["rgb"].shape[:2]
        latents = self.codec.encode(padded_picture(target, self.codec.factor))
        ceiling = self.codec.decode(latents)[0].permute(1, 2, 0)[: size[0], : size[1]].clamp(0.0, 1.0)
        raw = self.decoded(outputs["latent"], (size[0], size[1]), self.codec).clamp(0.0, 1.0)
        for name, picture in (("raw", raw), ("ceiling", ceiling)):
            own = compare(picture, target, self.lpips)
            metrics.update({f"{name}_{key}": value for key, value in own.items()})
        numbers = self.space.numbers(latents[0].permute(1, 2, 0))
        metrics["latent_psnr"] = float(psnr(outputs["latent"], numbers))
        pictures["img"] = torch.cat([pictures["img"], ceiling], dim=1)
        return metrics, pictures

    # ---- checkpoints

    def get_extra_state(self) -> Dict[str, Any]:
        own = {"codec": self.codec.name, "channels": self.codec.channels, "weights": self._fingerprint}
        return {**super().get_extra_state(), **own}

    def load_state_dict(self, state_dict: Mapping[str, Any], **kwargs: Any):  # type: ignore[override]
        """As of the base class.

        Raises:
            InputError: also where the checkpoint's latents are of another codec.
        """
        state = state_dict.get("_extra_state") or {}
        own = (self.codec.name, self.codec.channels)
        if "codec" in state and (state["codec"], state["channels"]) != own:
            raise InputError(
                f"The checkpoint has latents of the codec {state['codec']}, of {state['channels']} channels, and the "
                f"codec here is {own[0]}, of {own[1]}. Name the other one with --pipeline.datamanager.codec.name."
            )
        if state.get("weights", self._fingerprint) != self._fingerprint:
            raise InputError(
                f"The checkpoint has latents of the codec {own[0]} with other weights than those that were loaded "
                f"here. Say where they are with --pipeline.datamanager.codec.weights."
            )
        return super().load_state_dict(state_dict, **kwargs)

    # ---- for exporters, whose files hold colours

    def exported_params(self, camera: Optional[Cameras] = None) -> Dict[str, Tensor]:
        params = self.splat_params(camera)
        rest = params["features_rest"]
        # Harmonics are linear, too, and only their constant takes part in what the map adds.
        rest = self._color_part(rest) if self.config.with_colors else rest @ self.space.to_colors[:-1]
        colors = self._color_part(sh_to_rgb(params["features_dc"]))
        return {**params, "features_dc": rgb_to_sh(colors), "features_rest": rest}

    @property
    def colors(self) -> Tensor:
        return self._color_part(sh_to_rgb(self.features_dc))

    @property
    def shs_0(self) -> Tensor:
        return self.exported_params()["features_dc"]

    @property
    def shs_rest(self) -> Tensor:
        return self.exported_params()["features_rest"]
