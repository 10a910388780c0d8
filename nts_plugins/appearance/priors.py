# SPDX-License-Identifier: Apache-2.0
"""How much what is expected beforehand weighs beside photographs."""

from typing import Optional

from nts_plugins.errors import InputError


def penalty_share(penalty_views: Optional[int], views: int, setting: str) -> float:
    """By what to multiply a penalty that is meant for ``penalty_views`` photographs where there are ``views``.

    Beside a mean over photographs, what is expected beforehand weighs the more the fewer there are. 1 where
    ``penalty_views`` is None, which takes the penalty as it is.

    Args:
        setting: what ``penalty_views`` is called, for the error.

    Raises:
        InputError: where ``penalty_views`` is not above zero.
    """
    if penalty_views is None:
        return 1.0
    if penalty_views < 1:
        raise InputError(f"{setting} is {penalty_views}; it must be above zero.")
    return penalty_views / max(views, 1)
