# SPDX-License-Identifier: Apache-2.0
"""Scenes as files that do not need nerfstudio: ``load`` reads what ``nts export`` writes; docs/scene-files.md says how.

Both names are loaded when they are first asked for, because ``whole``, which needs neither torch nor numpy, is for
everyone.
"""

import importlib
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from nts_plugins.files.scene import Scene, load, save

__all__ = ["Scene", "load", "save"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.scene"), name)


def __dir__() -> List[str]:
    return sorted(__all__)
