# SPDX-License-Identifier: Apache-2.0
"""Splats that were trained before, by this suite or by another program."""

from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.errors import InputError, describe
from nts_plugins.files import ply
from nts_plugins.training import checkpoints


def loaded_splats(path: Path, sh_degree: int) -> Tuple[Dict[str, Tensor], Dict[str, Any]]:
    """Splats of a file.

    Args:
        path: a checkpoint (.ckpt) of a method of splats, or a .ply file.
        sh_degree: what is above is cut off, what is missing is 0.

    Returns:
        Their values as of :mod:`nts_plugins.gaussians.initialise`; and what else the checkpoint holds of its model, by
        name.

    Raises:
        InputError: where the file is missing, damaged, or holds no splats.
    """
    if path.suffix == ".ply":
        values, others = ply.read(path), {}
    else:
        state = checkpoints.below(checkpoints.read(path)["pipeline"], "_model.")
        values, others = checkpoints.below(state, "gauss_params."), state
    missing = [name for name in ply.VALUES if name not in values]
    if missing:
        raise InputError(f"{path} holds no splats with spherical harmonics: it lacks {describe(missing)}.")
    if len(values["means"]) == 0:
        raise InputError(f"{path} holds no splats.")
    if values["features_dc"].shape[-1] != 3:
        raise InputError(f"{path} holds splats of {values['features_dc'].shape[-1]} channels, which are no colours.")
    splats = {name: values[name].float() for name in ply.VALUES}
    rest, bands = splats["features_rest"], (sh_degree + 1) ** 2 - 1
    splats["features_rest"] = F.pad(rest, (0, 0, 0, max(0, bands - rest.shape[1])))[:, :bands].contiguous()
    finite = torch.stack([value.flatten(1).isfinite().all(dim=1) for value in splats.values() if value.numel()])
    return {name: value[finite.all(dim=0)] for name, value in splats.items()}, others


def take_exposure(exposure: Any, others: Mapping[str, Any]) -> None:
    """Let splats be as bright as they were, where they were trained on the same photographs."""
    state = checkpoints.below(others, "exposure.")
    own = exposure.state_dict()
    if set(own) == set(state) and all(own[name].shape == state[name].shape for name in own):
        exposure.load_state_dict(state)
