# SPDX-License-Identifier: Apache-2.0
"""Splats that small networks read out of features of the training pictures.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn import Parameter

from nts_plugins.data.cameras import View, view_of
from nts_plugins.data.probe_data import ProbeScene
from nts_plugins.errors import InputError
from nts_plugins.evaluation.geometry import compare_paired
from nts_plugins.evaluation.images import compare, compare_inside
from nts_plugins.evaluation.poses import PoseRefinement, refined_pose
from nts_plugins.gaussians.initialise import from_points
from nts_plugins.models._initial import SeedPoints
from nts_plugins.models.splat import SplatModel, SplatModelConfig
from nts_plugins.probe.points import ProbePoints
from nts_plugins.probe.readout import READ_OUT, Mode, Readout
from nts_plugins.training.checkpoints import below

FEATURES = "features"
"""The name of the optimizer of features, where they are tuned."""


@dataclass
class ProbeModelConfig(SplatModelConfig):
    """Settings of :class:`ProbeModel`. Defaults are those of Feat2GS (Chen et al., CVPR 2025) and its program."""

    _target: Type = field(default_factory=lambda: ProbeModel)
    mode: Mode = "geometry"
    """What is read out of features, and what is trained freely: the splats' geometry, their texture, all of them, or
    nothing (InstantSplat's way, as a control)."""
    hidden: Optional[int] = None
    """Width of the networks' hidden layer; None makes it as wide as a feature, so that networks of short features, such
    as those of controls, can say less. A number gives all features networks of one size."""
    warm_start: int = 1000
    """Steps in which networks learn to say what the splats are at the start, before pictures are drawn. None in mode
    "free", which has no networks."""
    warm_batch: int = 0
    """Splats of a step of it, drawn by lot; 0 takes all of them."""
    mean_start: bool = False
    """Let networks begin with the mean of what splats are at the start, which they learn in fewer steps."""
    pose_steps: int = 1000
    """Steps after it in which poses of training views are refined."""
    tune_features: bool = False
    """Let features learn in the warm start: the "*" variants."""
    scale_anchor: float = 0.1
    """Weight of what keeps scales near those of the start, for controls that no network makes."""
    least_opacity: float = 0.05
    """Fainter splats do not count where places are compared with true ones."""
    refine_test_poses: PoseRefinement = field(default_factory=PoseRefinement)
    """ns-eval also scores test views at refined poses."""


class ProbeModel(SplatModel):
    """Splats of the training pictures' pixels, as networks read them out of features (Feat2GS, Chen, Chen, Chen,
    Pons-Moll, Xiu, CVPR 2025, arXiv 2412.09606).

    What is read out is no parameter: ``gauss_params`` has its values as they were last drawn.

    Raises:
        InputError: also where a mode needs features and there are none.
    """

    config: ProbeModelConfig  # type: ignore[assignment]

    def populate_modules(self) -> None:
        config = self.config
        if config.strategy != "default" or config.num_downscales or config.exposure or config.heads:
            raise InputError(
                "The splats of a probe stay as many as they are: --pipeline.model.strategy mcmc, --pipeline.model."
                "num-downscales, --pipeline.model.exposure and heads are not for this method."
            )
        narrow = config.hidden is not None and config.hidden < 1
        if narrow or min(config.warm_start, config.warm_batch, config.pose_steps) < 0:
            raise InputError(
                "--pipeline.model.warm-start, --pipeline.model.warm-batch and --pipeline.model.pose-steps must not be "
                "below 0, and --pipeline.model.hidden must be at least 1."
            )
        points = self._scene.points
        super().populate_modules()
        names = READ_OUT[config.mode]
        for name in names:
            self.gauss_params[name].requires_grad_(False)
        self.readout = Readout(1, {})
        self.features: Optional[Tensor]
        self.register_buffer("features", None, persistent=False)
        self._start: Dict[str, Tensor] = {}
        self._known: Optional[Dict[str, Tensor]] = None
        self._stale = False
        if points is not None and names:
            self._read_from(points, names)

    def _read_from(self, points: ProbePoints, names: Tuple[str, ...]) -> None:
        features = points.features
        if features is None or not features.shape[1]:
            raise InputError(
                f"The mode {self.config.mode} reads splats out of features, and there are none: name a model with "
                f"--pipeline.datamanager.features.name."
            )
        self.readout = self._networks(features.shape[1])
        self.features = Parameter(features.float().clone()) if self.config.tune_features else features
        self._start = {name: self.gauss_params[name].detach().clone() for name in names}
        if self.config.mean_start:
            self.readout.start_at_mean(self._start)
        self._stale = True

    def _networks(self, channels: int) -> Readout:
        shapes = {name: tuple(self.gauss_params[name].shape[1:]) for name in READ_OUT[self.config.mode]}
        return Readout(channels, shapes, self.config.hidden)

    @property
    def _scene(self) -> ProbeScene:
        return self.kwargs["metadata"]["probe"]

    @property
    def _warm_start(self) -> int:
        return self.config.warm_start if READ_OUT[self.config.mode] else 0

    def first_splats(  # type: ignore[override]
        self, config: Any, seed_points: Optional[SeedPoints], metadata: Mapping[str, Any]
    ) -> Dict[str, Tensor]:
        """Splats of the pixels: as wide as their distance to their neighbours, not turned, of the pixels' colours. One
        where nothing is trained, until a checkpoint says how many there are."""
        points = metadata["probe"].points
        xyz, rgb = (torch.zeros(1, 3), None) if points is None else (points.positions, 255.0 * points.colors)
        opacity, scale = config.initial_opacity or 0.1, config.initial_scale or 1.0
        splats = from_points(xyz, rgb, sh_degree=config.sh_degree, opacity=opacity, scale=scale)
        return {**splats, "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(len(xyz), 1)}

    # ---- what is trained

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        networks = {name: list(network.parameters()) for name, network in self.readout.networks.items()}
        tuned = {FEATURES: [self.features]} if isinstance(self.features, Parameter) else {}
        return {**super().get_param_groups(), **networks, **tuned}

    def is_warming(self) -> bool:
        """Whether networks are still learning what the splats are at the start."""
        return self.step < self._warm_start

    def refines_poses(self) -> bool:
        """Whether the poses of training views are being refined."""
        return 0 <= self.step - self._warm_start < self.config.pose_steps

    def step_cb(self, optimizers: Any, step: int) -> None:
        super().step_cb(optimizers, step)
        self._known = None

    def step_post_backward(self, step: int) -> None:
        self.info, self._known, self._stale = {}, None, bool(READ_OUT[self.config.mode])

    def splat_params(self, camera: Optional[Cameras] = None) -> Dict[str, Tensor]:
        """Per-splat values [N, ...] by name, as networks say them. In training they are made once a step."""
        if self.features is None or not READ_OUT[self.config.mode]:
            return dict(self.gauss_params.items())
        if self.training and torch.is_grad_enabled():
            if self._known is None:
                self._known = {**self.gauss_params, **self.readout(self._fixed_features())}
            return self._known
        self._write_down()
        return dict(self.gauss_params.items())

    def _fixed_features(self) -> Tensor:
        assert self.features is not None
        return self.features.detach()  # Those that learn do so in the warm start only.

    @torch.no_grad()
    def _write_down(self) -> None:
        """Bring ``gauss_params`` up to what networks say."""
        if self._stale and self.features is not None:
            for name, value in self.readout(self._fixed_features()).items():
                self.gauss_params[name].copy_(value)
            self._stale = False

    # ---- from a camera to pictures

    def get_outputs(self, camera: Cameras) -> Dict[str, Tensor]:  # type: ignore[override]
        """As of the base class; nothing while networks are warming up, since no picture is drawn then."""
        return {} if self.training and self.is_warming() else super().get_outputs(camera)

    def _view(self, camera: Cameras, camera_to_worlds: Tensor) -> View:
        fixed = self.training and not self.refines_poses()
        return super()._view(camera, camera_to_worlds.detach() if fixed else camera_to_worlds)

    # ---- losses and metrics

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> Dict[str, Tensor]:
        if self.training and self.is_warming():
            return {"warm_start": self._warm_start_loss()}
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if not self.training:
            return losses
        if not self.refines_poses():
            losses.pop("camera_opt_regularizer", None)
        if "scales" in self._start and self._scene.points is not None and self._scene.points.control:
            drift = (self.splat_params()["scales"] - self.start_values()["scales"]).abs().mean()
            losses["scale_anchor"] = self.config.scale_anchor * drift
        return losses

    def start_values(self) -> Dict[str, Tensor]:
        """What is read out of features, by name, as it is at the start: the warm start's targets."""
        self._start = {name: value.to(self.device) for name, value in self._start.items()}
        return self._start

    def _warm_start_loss(self) -> Tensor:
        assert self.features is not None
        targets, count = self.start_values(), len(self.features)
        if not 0 < self.config.warm_batch < count:
            return self.readout.regression_loss(self.features, targets)
        some = torch.randint(count, (self.config.warm_batch,), device=self.features.device)
        return self.readout.regression_loss(self.features[some], {name: each[some] for name, each in targets.items()})

    def get_metrics_dict(self, outputs, batch) -> Dict[str, Any]:
        if self.training and self.is_warming():
            return {"gaussian_count": self.num_points}
        return super().get_metrics_dict(outputs, batch)

    @torch.no_grad()
    def get_image_metrics_and_images(self, outputs, batch) -> Tuple[Dict[str, float], Dict[str, Tensor]]:
        """As of the base class, and by Feat2GS's protocol (section 4, and the program).

        ``masked_*`` are means over the pixels that training pictures have seen, too; ``covisible`` is their share.
        ns-eval also reports ``refined_*`` and ``refined_masked_*``, the same at the refined pose, and ``published_*``,
        where pixels that do not count are black in both pictures and count nevertheless: these are the paper's numbers,
        and the higher, the less of the picture counts.
        """
        metrics, pictures = super().get_image_metrics_and_images(outputs, batch)
        target, mask = pictures["img"][:, : outputs["rgb"].shape[1]], batch["covisible"].to(self.device)
        metrics["covisible"] = float(mask.float().mean())
        metrics.update(_named("masked", compare_inside(outputs["rgb"], target, mask, self.lpips)))
        if "camera" in batch:
            refined = self._at_refined_pose(batch["camera"], target, mask)
            metrics.update(_named("refined", compare(refined, target, self.lpips)))
            metrics.update(_named("refined_masked", compare_inside(refined, target, mask, self.lpips)))
            metrics.update(_named("published", compare(refined * mask, target * mask, self.lpips)))
            pictures["img"] = torch.cat([pictures["img"], refined, refined * mask], dim=1)
        return metrics, pictures

    def _at_refined_pose(self, camera: Cameras, target: Tensor, mask: Tensor) -> Tensor:
        """[H, W, 3] in [0, 1], drawn from where the photograph fits best."""
        params = {name: value.detach() for name, value in self.splat_params().items()}
        gaussians, background = self._gaussians(params), self.background.on_show(self.device)

        def draw(pose: Tensor) -> Tensor:
            view = view_of(camera, pose[None])
            return self._draw(gaussians, params, [], view, background=background)[0].colors[0]

        start = camera.camera_to_worlds.reshape(-1, 3, 4)[0].to(self.device)
        pose, _ = refined_pose(draw, target, start, self.config.refine_test_poses, mask)
        return draw(pose).clamp(0.0, 1.0)

    def further_metrics(self, dataset: Any, output_path: Optional[Path]) -> Dict[str, float]:
        """``accuracy``, ``completeness`` and ``distance`` of the splats' places in the unit of the data, where the data
        has measured depth: mean distance to the nearest true point, the reverse, and that of each splat to the true
        point of its own pixel. Splats are registered to the truth by the latter first, with a scale."""
        truth = self._scene.truth()
        if truth is None:
            return {}
        sites, params = self._scene.sites(), self.splat_params()
        if len(sites) != self.num_points:
            return {}  # Another stride than in training.
        own = torch.cat([view.points_at(sites.pixels[sites.views == number]) for number, view in enumerate(truth)])
        known = torch.cat([view.depth_at(sites.pixels[sites.views == number]) for number, view in enumerate(truth)]) > 0
        solid = torch.sigmoid(params["opacities"]).reshape(-1).cpu() >= self.config.least_opacity
        kept = known & solid
        if int(kept.sum()) < 4:
            return {}
        found = params["means"].detach().cpu()[kept] / self._scene.unit
        everything = torch.cat([view.points_at(view.pixels()[view.depth.reshape(-1) > 0]) for view in truth])
        return compare_paired(
            found.numpy(), own[kept].numpy() / self._scene.unit, everything.numpy() / self._scene.unit
        )

    # ---- checkpoints

    def state_dict(self, *args: Any, **kwargs: Any) -> Dict[str, Any]:  # type: ignore[override]
        self._write_down()
        return super().state_dict(*args, **kwargs)

    def get_extra_state(self) -> Dict[str, Any]:
        return {**super().get_extra_state(), "mode": self.config.mode}

    def load_state_dict(self, state_dict: Mapping[str, Any], **kwargs: Any):  # type: ignore[override]
        """As of the base class.

        Raises:
            InputError: also where the checkpoint is of another mode, or of features of another length.
        """
        mode = (state_dict.get("_extra_state") or {}).get("mode", self.config.mode)
        if mode != self.config.mode:
            raise InputError(f"The checkpoint is of the mode {mode}, and this run is of the mode {self.config.mode}.")
        if self.features is None:
            self._take_networks(state_dict)
        result = super().load_state_dict(state_dict, **kwargs)
        self._stale = False
        return result

    def _take_networks(self, state: Mapping[str, Any]) -> None:
        """Make room for networks and features of a checkpoint, where there are no pictures to make them of."""
        networks = below(state, "readout.networks.")
        if networks:
            self.readout = self._networks(next(iter(networks.values())).shape[-1]).to(self.device)
        if "features" in state:
            self.features = Parameter(torch.empty_like(state["features"], device=self.device))


def _named(prefix: str, metrics: Mapping[str, float]) -> Dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in metrics.items()}
