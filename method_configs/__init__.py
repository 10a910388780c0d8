# SPDX-License-Identifier: Apache-2.0
"""Recipes: one file a method."""

from nts_plugins import compat

# nerfstudio's commands import this package, through the entry points, before they load any checkpoint.
compat.allow_nerfstudio_checkpoints()
