# SPDX-License-Identifier: Apache-2.0
"""The backends under test, and what may be asked of each."""

from dataclasses import dataclass
from typing import Iterator

import pytest
import torch

from nts_plugins.rasterization import GSPLAT_1_4, GSPLAT_1_5, Rules, installed_rules


@dataclass(frozen=True)
class Backend:
    """A backend that is compared with the float64 reference."""

    name: str
    device: str
    value_error: float
    """Largest error of a pixel."""
    gradient_error: float
    """Largest relative root mean square error of a gradient."""

    def allowed(self, bound: float, attained: float) -> float:
        """The bound; for gsplat, twice what the reference attains in float32 where a scene is too ill-conditioned."""
        return max(bound, 2 * attained) if self.name == "gsplat" else bound

    def draws(self, rules: Rules) -> bool:
        """The gsplat backend follows the installed gsplat and no other version."""
        return self.name != "gsplat" or rules == installed_rules()


# gsplat computes with fast-math intrinsics and recovers the transmittance from the opacity, hence its bounds.
_BACKENDS = [
    pytest.param(Backend("reference", "cpu", 5e-6, 5e-5), id="reference"),
    pytest.param(Backend("cpu", "cpu", 2e-6, 1e-5), id="cpu"),
    pytest.param(Backend("gsplat", "cuda", 1e-4, 1e-3), id="gsplat", marks=pytest.mark.gpu),
]


@pytest.fixture(params=_BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param


@pytest.fixture(params=[GSPLAT_1_4, GSPLAT_1_5], ids=lambda rules: rules.name)
def rules(request: pytest.FixtureRequest) -> Rules:
    return request.param


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on many threads, and CI shares its cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
