# SPDX-License-Identifier: Apache-2.0
"""``ns-train splat`` and ``ns-eval`` on photographs: a few seconds of training must beat a blurred guess by far.

Longer trainings, with their figures, are what ``benchmarks/quality.py`` is for.
"""

from pathlib import Path
from typing import List

import pytest

from tests import runs

SCALE = ["--pipeline.datamanager.camera-res-scale-factor", "0.25", "--pipeline.model.num-downscales", "0"]


@pytest.mark.capture
@pytest.mark.parametrize(
    ("scene", "parser", "psnr", "ssim"),
    [
        ("fox", [], 20.5, 0.76),
        ("lund_street", [], 13.8, 0.42),
        ("llff_fern", [], 21.7, 0.70),
        ("nerf_chair", ["blender-data", "--alpha-color", "black"], 21.5, 0.83),
    ],
)
def test_a_real_capture_is_learned(
    captures: Path, tmp_path: Path, scene: str, parser: List[str], psnr: float, ssim: float
) -> None:
    run = runs.train("splat", captures / scene, tmp_path, 300, *SCALE, *parser)
    results = runs.evaluate(run, tmp_path / "results.json")
    assert results["psnr"] > psnr and results["ssim"] > ssim
    assert results["gaussian_count"] > 1000
