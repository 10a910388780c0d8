# SPDX-License-Identifier: Apache-2.0
"""Recipes: one file a method."""
