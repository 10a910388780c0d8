# SPDX-License-Identifier: Apache-2.0
"""What else a splat carries: the interface between a per-splat quantity and the model that draws it.

A head says *what* to splat and what the pixels then mean. The model asks it, in this order, in every step::

    head.initial_parameters(splats)        once: per-splat values, which join the splats' own in ``gauss_params``
    head.channels(params, view)            [N, E] values to draw, in the same pass as colour
    head.shown(gaussians, params)          viewer only: splats as the head's panel wants them seen
    head.outputs(channels, alphas, view)   what the drawn [H, W, E] mean
    head.picture(rgb, outputs)             what becomes of the picture
    head.losses(outputs, targets)          training only
    head.penalties(params)                 training only: what the splats themselves cost
    head.metrics(outputs, targets)
    head.after_step(step, params)          training only, after splats were added and removed
    head.displays(outputs)                 viewer and rendering only: pictures for people
    head.finish(params, gaussians, views)  once, when training ends

Per-splat values have one optimizer each, of the same name, in the recipe's ``optimizers``; densification, cropping and
checkpoints then treat them like positions. Other weights of a head are ordinary module parameters, listed by
:meth:`FeatureHead.param_groups`. Viewer elements are attributes of the head.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Mapping, MutableMapping, Optional, Tuple, Type

from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn
from torch.nn import Parameter

from nts_plugins.data.cameras import View
from nts_plugins.data.pyramid import Targets
from nts_plugins.errors import InputError
from nts_plugins.gaussians import Gaussians

Seen = Tuple[View, Dict[str, Any]]
"""A training camera as it was refined, and the batch of its picture."""


@dataclass
class FeatureHeadConfig(InstantiateConfig):
    """Settings that every head has."""

    _target: Type = field(default_factory=lambda: FeatureHead)
    start_step: int = 0
    """The head's first training step. Before it the head costs nothing."""
    stop_step: Optional[int] = None
    """First step in which the head is no longer trained; None trains it to the end."""
    trains_geometry: bool = False
    """Let the head's losses move and reshape the splats. Off, they reach the head's own values only."""

    def setup(self, *, name: str, metadata: Mapping[str, Any]) -> "FeatureHead":
        """Build the head; see :class:`FeatureHead` for the arguments."""
        return self._target(self, name=name, metadata=metadata)


class FeatureHead(nn.Module, ABC):
    """Something that each splat carries besides its colour.

    Args:
        config: settings.
        name: under which the model holds the head; its outputs are called ``<name>_<what>``.
        metadata: of the training data, the channel from the datamanager (feature width, encoder, label names).

    Raises:
        InputError: where a head that changes the picture would not be part of it all the time.
    """

    config: FeatureHeadConfig
    changes_picture = False
    """Whether :meth:`picture` does anything. Then the head is part of the picture from its first step to the end:
    splats that are trained without it would be trained to look like something else."""

    def __init__(self, config: FeatureHeadConfig, *, name: str, metadata: Mapping[str, Any]) -> None:
        super().__init__()
        if self.changes_picture and not (config.trains_geometry and config.stop_step is None):
            raise InputError(
                f"The head {name!r} is part of the picture that splats are trained to make: leave its trains-geometry "
                f"on, and its stop-step at None."
            )
        self.config = config
        self.name = name
        self.metadata = metadata

    def trains_at(self, step: int) -> bool:
        """Whether the head takes part in a training step."""
        stop = self.config.stop_step
        return step >= self.config.start_step and (stop is None or step < stop)

    @abstractmethod
    def initial_parameters(self, splats: Mapping[str, Tensor]) -> Dict[str, Parameter]:
        """The values that the head adds to each splat.

        Args:
            splats: the parameters that exist so far, first axis N; see :mod:`nts_plugins.gaussians.initialise`.

        Returns:
            [N, ...] by a name that nothing else uses. With ``requires_grad=False`` they are kept in step with the
            splats, and not trained.
        """

    @abstractmethod
    def channels(self, params: Mapping[str, Tensor], view: View) -> Tensor:
        """What to draw. Differentiable.

        Args:
            params: of the N splats that are drawn, as they are trained: scales are logarithms, opacities logits.
            view: one camera, for what a splat shows differently to each.

        Returns:
            [N, E], E the same for every view.
        """

    @abstractmethod
    def outputs(self, channels: Tensor, alphas: Tensor, view: View) -> Dict[str, Tensor]:
        """The meaning of the drawn pixels. Differentiable.

        Args:
            channels: [H, W, E] composited over zeros.
            alphas: [H, W, 1] accumulated opacity.
            view: the camera that drew them.

        Returns:
            [H, W, C] by name; the names begin with the head's.
        """

    def picture(self, rgb: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """The picture that is compared with photographs and shown, of a head that :attr:`changes_picture`; called from
        its first step on. Differentiable.

        Args:
            rgb: [H, W, 3] drawn over the background, before it is made as bright as a photograph.
            outputs: of the head, see above.
        """
        return rgb

    def losses(self, outputs: Mapping[str, Tensor], targets: Targets) -> Dict[str, Tensor]:
        """Terms of the training loss, weights included, by name."""
        return {}

    def penalties(self, params: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        """Terms that are about the splats and not about a picture, weights included, by name; ``params`` as above."""
        return {}

    def metrics(self, outputs: Mapping[str, Tensor], targets: Targets) -> Dict[str, float]:
        """Numbers about one picture. A head whose target is missing leaves its keys out, for all pictures alike."""
        return {}

    def displays(self, outputs: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        """Pictures for people: [H, W, 3] in [0, 1], or [H, W, 1], by name. No gradient."""
        return {}

    def after_step(self, step: int, params: Mapping[str, Tensor]) -> None:
        """Called after each training step of the head, for what is not trained by gradients."""
        return None

    def shown(self, gaussians: Gaussians, params: Mapping[str, Tensor]) -> Gaussians:
        """What the viewer draws in place of these splats, as many of them."""
        return gaussians

    @property
    def unfinished(self) -> bool:
        """Whether :meth:`finish` has to come before the head is of use; a run that was killed on the way begins with
        it."""
        return False

    def finish(self, params: MutableMapping[str, Parameter], gaussians: Gaussians, views: Collection[Seen]) -> None:
        """Called when all steps are done, for what needs splats as they will be. No gradient.

        Args:
            params: the splats' values, the head's own to be changed in place.
            gaussians: the same splats, ready to be drawn.
            views: of all training pictures.
        """
        return None

    def adapt(self, state: Mapping[str, Tensor], values: Mapping[str, Tensor], params: Mapping[str, Parameter]) -> None:
        """Called before a checkpoint is loaded, for tensors whose shapes depend on the data that is not here.

        Args:
            state: of the head itself, by name.
            values: of the splats, all [M, ...].
            params: the splats' values as they are, the head's own to be given the shapes of ``values``.
        """
        return None

    def param_groups(self) -> Dict[str, List[Parameter]]:
        """Parameters that do not belong to splats, by the name of their optimizer."""
        own = list(self.parameters())
        return {self.name: own} if own else {}
