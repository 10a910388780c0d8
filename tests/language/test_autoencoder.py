# SPDX-License-Identifier: Apache-2.0
"""Codes that a network of the scene decodes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nts_plugins.encoders.base import NOTHING, Regions
from nts_plugins.errors import InputError
from nts_plugins.language.autoencoder import Autoencoder, AutoencoderSettings

LEVELS, WIDTH = 2, 16
NAMES = ("fine", "coarse")


def unit(count, width=WIDTH, seed=0):
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def settings(**changes):
    # The published rate is for thousands of steps; these trainings are to take a second.
    return AutoencoderSettings(**{"encoder": (32, 16, 3), "decoder": (16, 32), "lr": 5e-3, "epochs": 20, **changes})


@pytest.fixture(scope="module")
def trained():
    """A network that knows a dozen features, and what was told meanwhile."""
    told = []
    fit = Autoencoder(LEVELS, WIDTH, settings(epochs=300))
    fit.begin(lambda: unit(12).split(5), told.append)
    return fit, told


def test_layers_are_those_that_were_published():
    fit = Autoencoder(3, 512, AutoencoderSettings())
    encoder = [tuple(layer.weight.shape) for layer in fit.encoder if isinstance(layer, nn.Linear)]
    decoder = [tuple(layer.weight.shape) for layer in fit.decoder if isinstance(layer, nn.Linear)]
    assert encoder == [(256, 512), (128, 256), (64, 128), (32, 64), (3, 32)]
    assert decoder == [(16, 3), (32, 16), (64, 32), (128, 64), (256, 128), (256, 256), (512, 256)]
    assert sum(isinstance(layer, nn.BatchNorm1d) for layer in fit.encoder) == 4
    assert fit.codes(7).shape == (7, 3, 3) and not fit.codes(7).any() and fit.codes(7).requires_grad


def test_a_dozen_features_come_back(trained):
    fit, told = trained
    features = unit(12)
    codes = fit.encode(features)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(12))
    decoded = fit.decode(codes)
    torch.testing.assert_close(decoded.norm(dim=1), torch.ones(12))
    assert ((decoded * features).sum(dim=1) > 0.9).all()
    assert fit.ready and told == sorted(told) and told[-1] == 1.0 and len(told) > 100


def test_the_network_is_fixed_once_it_is_trained(trained):
    fit, _ = trained
    before = {name: value.clone() for name, value in fit.state_dict().items()}
    around = nn.ModuleList([fit]).train()
    assert fit.training and not fit.encoder.training and not fit.decoder.training
    fit.encode(unit(5, seed=3))
    around.eval()
    assert all(torch.equal(value, before[name]) for name, value in fit.state_dict().items())
    assert not any(value.requires_grad or value.grad is not None for value in fit.parameters())


def test_the_same_seed_gives_the_same_network():
    features = unit(150)
    states = []
    for _ in range(2):
        fit = Autoencoder(LEVELS, WIDTH, settings(epochs=3))
        torch.rand(5)
        fit.begin(lambda: [features], lambda share: None)
        states.append({name: value.clone() for name, value in fit.state_dict().items()})
        fit.begin(lambda: [features], lambda share: None)
        states.append(fit.state_dict())
    for state in states[1:]:
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())
    other = Autoencoder(LEVELS, WIDTH, settings(epochs=3, seed=1))
    other.begin(lambda: [features], lambda share: None)
    assert not torch.equal(other.state_dict()["encoder.0.weight"], states[0]["encoder.0.weight"])


def test_the_best_epoch_is_kept():
    """With a rate that is far too high, no later epoch must undo a better one."""
    features = unit(40)

    def difference(epochs):
        fit = Autoencoder(LEVELS, WIDTH, settings(epochs=epochs, lr=0.3))
        fit.begin(lambda: [features], lambda share: None)
        return float(fit._difference(features).mean())

    found = [difference(epochs) for epochs in (1, 2, 4, 8, 16)]
    assert all(later <= earlier + 1e-6 for earlier, later in zip(found[:-1], found[1:], strict=True))


@pytest.mark.parametrize("count", [1, 2, 65, 129])
def test_no_batch_is_too_small(count):
    fit = Autoencoder(LEVELS, WIDTH, settings(epochs=2, batch=1 if count == 2 else 64))
    with torch.no_grad():
        fit.begin(lambda: [unit(count)], lambda share: None)
    assert fit.ready and fit.decode(fit.encode(unit(count))).isfinite().all()


def test_a_single_feature_comes_back():
    fit = Autoencoder(LEVELS, WIDTH, settings(epochs=150))
    fit.begin(lambda: [unit(1)], lambda share: None)
    assert (fit.decode(fit.encode(unit(1))) * unit(1)).sum() > 0.95


def test_nothing_begins_without_features():
    fit = Autoencoder(LEVELS, WIDTH, settings())
    fit.begin(lambda: [], lambda share: None)
    assert not fit.ready


def test_codes_are_drawn_with_unit_length(trained):
    fit, _ = trained
    codes = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.2], [0.0, 0.0, 0.0], [0.001, 0.0, 0.0]])[:, None]
    codes = codes.expand(4, LEVELS, 3).clone().requires_grad_(True)
    channels = fit.channels(codes)
    wanted = torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
    torch.testing.assert_close(channels, wanted.repeat(1, LEVELS))
    channels.sum().backward()
    assert codes.grad is not None and codes.grad.isfinite().all() and codes.grad[2].all()
    torch.testing.assert_close(fit.sketch(codes, 1), wanted)


def test_loss_is_the_mean_absolute_difference_where_there_are_regions(trained):
    fit, _ = trained
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(NOTHING, 12, (LEVELS, 4, 5), generator=generator, dtype=torch.int32)
    regions = Regions(ids, unit(12).half(), NAMES)
    drawn = torch.randn(4, 5, LEVELS * 3, generator=generator, requires_grad=True)
    found = fit.loss(drawn, torch.ones(4, 5, 1), regions)
    differences = []
    for level in range(LEVELS):
        there = ids[level] >= 0
        latents = fit.encode(unit(12).half().float()[ids[level][there].long()])
        differences.append((drawn[there][:, 3 * level : 3 * level + 3] - latents).abs().flatten())
    wanted = torch.cat(differences).mean()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(loss, drawn)[0] for loss in (found, wanted)))


@pytest.mark.parametrize("n_regions", [0, 3])
def test_pictures_without_regions_cost_nothing_and_break_nothing(trained, n_regions):
    fit, _ = trained
    drawn = torch.randn(4, 5, LEVELS * 3, requires_grad=True)
    ids = torch.full((LEVELS, 4, 5), NOTHING, dtype=torch.int32)
    loss = fit.loss(drawn, torch.ones(4, 5, 1), Regions(ids, torch.zeros(n_regions, WIDTH), NAMES))
    assert float(loss.detach()) == 0.0 and loss.requires_grad
    loss.backward()
    assert drawn.grad is not None and not drawn.grad.any()


def test_splats_learn_their_regions_from_zeros(trained):
    """With the published rate, each splat's code turns to that of its region soon, whatever direction that is."""
    fit, _ = trained
    features = unit(12)
    codes = fit.codes(6)
    ids = torch.arange(12, dtype=torch.int32).view(LEVELS, 1, 6)
    regions, alphas = Regions(ids, features, NAMES), torch.full((1, 6, 1), 0.9)
    optimizer = torch.optim.Adam([codes], lr=2.5e-3, eps=1e-15)
    for _ in range(200):
        optimizer.zero_grad()
        fit.loss(0.9 * fit.channels(codes)[None], alphas, regions).backward()
        optimizer.step()
    wanted = fit.encode(features).view(LEVELS, 6, 3).transpose(0, 1)
    assert (F.cosine_similarity(codes, wanted, dim=-1) > 0.98).all()
    own = fit.splat_cosines(codes, features).argmax(dim=-1)
    assert (own.T.flatten() == torch.arange(12)).all()


def test_questions_are_answered_from_decoded_features(trained, monkeypatch):
    """Three splats over four pixels: all of them, one alone and faint, one without a feature, none."""
    monkeypatch.setattr("nts_plugins.language.autoencoder.AT_ONCE", 4)
    fit, _ = trained
    phrases = unit(5, seed=7)
    codes = torch.randn(3, LEVELS, 3, generator=torch.Generator().manual_seed(2)) * 0.3
    codes[2] = 0.0
    decoded = fit.decode(F.normalize(codes[:2], dim=-1))
    cosines = fit.splat_cosines(codes, phrases)
    assert cosines.shape == (3, LEVELS, 5) and not cosines[2].any()
    torch.testing.assert_close(cosines[:2], decoded @ phrases.T)
    found = torch.cat([some for _, some in fit.features(codes, 1)])
    torch.testing.assert_close(found[:2], decoded[:, 1])
    assert found.shape == (3, WIDTH) and not found[2].any()

    weights = torch.tensor([[0.5, 0.2, 0.1], [0.0, 0.01, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    drawn = (weights @ fit.question(codes, phrases)).view(2, 2, -1)
    products, lengths = fit.pixel_products(drawn, weights.sum(dim=1).view(2, 2, 1), phrases)
    found = (products / lengths[..., None]).view(4, LEVELS, 5)
    mean = F.normalize(0.5 * fit.channels(codes)[0] + 0.2 * fit.channels(codes)[1], dim=0)
    for level in range(LEVELS):
        own = F.normalize(mean[3 * level : 3 * level + 3], dim=0)
        torch.testing.assert_close(found[0, level], fit.decode(own) @ phrases.T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1], cosines[1], atol=1e-5, rtol=1e-4)
    assert found[2:].isnan().all()
    assert torch.equal(fit.question(codes, phrases, exact=True), fit.question(codes, phrases))


def test_a_checkpoint_tells_all(trained):
    fit, _ = trained
    other = Autoencoder(LEVELS, 0, settings())
    assert not other.ready
    other.adapt(fit.state_dict())
    other.load_state_dict(fit.state_dict())
    assert other.ready and other.width == WIDTH and other.encoder[0].in_features == WIDTH
    codes, phrases = torch.randn(4, LEVELS, 3), unit(3)
    assert torch.equal(other.splat_cosines(codes, phrases), fit.splat_cosines(codes, phrases))
    assert torch.equal(other.encode(unit(6)), fit.encode(unit(6)))


def test_scenes_of_many_regions_train_on_some(monkeypatch):
    fit = Autoencoder(LEVELS, WIDTH, settings(epochs=1, most_features=30))
    seen = []
    monkeypatch.setattr(fit, "_train", lambda networks, features, generator, tell: seen.append(features))
    fit.begin(lambda: unit(500).split(40), lambda share: None)
    assert seen[0].shape == (30, WIDTH)


@pytest.mark.parametrize("most_steps, epochs", [(None, 20), (11, 5), (1, 1)])
def test_epochs_are_fewer_where_features_are_many(most_steps, epochs):
    told = []
    fit = Autoencoder(LEVELS, WIDTH, settings(most_steps=most_steps))
    fit.begin(lambda: [unit(100)], told.append)
    assert len(set(told)) == epochs and told[-1] == 1.0


@pytest.mark.parametrize("changes", [{"encoder": ()}, {"decoder": (16, 0)}, {"epochs": 0}, {"batch": 0}])
def test_settings_that_make_no_network(changes):
    with pytest.raises(InputError, match="at least 1"):
        settings(**changes)
