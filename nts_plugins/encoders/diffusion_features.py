# SPDX-License-Identifier: Apache-2.0
"""Features that a diffusion model has of a picture while it removes noise (DIFT, Tang et al., NeurIPS 2023), as
Feat2GS (Chen et al., CVPR 2025) takes them: Stable Diffusion 2.1, almost no noise, no words.

Differences from DIFT's program: latents are the mode of the autoencoder's posterior instead of a draw from it, and the
noise is the same for all pictures of a size instead of an average over several, so that a picture has one map only.
"""

from typing import Any

import torch
from torch import Tensor, nn

from nts_plugins.encoders.base import DenseEncoder
from nts_plugins.encoders.patch_maps import NOT_LOADED, SIGNED, PatchMap, folder_of, not_fetched, not_held, outputs_of
from nts_plugins.encoders.settings import DenseSettings
from nts_plugins.encoders.weights import loaded
from nts_plugins.errors import InputError

REPOSITORY = "stabilityai/stable-diffusion-2-1"
"""On the hub, in the format of diffusers."""
INDEX = "model_index.json"
"""Its file that says what its parts are."""
TIME = 1
"""Step of the 1000 of training at which the model is asked; 0 has the least noise."""
WORDS = ""
UP_BLOCK = 1
"""Of the network, counted from the smallest maps, whose output is read: 1280 numbers for 16 pixels."""
SEED = 0
"""Of the noise."""


def load(settings: DenseSettings, device: torch.device, option: str) -> DenseEncoder:
    """The model on a device. Its weights, where they are given, are a folder as diffusers writes a
    StableDiffusionPipeline, with model_index.json.

    Raises:
        InputError: where the weights or what runs them are not to be had, or the weights are something else's.
    """
    try:
        from diffusers import StableDiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]
    except (ImportError, RuntimeError) as error:  # diffusers turns what an import of its raises into a RuntimeError.
        raise InputError(
            f"{settings.name} is one of diffusers' models, and reads words by transformers: pip install "
            f"'nts-plugins[features]'"
        ) from error
    folder = None if settings.weights is None else folder_of(settings, "diffusers", INDEX)
    # What checks pictures is not needed, and memory is not short enough for the package that diffusers would advise.
    more: Any = {"safety_checker": None, "requires_safety_checker": False, "low_cpu_mem_usage": False}
    try:
        pipeline = loaded(StableDiffusionPipeline.from_pretrained, folder, REPOSITORY, INDEX, **more)
    except NOT_LOADED as error:
        if settings.weights is not None:
            raise not_held(settings, error) from error
        raise not_fetched(settings, f"a folder with the files of {REPOSITORY} on the hub", option, error) from error
    return DiffusionFeatures(pipeline, settings, device)


class _Parts(nn.Module):
    """Of a diffusion model, without what reads words, and what they are."""

    words: Tensor

    def __init__(self, autoencoder: nn.Module, network: nn.Module, words: Tensor) -> None:
        super().__init__()
        self.autoencoder, self.network = autoencoder, network
        self.register_buffer("words", words)


class DiffusionFeatures(PatchMap):
    """Maps of the network of a latent diffusion model, read behind :data:`UP_BLOCK`.

    Args:
        pipeline: a ``StableDiffusionPipeline`` of diffusers. Its text encoder is asked once, and not kept.
        settings: see :class:`~nts_plugins.encoders.patch_maps.PatchMap`.
        device: where the model goes.
    """

    def __init__(self, pipeline: Any, settings: DenseSettings, device: torch.device) -> None:
        network, autoencoder = pipeline.unet, pipeline.vae
        with torch.no_grad():
            words = pipeline.encode_prompt(WORDS, torch.device("cpu"), 1, False)[0]
        self._scheduler, self._scale = pipeline.scheduler, float(autoencoder.config.scaling_factor)
        # The autoencoder halves a picture so many times, and maps behind the block are halved so many times more.
        halved = len(autoencoder.config.block_out_channels) - 1
        halved += max(0, len(network.config.block_out_channels) - 2 - UP_BLOCK)
        super().__init__(_Parts(autoencoder, network, words), settings, device, SIGNED, 2**halved)

    def _tokens(self, pictures: Tensor) -> Tensor:
        parts: Any = self.model
        latents = parts.autoencoder.encode(pictures).latent_dist.mode() * self._scale
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(SEED)).to(latents)
        time = torch.tensor([TIME], device=latents.device)
        noisy = self._scheduler.add_noise(latents, noise, time)
        with outputs_of(parts.network.up_blocks[UP_BLOCK]) as kept:
            parts.network(noisy, time, encoder_hidden_states=parts.words)
        return kept[0].permute(0, 2, 3, 1)
