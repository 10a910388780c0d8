# SPDX-License-Identifier: Apache-2.0
"""The image protocol: PSNR, SSIM and LPIPS of every held-out view, and the file that keeps each view's numbers."""

import json
import math
import statistics
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Union

import torch
from torch import Tensor

from nts_plugins.evaluation.metrics import Lpips, psnr, ssim, ssim_inside
from nts_plugins.files.whole import result_file

PROTOCOL = "held-out views, float pictures clamped to [0, 1]; SSIM 11x11 sigma 1.5, valid windows; LPIPS AlexNet"

RATES = ("fps", "num_rays_per_sec")
"""Numbers of something in a second, whose mean is that over the time which all pictures took."""

Row = Dict[str, Union[str, float]]


def compare(prediction: Tensor, target: Tensor, lpips: Optional[Lpips] = None) -> Dict[str, float]:
    """Metrics of one picture; the keys do not depend on the picture.

    Args:
        prediction: [H, W, 3].
        target: [H, W, 3] in [0, 1].
        lpips: also measure this, unless its weights are missing.
    """
    prediction = prediction.clamp(0.0, 1.0)
    metrics = {"psnr": float(psnr(prediction, target)), "ssim": float(ssim(prediction, target))}
    distance = lpips(prediction, target) if lpips is not None else None
    if distance is not None:
        metrics["lpips"] = float(distance)
    return metrics


def compare_inside(prediction: Tensor, target: Tensor, mask: Tensor, lpips: Optional[Lpips] = None) -> Dict[str, float]:
    """Metrics of the pixels of a mask alone; a full mask changes nothing.

    Other pixels are the true ones. PSNR is of the mean error inside, so that it does not matter how much of the picture
    a mask covers. SSIM is the mean of the windows whose centres lie inside; those at the border also see true pixels.
    LPIPS is divided by the share of the picture that the mask covers.

    Args:
        prediction, target, lpips: as of :func:`compare`.
        mask: [H, W, 1] bool, not empty.
    """
    share = float(mask.float().mean())
    shown = torch.where(mask, prediction, target)
    metrics = compare(shown, target, lpips)
    metrics["psnr"] += 10.0 * math.log10(share)
    metrics["ssim"] = ssim_inside(shown, target, mask)
    if "lpips" in metrics:
        metrics["lpips"] /= share
    return metrics


def average(rows: Sequence[Mapping[str, float]], *, with_std: bool = False) -> Dict[str, float]:
    """Mean of each key, and with ``with_std`` the sample standard deviation as ``<key>_std`` (0 for one row).

    That of :data:`RATES` is the harmonic mean.
    """
    result: Dict[str, float] = {}
    for key in rows[0]:
        values = [float(row[key]) for row in rows]
        result[key] = statistics.harmonic_mean(values) if key in RATES else statistics.fmean(values)
        if with_std:
            result[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return result


def write_rows(path: Path, rows: List[Row]) -> None:
    """Write the numbers of every view as JSON, with the protocol they follow; the file is there whole or not at all.

    Raises:
        InputError: where it cannot be written.
    """
    with result_file(path) as file:
        file.write((json.dumps({"protocol": PROTOCOL, "rows": rows}, indent=2) + "\n").encode("utf-8"))
