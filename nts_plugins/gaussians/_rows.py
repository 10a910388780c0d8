# SPDX-License-Identifier: Apache-2.0
"""A splat is one row of many tensors: parameters, optimizer moments, statistics. Here they are edited together."""

from typing import Dict, List, Optional

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from nts_plugins.gaussians.strategies import Optimizers, Params, StrategyState


@torch.no_grad()
def gather_rows(
    params: Params,
    optimizers: Optimizers,
    state: StrategyState,
    source: Tensor,
    fresh: int = 0,
    values: Optional[Dict[str, Tensor]] = None,
) -> None:
    """Make row i of everything what row ``source[i]`` was. Adding, copying and removing splats are all this.

    Every parameter is replaced by a new one, with ``requires_grad`` as it was, in ``params`` and in its optimizer.

    Args:
        source: [M] int64 indices of old rows.
        fresh: number of trailing rows that are new splats: their optimizer moments start at zero.
        values: by name of the parameter, [fresh, ...] what the trailing rows hold instead of copies.

    Raises:
        ValueError: see :func:`check_optimizers`. Nothing is changed then.
    """
    check_optimizers(params, optimizers)
    kept = len(source) - fresh
    for name in list(params.keys()):
        old = params[name]
        rows = old.detach().index_select(0, source)
        if values is not None and name in values:
            rows[kept:] = values[name]
        new = Parameter(rows, requires_grad=old.requires_grad)
        params[name] = new
        if name in optimizers:
            _hand_over(optimizers[name], old, new, source, kept)
    for name, statistic in state.per_splat.items():
        state.per_splat[name] = statistic.index_select(0, source)


@torch.no_grad()
def copy_rows(params: Params, source: Tensor, target: Tensor) -> None:
    """Overwrite rows ``target`` [M] of every parameter with rows ``source`` [M], in place. Moments stay."""
    for parameter in params.values():
        parameter[target] = parameter[source]


@torch.no_grad()
def zero_moments(params: Params, optimizers: Optimizers, name: str, rows: Optional[Tensor] = None) -> None:
    """Forget the optimizer's moments of one parameter, for some rows or for all, in place."""
    if name not in optimizers:
        return
    parameter = params[name]
    for moment in _moments(optimizers[name], parameter):
        if rows is None:
            moment.zero_()
        else:
            moment[rows] = 0


def check_optimizers(params: Params, optimizers: Optimizers) -> None:
    """Make sure that every trainable parameter would be followed by its optimizer when it is replaced.

    Raises:
        ValueError: when one has no optimizer, its optimizer holds another tensor, or it has another number of rows.
    """
    n = len(params["means"])
    for name, parameter in params.items():
        if parameter.ndim == 0 or len(parameter) != n:
            raise ValueError(f"Parameter {name!r} has shape {tuple(parameter.shape)}, expected {n} rows as in 'means'.")
        if name in optimizers:
            held = [each for group in optimizers[name].param_groups for each in group["params"]]
            if not any(each is parameter for each in held):
                raise ValueError(
                    f"The optimizer of {name!r} does not hold that parameter: it was replaced after the optimizer "
                    "was made. Make optimizers after loading parameters."
                )
        elif parameter.requires_grad:
            raise ValueError(f"Parameter {name!r} is trainable but has no optimizer. Give it one, or freeze it.")


def _moments(optimizer: Optimizer, parameter: Tensor) -> List[Tensor]:
    """What the optimizer remembers for each entry of a parameter: ``exp_avg`` and the like, but no step counter."""
    remembered = optimizer.state.get(parameter, {}).values()
    return [value for value in remembered if torch.is_tensor(value) and value.shape == parameter.shape]


def _hand_over(optimizer: Optimizer, old: Parameter, new: Parameter, source: Tensor, kept: int) -> None:
    """Let the optimizer go on with ``new``; moments follow their rows, and those after the first ``kept`` are zero."""
    for group in optimizer.param_groups:
        group["params"] = [new if each is old else each for each in group["params"]]
    remembered = optimizer.state.pop(old, None)
    if remembered is None:
        return  # The optimizer has not made a step yet.
    for key, value in remembered.items():
        if torch.is_tensor(value) and value.shape == old.shape:
            remembered[key] = value.index_select(0, source)
            remembered[key][kept:] = 0
    optimizer.state[new] = remembered
