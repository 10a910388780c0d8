# SPDX-License-Identifier: Apache-2.0
"""Functions of space, shared by all splats: what several papers decode their splats' values from."""
