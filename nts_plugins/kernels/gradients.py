# SPDX-License-Identifier: Apache-2.0
"""What every autograd function over kernels has in common."""

import functools
from typing import Any, Callable

import torch


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a ``backward`` that kernels compute, whose own gradient nobody knows.

    torch's decorator of this name lets ``create_graph=True`` pass as long as nothing upstream needs a gradient, and the
    term that was built from the gradient is then lost without a word. This one raises at once.

    Raises:
        RuntimeError: where a second derivative is asked for.
    """

    @functools.wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph=True asks for second derivatives, which the CPU kernels do not have. Draw with "
                "backend='reference', and compare with ssim_reference, where they are needed."
            )
        return backward(ctx, *gradients)

    return checked
