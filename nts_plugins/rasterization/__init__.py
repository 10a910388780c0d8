# SPDX-License-Identifier: Apache-2.0
"""The one door to pixels: ``rasterize`` and its adjoint ``lift``, on any device.

Conventions are gsplat's: world-to-camera matrices in OpenCV axes (x right, y down, z forward), quaternions w x y z,
pixel centres at +0.5, intrinsics in pixels.
"""

from nts_plugins.rasterization._api import coverage, lift, lift_ids, rasterize
from nts_plugins.rasterization._backends import BackendUnavailable, UnknownBackend, available_backends, select_backend
from nts_plugins.rasterization._types import Lifted, LiftedIds, Raster, Rules
from nts_plugins.rasterization.rules import GSPLAT_1_4, GSPLAT_1_5, installed_rules
from nts_plugins.rasterization.textures import Seen, Textures, TextureSource

__all__ = [
    "GSPLAT_1_4",
    "GSPLAT_1_5",
    "BackendUnavailable",
    "Lifted",
    "LiftedIds",
    "Raster",
    "Rules",
    "Seen",
    "TextureSource",
    "Textures",
    "UnknownBackend",
    "available_backends",
    "coverage",
    "installed_rules",
    "lift",
    "lift_ids",
    "rasterize",
    "select_backend",
]
