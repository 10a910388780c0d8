# SPDX-License-Identifier: Apache-2.0
"""Sparse codes over a scene's words, against features that are written out."""

import pytest
import torch
import torch.nn.functional as F

from nts_plugins.compat import fused_adam_devices
from nts_plugins.encoders.base import NOTHING, Regions
from nts_plugins.errors import InputError
from nts_plugins.language.sparse import Sparse, SparseSettings, sampled
from tests.encoders.maps import feature_map

LEVELS, WIDTH, WORDS, KEPT = 2, 12, 9, 3
NAMES = ("fine", "coarse")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def unit(count, width=WIDTH, seed=0):
    return F.normalize(torch.randn(count, width, generator=generator(seed)), dim=1)


def fit_with_words(dtype=torch.float32):
    fit = Sparse(LEVELS, WIDTH, SparseSettings(WORDS, KEPT)).to(dtype)
    with torch.no_grad():
        fit.codebook.copy_(torch.randn(fit.codebook.shape, generator=generator()))
    fit.begun.fill_(True)
    return fit


def explicit(fit, codes):
    """[N, L, C] features of splats, word by word."""
    features = torch.zeros(len(codes), LEVELS, WIDTH, dtype=codes.dtype)
    for splat in range(len(codes)):
        for level in range(LEVELS):
            p = codes[splat, level].softmax(dim=0)
            best = p.argsort(descending=True)[:KEPT]
            features[splat, level] = (p[best] / p[best].sum()) @ fit.words[level, best]
    return features


def pictured(size=(5, 7), n_regions=6, seed=0, dtype=torch.float32):
    """Weights and alphas that vary, some of them nothing, and regions with gaps."""
    g = generator(seed)
    drawn = torch.rand(*size, LEVELS, WORDS, generator=g, dtype=dtype)
    alphas = torch.rand(*size, 1, generator=g, dtype=dtype)
    alphas[0] = 0.0
    drawn = (drawn / drawn.sum(dim=-1, keepdim=True) * alphas[..., None]).flatten(2)
    ids = torch.randint(NOTHING, n_regions, (LEVELS, *size), generator=g, dtype=torch.int32)
    return drawn, alphas, Regions(ids, unit(n_regions, seed=seed + 1).to(dtype), NAMES)


def test_weights_are_few_and_sum_to_one():
    fit = fit_with_words()
    codes = fit.codes(50)
    assert codes.shape == (50, LEVELS, WORDS) and codes.dtype == torch.float32 and codes.requires_grad
    assert torch.equal(codes, fit.codes(50)) and codes.abs().max() < 1e-2
    weights = fit.channels(codes).view(50, LEVELS, WORDS)
    assert ((weights > 0).sum(dim=-1) == KEPT).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(50, LEVELS))
    torch.testing.assert_close(weights @ fit.words.new_ones(WORDS, 1), fit.weigh(codes, torch.ones(WORDS, 1)))


def test_weights_are_the_softmax_that_is_cut_off_and_divided():
    fit = fit_with_words(torch.float64)
    codes = torch.randn(20, LEVELS, WORDS, generator=generator(), dtype=torch.float64, requires_grad=True)
    p = codes.softmax(dim=-1)
    p = torch.where(p >= p.topk(KEPT, dim=-1).values[..., -1:], p, 0.0)
    wanted, found = p / p.sum(dim=-1, keepdim=True), fit.channels(codes).view_as(codes)
    torch.testing.assert_close(found, wanted)
    some = torch.randn(found.shape, generator=generator(1), dtype=torch.float64)
    gradients = [torch.autograd.grad((each * some).sum(), codes)[0] for each in (found, wanted)]
    torch.testing.assert_close(*gradients)


def test_loss_is_that_of_features_written_out():
    fit = fit_with_words(torch.float64)
    drawn, alphas, regions = pictured(dtype=torch.float64)
    drawn.requires_grad_(True)
    found = fit.loss(drawn, alphas, regions)
    differences = []
    for level, name in enumerate(NAMES):
        there = (regions.ids[level] >= 0) & (alphas[..., 0] > 0)
        features = drawn.unflatten(-1, (LEVELS, WORDS))[there][:, level] @ fit.words[level]
        differences.append(1 - F.cosine_similarity(features, feature_map(regions, name)[there], dim=-1))
    wanted = torch.cat(differences).mean()
    torch.testing.assert_close(found, wanted)
    for a, b in zip(*(torch.autograd.grad(loss, [drawn, fit.codebook]) for loss in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b)
        assert a.any()


@pytest.mark.parametrize("n_regions", [0, 3])
def test_pictures_without_regions_cost_nothing_and_break_nothing(n_regions):
    fit = fit_with_words()
    drawn, alphas, _ = pictured()
    drawn.requires_grad_(True)
    ids = torch.full((LEVELS, *alphas.shape[:2]), NOTHING, dtype=torch.int32)
    loss = fit.loss(drawn, alphas, Regions(ids, torch.zeros(n_regions, WIDTH), NAMES))
    assert float(loss.detach()) == 0.0 and loss.requires_grad
    loss.backward()
    assert drawn.grad is not None and not drawn.grad.any()


def test_regions_may_be_half_as_long_in_memory():
    fit = fit_with_words()
    drawn, alphas, regions = pictured()
    half = Regions(regions.ids, regions.features.half(), NAMES)
    torch.testing.assert_close(fit.loss(drawn, alphas, half), fit.loss(drawn, alphas, regions), atol=1e-3, rtol=0)


def test_cosines_of_splats_are_those_of_their_features():
    fit, phrases = fit_with_words(), unit(4, seed=5)
    codes = torch.randn(30, LEVELS, WORDS, generator=generator())
    features = F.normalize(explicit(fit, codes), dim=-1)
    torch.testing.assert_close(fit.splat_cosines(codes, phrases), features @ phrases.T, atol=2e-4, rtol=0)
    for level in range(LEVELS):
        for piece, some in fit.features(codes, level):
            torch.testing.assert_close(some, features[piece, level], atol=1e-5, rtol=0)
        assert fit.sketch(codes, level).shape == (30, min(WORDS, WIDTH))
        one = fit.weigh(codes[:, [level]], fit.words[level])
        torch.testing.assert_close(one, fit.weigh(codes, fit.words)[:, [level]])


@pytest.mark.parametrize("exact", [True, False])
def test_cosines_of_pixels_are_those_of_what_they_show(exact):
    """Three splats over four pixels: all of them, the first alone, the first alone and faint, none."""
    fit, phrases = fit_with_words(), unit(4, seed=5)
    codes = torch.randn(3, LEVELS, WORDS, generator=generator())
    opacities = torch.tensor([[0.5, 0.4, 0.9], [0.8, 0.0, 0.0], [0.01, 0.0, 0.0], [0.0, 0.0, 0.0]])
    weights = opacities * torch.cumprod(torch.cat([torch.ones(4, 1), 1 - opacities[:, :-1]], dim=1), dim=1)
    alphas = weights.sum(dim=1).view(2, 2, 1)
    drawn = (weights @ fit.question(codes, phrases, exact)).view(2, 2, -1)
    products, lengths = fit.pixel_products(drawn, alphas, phrases, exact)
    found = (products / lengths[..., None]).view(4, LEVELS, 4)
    shown = torch.einsum("pn,nlc->plc", weights, explicit(fit, codes))
    wanted = F.normalize(shown, dim=-1) @ phrases.T
    alone = slice(0 if exact else 1, 3)
    torch.testing.assert_close(found[alone], wanted[alone], atol=2e-4, rtol=0)
    assert found[3].isnan().all()
    factor = found[0] / wanted[0]
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor), atol=1e-3, rtol=1e-3)
    assert (factor > 0).all()


def test_words_are_found_among_features():
    kinds = unit(5)
    told = []
    fit = Sparse(LEVELS, WIDTH, SparseSettings(WORDS, KEPT))
    assert not fit.ready and fit.words.shape == (LEVELS, WORDS, WIDTH)
    fit.begin(lambda: [kinds[:3], kinds[2:]], told.append)
    assert fit.ready and told[-1] == 1.0
    assert ((fit.words.detach() @ kinds.T > 0.999).sum(dim=1) >= 1).all()
    many = F.normalize(kinds[torch.randint(5, (500,), generator=generator())] + 0.1 * unit(500, seed=3), dim=1)
    pair = [Sparse(LEVELS, WIDTH, SparseSettings(WORDS, KEPT)) for _ in range(2)]
    for each in pair:
        each.begin(lambda: many.split(70), told.append)
    assert torch.equal(pair[0].words, pair[1].words) and torch.equal(pair[0].words[0], pair[0].words[1])
    assert (many @ pair[0].words[0].detach().T).max(dim=1).values.mean() > 0.97


@pytest.mark.filterwarnings("error")
def test_what_float16_takes_off_lengths_makes_no_further_words():
    """Regions of one thing on many pictures, as stores keep them: long vectors, whose length is off by a thousandth."""
    kinds = unit(3, width=512).half().float() * torch.tensor([[1.001], [1.0], [0.998]])
    fit = Sparse(LEVELS, 512, SparseSettings(WORDS, KEPT))
    fit.begin(lambda: [kinds.repeat(20, 1)], lambda share: None)
    cosines = fit.words.detach()[0] @ F.normalize(kinds, dim=1).T
    assert sorted((cosines > 0.999).sum(dim=0).tolist()) == [3, 3, 3]


def test_nothing_begins_without_features():
    fit = Sparse(LEVELS, WIDTH, SparseSettings(WORDS, KEPT))
    fit.begin(lambda: [], lambda share: None)
    fit.begin(lambda: [torch.zeros(0, WIDTH)], lambda share: None)
    assert not fit.ready
    drawn, alphas, regions = pictured()
    assert fit.loss(drawn, alphas, regions) == 0


def test_splats_learn_their_regions():
    """Four splats that each fill a pixel: they find words for four features that have no word of their own."""
    fit = Sparse(LEVELS, WIDTH, SparseSettings(WORDS, KEPT))
    features = unit(40)
    fit.begin(lambda: [features], lambda share: None)
    codes = fit.codes(4)
    ids = torch.arange(8, dtype=torch.int32).view(LEVELS, 1, 4)
    regions, alphas = Regions(ids, features[:8], NAMES), torch.ones(1, 4, 1)
    optimizer = torch.optim.Adam([codes, fit.codebook], lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss = fit.loss(fit.channels(codes)[None], alphas, regions)
        loss.backward()
        optimizer.step()
    assert loss < 0.02
    own = fit.splat_cosines(codes, features[:8])
    assert (own.argmax(dim=-1).T.flatten() == torch.arange(8)).all()


@pytest.mark.parametrize("fused", [False, True])
def test_answers_follow_words_that_change(fused):
    """torch's fused optimizers change parameters without counting it."""
    if fused and "cpu" not in fused_adam_devices():
        pytest.skip("This torch has no fused Adam for CPUs.")
    fit, phrases = fit_with_words(), unit(4, seed=5)
    codes = torch.randn(30, LEVELS, WORDS, generator=generator())
    drawn, alphas, regions = pictured()
    optimizer = torch.optim.Adam([fit.codebook], lr=0.5, fused=fused)
    for _ in range(2):
        fit.splat_cosines(codes, phrases)
        fit.loss(drawn, alphas, regions).backward()
        optimizer.step()
        wanted = F.normalize(explicit(fit, codes).detach(), dim=-1) @ phrases.T
        torch.testing.assert_close(fit.splat_cosines(codes, phrases), wanted, atol=2e-4, rtol=0)


def test_a_checkpoint_tells_all():
    fit, phrases = fit_with_words(), unit(4, seed=5)
    codes = torch.randn(10, LEVELS, WORDS, generator=generator())
    other = Sparse(LEVELS, 0, SparseSettings(WORDS, KEPT))
    parameter = other.codebook
    other.adapt(fit.state_dict())
    other.load_state_dict(fit.state_dict())
    assert other.ready and other.width == WIDTH and other.codebook is parameter
    assert torch.equal(other.splat_cosines(codes, phrases), fit.splat_cosines(codes, phrases))


def test_choosing_some_features_is_fair_and_bounded():
    features = torch.arange(1.0, 1001.0)[:, None]
    few = sampled(features.split(30), 50, 0)
    assert few.shape == (50, 1) and len(few.unique()) == 50 and (few[1:] > few[:-1]).all()
    assert torch.equal(few, sampled(features.split(30), 50, 0))
    means = torch.stack([sampled(features.split(30), 50, seed).mean() for seed in range(60)])
    assert (means.mean() - 500.5).abs() < 4 * 1000 / (12 * 50 * 60) ** 0.5
    assert torch.equal(sampled(features.split(30), 5000, 0), features)


def test_choosing_some_features_is_a_draw_of_lots_however_they_come():
    """Those of the smallest lots, as if all had been there at once; and zeros are no features."""
    features = torch.randn(3000, 2, generator=torch.Generator().manual_seed(3))
    lots = torch.rand(3000, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    wanted = features[lots.argsort()[:50].sort().values]
    for size in (7, 30, 400, 3000):
        assert torch.equal(sampled(features.split(size), 50, 7), wanted)
    features[::2] = 0.0
    few = sampled(features.half().split(30), 50, 7)
    assert few.shape == (50, 2) and few.dtype == torch.float32 and (few != 0).all()
    assert sampled(torch.zeros(90, 4).split(30), 50, 0).shape == (0, 4)
    assert sampled([], 50, 0).shape == (0, 0)


@pytest.mark.parametrize("kept", [0, 10])
def test_so_many_words_cannot_be_kept(kept):
    with pytest.raises(InputError, match="from 1 to 9"):
        SparseSettings(9, kept)
