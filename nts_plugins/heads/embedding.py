# SPDX-License-Identifier: Apache-2.0
"""A feature vector on every splat, trained to look like per-image feature maps.

The general form of feature distillation into splats (as in Feature 3DGS, Zhou et al. 2024): the vectors are drawn with
the weights of the colours, and compared with what a 2D network said about each photograph.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Literal, Mapping, Type

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from nts_plugins.data.cameras import View
from nts_plugins.data.pyramid import Targets
from nts_plugins.errors import InputError
from nts_plugins.heads.base import FeatureHead, FeatureHeadConfig
from nts_plugins.viewer.pca import PcaColors


@dataclass
class EmbeddingHeadConfig(FeatureHeadConfig):
    """Settings of :class:`EmbeddingHead`."""

    _target: Type = field(default_factory=lambda: EmbeddingHead)
    channels: int = 16
    """Length of the vector on each splat; that of the maps it is compared with."""
    target: str = "feature"
    """Name of the maps [h, w, channels] in the batch. They may be smaller than the image."""
    loss: Literal["l1", "cosine"] = "l1"
    """Mean absolute difference, or one minus the cosine of the angle between the vectors."""
    weight: float = 1.0
    """Of the loss."""
    refit_colors_every: int = 500
    """Steps between two fits of the colours under which the viewer shows the vectors."""


class EmbeddingHead(FeatureHead):
    """Outputs ``<name>_feature`` [H, W, channels] and, for the viewer, ``<name>_pca`` [H, W, 3]."""

    config: EmbeddingHeadConfig

    def __init__(self, config: EmbeddingHeadConfig, *, name: str, metadata: Mapping[str, Any]) -> None:
        super().__init__(config, name=name, metadata=metadata)
        self.colors = PcaColors(config.channels)

    def initial_parameters(self, splats: Mapping[str, Tensor]) -> Dict[str, Parameter]:
        means = splats["means"]
        # Small and not zero: a vector without length has no angle, and a first gradient that Adam never forgets.
        return {self.name: Parameter(0.01 * torch.randn(len(means), self.config.channels).to(means.device))}

    def channels(self, params: Mapping[str, Tensor], view: View) -> Tensor:
        return params[self.name]

    def outputs(self, channels: Tensor, alphas: Tensor, view: View) -> Dict[str, Tensor]:
        return {f"{self.name}_feature": channels}

    def losses(self, outputs: Mapping[str, Tensor], targets: Targets) -> Dict[str, Tensor]:
        prediction, target = self._pair(outputs, targets)
        if self.config.loss == "l1":
            difference = (prediction - target).abs().mean()
        else:
            difference = (1.0 - F.cosine_similarity(prediction, target, dim=-1)).mean()
        return {f"{self.name}_loss": self.config.weight * difference}

    @torch.no_grad()
    def metrics(self, outputs: Mapping[str, Tensor], targets: Targets) -> Dict[str, float]:
        if self.config.target not in targets:
            return {}
        prediction, target = self._pair(outputs, targets)
        return {f"{self.name}_cosine": float(F.cosine_similarity(prediction, target, dim=-1).mean())}

    def displays(self, outputs: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        return {f"{self.name}_pca": self.colors(outputs[f"{self.name}_feature"])}

    def after_step(self, step: int, params: Mapping[str, Tensor]) -> None:
        if step % self.config.refit_colors_every == 0:
            self.colors.fit(params[self.name])

    def _pair(self, outputs: Mapping[str, Tensor], targets: Targets) -> "tuple[Tensor, Tensor]":
        """Drawn and wanted vectors [h, w, channels] at the smaller of the two resolutions."""
        prediction = outputs[f"{self.name}_feature"]
        if self.config.target not in targets:
            raise InputError(
                f"The head {self.name!r} learns from maps called {self.config.target!r}, which the data does not have."
            )
        target = targets[self.config.target]
        if target.shape[-1] != self.config.channels:
            raise InputError(
                f"The maps {self.config.target!r} have {target.shape[-1]} channels, and the head {self.name!r} has "
                f"{self.config.channels}. Set its `channels`."
            )
        size = min(prediction.shape[0], target.shape[0]), min(prediction.shape[1], target.shape[1])
        return _shrink(prediction, size), _shrink(target.float(), size)


def _shrink(features: Tensor, size: "tuple[int, int]") -> Tensor:
    """[H, W, D] to a smaller height and width by averaging. Differentiable."""
    if tuple(features.shape[:2]) == size:
        return features
    return F.adaptive_avg_pool2d(features.permute(2, 0, 1), size).permute(1, 2, 0)
