# SPDX-License-Identifier: Apache-2.0
"""Pictures over the colour behind them."""

import torch

from nts_plugins.appearance.background import over_background


def test_half_transparent_pixels_are_half_the_background() -> None:
    picture = torch.tensor([[[200, 100, 0, 255], [200, 100, 0, 51], [200, 100, 0, 0]]], dtype=torch.uint8)
    over = over_background(picture, [0.0, 1.0, 0.5])
    own, behind = torch.tensor([200.0, 100.0, 0.0]) / 255, torch.tensor([0.0, 1.0, 0.5])
    torch.testing.assert_close(over[0], torch.stack([own, 0.2 * own + 0.8 * behind, behind]))
    torch.testing.assert_close(over_background(picture.float() / 255, [0.0, 1.0, 0.5]), over)
    torch.testing.assert_close(over_background(picture, None)[0, 1], 0.2 * own)


def test_pictures_without_alpha_have_no_background() -> None:
    picture = torch.randint(256, (3, 4, 3), dtype=torch.uint8)
    assert torch.equal(over_background(picture, [1.0, 1.0, 1.0]), picture.float() / 255)
    values = torch.rand(3, 4, 3)
    assert torch.equal(over_background(values, [1.0, 1.0, 1.0]), values)
