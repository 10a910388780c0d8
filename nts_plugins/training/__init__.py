# SPDX-License-Identifier: Apache-2.0
"""The loop around a model: optimizers, schedules, checkpoints that survive a kill, and evaluation image by image."""
