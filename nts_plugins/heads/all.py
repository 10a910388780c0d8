# SPDX-License-Identifier: Apache-2.0
"""All heads of a model, asked one after the other."""

from typing import Any, Collection, Dict, List, Mapping, MutableMapping, Sequence

from torch import Tensor, nn
from torch.nn import Parameter

from nts_plugins.data.cameras import View
from nts_plugins.data.pyramid import Targets
from nts_plugins.gaussians import Gaussians
from nts_plugins.heads.base import FeatureHead, FeatureHeadConfig, Seen
from nts_plugins.rasterization import Raster
from nts_plugins.training.checkpoints import below


class Heads(nn.ModuleDict):
    """Heads by name; see :class:`~nts_plugins.heads.base.FeatureHead` for what each is asked.

    Args:
        configs: settings of each, by name.
        metadata: of the training data.
    """

    def __init__(self, configs: Mapping[str, FeatureHeadConfig], metadata: Mapping[str, Any]) -> None:
        super().__init__({name: config.setup(name=name, metadata=metadata) for name, config in configs.items()})

    def each(self) -> List[FeatureHead]:
        return list(self.values())  # type: ignore[arg-type]

    def trained_at(self, step: int) -> List[FeatureHead]:
        return [head for head in self.each() if head.trains_at(step)]

    @property
    def unfinished(self) -> bool:
        return any(head.unfinished for head in self.each())

    def initial_parameters(self, splats: Dict[str, Any]) -> Dict[str, Any]:
        """The splats' values with those of the heads."""
        for head in self.each():
            splats = {**splats, **head.initial_parameters(splats)}
        return splats

    def param_groups(self) -> Dict[str, List[Parameter]]:
        return {name: group for head in self.each() for name, group in head.param_groups().items()}

    def outputs(
        self, drawn: Sequence[FeatureHead], widths: Sequence[int], raster: Raster, view: View, training: bool
    ) -> Dict[str, Tensor]:
        """What some heads make of the drawn channels, and out of training also pictures of it for people.

        Args:
            drawn: heads whose channels lie side by side in the raster, in this order.
            widths: channels of each.
            raster: of one view.
            view: the camera.
            training: whether this is a training step.
        """
        outputs: Dict[str, Tensor] = {}
        pixels = () if raster.channels is None else raster.channels.squeeze(0).split(list(widths), dim=-1)
        for head, own_pixels in zip(drawn, pixels, strict=True):
            own = head.outputs(own_pixels, raster.alphas[0], view)
            outputs.update(own if training else {**own, **head.displays(own)})
        return outputs

    def losses(
        self, step: int, outputs: Mapping[str, Tensor], targets: Targets, params: Mapping[str, Tensor]
    ) -> Dict[str, Tensor]:
        """Of the heads that train at a step, their penalties too."""
        losses: Dict[str, Tensor] = {}
        for head in self.trained_at(step):
            losses.update({**head.losses(outputs, targets), **head.penalties(params)})
        return losses

    def metrics(self, outputs: Mapping[str, Tensor], targets: Targets) -> Dict[str, float]:
        return {name: value for head in self.each() for name, value in head.metrics(outputs, targets).items()}

    def shown(self, gaussians: Gaussians, params: Mapping[str, Tensor]) -> Gaussians:
        for head in self.each():
            gaussians = head.shown(gaussians, params)
        return gaussians

    def after_step(self, step: int, params: Mapping[str, Tensor]) -> None:
        for head in self.trained_at(step):
            head.after_step(step, params)

    def finish(self, params: MutableMapping[str, Parameter], gaussians: Gaussians, views: Collection[Seen]) -> None:
        for head in self.each():
            head.finish(params, gaussians, views)

    def adapt(self, state: Mapping[str, Tensor], values: Mapping[str, Tensor], params: Mapping[str, Parameter]) -> None:
        for name, head in zip(self.keys(), self.each(), strict=True):
            head.adapt(below(state, f"{name}."), values, params)
