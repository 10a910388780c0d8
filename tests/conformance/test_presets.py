# SPDX-License-Identifier: Apache-2.0
"""Presets that carry a paper's numbers never change."""

import dataclasses
import hashlib
import json
from typing import Any

import pytest

from tests.conformance.conftest import registered_methods

FROZEN = {
    "feat2gs-all-paper": "f812f1028772c59e",
    "feat2gs-free-paper": "a6a437c2153a858d",
    "feat2gs-paper": "6b1a3f73a2f68951",
    "feat2gs-texture-paper": "1d94a988d72e5725",
    "langsplat-paper": "8595faf5fabe6fb5",
    "langsplatv2-paper": "b7ab04a76de40a71",
    "latent-radiance-field-paper": "424a57ab098d364f",
    "splat-paper": "8920b6082590fefb",
    "splatfacto-nts-blender-mcmc-paper": "383f3551d4a7d99e",
    "splatfacto-nts-blender-paper": "04ccfc63bf5b047f",
    "splatfacto-nts-dtu-paper": "7c35e1714a7d08e9",
    "splatfacto-nts-m360-mcmc-paper": "dd28b19a48836a13",
    "splatfacto-nts-m360-paper": "1ca310dec4d1822c",
    "splatfacto-nts-sparse-paper": "ff08fad66a821514",
}
"""Digest of everything that a preset's result depends on. A new setting whose default changes nothing may change the
digest; a changed number may not: published tables refer to these presets."""


def digest(config: Any) -> str:
    parts = {
        "model": config.pipeline.model,
        "optimizers": config.optimizers,
        "iterations": config.max_num_iterations,
        "scale": config.pipeline.datamanager.camera_res_scale_factor,
        "views": config.pipeline.datamanager.train_views,
    }
    data = config.pipeline.datamanager
    if hasattr(data, "stride"):
        names = ("features", "dimensions", "unit_scale", "stride", "least_confidence", "depth_from")
        parts["pixels"] = {name: getattr(data, name) for name in names}
    text = json.dumps(_plain(parts), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items() if key != "_target"}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def test_every_preset_is_frozen() -> None:
    assert FROZEN.keys() == {name for name in registered_methods() if name.endswith("-paper")}


@pytest.mark.parametrize("name", FROZEN)
def test_preset_is_frozen(name: str) -> None:
    from nerfstudio.configs.method_configs import all_methods

    assert digest(all_methods[name]) == FROZEN[name]


def test_digest_notices_any_number() -> None:
    import copy

    from nerfstudio.configs.method_configs import all_methods

    config = copy.deepcopy(all_methods["splat-paper"])
    before = digest(config)
    config.pipeline.model.densify.grow_grad2d *= 2
    assert digest(config) != before
    config = copy.deepcopy(all_methods["splat-paper"])
    config.optimizers["quats"]["optimizer"].lr *= 2
    assert digest(config) != before
