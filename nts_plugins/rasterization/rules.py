# SPDX-License-Identifier: Apache-2.0
"""The constants of gsplat, version by version, so that every backend draws what the installed gsplat would draw."""

from nts_plugins import compat
from nts_plugins.rasterization._types import Rules

GSPLAT_1_4 = Rules(name="gsplat-1.4", alpha_cap=0.999, opacity_aware_extent=False, radii_per_axis=False)
GSPLAT_1_5 = Rules(name="gsplat-1.5", alpha_cap=0.999, opacity_aware_extent=True, radii_per_axis=True)


def installed_rules() -> Rules:
    """The rules of the gsplat that is installed; those of the tested base, 1.4, when there is none."""
    return GSPLAT_1_5 if compat.version_of("gsplat") >= (1, 5) else GSPLAT_1_4
