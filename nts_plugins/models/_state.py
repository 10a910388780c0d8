# SPDX-License-Identifier: Apache-2.0
"""A model made ready for a checkpoint, which may hold another number of splats."""

from typing import Any, Mapping

from nts_plugins.training.checkpoints import below, check_state


def take_shapes(model: Any, state: Mapping[str, Any]) -> None:
    """Give the values of a :class:`~nts_plugins.models.splat.SplatModel` the shapes of a state, if it fits.

    Raises:
        InputError: naming missing or unexpected entries, and shapes of other settings.
    """
    if model.exposure is not None:
        model.exposure.check_count(state.get("exposure.log_factors"))
    model.heads.adapt(below(state, "heads."), below(state, "gauss_params."), model.gauss_params)
    check_state(model, state, growing="gauss_params.")
    count = len(state["gauss_params.means"])
    for value in model.gauss_params.values():
        # In place, because optimizers hold these very parameters.
        value.data = value.data.new_empty((count, *value.shape[1:]))
