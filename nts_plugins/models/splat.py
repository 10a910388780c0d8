# SPDX-License-Identifier: Apache-2.0
"""The conductor: 3D Gaussian Splatting that every method of the suite builds on.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Literal, Mapping, Optional, Sequence, Tuple, Type

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from nts_plugins.appearance.background import Background
from nts_plugins.appearance.exposure import Exposure, expose
from nts_plugins.appearance.spherical_harmonics import SphericalHarmonics
from nts_plugins.data.cameras import View, view_of
from nts_plugins.data.pyramid import ResolutionSchedule, Targets
from nts_plugins.evaluation.images import compare
from nts_plugins.evaluation.metrics import Lpips, psnr
from nts_plugins.gaussians import Gaussians
from nts_plugins.gaussians.strategies import DefaultConfig, MCMCConfig, make_strategy
from nts_plugins.heads.all import Heads
from nts_plugins.heads.base import FeatureHead, FeatureHeadConfig, Seen
from nts_plugins.models._backend import backend_explained
from nts_plugins.models._initial import check_settings, initial_splats, sparsity_of, strategy_for
from nts_plugins.models._state import take_shapes
from nts_plugins.rasterization import Raster, TextureSource, rasterize, select_backend
from nts_plugins.training.checkpoints import check_names
from nts_plugins.viewer.controls import SplatControls
from nts_plugins.viewer.looks import SPLAT_LOOKS
from nts_plugins.viewer.thread import drawable, in_viewer, interrupts_held


@dataclass
class SplatModelConfig(ModelConfig):
    """Settings of :class:`SplatModel`. Defaults are those of Kerbl et al. 2023, sections 5 and 7.1."""

    _target: Type = field(default_factory=lambda: SplatModel)
    strategy: Literal["default", "mcmc"] = "default"
    """How splats are added, removed and moved: the paper's adaptive density control, or MCMC."""
    densify: DefaultConfig = field(default_factory=DefaultConfig)
    """Settings of the default strategy."""
    mcmc: MCMCConfig = field(default_factory=MCMCConfig)
    """Settings of the MCMC strategy."""
    backend: Literal["auto", "cpu", "gsplat", "reference"] = "auto"
    """What draws the splats. "auto" asks the environment variable NTS_BACKEND, then decides by device."""
    sh_degree: int = 3
    """Highest degree of the spherical harmonics, 0 to 3."""
    sh_degree_interval: int = 1000
    """Steps until the next degree is trained; 0 trains all from the start."""
    num_downscales: int = 2
    """Training starts at 1 / 2^this of the resolution."""
    resolution_schedule: int = 250
    """Steps after which the resolution is doubled."""
    ssim_lambda: float = 0.2
    """Weight of 1 - SSIM in the loss; the mean absolute error has the rest."""
    background_color: Literal["auto", "data", "random", "black", "white"] = "auto"
    """Behind the splats, and behind pictures with an alpha channel. "random" is another colour in each training step,
    so that nothing can hide in front of the background by taking its colour. "data" is the data's ``--alpha-color``,
    or black where it has none. "auto" trains with "random" where pictures have alpha, and is else "data"."""
    exposure: bool = False
    """Learn how bright each photograph was taken, and show other views, held-out ones too, as photographs around them
    were taken; exported splats are of middle brightness. Pictures with alpha are taken as they are."""
    rasterize_mode: Literal["classic", "antialiased"] = "classic"
    """Antialiased splats keep their energy when small on the screen. Viewers of exported files expect classic."""
    random_init: bool = False
    """Start from random splats although there are seed points."""
    num_random: int = 50000
    """How many, where splats start at random."""
    random_scale: float = 1.0
    """Factor on the cube they fill, see :func:`nts_plugins.data.cameras.region_in_view`."""
    initial_opacity: Optional[float] = None
    """Opacity at the start; None takes 0.1 at seed points, 0.02 at random places, and 0.5 for mcmc."""
    initial_scale: Optional[float] = None
    """Size at the start, relative to the distance of the nearest neighbours; None takes 0.5 at seed points, 1 at random
    places, and 0.1 for mcmc."""
    sparse_seeds: int = 0
    """Fewer seed points than this lie far apart: the means' learning rate, and the steps before densification, grow by
    sqrt(this / points), at most 3. 0 never does, as in the paper; nor does mcmc, whose noise grows with that rate."""
    use_scale_regularization: bool = False
    """Keep splats from becoming needles (PhysGaussian, Xie et al. 2024)."""
    max_gauss_ratio: float = 10.0
    """Longest axis over shortest above which that costs."""
    scale_regularization_every: int = 10
    """Steps between two uses of it."""
    output_depth_during_training: bool = False
    """Draw depth in training steps too."""
    camera_optimizer: CameraOptimizerConfig = field(default_factory=lambda: CameraOptimizerConfig(mode="off"))
    """Refinement of the cameras' poses."""
    heads: Dict[str, FeatureHeadConfig] = field(default_factory=dict)
    """What splats carry besides colour, by name."""


class SplatModel(SplatfactoModel):
    """Gaussian splats, drawn and trained on any device.

    A SplatfactoModel to nerfstudio's exporter and viewer, which look for one; it shares names with it, and no training
    code. Per-splat values are ``gauss_params`` [N, ...]; those of heads are among them.

    Raises:
        InputError: where the backend asked for cannot run, or a checkpoint does not fit.
    """

    config: SplatModelConfig  # type: ignore[assignment]
    looks = SPLAT_LOOKS
    first_splats = staticmethod(initial_splats)

    def populate_modules(self) -> None:
        config = self.config
        metadata: Mapping[str, Any] = self.kwargs.get("metadata") or {}
        with backend_explained():
            select_backend(self.kwargs.get("device", "cpu"), config.backend)
        check_settings(config)
        self.extent = float(metadata.get("camera_extent", 1.0))
        splats: Dict[str, Tensor] = self.first_splats(config, self.seed_points, metadata)
        self.sparsity = sparsity_of(config, len(splats["means"]))
        self.strategy = make_strategy(strategy_for(config, metadata, splats, self.sparsity))
        self.strategy_state = self.strategy.initialize_state(self.extent)
        self.heads = Heads(self.head_configs(), metadata)
        splats = self.heads.initial_parameters(splats)
        self.gauss_params = nn.ParameterDict(
            {name: value if isinstance(value, Parameter) else Parameter(value) for name, value in splats.items()}
        )
        self.appearance = SphericalHarmonics(config.sh_degree, config.sh_degree_interval)
        self.camera_optimizer = config.camera_optimizer.setup(num_cameras=self.num_train_data, device="cpu")
        self.background = Background(
            config.background_color, metadata.get("alpha_color"), has_alpha=bool(metadata.get("has_alpha"))
        )
        # Exporters do not look at the pictures, so that the checkpoint must fit with and without alpha.
        self.exposure = Exposure(self.num_train_data, self.extent) if config.exposure else None
        self.exposes = self.exposure is not None and not metadata.get("has_alpha")
        self.resolution = ResolutionSchedule(config.num_downscales, config.resolution_schedule)
        self.crop_box: Optional[OrientedBox] = None
        self.controls = SplatControls(config.sh_degree, self.looks)
        self.lpips = Lpips()
        self.optimizers: Dict[str, Optimizer] = {}
        self.info: Dict[str, Any] = {}
        self.step = 0

    # ---- what is trained

    def pictures_at(self, step: int) -> Optional[Sequence[int]]:
        return None  # Models that train on some of the pictures for a while say on which.

    def get_gaussian_param_groups(self) -> Dict[str, List[Parameter]]:
        return {name: [value] for name, value in self.gauss_params.items() if value.requires_grad}

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        groups = {**self.get_gaussian_param_groups(), **self.heads.param_groups()}
        self.camera_optimizer.get_param_groups(param_groups=groups)
        if self.exposure is not None and self.exposes:
            groups["exposure"] = [self.exposure.log_factors]
        return groups

    def learning_rate_scales(self) -> Dict[str, float]:
        """Factors on the recipe's learning rates, by group: positions move with the scene's size and sparsity."""
        return {"means": self.extent * self.sparsity}

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> List[TrainingCallback]:
        optimizers = training_callback_attributes.optimizers
        return [
            TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self.step_cb, args=[optimizers]),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.step_post_backward),
        ]

    def step_post_backward(self, step: int) -> None:
        """Let the strategy, then the heads, do what follows a training step."""
        if self.trains_splats():
            rate = self.optimizers["means"].param_groups[0]["lr"]
            self.strategy.step_post_backward(
                self.gauss_params, self.optimizers, self.strategy_state, step, self.info, lr=float(rate)
            )
            self.info = {}  # It holds the graph of the step.
        self.heads.after_step(step, self.splat_params())

    def trains_splats(self) -> bool:
        return True  # Models that begin with splats, or stop with them, say when.

    @torch.no_grad()
    def finish(self, views: Collection[Seen]) -> None:
        """Let heads do what needs splats as they will be, when all steps are done; of all training pictures."""
        self.heads.finish(dict(self.gauss_params.items()), self._gaussians(self.splat_params()), views)

    # ---- from a camera to pictures

    def get_outputs(self, camera: Cameras) -> Dict[str, Tensor]:  # type: ignore[override]
        """Draw the splats.

        Args:
            camera: one pinhole camera. In training ``metadata["cam_idx"]`` says whose pose and exposure are learned.

        Returns:
            rgb [H, W, 3] (in [0, 1] except in training), accumulation [H, W, 1], background, depth [H, W, 1] (mean
            z-depth, scene units; not in training), and what the heads add.
        """
        params = self._drawn_params(camera)
        heads = self.heads.trained_at(self.step) if self.training else self.heads.each()
        fixed = self.training and not self.trains_splats()
        c2w = self.camera_optimizer.apply_to_camera(camera) if self.training else camera.camera_to_worlds[..., :3, :4]
        c2w = c2w.detach() if fixed else c2w
        view = self._view(camera, c2w)
        background = (self.background.in_training if self.training else self.background.on_show)(self.device)
        with_depth = not self.training or self.config.output_depth_during_training
        # Heads that must not move splats are drawn apart in training; without gradients one pass serves all.
        joint = [head for head in heads if not self.training or fixed or head.config.trains_geometry]
        apart = [head for head in heads if head not in joint]
        gaussians = self._gaussians(params).detach() if fixed else self._gaussians(params)
        raster, outputs = self._draw(gaussians, params, joint, view, background=background, with_depth=with_depth)
        if apart:
            outputs.update(self._draw(gaussians.detach(), params, apart, view, trains_splats=False)[1])
        rgb = raster.colors.squeeze(0)  # Indexing's gradient would fill a picture first.
        for head in heads if self.controls.shows_scene() else ():
            rgb = head.picture(rgb, outputs) if head.changes_picture and head.trains_at(self.step) else rgb
        if self.exposure is not None and self.exposes and self.controls.photographed():
            photograph = (camera.metadata or {}).get("cam_idx") if self.training else None
            rgb = expose(rgb, self.exposure(c2w[0], photograph), raster.alphas[0], background)
        outputs = {**self._pictures(rgb, raster, background, camera), **outputs}
        if self.training and not fixed:
            self.info = raster.info
            self.strategy.step_pre_backward(
                self.gauss_params, self.optimizers, self.strategy_state, self.step, self.info
            )
        return outputs

    @interrupts_held()
    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: Optional[OrientedBox] = None) -> Dict[str, Tensor]:
        """Draw for the viewer, rendering and evaluation, what lies inside a box; see :meth:`get_outputs`."""
        self.set_crop(obb_box)
        return self.get_outputs(drawable(camera).to(self.device))

    def _draw(
        self,
        gaussians: Gaussians,
        params: Mapping[str, Tensor],
        heads: List[FeatureHead],
        view: View,
        background: Optional[Tensor] = None,
        with_depth: bool = False,
        trains_splats: bool = True,
    ) -> Tuple[Raster, Dict[str, Tensor]]:
        """One pass of the rasterizer, and what the heads make of their channels."""
        channels = [head.channels(params, view) for head in heads]
        degree = self.controls.degree_of(self.appearance.degree_at(self.step))
        gaussians, textures = self.controls.shown(gaussians, self.textures_for(gaussians, params, view, trains_splats))
        if in_viewer() and self.controls.shows_scene():
            gaussians = self.heads.shown(gaussians, params)
        with backend_explained():
            raster = rasterize(
                gaussians,
                *view.camera,
                sh_degree=0 if gaussians.sh_rest is None else degree,
                channels=channels[0] if len(channels) == 1 else torch.cat(channels, dim=-1) if channels else None,
                background=background,
                depth="expected" if with_depth else None,
                textures=textures,
                antialiased=self.config.rasterize_mode == "antialiased",
                absgrad=self.training and trains_splats and self.strategy.absgrad,
                backend=self.config.backend,
            )
        return raster, self.heads.outputs(heads, [each.shape[-1] for each in channels], raster, view, self.training)

    def head_configs(self) -> Dict[str, FeatureHeadConfig]:
        return self.config.heads  # Models with options that are heads add them.

    def textures_for(self, gaussians: Gaussians, params, view: View, trains_splats: bool) -> Optional[TextureSource]:
        return None  # Models with local textures say which.

    def _drawn_params(self, camera: Cameras) -> Mapping[str, Tensor]:
        """Per-splat values inside the crop box, as the viewer wants to see them; heads are cropped with the rest."""
        params = self.splat_params(camera)
        keep = None if self.training else self.controls.kept(params, self.crop_box)
        return params if keep is None else {name: value[keep] for name, value in params.items()}

    def splat_params(self, camera: Optional[Cameras] = None) -> Dict[str, Tensor]:
        """Per-splat values [N, ...] by name, those of heads included; at the camera's time where a scene moves."""
        return dict(self.gauss_params.items())

    def _gaussians(self, params: Mapping[str, Tensor]) -> Gaussians:
        sh, sh_rest = self.appearance.coefficients(params, self.step)
        scales, opacities = torch.exp(params["scales"]), torch.sigmoid(params["opacities"]).squeeze(-1)
        return Gaussians(params["means"], params["quats"], scales, opacities, sh, sh_rest)

    def _view(self, camera: Cameras, camera_to_worlds: Tensor) -> View:
        return view_of(camera, camera_to_worlds, self._factor(int(camera.height[0]), int(camera.width[0])))

    def _pictures(self, rgb: Tensor, raster: Raster, background: Tensor, camera: Cameras) -> Dict[str, Tensor]:
        alpha = raster.alphas[0]
        if not self.training:
            rgb, background = rgb.clamp(0.0, 1.0), background.expand_as(rgb)
        outputs = {"rgb": rgb, "accumulation": alpha, "background": background}
        if raster.depth is not None:
            depth = raster.depth[0]
            # Where nothing is, the viewer wants something far away.
            outputs["depth"] = torch.where(alpha > 0, depth, depth.detach().max())
        return outputs

    def _factor(self, height: int, width: int) -> int:
        """How many times smaller than the picture this step draws."""
        return self.resolution.factor_at(self.step, height, width) if self.training else 1

    def set_background(self, background_color: Tensor) -> None:
        self.background.show(background_color)

    # ---- losses and metrics

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> Dict[str, Tensor]:
        from nts_plugins.losses import needle_loss, photometric_loss  # brings the kernels, which recipes must not

        prediction, target = self._prediction_and_target(outputs, batch)
        losses = {"main_loss": photometric_loss(prediction, target, self.config.ssim_lambda)}
        if not self.training:
            return losses
        config = self.config
        if self.trains_splats():
            if config.use_scale_regularization and self.step % config.scale_regularization_every == 0:
                losses["scale_reg"] = needle_loss(self.scales, config.max_gauss_ratio)
            losses.update(self.strategy.losses(self.gauss_params, self.strategy_state, self.step, losses["main_loss"]))
            self.camera_optimizer.get_loss_dict(losses)
        else:
            # Where language is not trained either, there must be something that has a gradient.
            losses["main_loss"] = losses["main_loss"].detach() + torch.zeros((), device=self.device, requires_grad=True)
        losses.update(self.heads.losses(self.step, outputs, self._targets(batch), self.splat_params()))
        return losses

    def get_metrics_dict(self, outputs, batch) -> Dict[str, Any]:
        prediction, target = self._prediction_and_target(outputs, batch)
        metrics: Dict[str, Any] = {"psnr": psnr(prediction, target).detach(), "gaussian_count": self.num_points}
        self.camera_optimizer.get_metrics_dict(metrics)
        return metrics

    @torch.no_grad()
    def get_image_metrics_and_images(self, outputs, batch) -> Tuple[Dict[str, float], Dict[str, Tensor]]:
        """Numbers and pictures of one evaluation view: photograph left, drawn right. Masks are not applied."""
        targets = self._targets(batch)
        target = self.composite_with_background(targets["image"], outputs["background"])
        metrics = compare(outputs["rgb"], target, self.lpips)
        metrics["gaussian_count"] = float(self.num_points)
        metrics.update(self.heads.metrics(outputs, targets))
        return metrics, {"img": torch.cat([target, outputs["rgb"]], dim=1)}

    def _targets(self, batch: Dict[str, Any]) -> Targets:
        return Targets(batch, self._factor(*batch["image"].shape[:2]), self.device)

    def _prediction_and_target(self, outputs: Dict[str, Tensor], batch: Dict[str, Any]) -> Tuple[Tensor, Tensor]:
        """Drawn picture and photograph [H, W, 3], black where the mask is off. Made once a step: it has a graph."""
        if "_compared" not in batch:
            targets = self._targets(batch)
            target = self.composite_with_background(targets["image"], outputs["background"])
            prediction = outputs["rgb"]
            if "mask" in targets:
                prediction, target = prediction * targets["mask"], target * targets["mask"]
            batch["_compared"] = (prediction, target)
        return batch["_compared"]

    # ---- checkpoints

    def get_extra_state(self) -> Dict[str, Any]:
        return {"step": self.step, "strategy": self.config.strategy, "strategy_state": self.strategy_state.state_dict()}

    def set_extra_state(self, state: Dict[str, Any]) -> None:
        check_names(state, self.get_extra_state(), "entries")
        self.step = int(state["step"])
        if state["strategy"] == self.config.strategy:
            self.strategy_state.load_state_dict(state["strategy_state"])

    def load_state_dict(self, state_dict: Mapping[str, Any], **kwargs: Any):  # type: ignore[override]
        """Take over a checkpoint's state, with its number of splats.

        Raises:
            InputError: naming missing or unexpected entries, and shapes of other settings.
        """
        take_shapes(self, state_dict)
        return nn.Module.load_state_dict(self, state_dict, **kwargs)

    def update_to_step(self, step: int) -> None:
        self.step = step

    # ---- for exporters

    def exported_params(self, camera: Optional[Cameras] = None) -> Dict[str, Tensor]:
        return self.splat_params(camera)  # Models whose splats have no colours make some.

    @property
    def colors(self) -> Tensor:
        return self.appearance.base_colors(self.splat_params())

    @property
    def shs_0(self) -> Tensor:
        return self.features_dc
