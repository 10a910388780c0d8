# SPDX-License-Identifier: Apache-2.0
"""Latents of a scene as numbers and as colours, and decoders that learn beside their codec."""

from typing import List, Tuple

import pytest
import torch
from torch import Tensor

from nts_plugins.encoders.latent_space import AlignedDecoder, LatentSpace
from nts_plugins.encoders.latents import Bounded, LatentCodec, MinMax
from nts_plugins.encoders.tiny_codec import TinyCodec
from nts_plugins.errors import InputError
from tests.encoders.small import BlockCodec

SIZES = ((6, 7), (5, 4), (9, 8))
"""Rows and columns of pictures, which need not be the same."""
TO_NUMBERS = torch.tensor([[0.8, -0.1, 0.2, 0.3], [0.1, 0.7, -0.3, 0.4], [-0.2, 0.3, 0.9, -0.5]], dtype=torch.float64)
"""Colours in [-0.5, 0.5] to four numbers about [-0.5, 0.5]. The last channel says what the others say already."""


def linear_scene(span: float) -> Tuple[List[Tensor], List[Tensor]]:
    """Numbers [h, w, 4] of some pictures, about as far apart as ``span``, and colours in which they are linear."""
    generator = torch.Generator().manual_seed(0)
    colors = [torch.rand(*size, 3, generator=generator, dtype=torch.float64) for size in SIZES]
    return [0.5 + span * (each - 0.5) @ TO_NUMBERS for each in colors], colors


def random_maps(channels: int = 4) -> List[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [3.0 * torch.randn(*size, channels, generator=generator, dtype=torch.float64) - 1.0 for size in SIZES]


def fitted(space: LatentSpace, maps: List[Tensor]) -> LatentSpace:
    generator = torch.Generator().manual_seed(2)
    space.fit(maps, [torch.rand(*each.shape[:2], 3, generator=generator, dtype=each.dtype) for each in maps])
    return space


@pytest.fixture(params=["min-max", "bounded"])
def space(request: pytest.FixtureRequest) -> LatentSpace:
    """In float64, before it has seen anything."""
    return LatentSpace(4, MinMax(4) if request.param == "min-max" else Bounded()).double()


# ---- numbers


def test_what_was_seen_fills_zero_to_one() -> None:
    maps = random_maps()
    space = fitted(LatentSpace(4, MinMax(4)).double(), maps)
    numbers = torch.cat([space.numbers(each).flatten(0, 1) for each in maps])
    lowest, highest = numbers.aminmax(dim=0)
    torch.testing.assert_close(lowest, torch.zeros(4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(highest, torch.ones(4).double(), atol=1e-12, rtol=0)


def test_latents_come_back_from_their_numbers_also_where_nothing_like_them_was_seen(space: LatentSpace) -> None:
    maps = random_maps()
    fitted(space, maps)
    for each in (*maps, *(4.0 * each + 2.0 for each in maps)):
        numbers = space.numbers(each)
        assert numbers.shape == each.shape
        torch.testing.assert_close(space.latents(numbers), each, atol=1e-9, rtol=1e-9)
    beyond = space.numbers(4.0 * maps[0] + 2.0)
    outside = (beyond < 0) | (beyond > 1)
    assert bool(outside.any()) == isinstance(space.normaliser, MinMax), "bounded numbers are never outside"


def test_numbers_come_back_from_their_latents(space: LatentSpace) -> None:
    fitted(space, random_maps())
    numbers = torch.linspace(0.01, 0.99, 4 * 5 * 6).double().view(5, 6, 4)
    torch.testing.assert_close(space.numbers(space.latents(numbers)), numbers)


def test_many_pictures_at_once_are_as_each_alone(space: LatentSpace) -> None:
    fitted(space, random_maps())
    batch = torch.randn(2, 3, 6, 7, 4, dtype=torch.float64)
    numbers = space.numbers(batch)
    assert torch.equal(numbers[1, 2], space.numbers(batch[1, 2]))
    assert torch.equal(space.latents(numbers)[1, 2], space.latents(numbers[1, 2]))


def test_a_channel_that_is_the_same_everywhere_stays_what_it_is(space: LatentSpace) -> None:
    maps = random_maps()
    for each in maps:
        each[..., 2] = 3.5
    fitted(space, maps)
    for each in maps:
        numbers = space.numbers(each)
        assert numbers.isfinite().all() and space.colors(numbers).isfinite().all()
        assert bool((numbers[..., 2] == numbers[0, 0, 2]).all())
        torch.testing.assert_close(space.latents(numbers), each)


def test_what_a_space_knows_is_in_its_state(space: LatentSpace) -> None:
    maps = random_maps()
    fitted(space, maps)
    again = LatentSpace(4, type(space.normaliser)(4) if isinstance(space.normaliser, MinMax) else Bounded()).double()
    again.load_state_dict(space.state_dict())
    numbers = again.numbers(maps[0])
    assert torch.equal(numbers, space.numbers(maps[0]))
    assert torch.equal(again.colors(numbers), space.colors(numbers))
    assert torch.equal(again.numbers_of(numbers[..., :3]), space.numbers_of(numbers[..., :3]))


# ---- colours


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_colours_are_recovered_where_latents_are_linear_in_them(kind: torch.dtype) -> None:
    maps, colors = ([each.to(kind) for each in values] for values in linear_scene(span=9.0))
    space = LatentSpace(4, MinMax(4)).to(kind)
    space.fit(maps, colors)
    for latents, color in zip(maps, colors, strict=True):
        torch.testing.assert_close(space.colors(space.numbers(latents)), color, atol=1e-4, rtol=0)
        torch.testing.assert_close(space.numbers_of(color), space.numbers(latents), atol=1e-4, rtol=0)


@pytest.mark.parametrize("span", [0.02, 0.2])
def test_colours_are_recovered_from_bounded_numbers_which_lie_close_together(span: float) -> None:
    """Latents of tiny codecs are between about -3 and 3, of which bounded numbers are between about 0.44 and 0.56."""
    numbers, colors = linear_scene(span)
    space = LatentSpace(4, Bounded()).double()
    space.fit([space.latents(each) for each in numbers], colors)
    for each, color in zip(numbers, colors, strict=True):
        torch.testing.assert_close(space.numbers_of(color), each, atol=1e-4, rtol=0)
        torch.testing.assert_close(space.colors(each), color, atol=1e-4, rtol=0)


def test_colours_that_latents_do_not_tell_are_those_of_least_squares() -> None:
    maps = random_maps()
    generator = torch.Generator().manual_seed(3)
    colors = [torch.rand(*each.shape[:2], 3, generator=generator, dtype=torch.float64) for each in maps]
    space = LatentSpace(4, MinMax(4)).double()
    space.fit(maps, colors)
    numbers = torch.cat([space.numbers(each).flatten(0, 1) for each in maps])
    wanted = torch.cat([each.flatten(0, 1) for each in colors])
    known = torch.cat([numbers, torch.ones(len(numbers), 1).double()], dim=1)
    expected = known @ torch.linalg.lstsq(known, wanted).solution
    torch.testing.assert_close(space.colors(numbers), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("color", [(0.2, 0.4, 0.9), (0.0, 0.0, 0.0)])
def test_a_scene_of_one_colour_has_that_colour(space: LatentSpace, color: Tuple[float, float, float]) -> None:
    maps, wanted = [torch.full((4, 5, 4), 0.7, dtype=torch.float64)], torch.tensor(color, dtype=torch.float64)
    space.fit(maps, [wanted.expand(4, 5, 3)])
    torch.testing.assert_close(space.colors(space.numbers(maps[0]))[2, 3], wanted, atol=1e-3, rtol=0)
    torch.testing.assert_close(space.numbers_of(wanted), space.numbers(maps[0])[2, 3], atol=1e-3, rtol=0)


def test_gradients_are_those_of_finite_differences(space: LatentSpace) -> None:
    fitted(space, random_maps())
    latents = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    numbers = torch.rand(2, 3, 4, dtype=torch.float64).mul_(0.8).add_(0.1).requires_grad_()
    colors = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(space.numbers, latents)
    assert torch.autograd.gradcheck(space.latents, numbers)
    assert torch.autograd.gradcheck(space.colors, numbers)
    assert torch.autograd.gradcheck(space.numbers_of, colors)


# ---- decoders


@pytest.fixture(params=["blocks", "tiny"])
def codec(request: pytest.FixtureRequest) -> LatentCodec:
    torch.manual_seed(0)
    made = BlockCodec() if request.param == "blocks" else TinyCodec("random", 4)
    return made.eval().requires_grad_(False)


@pytest.fixture
def latents(codec: LatentCodec) -> Tensor:
    return torch.randn(1, codec.channels, 3, 4, generator=torch.Generator().manual_seed(1))


def trained(codec: LatentCodec, latents: Tensor) -> AlignedDecoder:
    """After one step."""
    decoder = AlignedDecoder(codec)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-4)
    (decoder(latents) - 0.3).square().mean().backward()
    optimizer.step()
    return decoder


def test_a_decoder_begins_as_its_codec(codec: LatentCodec, latents: Tensor) -> None:
    assert torch.equal(AlignedDecoder(codec)(latents), codec.decode(latents))


def test_training_a_decoder_leaves_the_codec_as_it_was(codec: LatentCodec, latents: Tensor) -> None:
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    decoded = codec.decode(latents)
    decoder = trained(codec, latents)
    assert not torch.equal(decoder(latents), decoded)
    assert (decoder(latents) - 0.3).square().mean() < (decoded - 0.3).square().mean()
    assert decoder.codec is codec and torch.equal(codec.decode(latents), decoded)
    assert all(torch.equal(value, before[name]) for name, value in codec.state_dict().items())
    assert all(each.grad is None and not each.requires_grad for each in codec.parameters())


def test_every_weight_of_a_decoder_learns(codec: LatentCodec, latents: Tensor) -> None:
    decoder = AlignedDecoder(codec)
    (decoder(latents) * torch.rand(1, 3, 3 * codec.factor, 4 * codec.factor)).sum().backward()
    assert all(each.requires_grad and each.grad is not None and each.grad.any() for each in decoder.parameters())


def test_only_weights_of_decoding_are_kept(codec: LatentCodec, latents: Tensor) -> None:
    decoder = trained(codec, latents)
    state = decoder.state_dict()
    shapes = [value.shape for value in codec.decoder_parameters()]
    assert sorted(value.shape for value in state.values()) == sorted(shapes)
    assert len(list(decoder.parameters())) == len(shapes) and not list(decoder.buffers())
    assert codec not in list(decoder.modules())
    other = AlignedDecoder(codec)
    assert other.state_dict().keys() == state.keys()
    other.load_state_dict(state)
    assert torch.equal(other(latents), decoder(latents))
    own = {id(each) for each in codec.parameters()}
    assert not own & {id(each) for each in decoder.parameters()}


def test_gradients_reach_the_latents(latents: Tensor, codec: LatentCodec) -> None:
    decoder = AlignedDecoder(codec)
    through, straight = latents.clone().requires_grad_(), latents.clone().requires_grad_()
    decoder(through).square().sum().backward()
    codec.decode(straight).square().sum().backward()
    assert through.grad is not None and through.grad.any()
    torch.testing.assert_close(through.grad, straight.grad)


def test_gradients_of_a_decoder_are_those_of_finite_differences() -> None:
    codec = BlockCodec().double().requires_grad_(False)
    decoder = AlignedDecoder(codec)
    latents = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(decoder, latents)


def test_decoders_refuse_latents_that_their_codec_refuses(codec: LatentCodec) -> None:
    with pytest.raises(InputError, match=f"latents of {codec.channels} channels, and these have 5"):
        AlignedDecoder(codec)(torch.rand(1, 5, 2, 2))
