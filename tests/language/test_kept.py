# SPDX-License-Identifier: Apache-2.0
"""The largest few of many logits: kernels against torch."""

import pytest
import torch

from nts_plugins.language.kept import dense_reference, dense_weights, kept_weights


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize(("shape", "kept"), [((1100, 3, 64), 4), ((5, 2, 7), 1), ((4, 6), 6), ((0, 3, 8), 2)])
def test_kernels_do_what_torch_does(shape, kept) -> None:
    some = logits(*shape)
    weights, ids = kept_weights(some, kept)
    wanted = some.double().topk(kept, dim=-1)
    assert torch.equal(ids, wanted.indices)
    torch.testing.assert_close(weights.double(), wanted.values.softmax(dim=-1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(dense_weights(some, kept), dense_reference(some, kept))


@pytest.mark.parametrize(("shape", "kept"), [((1100, 3, 64), 4), ((5, 2, 7), 1), ((4, 6), 6)])
def test_gradients_are_those_of_the_reference(shape, kept) -> None:
    some, pull = logits(*shape).requires_grad_(), logits(*shape, seed=1)
    (found,) = torch.autograd.grad((dense_weights(some, kept) * pull).sum(), some)
    exact = some.detach().double().requires_grad_()
    (wanted,) = torch.autograd.grad((dense_reference(exact, kept) * pull).sum(), exact)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
    weights, ids = kept_weights(some, kept)
    (of_weights,) = torch.autograd.grad((weights * pull.gather(-1, ids)).sum(), some)
    torch.testing.assert_close(of_weights, found, atol=1e-5, rtol=1e-5)


def test_results_do_not_depend_on_threads() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(dense_weights(logits(3000, 16), 3))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_of_equal_logits_the_first_are_kept() -> None:
    assert kept_weights(torch.zeros(2, 8), 3)[1].tolist() == [[0, 1, 2]] * 2


def test_a_second_derivative_is_refused() -> None:
    some = logits(4, 6).requires_grad_()
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(dense_weights(some, 2).square().sum(), some, create_graph=True)


def test_gradients_may_be_strided() -> None:
    some, pull = logits(6, 5).requires_grad_(), logits(5, 6, seed=2).T
    (found,) = torch.autograd.grad(dense_weights(some, 2), some, pull)
    (wanted,) = torch.autograd.grad(dense_reference(some, 2), some, pull)
    torch.testing.assert_close(found, wanted)
