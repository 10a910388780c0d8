# SPDX-License-Identifier: Apache-2.0
"""The training of a codec, a step at a time: what its stages have in common."""

from abc import ABC, abstractmethod
from typing import Any, Dict, Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from nts_plugins.encoders.latents import LatentCodec


class CodecTraining(ABC):
    """Adam on some weights of a codec, whose rate falls to a tenth. What a step looks at depends on ``done`` alone, so
    that a training that goes on is one that never stopped.

    Args:
        codec: changed in place.
        parameters: those of its weights that learn.
        steps: of the whole training.
        lr: of Adam, at first.
    """

    def __init__(self, codec: LatentCodec, parameters: Iterable[Parameter], steps: int, lr: float) -> None:
        self.codec, self.done = codec, 0
        self._steps, self._lr = steps, lr
        self._parameters = [each.requires_grad_(True) for each in parameters]
        self._optimizer = torch.optim.Adam(self._parameters, lr=lr)

    @property
    def finished(self) -> bool:
        return self.done >= self._steps

    @property
    def _device(self) -> torch.device:
        return self._parameters[0].device

    def step(self) -> Dict[str, float]:
        """Train once; the terms of the loss, without their weights."""
        terms = self._terms()
        self._optimizer.zero_grad()
        self._loss(terms).backward()
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * 0.1 ** (self.done / max(1, self._steps))
        self._optimizer.step()
        self.done += 1
        return {name: float(value.detach()) for name, value in terms.items()}

    @abstractmethod
    def _terms(self) -> Dict[str, Tensor]:
        """Of the step after ``done`` others, by name."""

    @abstractmethod
    def _loss(self, terms: Dict[str, Tensor]) -> Tensor: ...

    def state_dict(self) -> Dict[str, Any]:
        """What goes on from here needs; plain tensors and numbers."""
        return {"done": self.done, "codec": self.codec.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self.done = int(state["done"])
        self.codec.load_state_dict(state["codec"])
        self._optimizer.load_state_dict(state["optimizer"])
