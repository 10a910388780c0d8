# SPDX-License-Identifier: Apache-2.0
"""A training run without a picture: parameters, optimizers, and the record a rasterizer would have left."""

import copy
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional

import torch
from torch import Tensor
from torch.nn import Parameter, ParameterDict
from torch.optim import Adam, Optimizer

SHAPES = {
    "means": (3,),
    "scales": (3,),
    "quats": (4,),
    "opacities": (1,),
    "features_dc": (3,),
    "features_rest": (3, 3),
}


REFINE = 600
"""A step at which the default config refines."""


@dataclass
class Training:
    """Splats whose every trainable parameter has an optimizer with moments that are not zero."""

    params: ParameterDict
    optimizers: Dict[str, Optimizer]

    def __len__(self) -> int:
        return len(self.params["means"])

    def moments(self, name: str, key: str = "exp_avg") -> Tensor:
        return self.optimizers[name].state[self.params[name]][key]

    def optimize(self, generator: torch.Generator) -> None:
        """One optimizer step along random gradients."""
        for name, optimizer in self.optimizers.items():
            parameter = self.params[name]
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            optimizer.step()

    def copy(self) -> "Training":
        """The same run once more, sharing nothing."""
        params = copy.deepcopy(self.params)
        optimizers = {}
        for name, optimizer in self.optimizers.items():
            optimizers[name] = Adam([params[name]], lr=1e-3)
            optimizers[name].load_state_dict(copy.deepcopy(optimizer.state_dict()))
        return Training(params, optimizers)

    def assert_in_step(self) -> None:
        """Every parameter and moment has a row for each splat, and each optimizer holds the current parameter."""
        for name, parameter in self.params.items():
            assert len(parameter) == len(self), name
        for name, optimizer in self.optimizers.items():
            parameter = self.params[name]
            (held,) = (each for group in optimizer.param_groups for each in group["params"])
            assert held is parameter, name
            assert list(optimizer.state) == [parameter], name
            for key, value in optimizer.state[parameter].items():
                assert not torch.is_tensor(value) or value.ndim == 0 or value.shape == parameter.shape, (name, key)


def start(
    n: int,
    *,
    opacity: float = 2.0,
    scale: float = -5.0,
    make_optimizer: Callable[[list], Optimizer] = lambda parameters: Adam(parameters, lr=1e-3),
    device: str = "cpu",
    random_state: int = 0,
) -> Training:
    """``n`` random splats with mean opacity logit and log scale as given, and one optimizer step behind them."""
    generator = torch.Generator().manual_seed(random_state)
    values = {name: torch.randn((n, *shape), generator=generator) for name, shape in SHAPES.items()}
    values["scales"] = values["scales"] * 0.5 + scale
    values["opacities"] = values["opacities"] + opacity
    params = ParameterDict({name: Parameter(value.to(device)) for name, value in values.items()})
    training = Training(params, {name: make_optimizer([params[name]]) for name in SHAPES})
    training.optimize(generator)
    return training


def record(gradients: Tensor, radii: Optional[Tensor] = None, *, per_axis: bool = False, **more: Any) -> Dict[str, Any]:
    """The ``info`` of a 200 x 100 picture whose screen-space means received these gradients.

    Args:
        gradients: [C, N, 2] of ``means2d`` in pixels, the absolute ones being their absolute values.
        radii: [C, N] in pixels; None is 3 everywhere.
        per_axis: whether to give the radii as gsplat 1.5 does, [C, N, 2].
    """
    means2d = torch.zeros_like(gradients, requires_grad=True)
    means2d.grad = gradients.clone()
    means2d.absgrad = gradients.abs()
    radii = torch.full(gradients.shape[:2], 3, device=gradients.device) if radii is None else radii
    radii = torch.stack([radii, radii], dim=-1) if per_axis else radii
    info = {"means2d": means2d, "radii": radii.int(), "gaussian_ids": None, "camera_ids": None}
    return {**info, "width": 200, "height": 100, "n_cameras": len(gradients), **more}


def pull(n: int, gradients: Dict[int, float], **options: Any) -> Dict[str, Any]:
    """A record in which some splats are pulled along x; gradients are given in the strategy's unit.

    The strategy multiplies pixel gradients by half the width, 100, and the number of cameras, 1.
    """
    values = torch.zeros(1, n, 2)
    for splat, gradient in gradients.items():
        values[0, splat, 0] = gradient / 100.0
    return record(values, **options)


def logit(opacity: float) -> float:
    return float(torch.logit(torch.tensor(opacity, dtype=torch.float64)))
