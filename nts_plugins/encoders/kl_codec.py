# SPDX-License-Identifier: Apache-2.0
"""Autoencoders of latent diffusion models (KL-f8, Rombach et al., CVPR 2022), as diffusers has them."""

from pathlib import Path
from typing import Any, Dict, Iterator, Optional

from torch import Tensor
from torch.nn import Parameter

from nts_plugins.encoders.latents import LatentCodec, Posterior
from nts_plugins.encoders.weights import loaded, short
from nts_plugins.errors import InputError


class KlCodec(LatentCodec):
    """An ``AutoencoderKL``. Latents are as the encoder makes them, without the factor that diffusion models put before
    them, as in Latent Radiance Fields.

    Args:
        model: of diffusers.
        name: see :class:`~nts_plugins.encoders.latents.LatentCodec`.
    """

    def __init__(self, model: Any, name: str) -> None:
        super().__init__(name, int(model.config.latent_channels), 2 ** (len(model.config.block_out_channels) - 1))
        self.model = model.eval()

    @classmethod
    def load(cls, name: str, source: str, folder: Optional[Path], option: str = "--codec.weights") -> "KlCodec":
        """The model from a folder as diffusers writes it (config.json and weights), or from the hub, in float32.

        Args:
            name: of the codec.
            source: "repository" or "repository:subfolder" on the hub.
            folder: None takes the hub's.
            option: what an error calls the folder.

        Raises:
            InputError: where diffusers is not installed, or the weights are not to be had.
        """
        try:
            from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]
        except ImportError as error:
            raise InputError(f"{name} is one of diffusers' models: pip install 'nts-plugins[latents]'") from error
        if folder is not None and not (folder / "config.json").is_file():
            raise InputError(f"{folder}, which is said to hold {name}, has no config.json as diffusers writes it.")
        repository, _, inner = source.partition(":")
        more: Dict[str, Any] = {"low_cpu_mem_usage": False}
        if folder is None and inner:
            more["subfolder"] = inner
        first = f"{inner}/config.json" if inner else "config.json"
        try:
            model = loaded(AutoencoderKL.from_pretrained, folder, repository, first, **more)
        except (OSError, ValueError, RuntimeError) as error:
            if folder is not None:
                raise InputError(f"{folder} does not hold {name}: {short(error)}.") from error
            raise InputError(
                f"The weights of {name} are not on this machine. Fetching them failed: {short(error)}. "
                f"Put the folder {inner or '.'} of {repository} on the hub somewhere, and say where with {option}."
            ) from error
        return cls(model, name)

    def save(self, folder: Path) -> None:
        """Write the model as diffusers does."""
        self.model.save_pretrained(str(folder))

    def _posterior(self, pictures: Tensor) -> Posterior:
        found = self.model.encode(2.0 * pictures - 1.0).latent_dist
        return Posterior(found.mean, found.logvar)

    def _decoded(self, latents: Tensor) -> Tensor:
        return 0.5 * (self.model.decode(latents).sample + 1.0)

    def encoder_parameters(self) -> Iterator[Parameter]:
        for part in (self.model.encoder, self.model.quant_conv):
            if part is not None:
                yield from part.parameters()

    def decoder_parameters(self) -> Iterator[Parameter]:
        for part in (self.model.post_quant_conv, self.model.decoder):
            if part is not None:
                yield from part.parameters()
