# SPDX-License-Identifier: Apache-2.0
"""Latent codecs that learn from scenes: that views of one place have one latent, and how splatted latents look."""
