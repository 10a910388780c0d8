# SPDX-License-Identifier: Apache-2.0
"""Sample scenes made by an own small ray tracer: exact pictures, depth, normals and named masks, nothing to download.

``scene`` says what is there, ``tracer`` draws it, ``writer`` puts it on disk as ``ns-train`` reads it, and each sample
(``gallery``, ``dancer``) is one module that builds a scene and a way for the cameras. Only the options are imported at
once; the rest is loaded when it is first asked for, so that a command line can show its help without numba.
"""

import importlib
from typing import TYPE_CHECKING, Any, List

from nts_plugins.samples._config import SampleConfig

if TYPE_CHECKING:
    from nts_plugins.samples.cameras import Camera, look_at
    from nts_plugins.samples.dancer import build_dancer, circle
    from nts_plugins.samples.gallery import build_gallery, walk
    from nts_plugins.samples.photographs import PhotographMissing
    from nts_plugins.samples.scene import Scene
    from nts_plugins.samples.seeds import SeedFinder
    from nts_plugins.samples.tracer import Tracer, View
    from nts_plugins.samples.writer import SampleError, write_sample

_LAZY = {
    "Camera": "cameras",
    "PhotographMissing": "photographs",
    "SampleError": "writer",
    "Scene": "scene",
    "SeedFinder": "seeds",
    "Tracer": "tracer",
    "View": "tracer",
    "build_dancer": "dancer",
    "build_gallery": "gallery",
    "circle": "dancer",
    "look_at": "cameras",
    "walk": "gallery",
    "write_sample": "writer",
}

__all__ = [
    "Camera",
    "PhotographMissing",
    "SampleConfig",
    "SampleError",
    "Scene",
    "SeedFinder",
    "Tracer",
    "View",
    "build_dancer",
    "build_gallery",
    "circle",
    "look_at",
    "walk",
    "write_sample",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> List[str]:
    return sorted(__all__)
