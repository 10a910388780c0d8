# SPDX-License-Identifier: Apache-2.0
"""How splats hold features of hundreds of numbers in a few, and how they get them."""
