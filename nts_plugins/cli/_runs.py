# SPDX-License-Identifier: Apache-2.0
"""A trained run, for commands that do something with it."""

from pathlib import Path
from typing import Any

from nts_plugins.errors import InputError


def load_run(config: Path, with_pictures: bool = False) -> Any:
    """The pipeline of the run that a ``config.yml`` belongs to, with its newest checkpoint.

    Pictures are there only ``with_pictures``; scenes whose pictures are gone can be loaded without.

    As with nerfstudio's commands, a run in a relative folder is found from the folder that it was trained in, and the
    file can run code: load only what you trust.

    Raises:
        InputError: where there is no such file, it is of another kind, or its run is of a method without splats of this
            package.
    """
    if not config.is_file():
        raise InputError(f"There is no file {config}. Training names the config.yml of its run at its end.")
    if not _names_a_class(config):
        raise InputError(f"{config} is not the config.yml of a run. Training names it at its end.")
    from nerfstudio.utils.eval_utils import eval_setup

    from nts_plugins.models.splat import SplatModel

    pipeline = eval_setup(config, test_mode="test" if with_pictures else "inference")[1]
    if not isinstance(pipeline.model, SplatModel):
        raise InputError(f"{config} is of a method without splats of this package ({type(pipeline.model).__name__}).")
    return pipeline


def capture_from_training(outputs: Any) -> Any:
    """[4, 4] matrix from the frame of training to that of the data, from nerfstudio's DataparserOutputs."""
    import numpy as np

    matrix = np.eye(4)
    matrix[:3] = outputs.dataparser_transform.detach().cpu().numpy()[:3]
    matrix[:3] *= float(outputs.dataparser_scale)
    return np.linalg.inv(matrix)


def _names_a_class(config: Path) -> bool:
    """Whether a file is YAML of an object, as nerfstudio writes it; nothing in it is run."""
    import yaml

    try:
        node = yaml.compose(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    return node is not None and node.tag.startswith("tag:yaml.org,2002:python/object:")
