# SPDX-License-Identifier: Apache-2.0
"""One small gallery for all tests, still and moving. Light maps are coarse: no test looks at their grain."""

import pytest

from nts_plugins.samples import SampleConfig, Tracer, build_gallery, walk

SMALL = SampleConfig(views=12, width=96, height=72, samples=2)
MOVING = SampleConfig(views=9, width=96, height=72, samples=1, dynamic=True)


@pytest.fixture(scope="session")
def tracer():
    return Tracer(build_gallery(SMALL), texel=0.5)


@pytest.fixture(scope="session")
def views(tracer):
    return [tracer.view(camera, samples=SMALL.samples) for camera in walk(SMALL)]


@pytest.fixture(scope="session")
def moving_tracer():
    return Tracer(build_gallery(MOVING), texel=0.5)
